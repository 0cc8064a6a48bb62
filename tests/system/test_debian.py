# SPDX-License-Identifier: Apache-2.0
"""A Debian as users have it: a disk with GRUB, systemd, sshd, started by SeaBIOS or OVMF. On translate: interp takes minutes."""
import os
import pathlib
import shlex
import socket
import subprocess
import time

import pexpect
import pytest

from conftest import PATIENCE, ROOT, TRAPEZE, run
from test_cli import complains

SEABIOS = "/usr/share/seabios/bios-256k.bin"
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
EFIVARS = "/sys/firmware/efi/efivars"
VARIABLE = f"{EFIVARS}/Kept-5bd0e7f4-6f0a-4d0c-9f0e-7a2b7e1c2f31"


def fetch(*args):
    out = subprocess.run([ROOT / "scripts/fetch-debian", *args], capture_output=True, text=True,
                         env=dict(os.environ, TRAPEZE=str(TRAPEZE)))
    assert out.returncode == 0, out.stderr
    return pathlib.Path(out.stdout.strip())


@pytest.fixture(scope="session")
def debian_image():
    return fetch()


@pytest.fixture(scope="session")
def debian_ahci_image():
    return fetch("--ahci")


class Debian:
    """A machine with a disk of its own above `image`."""

    def __init__(self, image, folder, cpus=1, bus="virtio", firmware=SEABIOS):
        self.image, self.disk = image, folder / "disk.qcow2"
        if not self.disk.exists():
            done = run("image", "create", "--backing", image, "--backing-format", "qcow2", self.disk)
            assert done.returncode == 0, done.stderr
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        args = ["run", "--accel", "translate", "--memory", "1G", "--cpus", str(cpus), "--firmware", firmware, "--disk",
                f"{self.disk},bus={bus}", "--net", f"user,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        self.child = pexpect.spawn(str(TRAPEZE), args, timeout=2 * PATIENCE, encoding="utf-8",
                                   codec_errors="replace", dimensions=(50, 200))
        self.child.delaybeforesend = 0

    def login(self, greeting="SeaBIOS"):
        """As root, who has no password, on the serial port; the firmware or the kernel said before what it started by."""
        self.child.expect_exact(greeting)
        self.child.expect_exact("debian login: ")
        self.child.sendline("root")
        self.child.expect_exact("root@debian:~# ")

    def ssh(self, command):
        """The output of a command. sshd may start after the login prompt, until then the connection ends early."""
        key = self.image.parent / "debian-key"
        args = ["ssh", "-F", "none", "-p", str(self.port), "-i", str(key), "-o", "BatchMode=yes", "-o",
                "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o",
                "ConnectTimeout=60", "root@127.0.0.1", command]
        end = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * PATIENCE)
            if done.returncode != 255 or time.monotonic() > end:
                assert done.returncode == 0, done
                return done.stdout
            time.sleep(1)

    def power_off(self):
        """By the guest's own shutdown, typed on the console; the program's exit status."""
        self.child.sendline("poweroff")
        self.child.expect_exact("reboot: Power down")
        self.child.expect(pexpect.EOF)
        self.child.wait()
        self.child.close()
        return self.child.exitstatus


@pytest.fixture
def start(tmp_path):
    machines = []

    def start(image, **kwargs):
        machines.append(Debian(image, tmp_path, **kwargs))
        return machines[-1]

    yield start
    for machine in machines:
        machine.child.close(force=True)


def test_login_ssh_and_shutdown(start, debian_image):
    machine = start(debian_image)
    machine.login()
    assert machine.ssh("systemctl is-system-running --wait; systemctl --failed --plain --no-legend") == "running\n"
    # What a machine must have right for its users: the host's time, random numbers, its disk writable.
    assert abs(int(machine.ssh("touch /root/was-here && date +%s")) - time.time()) < 60
    assert "ext4 rw" in machine.ssh("findmnt -no FSTYPE,OPTIONS / | tr -s ' '")
    assert machine.power_off() == 0
    done = run("image", "check", machine.disk)
    assert done.returncode == 0, done


@pytest.mark.long
def test_packages_and_second_boot(start, debian_image):
    machine = start(debian_image, cpus=2)
    machine.login()
    machine.ssh("apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install hello")
    greeting = shlex.quote("Hello, $(hello)")
    machine.ssh(f"echo {greeting} >/root/kept")
    assert machine.power_off() == 0
    machine = start(debian_image)
    machine.login()
    assert machine.ssh("cat /root/kept; hello") == "Hello, $(hello)\nHello, world!\n"
    assert machine.ssh("journalctl --list-boots -q | wc -l") == "2\n"
    assert machine.power_off() == 0


@pytest.mark.long
def test_ahci(start, debian_ahci_image):
    machine = start(debian_ahci_image, bus="ahci")
    machine.login()
    assert machine.ssh("findmnt -no SOURCE /") == "/dev/sda3\n"
    machine.ssh("dd if=/dev/urandom of=/root/data bs=1M count=20 conv=fsync && cp /root/data /root/copy && sync && "
                "echo 3 >/proc/sys/vm/drop_caches && cmp /root/data /root/copy")
    assert machine.power_off() == 0


@pytest.mark.long
def test_uefi(start, debian_image, tmp_path):
    """From the EFI system partition; what the guest writes into the flash is there in the next machine."""
    variables = tmp_path / "vars.fd"
    machine = start(debian_image, firmware=f"{OVMF},vars={variables}")
    machine.login("efi: EFI v2")
    assert machine.ssh(f"findmnt -no SOURCE /; mountpoint -q {EFIVARS} || mount -t efivarfs none {EFIVARS}; "
                       f"printf '\\7\\0\\0\\0Trapeze' >{VARIABLE} && tail -c 7 {VARIABLE}").split() == ["/dev/vda3", "Trapeze"]
    assert machine.power_off() == 0
    assert "Kept".encode("utf-16-le") in variables.read_bytes()
    machine = start(debian_image, firmware=f"{OVMF},vars={variables}", cpus=2)
    machine.login("efi: EFI v2")
    assert machine.ssh(f"nproc; mountpoint -q {EFIVARS} || mount -t efivarfs none {EFIVARS}; tail -c 7 {VARIABLE}").split() == ["2", "Trapeze"]
    assert machine.power_off() == 0


@pytest.mark.parametrize("args,words", [
    ([], ["--output"]),
    (["--output"], ["--output", "value"]),
    (["--output", "/nonexistent/x.qcow2"], ["/nonexistent/x.qcow2", "written"]),
    (["--output", "x.qcow2", "--size", "5Q"], ["--size 5Q", "8G"]),
    (["--output", "x.qcow2", "--size", "4M"], ["--size 4M", "1G"]),
    (["--output", "x.qcow2", "--suite", "no such"], ["--suite no such"]),
    (["--output", "x.qcow2", "--hostname", "a b"], ["--hostname a b"]),
    (["--output", "x.qcow2", "--ssh-key", "/dev/null"], ["--ssh-key /dev/null", "public key"]),
    (["--output", "x.qcow2", "--host-apt", "--mirror", "http://example.org/debian"], ["--host-apt", "--mirror"]),
    (["--force=yes"], ["--force", "no value"]),
    (["--outptu", "x"], ["--outptu", "--help"]),
])
def test_bad_options(tmp_path, args, words):
    complains(run("image", "debian", *args, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())


def test_existing_image_is_kept(tmp_path):
    (tmp_path / "x.qcow2").write_text("mine")
    complains(run("image", "debian", "--output", "x.qcow2", cwd=tmp_path), "x.qcow2", "--force")
    assert (tmp_path / "x.qcow2").read_text() == "mine"
