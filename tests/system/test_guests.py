# SPDX-License-Identifier: Apache-2.0
"""Small guest programs: tests/cpu judges the CPU from inside; hostile ones must not hurt the program."""
import functools
import hashlib
import os
import pathlib
import re
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import BUILD, PATIENCE, ROOT, TRAPEZE, add_program, piped_shell, run, unpacked_kernel

DEBUG_EXIT = ["--device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]
GUESTS = BUILD / "guests" if (BUILD / "guests").is_dir() else ROOT / "build/guests"

# Each program once, or as often as it has arguments here.
INTEL = ["--cpu", "max,vendor=GenuineIntel"]
AMD = ["--cpu", "max,vendor=AuthenticAMD"]
SMALL_CACHE = ["--code-cache", "1M"]
VARIANTS = {
    "smp64": [["--cpus", "2"], ["--cpus", "4"]],
    "smc64": [[], ["--cpus", "2"], ["--cpus", "3"], SMALL_CACHE],
    "sensitive64": [INTEL, AMD, ["--cpu", "qemu64"]],
    "irqs64": [[], ["--cpus", "2"], SMALL_CACHE],
    "shoot64": [["--cpus", "2"], ["--cpus", "4"]],
    "remap64": [[], SMALL_CACHE],
    "tlb64": [[], ["--memory", "2560M"]],
    "transfers64": [INTEL, AMD],
    "entry64": [INTEL, AMD, ["--cpu", "qemu64"], SMALL_CACHE],
    "directmem64": [["--cpus", "2"]],
}

# What docs/caveats.md admits; such a test must fail until it is mended.
CAVEATS = {}


def guest_runs():
    for program in sorted(p.stem for p in (ROOT / "tests/cpu").glob("*[0-9][0-9].c")):
        for variant in VARIANTS.get(program, [[]]):
            yield pytest.param(program, variant, id=",".join([program, *(a.lstrip("-") for a in variant)]))


def run_guest(program, engine, *args, timeout=PATIENCE):
    """Runs a program of tests/cpu, which must find nothing wrong."""
    cpu = [] if "--cpu" in args else ["--cpu", "max"]
    done = run("run", "--accel", engine, "--no-reboot", *cpu, *args, "--kernel", GUESTS / f"{program}.flat", *DEBUG_EXIT,
               timeout=timeout)
    assert not re.findall("^not ok.*", done.stdout, re.M), done.stdout
    assert done.returncode == 1 and done.stderr == "", done  # the guest wrote 0
    assert done.stdout.count("ok ") > 5


@pytest.mark.sanitize
@pytest.mark.parametrize("program,variant", guest_runs())
def test_guest_program(program, variant, engine, request):
    if (program, engine) in CAVEATS:
        request.node.add_marker(pytest.mark.xfail(reason=CAVEATS[program, engine], strict=True))
    run_guest(program, engine, *variant)


# A filter that allows all, with a listener (seccomp(2)): status 1 if the kernel, or a sandbox around this, refuses it.
LISTENER = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("<H6xQ", 1, ctypes.addressof(code)))
libc.prctl(38, 1, 0, 0, 0)
raise SystemExit(libc.syscall(317, 1, 8, program) < 0)
"""


@functools.cache
def direct_missing():
    """Why user code cannot run in a process of its own here, or None."""
    flags = re.search(r"^flags\s*:(.*)$", open("/proc/cpuinfo").read(), re.M).group(1).split()
    if "fsgsbase" not in flags:
        return "no FSGSBASE for programs"
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (5, 9):
        return "Linux before 5.9"
    if subprocess.run(["/usr/bin/python3", "-c", LISTENER]).returncode:
        return "no listener for seccomp's notifications"
    return None


# Those that go to CPL 3, and how often at least they then really run there: 0 for those that do not switch on what it takes.
@pytest.mark.parametrize("program,variant,entries", [
    ("direct64", [], 500), ("directmem64", ["--cpus", "2"], 4000), ("faults64", [], 0), ("irqs64", [], 500),
    ("irqs64", ["--cpus", "2"], 500), ("remap64", [], 0), ("remap64", SMALL_CACHE, 0), ("sensitive64", INTEL, 0),
    ("sensitive64", AMD, 0), ("smc64", [], 500), ("smc64", ["--cpus", "2"], 500), ("strange64", [], 2000), ("tlb64", [], 0),
    ("transfers64", AMD, 0)])
def test_user_code_in_its_own_process(program, variant, entries, monkeypatch):
    if direct_missing():
        pytest.skip(direct_missing())
    monkeypatch.setenv("TRAPEZE_DIRECT", "always")
    run_guest(program, "translate", *variant)
    cpu = [] if "--cpu" in variant else ["--cpu", "max"]
    done = run("run", "--accel", "translate", "--no-reboot", "--stats", *cpu, *variant, "--kernel",
               GUESTS / f"{program}.flat", *DEBUG_EXIT)
    assert done.returncode == 1, done
    assert sum(map(int, re.findall(r"direct_entries +(\d+)", done.stdout + done.stderr))) >= entries, done
    assert sum(map(int, re.findall(r"direct_losses +(\d+)", done.stdout + done.stderr))) == 0, done


# Else a system call's way back asks each time whether user code should go there.
@pytest.mark.parametrize("program,variant", [("entry64", AMD), ("entry64", INTEL), ("irqs64", []), ("transfers64", AMD)])
def test_no_process_for_user_code(program, variant, monkeypatch):
    monkeypatch.setenv("TRAPEZE_DIRECT", "0")
    run_guest(program, "translate", *variant)


def processes_of(session):
    """Those that live, by their numbers: (state, ppid, pgrp, session ...) stand behind the name in parentheses."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(pid))
    return found


def wait_for_none(session):
    deadline = time.monotonic() + PATIENCE
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(session)


def start_hostile():
    return subprocess.Popen([TRAPEZE, "run", "--accel", "translate", "--no-reboot", "--stats", "--cpu", "max", "--kernel",
                             GUESTS / "hostile64.flat", *DEBUG_EXIT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
                            env=dict(os.environ, TRAPEZE_DIRECT="always"))


def test_hostile_program_in_its_own_process():
    """It attacks the process that executes it, dies of that often, and leaves nothing behind."""
    if direct_missing():
        pytest.skip(direct_missing())
    process = start_hostile()
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 1 and "not ok" not in out, out + err
    assert "found where it is executed" in out
    assert sum(map(int, re.findall(r"direct_losses +(\d+)", out + err))) > 20, out + err
    assert "given up" not in err
    wait_for_none(process.pid)


def test_killed_monitor_takes_user_code_along():
    if direct_missing():
        pytest.skip(direct_missing())
    process = start_hostile()
    try:
        assert any("found where it is executed" in line for line in process.stdout)
        # Between two attacks there may be none for a moment.
        assert any(len(processes_of(process.pid)) > 1 for _ in range(1000))
    finally:
        process.kill()
        process.communicate()
    wait_for_none(process.pid)


def test_user_code_in_its_own_process_debian(guest_dir, monkeypatch):
    """Processes, page faults, signals: a shell that forks, counts and is killed."""
    if direct_missing():
        pytest.skip(direct_missing())
    monkeypatch.setenv("TRAPEZE_DIRECT", "always")
    status, out, err = piped_shell(
        ["run", "--accel", "translate", "--cpus", "2", "--stats", "--kernel", guest_dir / "vmlinuz", "--initrd",
         guest_dir / "initrd.cpio", "--append", "console=ttyS0 quiet"],
        b"i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo count=$i\n"
        b"seq 20000 | sort -rn | md5sum\nsleep 100 & sleep 1; kill $!; wait $!; echo status=$?\nexit\n")
    assert status == 0 and b"count=3000" in out and b"status=143" in out
    lines = "".join(f"{n}\n" for n in range(20000, 0, -1)).encode()
    assert hashlib.md5(lines).hexdigest().encode() in out
    assert sum(map(int, re.findall(rb"direct_entries +(\d+)", out + err))) > 100


def direct_stats(guest_dir, commands, initrd=None):
    """Of a shell on one CPU as users start it: sums of the statistics, and what it wrote."""
    status, out, err = piped_shell(
        ["run", "--accel", "translate", "--stats", "--kernel", guest_dir / "vmlinuz", "--initrd", initrd or guest_dir / "initrd.cpio",
         "--append", "console=ttyS0 quiet"], commands + b"exit\n")
    assert status == 0, err
    return {name.decode(): int(n) for name, n in re.findall(rb"direct_(\w+) +(\d+)", out + err)}, out


def test_hot_user_code_runs_directly(guest_dir):
    if direct_missing():
        pytest.skip(direct_missing())
    stats, out = direct_stats(guest_dir, b"i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo count=$i\n")
    assert b"count=300000" in out
    assert stats["entries"] > 0 and stats["tsc_cycles"] > 100_000_000 and stats["losses"] == 0, stats


def test_user_code_that_stops_often_is_translated(guest_dir):
    """A system call every few instructions: each would cost the two ways between the processes."""
    if direct_missing():
        pytest.skip(direct_missing())
    calls = 400_000
    stats, out = direct_stats(guest_dir, b"dd if=/dev/zero of=/dev/null bs=1 count=%d; echo done=$?\n" % (calls // 2))
    assert b"done=0" in out
    assert stats["stops_system_call"] < calls // 10 and stats["rests"] > 0, stats


def test_user_code_beside_cpuid_is_translated(guest_dir, tmp_path):
    """Such a page may not run directly. A loop of system calls there must not stop for it each time."""
    if direct_missing():
        pytest.skip(direct_missing())
    calls = 300_000
    stats, out = direct_stats(guest_dir, b"cpuidpage %d\n" % calls,
                              add_program(guest_dir / "initrd.cpio", tmp_path, "cpuid_page_guest.c", "cpuidpage"))
    assert re.search(rb"right=%d leaf=[1-9]" % calls, out), out
    assert stats["pages_refused"] > 0 and stats["stops"] < calls // 10, stats


def multiboot(code, base=0x100000):
    """A Multiboot image with the a.out kludge: header, then the code, in 32-bit protected mode."""
    magic, flags = 0x1BADB002, 0x10000
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, base, base, 0, 0, base + 32)
    return header + code


TRIPLE = bytes.fromhex("0f011d00000000 cc".replace(" ", ""))  # lidt [0]: limit 0; int3
HOSTILE = {
    "triple fault": TRIPLE,
    "jump into nothing": bytes.fromhex("b800000080 ffe0".replace(" ", "")),
    "jump behind RAM": bytes.fromhex("b8000000a0 ffe0".replace(" ", "")),
    # for each port: out al, in al, out eax, in eax, of a value made from the port
    "every port": bytes.fromhex("31d2 89d0 69c0b179379e ee ec ef ed 6642 75f0".replace(" ", "")) + TRIPLE,
    # from 0xfe000000 up in steps of 0x7f4: write, read
    "wild MMIO": bytes.fromhex("bb000000fe 89d8 69c0b179379e 8903 8b03 81c3f4070000 81fb0000f0fe 72e8".replace(" ", ""))
    + TRIPLE,
    # paging on with page tables made of garbage
    "garbage page tables": bytes.fromhex("b800001000 0f22d8 0f20c0 0d00000080 0f22c0".replace(" ", "")) + TRIPLE,
    # LAPIC and IOAPIC registers, every 16 bytes, with all ones
    "interrupt controllers": bytes.fromhex("bb0000e0fe b8ffffffff 8903 8b0b 83c310 81fb0010e0fe 72f1".replace(" ", ""))
    + TRIPLE,
}


@pytest.mark.sanitize
@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_guest(case, engine, tmp_path):
    """The guest ends, one way or the other; the program says how and does not crash."""
    image = tmp_path / "hostile"
    image.write_bytes(multiboot(HOSTILE[case]))
    done = run("run", "--accel", engine, "--no-reboot", "--memory", "64M", "--device", "pc-testdev", "--kernel", image)
    if case == "every port":  # some port may switch the machine off or reset it, as on a PC
        assert done.returncode in (0, 1), done
        return
    assert done.returncode == 1, done
    assert "triple fault" in done.stderr and re.search(r"rip +[0-9a-f]{16}", done.stderr), done.stderr


def test_halted_forever_ends_by_signal(engine, tmp_path):
    image = tmp_path / "halt"
    image.write_bytes(multiboot(bytes.fromhex("b061 66baf803 ee fa f4 ebfd".replace(" ", ""))))  # 'a'; cli; hlt
    process = subprocess.Popen([TRAPEZE, "run", "--accel", engine, "--memory", "64M", "--kernel", image],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1) == b"a"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGINT and err.startswith(b"trapeze: ended by")


def test_endless_loop_ends_by_signal(engine, tmp_path):
    image = tmp_path / "loop"
    image.write_bytes(multiboot(bytes.fromhex("b061 66baf803 ee fa ebfe".replace(" ", ""))))
    process = subprocess.Popen([TRAPEZE, "run", "--accel", engine, "--memory", "64M", "--kernel", image],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1) == b"a"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("value,width", [(0, 4), (21, 4), (5, 1)])
def test_isa_debug_exit(engine, tmp_path, value, width):
    code = {4: bytes([0xB8]) + struct.pack("<I", value) + b"\xe7\xf4", 1: bytes([0xB0, value]) + b"\xe6\xf4"}[width]
    image = tmp_path / "exit"
    image.write_bytes(multiboot(code + b"\xeb\xfe"))
    done = run("run", "--accel", engine, "--memory", "64M", "--kernel", image, *DEBUG_EXIT)
    assert done.returncode == (value << 1) | 1 and done.stderr == ""


def test_multiboot_command_line(engine, tmp_path):
    """The image's name, then --append: printed from the info structure."""
    # mov esi,[ebx+16]; mov dx,0x3f8; 1: lodsb; test al,al; jz 2f; out dx,al; jmp 1b; 2: xor eax,eax; out 0xf4,eax
    code = bytes.fromhex("8b7310 66baf803 ac 84c0 7403 ee ebf8 31c0 e7f4 ebfe".replace(" ", ""))
    image = tmp_path / "echo"
    image.write_bytes(multiboot(code))
    done = run("run", "--accel", engine, "--memory", "64M", "--kernel", image, "--append", "one two  three", *DEBUG_EXIT)
    assert done.stdout == f"{image} one two  three" and done.returncode == 1


def test_pvh_kernel(engine, guest_dir, tmp_path):
    """Debian's kernel again, unpacked to its ELF image and entered through its PVH note."""
    elf = unpacked_kernel(guest_dir, tmp_path)
    status, out, err = piped_shell(["run", "--accel", engine, "--kernel", elf, "--initrd", guest_dir / "initrd.cpio",
                                    "--append", "console=ttyS0 quiet"], b"echo pvh=$((6*7))\nexit\n")
    assert status == 0 and b"pvh=42" in out and err == b""


def test_terminal_is_restored_after_a_guest_crash(engine, tmp_path):
    image = tmp_path / "crash"
    # 'a' to the port, a while in a loop (the test looks at the terminal meanwhile), then a triple fault
    image.write_bytes(multiboot(bytes.fromhex("b061 66baf803 ee b900000020 e2fe".replace(" ", "")) + TRIPLE))
    leader, follower = os.openpty()
    before = termios.tcgetattr(follower)
    process = subprocess.Popen([TRAPEZE, "run", "--accel", engine, "--memory", "64M", "--kernel", image], stdin=follower,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1) == b"a"
    assert termios.tcgetattr(follower) != before
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and b"triple fault" in err
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


def test_serial_none(engine, tmp_path):
    image = tmp_path / "quiet"
    image.write_bytes(multiboot(bytes.fromhex("b061 66baf803 ee 31c0 e7f4 ebfe".replace(" ", ""))))
    done = run("run", "--accel", engine, "--memory", "64M", "--serial", "none", "--kernel", image, *DEBUG_EXIT)
    assert done.returncode == 1 and done.stdout == "" and done.stderr == ""
