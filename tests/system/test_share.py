# SPDX-License-Identifier: Apache-2.0
"""Shared folders, with Linux's own 9p file system in the guest."""
import hashlib
import os
import shutil

import pytest

from conftest import run
from test_cli import complains
from test_virtio import drivers, healthy, shut_down  # noqa: F401 (a fixture)

MOUNT = "mount -t 9p -o trans=virtio"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "a folder, shared"
    (path / "sub").mkdir(parents=True)
    (path / "hello").write_text("from the host\n")
    (path / "sub" / "big").write_bytes(os.urandom(3_000_000))
    (path / "way out").symlink_to("/etc/hostname")
    (tmp_path / "secret").write_text("not shared\n")
    return path


def option(path, more=""):
    return ["--share", str(path).replace(",", ",,") + more]


def both_sides(guest, folder, tag="share"):
    assert guest.command(f"mkdir -p /mnt; {MOUNT} {tag} /mnt; cat /mnt/hello").split("\n")[1].strip() == "from the host"
    assert guest.command("ls /mnt").split() == ["hello", "sub", "way", "out"]
    big = (folder / "sub" / "big").read_bytes()
    assert guest.command("md5sum </mnt/sub/big").split()[0] == hashlib.md5(big).hexdigest()
    guest.command("mkdir /mnt/made; dd if=/dev/urandom of=/mnt/made/f bs=64k count=40 2>/dev/null; mv /mnt/made/f /mnt/g; sync")
    digest = guest.command("md5sum </mnt/g").split()[0]
    assert hashlib.md5((folder / "g").read_bytes()).hexdigest() == digest
    assert list((folder / "made").iterdir()) == []
    (folder / "late").write_text("came later\n")  # and is seen
    assert guest.command("cat /mnt/late").strip() == "came later"
    guest.command("rm /mnt/late; echo more >>/mnt/hello; chmod 600 /mnt/hello; ln -s hello /mnt/link")
    assert not (folder / "late").exists()
    assert (folder / "hello").read_text() == "from the host\nmore\n"
    assert (folder / "hello").stat().st_mode & 0o777 == 0o600
    assert os.readlink(folder / "link") == "hello"


def test_shared_folder(drivers, folder, tmp_path):
    """Reads, writes and lists on both sides; what leads out of the folder leads nowhere."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").write_text("kept\n")
    guest = drivers("translate", *option(folder), *option(other, ",tag=ro,readonly"), cpus=2)
    both_sides(guest, folder)
    assert "can't open" in guest.command("cat '/mnt/way out'")  # the guest's own /etc/hostname: it has none
    assert guest.command("ls /mnt/../mnt/.. | grep -c secret").strip() == "0"
    guest.command(f"mkdir /ro; {MOUNT} ro /ro")
    assert "Read-only file system" in guest.command("rm /ro/kept; echo x >/ro/new")
    assert guest.command("cat /ro/kept").strip() == "kept"
    # The folder goes away: an error, and the guest goes on.
    shutil.rmtree(folder)
    assert "No such file" in guest.command("cat /mnt/hello")
    assert guest.command("echo alive").strip() == "alive"
    guest.command("umount /mnt /ro")
    healthy(guest)
    shut_down(guest)
    assert sorted(p.name for p in other.iterdir()) == ["kept"]


def test_shared_folder_on_microvm(drivers, folder):
    guest = drivers("translate", "--machine", "microvm", *option(folder, ",tag=t"))
    both_sides(guest, folder, "t")
    healthy(guest)
    shut_down(guest)


def test_two_folders_need_two_tags(guest_dir, tmp_path):
    complains(run("run", "--accel", "interp", "--kernel", guest_dir / "vmlinuz", "--share", tmp_path, "--share", "/tmp"),
              '"share"', "tag=")
