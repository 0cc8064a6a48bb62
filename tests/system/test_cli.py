# SPDX-License-Identifier: Apache-2.0
"""Options and bad input: one clear line, a non-zero status, nothing else."""
import os
import pathlib
import re
import subprocess

import pytest

from conftest import PATIENCE, ROOT, TRAPEZE, hardware_kvm, run


def complains(done, *words):
    """Exactly one line on stderr that names what and why, nothing on stdout, status 1."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("trapeze: "), done.stderr
    for word in words:
        assert word in lines[0], done.stderr


@pytest.fixture
def kernel(guest_dir):
    return guest_dir / "vmlinuz"


def test_version_and_help():
    version = (ROOT / "VERSION").read_text().strip()
    assert run("--version").stdout == f"trapeze {version}\n"
    for args in (["--help"], ["run", "--help"]):
        done = run(*args)
        assert done.returncode == 0 and done.stderr == "" and "Usage: trapeze" in done.stdout


def test_help_names_every_option_of_the_man_page():
    man = (ROOT / "docs/trapeze.1").read_text().replace("\\-", "-")
    words = set(re.findall(r"--[a-z][a-z-]+", run("run", "--help").stdout))
    assert len(words) > 10
    for word in words:
        assert word in man, word


@pytest.mark.parametrize("args,words", [
    ([], ["no command"]),
    (["rum"], ["rum", '"run"']),
    (["run"], ["--kernel"]),
    (["run", "--kernal", "x"], ["--kernal", '"--kernel"']),
    (["run", "--kernel"], ["--kernel", "value"]),
    (["run", "stray"], ["stray"]),
    (["run", "--kernel", "/nonexistent/vmlinuz"], ["/nonexistent/vmlinuz", "No such file"]),
    (["run", "--kernel", "/"], ["not a regular file"]),
    (["run", "--kernel", "/dev/null"], ["not a regular file"]),
    (["run", "--no-reboot=yes"], ["--no-reboot"]),
])
def test_bad_command_lines(args, words):
    complains(run(*args), *words)


@pytest.mark.parametrize("option,value,words", [
    ("--memory", "0", ["--memory", "too small"]),
    ("--memory", "64K", ["too small"]),
    ("--memory", "lots", ["--memory", "not a size"]),
    ("--memory", "-1", ["--memory", "not a size"]),
    ("--memory", "12Q", ["not a size"]),
    ("--memory", "900T", ["--memory", "more than"]),
    ("--memory", "99999999999999999999G", ["more than"]),
    ("--cpus", "0", ["--cpus", "1 to"]),
    ("--cpus", "-3", ["--cpus", "not a number"]),
    ("--cpus", "4096", ["--cpus", "1 to"]),
    ("--cpus", "two", ["not a number"]),
    ("--cpu", "Pentium9000", ["Pentium9000", "unknown model"]),
    ("--cpu", "Haswel", ["Haswel", '"Haswell"']),
    ("--cpu", "max,+avx1024", ["avx1024", "unknown feature"]),
    ("--cpu", "max,phys-bits=99", ["phys-bits=99"]),
    ("--cpu", "max,vendor=short", ["vendor"]),
    ("--accel", "warp", ["--accel", "warp"]),
    ("--accel", "inter", ['"interp"']),
    ("--code-cache", "1023K", ["--code-cache", "too small"]),
    ("--code-cache", "2G", ["--code-cache", "too large"]),
    ("--code-cache", "99999999999999999999G", ["too large"]),
    ("--code-cache", "big", ["not a size"]),
    ("--serial", "tcp:1", ["--serial", "stdio"]),
    ("--serial", "file:/nonexistent/log", ["/nonexistent/log", "No such file"]),
    ("--device", "isa-debug-exti", ["isa-debug-exti", '"isa-debug-exit"']),
    ("--device", "isa-debug-exit,iobase=zebra", ["zebra"]),
    ("--device", "isa-debug-exit,colour=red", ["colour"]),
    ("--device", "isa-debug-exit,iobase=0x3f8", ["0x3f8"]),
    ("--share", "", ["--share", "no folder"]),
    ("--share", "/nonexistent", ["/nonexistent", "No such file"]),
    ("--share", "/etc/passwd", ["/etc/passwd", "Not a directory"]),
    ("--share", "/proc", ["/proc", "processes"]),
    ("--share", "/tmp,tag=", ["tag=", "1 to 31"]),
    ("--share", "/tmp,tag=a,tag=b", ["tag", "twice"]),
    ("--share", "/tmp,readnoly", ["readnoly", '"readonly"']),
    ("--initrd", "/nonexistent/initrd", ["/nonexistent/initrd", "No such file"]),
])
def test_bad_options(kernel, option, value, words):
    complains(run("run", "--accel", "interp", option, value, "--kernel", kernel), *words)


def test_feature_the_engine_lacks_is_refused_by_name(kernel):
    complains(run("run", "--accel", "interp", "--cpu", "max,+amx-tile", "--kernel", kernel), "amx-tile", "interp")


@pytest.mark.parametrize("size,words", [(0, ["empty"]), (1, ["kernel"]), (100, ["kernel"]), (600, ["kernel"]),
                                        (4096, []), (1 << 20, [])])
def test_truncated_kernel(kernel, tmp_path, size, words):
    cut = tmp_path / "cut"
    cut.write_bytes(kernel.read_bytes()[:size])
    complains(run("run", "--accel", "interp", "--kernel", cut), str(cut), *words)


def test_not_a_kernel(tmp_path):
    junk = tmp_path / "junk"
    junk.write_bytes(os.urandom(100_000))
    complains(run("run", "--accel", "interp", "--kernel", junk), str(junk))
    complains(run("run", "--accel", "interp", "--kernel", "/bin/true"), "/bin/true")


def test_initrd_larger_than_memory(kernel, tmp_path):
    big = tmp_path / "big"
    with open(big, "wb") as f:
        f.truncate(300 << 20)
    complains(run("run", "--accel", "interp", "--memory", "256M", "--kernel", kernel, "--initrd", big), "initrd")


def test_kernel_larger_than_memory(kernel):
    complains(run("run", "--accel", "interp", "--memory", "16M", "--kernel", kernel), "memory")


def test_accel_kvm_where_it_cannot_be_opened(kernel):
    """As a user who may not open it, or where it is missing."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK) and os.getuid() != 0:
        pytest.skip("/dev/kvm may be opened by this user")
    demote = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    # /dev/kvm is open to all on some machines.
    if os.path.exists("/dev/kvm") and os.stat("/dev/kvm").st_mode & 0o006 == 0o006:
        pytest.skip("/dev/kvm is open to everybody here")
    copy = pathlib.Path("/tmp") / f"trapeze-test-{os.getpid()}"
    copy.write_bytes(TRAPEZE.read_bytes())
    copy.chmod(0o755)
    image = pathlib.Path("/tmp") / f"trapeze-kernel-{os.getpid()}"
    image.write_bytes(kernel.read_bytes())
    image.chmod(0o644)
    try:
        done = subprocess.run([copy, "run", "--accel", "kvm", "--kernel", image], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, cwd="/", **demote)
    finally:
        copy.unlink()
        image.unlink()
    complains(done, "--accel kvm", "/dev/kvm")


def test_auto_takes_kvm_only_with_hardware_behind_it(kernel):
    done = run("run", "--cpu", "max,+amx-fp64", "--kernel", kernel)
    complains(done, "amx-fp64")
    if hardware_kvm():
        done = run("run", "--cpu", "max,+amx-tile", "--kernel", kernel)
        complains(done, "amx-tile", "translate")


def test_full_disk_and_closed_pipe(kernel):
    """The guest's console cannot be written: said once, non-zero status."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([TRAPEZE, "run", "--accel", "interp", "--kernel", kernel, "--append", "console=ttyS0"],
                              stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr
    process = subprocess.Popen([TRAPEZE, "run", "--accel", "interp", "--kernel", kernel, "--append", "console=ttyS0"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(PATIENCE) == 1 and "Broken pipe" in err


def test_serial_to_a_file(kernel, tmp_path):
    log = tmp_path / "log"
    done = run("run", "--accel", "interp", "--no-reboot", "--serial", f"file:{log}", "--kernel", kernel, "--append",
               "console=ttyS0 panic=-1")
    assert done.stdout == "" and "Kernel panic" in log.read_text(errors="replace")
