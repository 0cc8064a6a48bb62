# SPDX-License-Identifier: Apache-2.0
"""SeaBIOS at the reset vector, on the serial port and on the VGA; the VGA and keyboard of a directly booted kernel."""
import os
import pathlib
import re
import signal
import time

import pexpect
import pytest

from conftest import PATIENCE, TRAPEZE, run
from test_cli import complains

SEABIOS = pathlib.Path("/usr/share/seabios")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()].|\x1b[=>]")


@pytest.fixture
def start():
    """start(args…) -> pexpect child on a terminal of 30 by 100; killed at the end of the test."""
    children = []

    def spawn(*args):
        child = pexpect.spawn(str(TRAPEZE), ["run", *map(str, args)], timeout=PATIENCE, encoding="utf-8",
                              codec_errors="replace", dimensions=(30, 100),
                              env=dict(os.environ, TERM="xterm", LC_ALL="C.UTF-8"))
        child.delaybeforesend = 0
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.close(force=True)


def shows(child, *texts):
    """Wait until all texts are on the screen. A new size makes the program draw all of it, in one go."""
    end, size = time.monotonic() + PATIENCE, 30
    while time.monotonic() < end:
        size = 61 - size
        child.setwinsize(size, 100)
        drawn, until = "", time.monotonic() + 1
        while time.monotonic() < until:
            try:
                drawn += child.read_nonblocking(65536, 0.2)
            except pexpect.TIMEOUT:
                pass
            if all(text in ESCAPE.sub("", drawn) for text in texts):
                return
    raise AssertionError(f"{texts} not in {ESCAPE.sub('', drawn)!r}")


def ends(child):
    child.expect(pexpect.EOF)
    child.wait()
    child.close()
    return child.exitstatus


@pytest.mark.parametrize("image", ["bios-256k.bin", "bios.bin"])
def test_bios_on_the_serial_port(start, engine, image):
    child = start("--accel", engine, "--memory", "64M", "--cpus", "2", "--firmware", SEABIOS / image)
    child.expect_exact("SeaBIOS")
    child.expect_exact("No bootable device")
    child.send("\x01x")
    assert ends(child) == 0


def test_bios_menu_on_the_vga(start, engine):
    child = start("--accel", engine, "--memory", "64M", "--display", "curses", "--firmware",
                  f"{SEABIOS / 'bios-256k.bin'},menu=on")
    shows(child, "Press ESC for boot menu")
    child.send("\x1b")
    shows(child, "Select boot device")
    child.send("\x01x")
    assert ends(child) == 0
    assert "\x1b[?1049l" in child.before  # the terminal's own screen is back


def test_kernel_on_the_vga(start, guest_dir):
    child = start("--kernel", guest_dir / "vmlinuz", "--initrd", guest_dir / "initrd.cpio",
                  "--display", "curses", "--append", "console=tty0 quiet")
    shows(child, "guest#")
    child.send("clear; echo $((6*7))Answer; dmesg | grep -o colour.VGA+\r")
    shows(child, "42Answer", "colour VGA+", "guest#")
    child.send("exit\r")  # the shell ends, and the machine with it
    assert ends(child) == 0
    assert "trapeze:" not in ESCAPE.sub("", child.before)


def boot_sector():
    """Reads sector 1 with int 13h, writes it to sector 2, sends its text to COM1 and powers off; on an error sends E."""
    code = bytearray.fromhex(
        "31c0 8ed8 8ec0"                            # ds = es = 0
        "bb0080 b80102 b90200 b600 cd13 7200"       # read one sector, cylinder 0, sector 2, to 0x8000
        "bb0080 b80103 b90300 b600 cd13 7200"       # write it to sector 3
        "be0080 baf803 ac 84c0 7403 ee ebf8"        # text at 0x8000 to port 0x3f8
        "be0000 ba0089 ac 84c0 7403 ee ebf8 f4 ebfd")  # "Shutdown" to port 0x8900
    end = len(code)
    code += bytes.fromhex("b045 baf803 ee f4 ebfd")
    for jump in (i for i in range(end - 1) if code[i:i + 2] == b"\x72\x00"):
        code[jump + 1] = end - jump - 2
    at = code.index(bytes.fromhex("be0000")) + 1
    code[at:at + 2] = (0x7c00 + len(code)).to_bytes(2, "little")
    return (bytes(code) + b"Shutdown\0").ljust(510, b"\0") + b"\x55\xaa"


@pytest.mark.parametrize("bus", ["virtio", "ahci"])
def test_boot_from_a_disk(tmp_path, engine, bus):
    disk, text = tmp_path / "disk.img", b"Hello from the second sector.\r\n"
    disk.write_bytes(boot_sector() + text.ljust(512, b"\0") + bytes(1 << 20))
    done = run("run", "--accel", engine, "--memory", "64M", "--firmware", SEABIOS / "bios-256k.bin", "--disk",
               f"{disk},format=raw,bus={bus}")
    assert done.returncode == 0 and done.stderr == "", done
    assert text.decode().strip() in done.stdout
    assert disk.read_bytes()[1024:1024 + len(text)] == text


def test_terminal_that_nobody_reads(start):
    child = start("--memory", "64M", "--display", "curses", "--firmware", SEABIOS / "bios-256k.bin")
    shows(child, "SeaBIOS")
    for _ in range(200):  # the terminal's size again and again: all is drawn anew, until there is no more room
        child.setwinsize(30, 90)
        child.setwinsize(30, 100)
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while child.isalive() and time.monotonic() < end:
        time.sleep(0.05)
    assert child.exitstatus == 128 + 15


@pytest.mark.parametrize("args,words", [
    (["--firmware", "/nonexistent/bios.bin"], ["/nonexistent/bios.bin", "No such file"]),
    (["--firmware", "/bin/true"], ["/bin/true", "4 KiB"]),
    (["--firmware", "x,menu=maybe"], ["menu=maybe", "on or off"]),
    (["--firmware", "x,meno=on"], ["meno", '"menu"']),
    (["--firmware", "x", "--kernel", "y"], ["--kernel", "--firmware"]),
    (["--firmware", "x", "--machine", "microvm"], ["--machine pc"]),
    (["--display", "sdl", "--kernel", "x"], ["--display sdl", "curses"]),
    (["--display", "curses", "--serial", "stdio", "--kernel", "x"], ["--display curses", "--serial stdio"]),
])
def test_bad_options(args, words):
    complains(run("run", *args), *words)


def test_curses_needs_a_terminal(guest_dir):
    complains(run("run", "--display", "curses", "--kernel", guest_dir / "vmlinuz"), "--display curses", "terminal")


def test_unknown_terminal_type(guest_dir):
    child = pexpect.spawn(str(TRAPEZE), ["run", "--display", "curses", "--kernel", str(guest_dir / "vmlinuz")],
                          timeout=PATIENCE, encoding="utf-8", env=dict(os.environ, TERM="no-such-terminal"))
    assert ends(child) == 1
    assert "TERM=no-such-terminal" in child.before
