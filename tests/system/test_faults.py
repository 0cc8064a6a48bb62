# SPDX-License-Identifier: Apache-2.0
"""What fails under a machine: one clear line, the proper error in the guest, nothing that was acknowledged lost."""
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import PATIENCE, TRAPEZE
from test_disk import image
from test_virtio import drivers  # noqa: F401 (a fixture)

MIB = 1 << 20


@pytest.fixture
def nbd_server(tmp_path):
    """A disk of 8 MiB behind qemu-nbd: the process and its URI."""
    if not shutil.which("qemu-nbd"):
        pytest.skip("qemu-nbd is not installed")
    backing, socket = tmp_path / "nbd.raw", tmp_path / "nbd.sock"
    backing.write_bytes(b"\7" * (8 * MIB))
    server = subprocess.Popen(["qemu-nbd", "-t", "-f", "raw", "-k", socket, backing])
    until = time.monotonic() + PATIENCE
    while not socket.exists():
        assert server.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    yield server, f"nbd+unix:///?socket={socket}"
    server.kill()
    server.wait()


def read_fails(guest, name, says):
    """Reading past what the guest has in its cache: an I/O error there, and this line here."""
    guest.child.sendline(f"echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/{name} of=/dev/null bs=64k skip=64; echo dd=$?")
    guest.expect(f"trapeze: [^\r\n]*{says}")
    guest.expect(f"dd: /dev/{name}: [^\r\n]*(I/O|Input/output) error")
    guest.child.expect_exact("dd=1")
    guest.child.expect_exact(guest.PROMPT)


def test_back_ends_fail(drivers, tmp_path, nbd_server):
    """An image that shrinks, a server that dies: errors for what is gone, and the machine goes on with the rest."""
    server, uri = nbd_server
    raw, whole = tmp_path / "raw", tmp_path / "whole"
    for path in raw, whole:
        path.write_bytes(b"\7" * (8 * MIB))
    guest = drivers("translate", "--disk", f"{raw},format=raw", "--disk", uri, "--disk", f"{whole},format=raw")
    guest.command("dmesg -n 1")  # the kernel's own complaints about the disks are not looked at
    assert guest.command("cmp /dev/vda /dev/vdb; echo same=$?").strip() == "same=0"
    os.truncate(raw, 2 * MIB)
    read_fails(guest, "vda", "has become shorter")
    assert guest.command("dd if=/dev/vda bs=1M count=2 2>/dev/null | tr -d '\\007' | wc -c").strip() == "0"
    server.kill()
    server.wait()
    read_fails(guest, "vdb", "connection to the server is lost")
    guest.command("echo written | dd of=/dev/vdc conv=fsync 2>/dev/null")
    assert whole.read_bytes().startswith(b"written\n")
    guest.child.sendline("poweroff -f")
    guest.end()


@pytest.mark.parametrize("options", [",format=raw", ",format=qcow2"])
def test_sigterm_loses_nothing_that_was_flushed(drivers, tmp_path, options):
    """In the middle of a guest's writes; each that it says is done is on the disk."""
    disk, flat = tmp_path / "disk", tmp_path / "flat"
    if "raw" in options:
        disk.touch()
        os.truncate(disk, 64 * MIB)
    else:
        image("create", disk, "64M")
    guest = drivers("translate", "--disk", f"{disk}{options}")
    guest.child.sendline("i=0; while [ $i -lt 900 ]; do i=$((i+1)); echo block $i | dd of=/dev/vda bs=64k seek=$i conv=sync,fsync "
                         "2>/dev/null && echo done $i; done")
    guest.child.expect_exact("done 30\r")
    guest.child.kill(signal.SIGTERM)
    assert guest.end() == 128 + signal.SIGTERM
    last = max([30, *map(int, re.findall(r"done (\d+)\r", guest.child.before))])
    if "qcow2" in options:
        assert "0 errors" in image("check", disk)
        image("convert", "--to", "raw", disk, flat)
        disk = flat
    data = disk.read_bytes()
    for i in range(1, last + 1):
        assert data[i << 16:(i << 16) + 20].startswith(b"block %d\n" % i), i


@pytest.mark.parametrize("seconds", [0, 0.02, 0.1, 0.5, 2])
def test_sigterm_at_any_moment(guest_dir, tmp_path, seconds):
    """From before the first vCPU runs on: the program ends by it, and leaves the image in order and unlocked."""
    disk, log = tmp_path / "disk.qcow2", tmp_path / "log"
    image("create", disk, "64M")
    with open(log, "wb") as out:
        process = subprocess.Popen([TRAPEZE, "run", "--kernel", guest_dir / "vmlinuz", "--initrd", guest_dir / "initrd-virtio.cpio",
                                    "--append", "console=ttyS0 quiet", "--disk", disk, "--net", "user", "--share", tmp_path],
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
    # The signal may come before the program can take it.
    assert process.returncode in (143, -signal.SIGTERM)
    assert said == ("trapeze: ended by Terminated\n" if process.returncode == 143 else "")
    assert "0 errors" in image("check", disk)
