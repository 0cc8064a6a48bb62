# SPDX-License-Identifier: Apache-2.0
"""Debian's stock kernel, booted to a shell and driven there."""
import fcntl
import os
import pathlib
import re
import signal
import subprocess
import termios

import pytest

from conftest import PATIENCE, TRAPEZE, piped_shell, run

# What a healthy kernel never says.
COMPLAINTS = re.compile(r"BUG:|Oops|WARNING:(?! See https:| kernel not compiled with)|Call Trace|rcu.*stall|ACPI.*(Error|Warning)|soft lockup|"
                        r"unstable(?! due to TSCs unsynchronized)|invalid opcode|general protection|Firmware Bug", re.I)


@pytest.mark.sanitize
def test_two_cpus_shell(boot, engine):
    guest = boot(engine, cpus=2).wait_shell()
    assert "Linux trapeze" in guest.command("uname -a")
    assert guest.command("grep -c ^processor /proc/cpuinfo").strip() == "2"
    assert guest.command("cat /sys/devices/system/cpu/online").strip() == "0-1"
    dmesg = guest.command("dmesg")
    assert "Linux version" in dmesg
    assert [line for line in dmesg.splitlines() if COMPLAINTS.search(line)] == []
    # Arithmetic, processes, pipes, files: the shell is a real one.
    assert guest.command("seq 1 1000 | awk '{s+=$1} END {print s}'").strip() == "500500"
    assert guest.command("dd if=/dev/urandom bs=64k count=8 2>/dev/null | tee /tmp/a | md5sum | cut -c1-32 >/tmp/m; "
                         "md5sum </tmp/a | cut -c1-32 | cmp - /tmp/m && echo same").strip() == "same"
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


def test_one_cpu_shell(boot, engine):
    guest = boot(engine, cpus=1).wait_shell()
    assert guest.command("nproc").strip() == "1"
    interrupts = guest.command("cat /proc/interrupts")
    assert "ttyS0" in interrupts, "the UART must be driven by its interrupt"
    start = guest.command("cat /proc/uptime")
    guest.command("sleep 1")
    assert float(guest.command("cat /proc/uptime").split()[0]) - float(start.split()[0]) >= 1.0
    guest.child.sendline("exit")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_guest_clock_follows_the_hosts(boot, engine):
    """Five seconds of the guest are five of the host, give or take what starting a process takes."""
    import time
    guest = boot(engine, cpus=1).wait_shell()
    before = time.monotonic()
    guest.command("sleep 5")
    assert 4.9 <= time.monotonic() - before < 15
    host = time.time()
    assert abs(int(guest.command("date +%s")) - host) < 5
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_idle_guest_burns_no_cpu(boot, engine):
    guest = boot(engine, cpus=2).wait_shell()

    def cpu_seconds():
        fields = open(f"/proc/{guest.child.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    guest.command("sleep 2")
    before = cpu_seconds()
    guest.command("sleep 10")
    assert cpu_seconds() - before < 5, "two halted vCPUs must not spin"
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.long
def test_sixteen_cpus_and_most_of_the_hosts_memory(boot):
    """As large as machines get here."""
    with open("/proc/meminfo") as info:
        host_mib = int(re.search(r"MemTotal:\s+(\d+)", info.read()).group(1)) >> 10
    mib = host_mib * 3 // 4
    guest = boot("translate", cpus=16, extra=["--memory", f"{mib}M"]).wait_shell()
    assert guest.command("nproc").strip() == "16"
    assert int(guest.command("grep MemTotal /proc/meminfo").split()[1]) >> 10 > mib * 19 // 20
    for cpu in range(16):
        assert guest.command(f"taskset {1 << cpu:x} sh -c 'cut -d\\  -f39 /proc/self/stat'").strip() == str(cpu)
    assert [line for line in guest.command("dmesg").splitlines() if COMPLAINTS.search(line)] == []
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_memory_above_4g(boot, engine):
    guest = boot(engine, extra=["--memory", "5G"]).wait_shell()
    total = int(re.search(r"MemTotal:\s+(\d+)", guest.command("cat /proc/meminfo")).group(1))
    assert 4.6e6 < total < 5.3e6
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_reboot_restarts_the_machine(boot, engine):
    guest = boot(engine).wait_shell()
    guest.child.sendline("reboot -f")
    guest.wait_shell()
    assert "guest" in guest.command("echo guest")
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_no_reboot_ends_the_program(boot, engine):
    guest = boot(engine, extra=["--no-reboot"]).wait_shell()
    guest.child.sendline("reboot -f")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_ctrl_a_keys(boot, engine):
    guest = boot(engine).wait_shell()
    guest.child.send("\x01h")
    guest.child.expect_exact("Ctrl-A x")
    guest.child.send("\x01x")
    assert guest.end() == 0


def test_terminal_is_restored_after_a_signal(guest_dir, engine):
    """The program dies of SIGTERM; the terminal is as it was before."""
    leader, follower = os.openpty()
    before = termios.tcgetattr(follower)
    process = subprocess.Popen([TRAPEZE, "run", "--accel", engine, "--kernel", guest_dir / "vmlinuz", "--append",
                                "console=ttyS0"], stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)  # the guest speaks: the terminal is raw by now
    assert termios.tcgetattr(follower) != before
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"Terminated" in err
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


@pytest.mark.long_on_interp
def test_stats_and_quiet_stderr(guest_dir, engine):
    args = ["run", "--accel", engine, "--kernel", guest_dir / "vmlinuz", "--initrd", guest_dir / "initrd.cpio",
            "--append", "console=ttyS0 quiet"]
    status, out, err = piped_shell(args, b"echo 6 x 7 = $((6*7))\nexit\n")
    assert status == 0 and b"6 x 7 = 42" in out and err == b""
    status, _, err = piped_shell([*args, "--stats"], b"exit\n")
    stats = err.decode()
    assert status == 0 and "vCPU 0" in stats and "exits to the monitor: io" in stats
    if engine != "kvm":
        assert int(re.search(r"instructions\s+(\d+)", stats).group(1)) > 10_000_000
    if engine == "translate":
        fallbacks = [int(n) for n in re.findall(r"interp fallback \w+\s+(\d+)", stats)]
        total = int(re.search(r"translator_interp_insns\s+(\d+)", stats).group(1))
        assert 1 < len(fallbacks) <= 20 and fallbacks == sorted(fallbacks, reverse=True)
        assert total * 0.8 < sum(fallbacks) <= total
        assert re.search(r"translator_chain_links\s+[1-9]", stats)
        counted = {name: int(n) for name, n in re.findall(r"(\w+)\s+(\d+)$", stats, re.M)}
        for name in ["chain_hits", "jump_cache_hits", "tlb_hits", "tlb_victim_hits", "stack_window_hits", "calls_interp",
                     "calls_tlb_fill", "calls_stack_window", "calls_next_page", "calls_indirect"]:
            assert 0 < counted["translator_" + name] < counted["instructions"], name
        assert counted["translator_calls_interp"] + counted["translator_calls_tlb_fill"] >= 0.8 * total
        assert counted["tlb_fills"] > counted["tlb_fills_by_writes"] + counted["tlb_fills_by_fetches"] > 0
        assert counted["tlb_flushes"] >= counted["tlb_flushes_by_invlpg"] + counted["tlb_flushes_by_cr3"] > 0
        assert re.search(r"translator_jump_cache_misses\s+[1-9]", stats)


def test_perf_map_on_request(guest_dir, engine):
    if engine != "translate":
        pytest.skip(f"{engine} has no translated blocks")
    process = subprocess.Popen([TRAPEZE, "run", "--accel", engine, "--no-reboot", "--stats", "--kernel",
                                guest_dir / "vmlinuz", "--append", "console=ttyS0 panic=-1"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env={**os.environ, "TRAPEZE_PERF_MAP": "1"})
    path = pathlib.Path(f"/tmp/perf-{process.pid}.map")
    try:
        _, err = process.communicate(timeout=PATIENCE)
        lines = path.read_text().splitlines()
    finally:
        process.kill()
        path.unlink(missing_ok=True)
    assert all(re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ guest_[0-9a-f]+", line) for line in lines)
    assert len(lines) == int(re.search(rb"blocks_translated\s+(\d+)", err).group(1))


def test_kernel_without_root_panics_and_reboots(guest_dir, engine):
    """panic=-1 resets at once: with --no-reboot that ends the program."""
    done = run("run", "--accel", engine, "--no-reboot", "--kernel", guest_dir / "vmlinuz", "--append",
               "console=ttyS0 panic=-1")
    assert done.returncode == 0 and "Kernel panic" in done.stdout


@pytest.mark.parametrize("cpus", [1, 2])
def test_smallest_code_cache(guest_dir, engine, cpus):
    """A cache that the kernel's code overflows time and again: nothing of it may outlive its translation."""
    if engine != "translate":
        pytest.skip(f"{engine} has no code cache")
    status, out, err = piped_shell(
        ["run", "--accel", engine, "--code-cache", "1M", "--stats", "--cpus", cpus, "--kernel", guest_dir / "vmlinuz",
         "--initrd", guest_dir / "initrd.cpio", "--append", "console=ttyS0"], b"nproc | sed 's/^/cpus=/'\nexit\n")
    assert status == 0 and b"cpus=%d" % cpus in out
    assert [line for line in out.decode(errors="replace").splitlines() if COMPLAINTS.search(line)] == []
    assert int(re.search(rb"translator_cache_wipes\s+(\d+)", err).group(1)) > 10


def test_closed_terminal_ends_the_program(guest_dir, engine):
    """The window is closed: one line says why, whichever of the failed write and the hang-up is seen first."""
    leader, follower = os.openpty()

    def own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen([TRAPEZE, "run", "--accel", engine, "--kernel", guest_dir / "vmlinuz", "--append",
                                "console=ttyS0"], stdin=follower, stdout=follower, stderr=subprocess.PIPE,
                               start_new_session=True, preexec_fn=own_terminal)
    os.close(follower)
    assert os.read(leader, 1)
    os.close(leader)
    err = process.stderr.read().decode()
    assert process.wait(PATIENCE) in (1, 128 + signal.SIGHUP)
    assert err.count("\n") == 1 and ("Hangup" in err or "Input/output error" in err), err
