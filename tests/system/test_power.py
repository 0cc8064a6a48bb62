# SPDX-License-Identifier: Apache-2.0
"""What lasts over a reset and over ACPI sleep (S3)."""
import re
import struct
import subprocess

import pytest

from conftest import PATIENCE, TRAPEZE, run
from test_boot import COMPLAINTS
from test_guests import DEBUG_EXIT, multiboot

MARK = "50454b45"  # at 8 MiB: this guest has run before


def code(text):
    """Hex bytes; what follows a # is their assembly language."""
    return bytes.fromhex(re.sub(r"#.*", "", text))


RESET = code(f"""
    81 3d 00 00 80 00 {MARK}    # cmpl mark, 0x800000
    74 21                       # je again
    c7 05 00 00 80 00 {MARK}    # movl mark, 0x800000
    ff 05 a0 00 10 00           # incl flag, part of the image
    b0 40 e6 70 b0 5a e6 71     # CMOS 0x40 = 0x5a
    66 ba f9 0c b0 06 ee        # outb 6, 0xcf9: reset
    eb fe                       # jmp .
    b0 40 e6 70 e4 71           # again: inb CMOS 0x40
    2c 5a                       # subb 0x5a, al
    0f b6 c0                    # movzbl al, eax
    0b 05 a0 00 10 00           # orl flag, eax
    e7 f4                       # outl eax, 0xf4
    eb fe""").ljust(0x80, b"\0") + bytes(4)

SLEEP = code(f"""
    81 3d 00 00 80 00 {MARK}    # cmpl mark, 0x800000
    74 69                       # je again
    c7 05 00 00 80 00 {MARK}    # movl mark, 0x800000
    bf 00 00 0f 00              # movl 0xf0000, edi
    83 c7 40                    # addl 64, edi
    81 3f 46 41 43 53           # cmpl "FACS", (edi)
    75 f5                       # jne back
    c7 47 0c 44 33 22 11        # movl VECTOR, 12(edi)
    c7 05 00 00 00 00 00 00 00 00   # movl 0, 0
    be 9e 00 10 00              # movl wake, esi
    bf 03 10 00 00              # movl 0x1003, edi
    b9 10 00 00 00 f3 a4        # copy 16 bytes
    66 ba 02 06 66 b8 00 04 66 ef   # PM1_EN = RTC_EN
    b0 0b e6 70 b0 42 e6 71     # the RTC interrupts 1024 times a second
    66 ba 04 06 66 b8 00 24 66 ef   # PM1_CNT = SLP_EN, S3
    c7 05 00 00 00 00 09 00 00 00   # movl 9, 0: nothing runs here
    b8 09 00 00 00 e7 f4        # outl 9, 0xf4
    b8 05 00 00 00 e7 f4        # again: outl 5, 0xf4
    eb fe
    8c c8 2d 00 01              # wake, in real mode: ax = cs - 0x100
    03 06 00 00                 # addw 0, ax
    83 c0 03 e7 f4              # outw ax + 3, 0xf4
    eb fe""")


# Real mode, from the reset vector: counts its starts; resets, then sleeps, then ends with the count.
ROM = code("""
    ff 06 00 07                 # incw 0x700
    83 3e 00 07 01 75 07        # first start:
    ba f9 0c b0 06 ee f4        # outb 6, 0xcf9; hlt
    b0 0f e6 70 e4 71 3c fe     # CMOS 0x0f is 0xfe
    74 17                       # je woken
    ba 02 06 b8 00 04 ef        # PM1_EN = RTC_EN
    b0 0b e6 70 b0 42 e6 71     # the RTC interrupts 1024 times a second
    ba 04 06 b8 00 24 ef f4     # PM1_CNT = SLP_EN, S3; hlt
    a1 00 07 e7 f4 f4           # woken: outw 0x700, 0xf4""").ljust(0xfff0, b"\xf4") + code("e9 0d 00").ljust(16, b"\xf4")


# outb "x", 0x3f8; outb 6, 0xcf9: reset
AGAIN = code("66 ba f8 03 b0 78 ee 66 ba f9 0c b0 06 ee eb fe")


def test_reset_without_the_kernel_file(tmp_path):
    """A reset reads it again: where it is gone the program says so and ends."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(multiboot(AGAIN))
    program = subprocess.Popen([TRAPEZE, "run", "--accel", "interp", "--memory", "64M", "--kernel", kernel],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout.read(1) == b"x"
    kernel.rename(tmp_path / "gone")
    _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 1 and err.decode().strip() == f"trapeze: kernel {kernel}: No such file or directory"


def test_reset_keeps_memory_and_cmos(engine, tmp_path):
    """Memory outside the image and the RTC's RAM are as before; the image is loaded again."""
    image = tmp_path / "reset"
    image.write_bytes(multiboot(RESET))
    done = run("run", "--accel", engine, "--memory", "64M", "--kernel", image, *DEBUG_EXIT)
    assert done.returncode == 1 and done.stderr == "", done


def test_firmware_sees_reset_and_sleep(engine, tmp_path):
    """Firmware starts after both, with memory as it was; the CMOS says which it is."""
    image = tmp_path / "rom"
    image.write_bytes(ROM)
    done = run("run", "--accel", engine, "--memory", "64M", "--firmware", image, *DEBUG_EXIT)
    assert done.returncode == 3 * 2 + 1 and done.stderr == "", done


@pytest.mark.parametrize("vector,value", [(0x1003, 3), (0, 5), (0x100000, 5)], ids=["wakes", "none", "too-high"])
def test_sleep_ends_at_the_waking_vector(engine, tmp_path, vector, value):
    """In real mode, CS:IP = 0100:0003, memory untouched; a machine that cannot be woken there starts anew."""
    image = tmp_path / "sleep"
    image.write_bytes(multiboot(SLEEP.replace(struct.pack("<I", 0x11223344), struct.pack("<I", vector))))
    done = run("run", "--accel", engine, "--memory", "64M", "--no-reboot", "--kernel", image, *DEBUG_EXIT)
    assert done.returncode == value * 2 + 1 and done.stderr == "", done


@pytest.mark.parametrize("accel", ["translate", pytest.param("interp", marks=pytest.mark.long)])
def test_linux_sleeps_and_wakes(boot, accel):
    guest = boot(accel, cpus=2).wait_shell()
    guest.command("echo kept > /tmp/file")
    asleep = guest.command("echo +3 > /sys/class/rtc/rtc0/wakealarm; echo mem > /sys/power/state; cat /tmp/file")
    assert asleep.strip().endswith("kept")
    assert guest.command("nproc").strip() == "2"
    dmesg = guest.command("dmesg")
    assert "Preparing to enter system sleep state S3" in dmesg and "Waking up from system sleep state S3" in dmesg
    assert [line for line in dmesg.splitlines() if COMPLAINTS.search(line)] == []
    # Time went on: no stamp is before the one above it.
    stamps = [float(t) for t in re.findall(r"^\[ *(\d+\.\d+)\]", dmesg, re.M)]
    assert len(stamps) > 100 and stamps[-1] < 10000
    assert float(guest.command("cat /proc/uptime").split()[0]) >= 3
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0
