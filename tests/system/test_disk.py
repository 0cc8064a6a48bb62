# SPDX-License-Identifier: Apache-2.0
"""trapeze image and --disk from outside: qemu-img agrees; bad input gets one line that says what."""
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

from conftest import TRAPEZE, run
from test_cli import complains
from test_firmware import ends, shows, start  # noqa: F401 (a fixture)

needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def qemu_img(*args):
    return subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True)


def image(*args):
    done = run("image", *args)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


@pytest.fixture
def contents(tmp_path):
    """A raw disk with data, text that compresses, zeros and a hole."""
    raw = tmp_path / "contents.raw"
    with open(raw, "wb") as f:
        f.write(os.urandom(1_500_000))
        f.write(b"all work and no play\n" * 50_000)
        f.write(bytes(700_000))
        f.truncate(5 << 20)
    return raw


@pytest.mark.sanitize
@needs_qemu_img
@pytest.mark.parametrize("cluster", ["512", "4K", "64K", "2M"])
def test_create(tmp_path, cluster):
    disk = tmp_path / "disk.qcow2"
    image("create", "--cluster-size", cluster, disk, "1G")
    assert qemu_img("check", disk).returncode == 0
    facts = qemu_img("info", disk).stdout
    assert "virtual size: 1 GiB" in facts and "file format: qcow2" in facts
    assert "format: qcow2\nsize: 1073741824\n" in image("info", disk)
    assert "0 errors, 0 leaked" in image("check", disk)


@needs_qemu_img
def test_create_with_backing_file(tmp_path, contents):
    top = tmp_path / "top.qcow2"
    image("create", "--backing", "contents.raw", "--backing-format", "raw", top)
    assert qemu_img("compare", contents, top).returncode == 0
    assert "backing file: contents.raw\nbacking format: raw" in image("info", top)
    complains(run("image", "create", "--backing", "no.raw", "--backing-format", "raw", tmp_path / "x"), "no.raw")
    complains(run("image", "create", "--backing", "contents.raw", tmp_path / "x", "1M"), "--backing-format")
    assert not (tmp_path / "x").exists()


@pytest.mark.sanitize
@needs_qemu_img
@pytest.mark.parametrize("options", [[], ["-c"], ["-c", "-o", "compression_type=zstd"], ["-o", "compat=0.10"],
                                     ["-c", "-o", "cluster_size=2M"], ["-o", "cluster_size=512"]])
def test_convert_from_qemus_images(tmp_path, contents, options):
    theirs, ours, back = tmp_path / "theirs.qcow2", tmp_path / "ours.qcow2", tmp_path / "back.raw"
    assert qemu_img("convert", "-O", "qcow2", *options, contents, theirs).returncode == 0
    image("check", theirs)
    image("convert", theirs, ours)
    assert qemu_img("check", ours).returncode == 0
    assert qemu_img("compare", contents, ours).returncode == 0
    image("convert", "--to", "raw", theirs, back)
    assert back.read_bytes() == contents.read_bytes()
    # Zeros take no space.
    assert os.stat(back).st_blocks * 512 < 3_500_000


@needs_qemu_img
def test_check_finds_and_repairs(tmp_path, contents):
    disk = tmp_path / "disk.qcow2"
    image("convert", contents, disk)
    data = bytearray(disk.read_bytes())
    table = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[table:table + 8], "big")
    clean = bytes(data)
    # A leak: a cluster past those in use is counted.
    index = (len(clean) + 65535) // 65536
    leaked = bytearray(clean).ljust((index + 1) * 65536, b"\0")
    leaked[block + 2 * index + 1] = 1
    disk.write_bytes(leaked)
    done = run("image", "check", disk)
    assert done.returncode == 3 and "1 leaked" in done.stdout
    assert "1 errors and leaks repaired" in image("check", "--repair", "leaks", disk)
    assert qemu_img("check", disk).returncode == 0
    # Counts that are too low.
    data[block + 8:block + 20] = bytes(12)
    disk.write_bytes(data)
    done = run("image", "check", disk)
    assert done.returncode == 2 and "refcount 0 and 1 references" in done.stdout
    assert run("image", "check", "--repair", "leaks", disk).returncode == 2
    assert "0 errors, 0 leaked" in image("check", "--repair", "all", disk)
    assert qemu_img("check", disk).returncode == 0
    assert qemu_img("compare", contents, disk).returncode == 0


def test_full_disk_leaves_nothing(tmp_path, contents):
    target = tmp_path / "target.raw"
    done = subprocess.run(["bash", "-c", 'ulimit -f 1000; exec "$@"', "-", TRAPEZE, "image",
                           "convert", "--to", "raw", contents, target], capture_output=True, text=True)
    complains(done, "target.raw")
    assert not target.exists()


@pytest.mark.parametrize("args,words", [
    ([], ["no command"]),
    (["creat"], ["creat", '"create"']),
    (["create"], ["no file"]),
    (["create", "x"], ["SIZE"]),
    (["create", "x", "big"], ["big", "not a size"]),
    (["create", "x", "-1"], ["-1"]),
    (["create", "x", "0"], ["0 bytes"]),
    (["create", "x", "999999999999T"], ["too large"]),
    (["create", "x", "1000"], ["1000", "sectors"]),
    (["create", "x", "8000000T"], ["too many"]),
    (["create", "x", "1M", "y"], ["unexpected", "y"]),
    (["create", "--cluster-size", "3K", "x", "1M"], ["3K", "power of two"]),
    (["create", "--format", "vmdk", "x", "1M"], ["vmdk", "raw or qcow2"]),
    (["create", "--format", "raw", "--cluster-size", "4K", "x", "1M"], ["raw"]),
    (["create", "--frce", "x", "1M"], ["--frce", '"--force"']),
    (["create", "--force=1", "x", "1M"], ["--force", "no value"]),
    (["create", "--format"], ["--format", "value"]),
    (["create", "/nonexistent/x", "1M"], ["/nonexistent/x", "No such file"]),
    (["info"], ["no file"]),
    (["info", "/nonexistent/x"], ["No such file"]),
    (["info", "/"], ["directory"]),
    (["info", "/dev/null"], ["/dev/null", "neither"]),
    (["check", "--repair", "some", "/dev/null"], ["leaks or all"]),
    (["check", "/etc/passwd"], ["/etc/passwd", "raw"]),
    (["convert", "x"], ["TARGET"]),
    (["convert", "/nonexistent/x", "y"], ["/nonexistent/x"]),
])
def test_bad_image_command_lines(tmp_path, args, words):
    complains(run("image", *args, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tmp_path, contents):
    before = contents.read_bytes()
    complains(run("image", "create", contents, "1M"), "exists", "--force")
    complains(run("image", "convert", contents, contents), "contents.raw")
    complains(run("image", "convert", "--force", contents, contents), "in use")
    assert contents.read_bytes() == before


@pytest.mark.parametrize("disk,words", [
    ("", ["--disk", "no path"]),
    ("/nonexistent/disk", ["/nonexistent/disk", "No such file"]),
    ("/", ["directory"]),
    ("/dev/null", ["/dev/null", "neither"]),
    ("DISK,cache=fast", ["cache=fast", "writeback"]),
    ("DISK,format=vmdk", ["format=vmdk", "qcow2"]),
    ("DISK,readonly=perhaps", ["readonly=perhaps"]),
    ("DISK,radonly=on", ["radonly", '"readonly"']),
    ("DISK,cache=none,cache=none", ["cache", "twice"]),
    ("DISK,readonly", ["readonly", "key=value"]),
    ("DISK,serial=", ["serial"]),
    ("DISK,serial=123456789012345678901", ["serial", "20"]),
    ("DISK,queues=0", ["queues=0"]),
    ("DISK,werror=pause", ["werror=pause", "enospc"]),
    ("DISK,rerror=enospc", ["rerror=enospc", "report, stop or ignore"]),
    ("DISK,aio=native", ["aio=native", "io_uring"]),
    ("DISK,format=qcow2", ["not a qcow2 image"]),
    ("EMPTY", ["no whole sector"]),
    ("nbd+unix:///?socket=/nonexistent/socket", ["nbd+unix", "No such file"]),
    ("nbd://localhost:1", ["nbd://localhost:1"]),
])
def test_bad_disks(guest_dir, tmp_path, contents, disk, words):
    (tmp_path / "empty").touch()
    disk = disk.replace("DISK", str(contents)).replace("EMPTY", str(tmp_path / "empty"))
    complains(run("run", "--accel", "interp", "--kernel", guest_dir / "vmlinuz", "--disk", disk), *words)


def test_one_image_twice_is_refused(guest_dir, contents):
    complains(run("run", "--accel", "interp", "--kernel", guest_dir / "vmlinuz", "--disk", contents, "--disk",
                  contents), "contents.raw", "in use")


@needs_qemu_img
@pytest.mark.parametrize("options", ["", ",cache=none", ",aio=threads"])
def test_guest_writes_qcow2(boot, guest_dir, tmp_path, options):
    """What a guest has flushed is in the image when the program is ended, which qemu-img finds in order."""
    base, disk, copy = tmp_path / "base.raw", tmp_path / "disk.qcow2", tmp_path / "copy.raw"
    base.write_bytes(b"\1" * (4 << 20))
    if "none" in options:
        try:
            os.close(os.open(base, os.O_RDONLY | os.O_DIRECT))
        except OSError:
            pytest.skip("no O_DIRECT where pytest keeps its files")
    image("create", "--backing", base, "--backing-format", "raw", disk, "64M")
    guest = boot("translate", extra=["--initrd", str(guest_dir / "initrd-virtio.cpio"), "--disk", f"{disk}{options}"])
    guest.wait_shell()
    assert "131072" in guest.command("cat /sys/block/vda/size")
    guest.command("dd if=/dev/zero bs=1M count=3 | tr '\\0' x >/dev/vda; sync")
    guest.command("dd if=/dev/zero bs=3k count=5 2>/dev/null | tr '\\0' y | dd of=/dev/vda bs=1k seek=9001; sync")
    # In use: neither QEMU nor a second machine gets it.
    assert qemu_img("info", disk).returncode != 0
    complains(run("run", "--accel", "interp", "--kernel", guest_dir / "vmlinuz", "--disk", disk), "in use")
    guest.child.kill(15)
    assert guest.end() == 128 + 15
    assert qemu_img("check", disk).returncode == 0
    assert qemu_img("convert", "-O", "raw", disk, copy).returncode == 0
    data = copy.read_bytes()
    assert data[:3 << 20] == b"x" * (3 << 20)
    assert data[3 << 20:4 << 20] == b"\1" * (1 << 20)
    at = 9001 << 10
    assert data[at - 1:at + (15 << 10) + 1] == b"\0" + b"y" * (15 << 10) + b"\0"


def limit(child, size):
    """How long files may become that the program writes: what a full disk is to it, without root and without a disk."""
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def uptime(guest):
    return float(guest.command("cat /proc/uptime").split()[0])


FULL = r"trapeze: (\S+): the host has no room for a write: the machine stands still"


def test_full_host_disk_stops_the_machine(boot, guest_dir, tmp_path):
    """The guest stands still, its clocks too; when there is room again it goes on and has missed nothing."""
    disk, told = tmp_path / "disk.raw", tmp_path / "told.raw"
    for path in disk, told:
        path.touch()
        os.truncate(path, 32 << 20)
    guest = boot("translate", cpus=2, extra=["--initrd", str(guest_dir / "initrd-virtio.cpio"), "--disk", f"{disk},format=raw",
                                             "--disk", f"{told},format=raw,werror=report"])
    guest.wait_shell()
    guest.command("dd if=/dev/urandom of=/tmp/data bs=64k count=256 2>/dev/null")
    digest = guest.command("md5sum </tmp/data").split()[0]
    limit(guest.child, 8 << 20)
    assert "I/O error" in guest.command("dd if=/tmp/data of=/dev/vdb bs=64k seek=200 conv=fsync; dmesg | tail -n 3")
    begin, guest_begin = time.monotonic(), uptime(guest)
    guest.child.sendline("dmesg -c >/dev/null; dd if=/tmp/data of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo dd=$?")
    assert guest.expect(FULL)[1] == str(disk)
    time.sleep(3)
    limit(guest.child, resource.RLIM_INFINITY)
    guest.child.expect_exact("trapeze: the machine goes on")
    guest.child.expect_exact("dd=0")
    guest.child.expect_exact(guest.PROMPT)
    guest_end, end = uptime(guest), time.monotonic()
    assert guest_end - guest_begin < end - begin - 2.5
    assert guest.command("dmesg").strip() == ""  # no error, no lockup, no clock found to be unstable
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0
    assert hashlib.md5(disk.read_bytes()[:16 << 20]).hexdigest() == digest


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-A x"])
def test_machine_that_stands_still_can_be_ended(boot, guest_dir, tmp_path, how):
    disk = tmp_path / "disk.qcow2"
    image("create", disk, "64M")
    guest = boot("translate", extra=["--initrd", str(guest_dir / "initrd-virtio.cpio"), "--disk", str(disk)])
    guest.wait_shell()
    limit(guest.child, 1 << 20)
    guest.child.sendline("dd if=/bin/busybox of=/dev/vda bs=64k conv=fsync; dd if=/bin/busybox of=/dev/vda bs=64k seek=80 conv=fsync")
    guest.expect(FULL)
    if how == "SIGTERM":
        guest.child.kill(signal.SIGTERM)
    else:
        guest.child.send("\x01x")
    assert guest.end() == (143 if how == "SIGTERM" else 0)
    assert "0 errors" in image("check", disk)


def test_screen_says_why_it_stands_still(start, guest_dir, tmp_path):
    """--display curses: messages wait for the program's end, so the screen's last line tells."""
    disk = tmp_path / "disk.raw"
    disk.touch()
    os.truncate(disk, 32 << 20)
    child = start("--kernel", guest_dir / "vmlinuz", "--initrd", guest_dir / "initrd-virtio.cpio", "--display", "curses",
                  "--append", "console=tty0 quiet", "--disk", f"{disk},format=raw")
    shows(child, "guest#")
    limit(child, 1 << 20)
    child.send("dd if=/bin/busybox of=/dev/vda bs=64k seek=30 conv=fsync; echo $((6*7))done\r")
    shows(child, "[the machine stands still until")
    limit(child, resource.RLIM_INFINITY)
    shows(child, "42done")
    child.send("exit\r")
    assert ends(child) == 0
    assert "has no room for a write" in child.before
    assert "trapeze: the machine goes on" in child.before
