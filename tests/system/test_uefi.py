# SPDX-License-Identifier: Apache-2.0
"""OVMF boots a disk with an EFI system partition through GRUB to Debian's kernel; its variables are kept in a file."""
import os
import pathlib
import signal
import subprocess

import pexpect
import pytest

from conftest import PATIENCE, TRAPEZE, Console, run
from test_cli import complains

OVMF = pathlib.Path("/usr/share/OVMF")
CODE, VARS = OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd"
GRUB_MODULES = ["fat", "part_gpt", "linux", "serial", "terminal", "normal", "search", "search_fs_file", "echo", "boot"]
GRUB_CONFIG = """
serial --unit=0
terminal_input serial
terminal_output serial
set timeout=0
echo GRUB reads its file
search --file /vmlinuz --set=root
linux /vmlinuz console=ttyS0 quiet
initrd /initrd
boot
"""
EFIVARS = "/sys/firmware/efi/efivars"
GUID = "5bd0e7f4-6f0a-4d0c-9f0e-7a2b7e1c2f31"


def tool(*args, **kwargs):
    subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL, **kwargs)


@pytest.fixture(scope="module")
def disk(tmp_path_factory, guest_dir):
    """A disk with a GPT: one EFI system partition with GRUB where firmware looks for it, kernel and initrd."""
    folder = tmp_path_factory.mktemp("esp")
    image, efi, config = folder / "disk.img", folder / "bootx64.efi", folder / "grub.cfg"
    config.write_text(GRUB_CONFIG)
    tool("grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-c", config, "-o", efi, *GRUB_MODULES)
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    tool("/sbin/sfdisk", "--quiet", image, input=b"label: gpt\nstart=2048, type=uefi\n")
    esp = f"{image}@@1M"
    tool("mformat", "-i", esp, "-F", "-T", (62 << 20) // 512, "::")
    tool("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
    tool("mcopy", "-i", esp, efi, "::/EFI/BOOT/BOOTX64.EFI")
    tool("mcopy", "-i", esp, guest_dir / "vmlinuz", "::/vmlinuz")
    tool("mcopy", "-i", esp, guest_dir / "initrd-virtio.cpio", "::/initrd")
    return image


class Uefi(Console):
    def __init__(self, *args):
        self.child = pexpect.spawn(str(TRAPEZE), ["run", *map(str, args)], timeout=PATIENCE, encoding="utf-8",
                                   codec_errors="replace", dimensions=(50, 200))
        self.child.delaybeforesend = 0

    def wait_efivars(self):
        self.expect("GRUB reads its file")
        self.wait_shell()
        self.command(f"mount -t efivarfs none {EFIVARS}")
        return self


@pytest.fixture
def uefi(disk):
    """uefi(vars file, options…) -> Console of OVMF with the disk; killed at the end of the test."""
    consoles = []

    def start(variables, *args, bus="virtio"):
        consoles.append(Uefi("--memory", "512M", "--firmware", f"{CODE},vars={variables}", "--disk",
                             f"{disk},format=raw,bus={bus}", *args))
        return consoles[-1]

    yield start
    for console in consoles:
        console.kill()


def test_variables_stay(uefi, tmp_path):
    """Through a kill as soon as the guest's write is done. The next machine has its disk elsewhere, and boots it first."""
    variables, name = tmp_path / "vars.fd", f"{EFIVARS}/Kept-{GUID}"
    guest = uefi(variables)
    guest.wait_efivars()
    assert "BootOrder-" in guest.command(f"ls {EFIVARS}")
    assert guest.command("ls /dev/vda1").strip() == "/dev/vda1"
    guest.command(f"printf '\\7\\0\\0\\0Trapeze' > {name}")
    guest.child.kill(signal.SIGKILL)
    guest.end()
    assert len(variables.read_bytes()) == VARS.stat().st_size
    assert "Kept".encode("utf-16-le") in variables.read_bytes()
    guest = uefi(variables, "--cpus", "2", bus="ahci")
    guest.wait_efivars()
    assert guest.command(f"tail -c 7 {name}").strip() == "Trapeze"
    assert guest.command("nproc").strip() == "2"
    guest.command(f"printf '\\7\\0\\0\\0Another' > {EFIVARS}/Second-{GUID}")
    guest.child.sendline("exit")
    assert guest.end() == 0
    assert b"Another" in variables.read_bytes()


@pytest.mark.long
def test_reset_keeps_variables(uefi, tmp_path):
    """The same machine starts again: the flash is memory once more, and the guest's writes are there."""
    guest = uefi(tmp_path / "vars.fd", "--cpus", "2")
    guest.wait_efivars()
    guest.command(f"printf '\\7\\0\\0\\0Trapeze' > {EFIVARS}/Kept-{GUID}")
    guest.child.sendline("reboot -f")
    guest.wait_efivars()
    assert guest.command(f"tail -c 7 {EFIVARS}/Kept-{GUID}").strip() == "Trapeze"
    guest.child.sendline("exit")
    assert guest.end() == 0


@pytest.mark.long
@pytest.mark.parametrize("code", ["OVMF_CODE_4M.fd", "OVMF_CODE.fd"])
def test_on_each_engine(disk, tmp_path, engine, code):
    """Without a file for variables on the one, with the 2 MiB build's on the other."""
    options = f",vars={tmp_path / 'vars.fd'}" if code == "OVMF_CODE.fd" else ""
    guest = Uefi("--accel", engine, "--memory", "512M", "--firmware", f"{OVMF / code}{options}", "--disk",
                 f"{disk},format=raw")
    try:
        guest.wait_efivars()
        assert "efi: EFI v2" in guest.command("dmesg | grep EFI.v2")
        guest.child.sendline("exit")
        assert guest.end() == 0
    finally:
        guest.kill()


@pytest.mark.parametrize("options,words", [
    ("vars=/nonexistent/vars", ["/nonexistent/vars", "cannot create"]),
    ("vars=/dev/null", ["/dev/null", "neither a regular file"]),
    (f"vars={OVMF / 'OVMF_VARS.fd'}", ["OVMF_VARS.fd", "131072", "540672"]),
    ("vars=x,template=/nonexistent/template", ["/nonexistent/template", "No such file"]),
    (f"template={VARS}", [str(VARS), "vars=FILE"]),
    ("vras=x", ["vras", '"vars"']),
])
def test_bad_files(options, words):
    complains(run("run", "--firmware", f"{CODE},{options}"), *words)


def test_unwritable_file():
    """Root may write what it wants."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    complains(run("run", "--firmware", f"{CODE},vars={VARS}", **nobody), str(VARS), "able to write", "Permission denied")
