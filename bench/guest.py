# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of whole machines share: a monitor as a child, its console, what it uses."""
import atexit
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAPEZE = ROOT / "build/trapeze"
PATIENCE = 300


def tool(*args, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **kwargs)
    if done.returncode:
        sys.exit(f"bench: {args[0]}: {done.stderr.strip()}")
    return done.stdout


def memory_beyond_ram(pid):
    """MiB resident that are not the guest's RAM; memory that is mapped twice (translated code) counts once."""
    total, name = 0, ""
    for line in open(f"/proc/{pid}/smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = (line.split(None, 5) + [""])[5]
        elif re.match(r"Pss:" if "memfd" in name else r"Rss:", line) and not re.search(r"guest-ram|memory-backend", name):
            total += int(line.split()[1])
    return total / 1024


def process_seconds(pid):
    """By its own CPU clock: /proc's count what the timer tick finds running, which is not what wakes for microseconds."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3)


class Guest:
    def __init__(self, args):
        self.start = time.monotonic()
        self.process = subprocess.Popen([str(a) for a in args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        atexit.register(self.process.kill)  # nothing is left running, whatever ends the script
        self.seen, self.ended, self.changed = "", False, threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self.changed:
                self.seen += data.decode(errors="replace").replace("\r", "")
                self.changed.notify()
        with self.changed:
            self.ended = True
            self.changed.notify()

    def wait(self, text, patience=PATIENCE):
        """What the console shows until `text`."""
        with self.changed:
            if not self.changed.wait_for(lambda: text in self.seen or self.ended, patience) or text not in self.seen:
                sys.exit(f"bench: the guest does not say {text!r}; its last words:\n{self.seen[-2000:]}")
            before, _, self.seen = self.seen.partition(text)
        return before

    def command(self, line):
        """Its output, after an echo that the shell's line editor may have broken into lines."""
        self.process.stdin.write(line.encode() + b"; echo @@'END'\n")
        self.process.stdin.flush()
        return self.wait("@@END")

    def cpu_seconds(self):
        """Of the monitor and its processes: direct execution has some, which come and go."""
        total = 0
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                if path.parent.name == str(self.process.pid):
                    total += sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")  # the ended ones'
                elif fields[1] != str(self.process.pid):
                    continue
                total += process_seconds(int(path.parent.name))
            except OSError:
                continue
        return total

    def end(self):
        self.process.stdin.write(b"poweroff -f\n")
        self.process.stdin.flush()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def memory_beyond_ram(self):
        return memory_beyond_ram(self.process.pid)
