# SPDX-License-Identifier: Apache-2.0
"""The soak of `make test-long`: the guest programs that stress an engine, and Debian's kernel, again and again."""
import os
import re
import time

import pytest

from conftest import add_program, piped_shell
from test_boot import COMPLAINTS
from test_guests import SMALL_CACHE, run_guest

pytestmark = pytest.mark.long

# For each case; a round that has begun is finished.
SECONDS = float(os.environ.get("TRAPEZE_SOAK_SECONDS", "30"))
CACHES = {"default": [], "1M": SMALL_CACHE, "3M": ["--code-cache", "3M"]}
# Programs by the number of vCPUs that suits them.
PROGRAMS = {1: ["smc64", "remap64", "tlb64", "irqs64", "code64", "transfers64", "sensitive64"],
            2: ["smp64", "smc64", "shoot64", "irqs64"], 4: ["smp64", "smc64", "shoot64"]}

# Processes, pipes and files, and a sum over all of it that must come out the same each time.
SCRIPT = b"""
work() { for i in 1 2 3; do (seq 1 500 | awk '{s+=$1*$1} END {print s}'; dd if=/dev/zero bs=64k count=10 2>/dev/null | md5sum;
  i=0; while [ $i -lt 60 ]; do i=$((i+1)); done; echo $i) & done; wait; }
for round in 1 2 3; do work | sort | md5sum | cut -c1-32 | sed 's/^/sum=/'; done
dmesg | grep -c . | sed 's/^/lines=/'
exit
"""


def rounds():
    """Counts until the time is over; once at least."""
    end, n = time.monotonic() + SECONDS, 0
    while n == 0 or time.monotonic() < end:
        yield n
        n += 1


def engine_caches(engine, cache):
    if cache != "default" and engine != "translate":
        pytest.skip(f"{engine} has no code cache")
    return CACHES[cache]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("cpus", PROGRAMS)
def test_soak_programs(engine, cpus, cache):
    options = ["--cpus", str(cpus), *engine_caches(engine, cache)]
    for _ in rounds():
        for program in PROGRAMS[cpus]:
            run_guest(program, engine, *options, timeout=600)


@pytest.mark.parametrize("cache", ["default", "1M"])
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_soak_kernel(guest_dir, engine, cpus, cache):
    args = ["run", "--accel", engine, *engine_caches(engine, cache), "--cpus", str(cpus), "--kernel", guest_dir / "vmlinuz",
            "--initrd", guest_dir / "initrd.cpio", "--append", "console=ttyS0"]
    for _ in rounds():
        status, out, err = piped_shell(args, SCRIPT, patience=900)
        text = out.decode(errors="replace")
        assert status == 0 and err == b"", text[-4000:]
        assert [line for line in text.splitlines() if COMPLAINTS.search(line)] == []
        sums = re.findall(r"^sum=([0-9a-f]{32})\r?$", text, re.M)
        assert len(sums) == 3 and len(set(sums)) == 1 and re.search(r"^lines=[1-9]", text, re.M), text[-4000:]


@pytest.mark.parametrize("cpus", [1, 4])
def test_soak_vector_state(guest_dir, engine, cpus, tmp_path):
    """Eight processes on fewer vCPUs, and those on whatever the host has."""
    args = ["run", "--accel", engine, "--cpus", str(cpus), "--kernel", guest_dir / "vmlinuz", "--initrd",
            add_program(guest_dir / "initrd.cpio", tmp_path, "vector_guest.c", "vectors"), "--append", "console=ttyS0"]
    for _ in rounds():
        status, out, err = piped_shell(args, b"vectors 8 10000\nexit\n", patience=900)
        text = out.decode(errors="replace")
        assert status == 0 and err == b"", text[-4000:]
        if "lost=none" in text:
            pytest.skip("the host has no AVX")
        assert re.search(r"^lost=0\r?$", text, re.M), text[-4000:]
