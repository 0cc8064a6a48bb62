# SPDX-License-Identifier: Apache-2.0
"""What the system tests share: the program under test, engines, the demo guest, a driven console."""
import lzma
import os
import pathlib
import subprocess

import pexpect
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TRAPEZE_BUILD", "build")
TRAPEZE = BUILD / "trapeze"
# make test-long: the tests marked `long` run too.
LONG = bool(os.environ.get("TRAPEZE_TEST_LONG"))
# Generous: the machine is shared, and a sanitizer build is an order of magnitude slower.
PATIENCE = {"asan": 600, "tsan": 1800}.get(BUILD.name, 180)


def pytest_configure(config):
    config.addinivalue_line("markers", "sanitize: also part of the short run with ASan and UBSan")
    config.addinivalue_line("markers", "long: only part of make test-long (TRAPEZE_TEST_LONG)")
    config.addinivalue_line("markers", "long_on_interp: likewise with `interp`, which takes ten times as long to boot Linux; "
                                       "for what is not the engine's doing")


def pytest_collection_modifyitems(config, items):
    if LONG:
        return
    def too_long(item):
        slow = hasattr(item, "callspec") and item.callspec.params.get("engine") == "interp"
        return item.get_closest_marker("long") or slow and item.get_closest_marker("long_on_interp")

    left_out = [item for item in items if too_long(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def hardware_kvm():
    """Why the kernel's KVM cannot be tested here, or None."""
    if not (os.path.exists("/sys/module/kvm_intel") or os.path.exists("/sys/module/kvm_amd")):
        return "no VT-x/AMD-V behind /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm may not be opened"
    return None


def engines():
    names = subprocess.run([TRAPEZE, "run", "--accel", "help"], capture_output=True, text=True, check=True)
    return [n for n in names.stdout.split() if n != "auto"]


def pytest_generate_tests(metafunc):
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", engines())


@pytest.fixture(autouse=True)
def usable_engine(request):
    if request.node.callspec.params.get("engine") == "kvm" if hasattr(request.node, "callspec") else False:
        why = hardware_kvm()
        if why:
            pytest.skip(why)


@pytest.fixture(scope="session")
def guest_dir():
    """Debian's kernel and the busybox initramfs, fetched by the build."""
    out = subprocess.run([ROOT / "scripts/fetch-guest"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return pathlib.Path(out.stdout.strip())


def unpacked_kernel(guest_dir, tmp_path):
    """The ELF image that Debian's kernel unpacks itself to."""
    packed = (guest_dir / "vmlinuz").read_bytes()
    start = packed.find(b"\xfd7zXZ\x00")
    if start < 0:
        pytest.skip("this kernel package does not use XZ")
    elf = tmp_path / "vmlinux"
    elf.write_bytes(lzma.LZMADecompressor().decompress(packed[start:]))
    return elf


def run(*args, stdin=subprocess.DEVNULL, timeout=None, **kwargs):
    """The program, to its end."""
    return subprocess.run([TRAPEZE, *map(str, args)], stdin=stdin, capture_output=True, text=True, errors="replace",
                          timeout=timeout or PATIENCE, **kwargs)


def piped_shell(args, script, patience=PATIENCE):
    """The demo guest with pipes for standard input and output: script is typed at its prompt."""
    process = subprocess.Popen([TRAPEZE, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        seen = b""
        while b"guest# " not in seen:
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                break
            seen += chunk
        out, err = process.communicate(script, timeout=patience)
    finally:
        process.kill()
    return process.returncode, seen + out, err


def add_program(initrd, folder, source, name):
    """An initramfs in `folder` with the C program `source` of this directory as /bin/`name` besides."""
    (folder / "root/bin").mkdir(parents=True)
    subprocess.run(["gcc", "-O1", "-static", "-o", folder / "root/bin" / name, ROOT / "tests/system" / source], check=True)
    more = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=f".\nbin\nbin/{name}\n".encode(), cwd=folder / "root",
                          check=True, capture_output=True).stdout
    (folder / "initrd").write_bytes(initrd.read_bytes() + more)
    return folder / "initrd"


class Console:
    """A guest booted to its shell on a pseudo-terminal."""

    PROMPT = "guest# "

    def __init__(self, guest_dir, engine, cpus=1, append="", extra=(), kernel="vmlinuz", initrd="initrd.cpio"):
        # quiet: the kernel must not speak in the middle of a command's output.
        args = ["run", "--accel", engine, "--cpus", str(cpus), "--kernel", str(guest_dir / kernel), "--initrd",
                str(guest_dir / initrd), "--append", "console=ttyS0 quiet " + append, *extra]
        self.child = pexpect.spawn(str(TRAPEZE), args, timeout=PATIENCE, encoding="utf-8", codec_errors="replace",
                                   dimensions=(50, 200))
        self.child.delaybeforesend = 0

    def expect(self, pattern):
        self.child.expect(pattern)
        return self.child.match

    def wait_shell(self):
        self.child.expect_exact("Trapeze guest:")
        self.child.expect_exact(self.PROMPT)
        self.command("stty cols 300")  # or the shell would wrap what it echoes
        return self

    def command(self, text):
        """Run a shell command in the guest; its output."""
        self.child.sendline(text)
        self.child.expect_exact(text)
        self.child.expect_exact(self.PROMPT)
        return self.child.before.replace("\r", "")

    def end(self):
        """Wait for the program's end; its exit status."""
        self.child.expect(pexpect.EOF)
        self.child.wait()
        self.child.close()
        return self.child.exitstatus

    def kill(self):
        self.child.close(force=True)


@pytest.fixture
def boot(guest_dir):
    """boot(engine, ...) -> Console; killed at the end of the test whatever happens."""
    consoles = []

    def start(*args, **kwargs):
        consoles.append(Console(guest_dir, *args, **kwargs))
        return consoles[-1]

    yield start
    for console in consoles:
        console.kill()
