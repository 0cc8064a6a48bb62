# SPDX-License-Identifier: Apache-2.0
"""Other people's guests beside Debian's 64-bit kernel: its 32-bit one, memtest86+."""
import pathlib
import re
import subprocess
import time

import pexpect
import pytest

from conftest import PATIENCE, ROOT, TRAPEZE, Console
from test_boot import COMPLAINTS


@pytest.fixture(scope="session")
def all_guests_dir():
    out = subprocess.run([ROOT / "scripts/fetch-guest", "--all"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return pathlib.Path(out.stdout.strip())


def debian_686(guests, engine, cpus, append):
    """Debian's 686-pae kernel: 32-bit boot protocol, PAE paging, 32-bit user space."""
    guest = Console(guests, engine, cpus=cpus, append=append, kernel="vmlinuz-686", initrd="initrd-686.cpio")
    try:
        guest.wait_shell()
        assert guest.command("uname -m").strip() == "i686"
        assert guest.command("nproc").strip() == str(cpus)
        assert " pae " in guest.command("grep -m1 ^flags /proc/cpuinfo")
        assert guest.command("seq 1 1000 | awk '{s+=$1} END {print s}'").strip() == "500500"
        assert guest.command("dd if=/dev/urandom bs=64k count=8 2>/dev/null | tee /tmp/a | md5sum | cut -c1-32 >/tmp/m; "
                             "md5sum </tmp/a | cut -c1-32 | cmp - /tmp/m && echo same").strip() == "same"
        dmesg = guest.command("dmesg")
        assert "Linux version" in dmesg
        assert [line for line in dmesg.splitlines() if COMPLAINTS.search(line)] == []
        guest.child.sendline("poweroff -f")
        assert guest.end() == 0
    finally:
        guest.kill()


def test_debian_686_shell(all_guests_dir):
    """`interp`, and the kernel's self-tests of its ciphers, which are half of the boot: left to the long run."""
    debian_686(all_guests_dir, "translate", 1, "cryptomgr.notests")


@pytest.mark.long
def test_debian_686_shell_on_two_cpus(all_guests_dir, engine):
    debian_686(all_guests_dir, engine, 2, "")


class Memtest:
    """memtest86+ on its serial console; the screen's lower lines come again every two seconds."""

    STATUS = re.compile(r"Status: (\S+).*?Pass: +(\d+) +Errors: +(\d+)", re.S)

    def __init__(self, guests, engine, image, memory):
        self.child = pexpect.spawn(str(TRAPEZE), ["run", "--accel", engine, "--memory", memory, "--kernel",
                                                  str(guests / image), "--append", "console=ttyS0,115200"],
                                   timeout=PATIENCE, encoding="latin-1", dimensions=(50, 200))

    def wait(self, done):
        """Until done(status, passes, text since the last status); no error may be counted on the way."""
        end = time.monotonic() + 10 * PATIENCE  # it shows its status as long as it lives
        while time.monotonic() < end:
            self.child.expect(self.STATUS)
            status, passes, errors = self.child.match.groups()
            assert errors == "0", self.child.before
            if done(status, int(passes), self.child.before):
                return
        pytest.fail("memtest86+ does not come to its end: " + self.child.before)

    def kill(self):
        self.child.close(force=True)


def memtest(guests, engine, image, memory, done):
    test = Memtest(guests, engine, image, memory)
    try:
        test.wait(done)
    finally:
        test.kill()


# The last test, 10, waits for 80 seconds, twice, to see whether memory fades.
@pytest.mark.parametrize("accel,image,memory,last", [("translate", "memtest64.bin", "16M", 10),
                                                     ("interp", "memtest32.bin", "6M", 4)])
def test_memtest_patterns(all_guests_dir, accel, image, memory, last):
    """The tests before the one given find no error."""
    def reached(_status, _passes, text):
        return any(int(n) >= last for n in re.findall(r"#(\d+) +\[", text))
    memtest(all_guests_dir, accel, image, memory, reached)


@pytest.mark.long
@pytest.mark.parametrize("image", ["memtest64.bin", "memtest32.bin"])
def test_memtest_full_pass(all_guests_dir, engine, image):
    memtest(all_guests_dir, engine, image, "16M", lambda status, passes, _: passes == 1 and status == "Pass")
