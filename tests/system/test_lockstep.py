# SPDX-License-Identifier: Apache-2.0
"""`--lockstep`: translate and interp run the same guest and do the same. Differences it must find: lockstep_test."""
import re

import pytest

from conftest import BUILD, piped_shell, run, unpacked_kernel
from test_guests import DEBUG_EXIT, GUESTS, SMALL_CACHE, VARIANTS, guest_runs

# What a shell does that booting does not: processes, pipes, compression, numbers.
WORK = b"""cat /bin/busybox | gzip -c | gunzip -c | sha256sum; sha256sum < /bin/busybox
i=0; while [ $i -lt 40 ]; do echo $i; i=$((i + 1)); done | sort -r | awk '{ s += $1 / 3 } END { print s }'
"""


def one_cpu_runs():
    for run_of in guest_runs():
        program, variant = run_of.values
        if "--cpus" not in variant:
            yield run_of
        elif variant is VARIANTS[program][0] and program not in ("smp64", "shoot64"):  # those need two
            yield pytest.param(program, [], id=program)


def shell(kernel, initrd, script, *args):
    """The guest's output. Nothing differs, and that was checked over many instructions."""
    status, out, err = piped_shell(["run", "--lockstep", "--stats", "--kernel", kernel, "--initrd", initrd, "--append",
                                    "console=ttyS0 quiet", *args], script + b"echo same=$((6*7))\nexit\n", patience=1800)
    assert status == 0 and b"same=42" in out, (out[-3000:], err[-6000:])
    compared = re.search(rb"lockstep instructions compared +(\d+)", err)
    assert compared and int(compared[1]) > 500_000_000, err
    return out


@pytest.mark.parametrize("program,variant", one_cpu_runs())
def test_guest_program(program, variant):
    cpu = [] if "--cpu" in variant else ["--cpu", "max"]
    done = run("run", "--lockstep", "--no-reboot", *cpu, *variant, "--kernel", GUESTS / f"{program}.flat", *DEBUG_EXIT)
    assert not re.findall("^not ok.*", done.stdout, re.M), done.stdout
    assert done.returncode == 1 and done.stderr == "", done
    assert done.stdout.count("ok ") > 5


def test_debian_shell(guest_dir, tmp_path):
    """The kernel unpacked: that its own unpacking is the same, too, is test_debian_shell_at_length's."""
    shell(unpacked_kernel(guest_dir, tmp_path), guest_dir / "initrd.cpio", b"")


@pytest.mark.long
@pytest.mark.skipif(BUILD.name != "build", reason="hours in a sanitizer build; the unpacked kernel does it there")
@pytest.mark.parametrize("args", [[], SMALL_CACHE], ids=["", "small-cache"])
def test_debian_shell_at_length(guest_dir, args):
    out = shell(guest_dir / "vmlinuz", guest_dir / "initrd.cpio", WORK, *args)
    assert len(set(re.findall(rb"[0-9a-f]{64}", out))) == 1 and b"\n260\r" in out, out[-3000:]


@pytest.mark.parametrize("args,why", [(["--accel", "interp"], "--accel interp"), (["--cpus", "2"], "--cpus 2")])
def test_what_does_not_go_with_it(guest_dir, args, why):
    done = run("run", "--lockstep", *args, "--kernel", guest_dir / "vmlinuz")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--lockstep" in done.stderr and why in done.stderr
