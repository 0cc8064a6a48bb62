# SPDX-License-Identifier: Apache-2.0
"""Time as Debian's kernel sees it: clock sources, stolen time, the host's clock under load, HPET and RTC."""
import os
import re
import subprocess
import sys
import time

import pytest

from conftest import PATIENCE

# Where the engine makes no difference, the fast one.
FAST = "translate"
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/"


def dmesg(guest, pattern):
    return [line for line in guest.command("dmesg").splitlines() if re.search(pattern, line)]


def guest_steal(guest):
    """Stolen time in ticks (of 10 ms): the eighth figure of /proc/stat."""
    return int(guest.command("head -n 1 /proc/stat").split()[8])


class Load:
    """Processes that do nothing but burn CPU time, on the given CPUs."""

    def __init__(self, cpus):
        self.children = [subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{cpu}}})\n"
                                           "while True: pass"]) for cpu in cpus]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.children:
            child.kill()
            child.wait()


def test_linux_takes_kvm_clock(boot, engine):
    """The paravirtual clock, unasked; the kernel's watchdog has nothing to say against any clock source."""
    guest = boot(engine, cpus=2).wait_shell()
    available = guest.command(f"cat {CLOCKSOURCE}available_clocksource").split()
    assert guest.command(f"cat {CLOCKSOURCE}current_clocksource").split() == ["kvm-clock"]
    if engine != "kvm":
        assert "hpet" in available and "acpi_pm" in available
        assert dmesg(guest, r"KVM setup pv remote TLB flush") and dmesg(guest, r"setup PV IPIs")
        assert dmesg(guest, r"PV spinlocks enabled")
    guest.command("sleep 3")  # the watchdog looks twice a second
    # "TSCs unsynchronized" is what the kernel assumes of every AMD multiprocessor without an invariant TSC.
    assert dmesg(guest, r"(?i)unstable(?! due to TSCs unsync)|clocksource.*watchdog|soft lockup|TSC.*skew") == []
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


def test_features_by_name(boot):
    guest = boot(FAST, extra=["--cpu", "host,-kvmclock,-kvm-steal-time,+invtsc"]).wait_shell()
    assert "kvm-clock" not in guest.command(f"cat {CLOCKSOURCE}available_clocksource")
    assert guest.command(f"cat {CLOCKSOURCE}current_clocksource").split()[0] in ("tsc", "tsc-early")
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.long_on_interp
def test_stolen_time(boot, engine):
    """One CPU for a busy guest and a busy neighbour: the guest is told what the neighbour took."""
    if engine == "kvm":
        pytest.skip("the kernel's own business")
    cpu = min(os.sched_getaffinity(0))
    guest = boot(engine).wait_shell()
    for task in os.listdir(f"/proc/{guest.child.pid}/task"):
        os.sched_setaffinity(int(task), {cpu})
    with Load([cpu]):
        before = guest_steal(guest)
        deadline = time.monotonic() + PATIENCE
        while guest_steal(guest) < before + 20 and time.monotonic() < deadline:
            guest.command("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        assert guest_steal(guest) >= before + 20
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


def clock_bounds(guest, rounds):
    """The guest's clock minus the host's lies between these two, in seconds: each reading narrows them."""
    low, high = float("-inf"), float("inf")
    for _ in range(rounds):
        before = time.time()
        stamp = guest.command("adjtimex | grep time.tv_")
        after = time.time()
        sec, usec = (int(re.search(rf"time.{name}:\s+(\d+)", stamp).group(1)) for name in ("tv_sec", "tv_usec"))
        low, high = max(low, sec + usec / 1e6 - after), min(high, sec + usec / 1e6 - before)
    return low, high


def test_keeps_the_hosts_time_under_load(boot):
    """All CPUs busy, and the guest itself: its clock neither runs away nor falls behind.

    Each reading is bounded by the host's clock before and after it, so slowness only widens the bounds. That it is
    good to well below a millisecond a minute is shown by pv_test and pv_clock_test.
    """
    guest = boot(FAST, cpus=2).wait_shell()
    host = time.time() - time.monotonic()
    with Load(sorted(os.sched_getaffinity(0))):
        first = clock_bounds(guest, 3)
        guest.command("for n in 1 2; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done) & done; wait")
        second = clock_bounds(guest, 3)
    if abs(time.time() - time.monotonic() - host) > 0.001:
        pytest.skip("the host's clock was set meanwhile")
    assert first[0] <= first[1] and second[0] <= second[1]
    assert second[0] - first[1] < 0.001 and first[0] - second[1] < 0.001, (first, second)
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


def check_seconds(guest):
    """The guest's seconds are the host's, give or take what the readings take."""
    before = time.monotonic()
    guest.command("sleep 2")
    assert time.monotonic() - before > 1.9
    first = clock_bounds(guest, 3)
    time.sleep(2)
    second = clock_bounds(guest, 3)
    assert second[0] - first[1] < 0.01 and first[0] - second[1] < 0.01, (first, second)


def test_hpet_drives_the_guest(boot):
    """Its counter as the clock; and, without LAPIC timers, its legacy route for the ticks."""
    guest = boot(FAST, append="clocksource=hpet nolapic_timer").wait_shell()
    assert dmesg(guest, r"hpet0: 3 comparators, 64-bit 100\.000000 MHz counter")
    assert guest.command(f"cat {CLOCKSOURCE}current_clocksource").split() == ["hpet"]

    def timer_interrupts():
        return int(re.search(r"^\s*0:\s+(\d+).*timer", guest.command("cat /proc/interrupts"), re.M).group(1))

    before = timer_interrupts()
    check_seconds(guest)
    assert timer_interrupts() > before
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


def test_acpi_timer_and_rtc(boot):
    guest = boot(FAST, append="clocksource=acpi_pm").wait_shell()
    assert guest.command(f"cat {CLOCKSOURCE}current_clocksource").split() == ["acpi_pm"]
    check_seconds(guest)
    rtc = "/sys/class/rtc/rtc0/"
    assert guest.command(f"cat {rtc}name").split()[0] == "rtc_cmos"
    assert abs(int(guest.command(f"cat {rtc}since_epoch")) - time.time()) < 10
    # An alarm two seconds ahead. While the HPET has IRQ 8 the kernel makes it from the HPET's interrupts.
    guest.command(f"echo $(($(cat {rtc}since_epoch)+2)) >{rtc}wakealarm")
    deadline = time.monotonic() + PATIENCE
    while guest.command(f"cat {rtc}wakealarm").strip() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert guest.command(f"cat {rtc}wakealarm").strip() == ""
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0
