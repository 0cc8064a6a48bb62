# SPDX-License-Identifier: Apache-2.0
"""virtio devices with Debian's drivers: PCI and MMIO, split and packed rings."""
import hashlib
import os
import re
import socket
import subprocess
import threading

import pytest

from conftest import PATIENCE, TRAPEZE, add_program, run
from test_boot import COMPLAINTS


@pytest.fixture
def drivers(boot, guest_dir):
    """boot() with the initramfs that brings the drivers."""
    def start(engine, *extra, **kwargs):
        return boot(engine, extra=["--initrd", str(guest_dir / "initrd-virtio.cpio"), *map(str, extra)],
                    **kwargs).wait_shell()
    return start


def healthy(guest):
    dmesg = guest.command("dmesg")
    assert [line for line in dmesg.splitlines() if COMPLAINTS.search(line)] == []
    return dmesg


def shut_down(guest):
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.fixture
def disk(tmp_path):
    """A raw disk with a file system that the guest can mount."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"")
    os.truncate(path, 64 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", path], check=True)
    return path


def use_disk(guest, disk):
    guest.command("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt")
    guest.command("dd if=/dev/urandom of=/mnt/file bs=64k count=64 2>/dev/null; sync")
    before = guest.command("md5sum </mnt/file").split()[0]
    guest.command("umount /mnt; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/vda /mnt")
    assert guest.command("md5sum </mnt/file").split()[0] == before
    guest.command("umount /mnt")
    return before


def use_devices(drivers, engine, disk):
    guest = drivers(engine, "--device", "virtio-rng-pci", "--disk", f"{disk},format=raw,serial=number-7", "--net", "user",
                    cpus=2)
    assert guest.command("cat /sys/class/misc/hw_random/rng_current").strip() == "virtio_rng.0"
    assert guest.command("dd if=/dev/hwrng bs=4k count=8 2>/dev/null | wc -c").strip() == "32768"
    assert guest.command("cat /sys/block/vda/serial; echo").strip() == "number-7"
    assert guest.command("ls /sys/block/vda/mq").split() == ["0", "1"]
    use_disk(guest, disk)
    guest.command("ip link set eth0 up")
    assert "lease of 10.0.2.15 obtained" in guest.command("udhcpc -n -q -i eth0 2>&1")
    # The card lets through what Linux has told its filter of: router advertisements go to a multicast address.
    guest.command("until ip -6 addr show dev eth0 | grep -q 'fec0::.*dynamic'; do sleep 1; done")
    assert guest.command("cat /sys/class/net/eth0/device/features").strip()[18:20] == "11"
    assert "PCI-MSI" in guest.command("grep virtio /proc/interrupts")
    healthy(guest)
    shut_down(guest)
    subprocess.run(["/sbin/e2fsck", "-fn", disk], check=True, capture_output=True)


def test_devices_on_pci(drivers, disk):
    use_devices(drivers, "translate", disk)


@pytest.mark.long
def test_devices_on_each_engine(drivers, engine, disk):
    use_devices(drivers, engine, disk)


@pytest.mark.parametrize("how", ["pci=nomsi", "pci=nomsi noapic"])
def test_interrupt_lines(drivers, disk, how):
    """INTx through the IOAPIC, and through the 8259s."""
    guest = drivers("translate", "--disk", f"{disk},format=raw", append=how)
    use_disk(guest, disk)
    assert re.search(r"(IO-APIC|XT-PIC).*virtio", guest.command("cat /proc/interrupts"))
    healthy(guest)
    shut_down(guest)


@pytest.mark.parametrize("options", ["packed=on", "packed=on,event_idx=off", "event_idx=off,indirect_desc=off"])
def test_ring_layouts(drivers, options):
    guest = drivers("translate", "--device", f"virtio-rng-pci,{options}")
    assert guest.command("dd if=/dev/hwrng bs=4k count=256 2>/dev/null | wc -c").strip() == str(1 << 20)
    bits = guest.command("cat /sys/bus/virtio/devices/virtio0/features").strip()
    assert (bits[34] == "1") == ("packed=on" in options)
    assert (bits[29] == "1") == ("event_idx=off" not in options)
    assert (bits[28] == "1") == ("indirect_desc=off" not in options)
    shut_down(guest)


def feature(guest, device, bit):
    return guest.command(f"cat {device}/features").strip()[bit] == "1"


def test_packed_disk_and_network(drivers, disk):
    """The rings that carry the most, with Linux's driver for packed ones: two queues of a disk, and a card's."""
    guest = drivers("translate", "--disk", f"{disk},format=raw,packed=on,queues=2", "--net", "user,packed=on", cpus=2)
    assert feature(guest, "/sys/block/vda/device", 34) and feature(guest, "/sys/class/net/eth0/device", 34)
    use_disk(guest, disk)
    guest.command("ip link set eth0 up")
    assert "lease of 10.0.2.15 obtained" in guest.command("udhcpc -n -q -i eth0 2>&1")
    healthy(guest)
    shut_down(guest)
    subprocess.run(["/sbin/e2fsck", "-fn", disk], check=True, capture_output=True)


@pytest.mark.parametrize("packed", ["off", pytest.param("on", marks=pytest.mark.long)])
def test_microvm(drivers, disk, packed):
    guest = drivers("translate", "--machine", "microvm", "--device", "virtio-rng-device", "--disk",
                    f"{disk},format=raw,packed={packed}", "--net", f"user,packed={packed}", cpus=2)
    assert feature(guest, "/sys/block/vda/device", 34) == (packed == "on")
    assert "LNRO0005" in guest.command("ls /sys/bus/acpi/devices")
    assert guest.command("ls /sys/bus/pci/devices 2>/dev/null").strip() == ""
    assert guest.command("dd if=/dev/hwrng bs=4k count=8 2>/dev/null | wc -c").strip() == "32768"
    use_disk(guest, disk)
    guest.command("ip link set eth0 up")
    assert "lease of 10.0.2.15 obtained" in guest.command("udhcpc -n -q -i eth0 2>&1")
    healthy(guest)
    shut_down(guest)


def test_console_ports_and_balloon(drivers, tmp_path):
    path = tmp_path / "port"
    guest = drivers("translate", "--memory", "384M", "--device", f"virtserialport,name=org.test,path={path}", "--device",
                    "virtio-balloon-pci,inflate=128")
    assert guest.command("cat /sys/class/virtio-ports/*/name").strip() == "org.test"
    data = os.urandom(200_000)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    guest.child.sendline("cat /dev/vport*p1 >/tmp/in; echo got it")
    client.sendall(data)
    client.close()
    guest.child.expect_exact("\ngot it")
    guest.child.expect_exact(guest.PROMPT)
    assert guest.command("md5sum </tmp/in").split()[0] == hashlib.md5(data).hexdigest()
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    guest.child.sendline("port=$(echo /dev/vport*p1); cat /tmp/in >$port")
    back = b""
    while len(back) < len(data):
        back += client.recv(65536)
    assert back == data
    guest.child.expect_exact(guest.PROMPT)
    free = "awk '/MemFree/ {print $2}' /proc/meminfo"
    guest.command(f"while [ $({free}) -gt 215000 ]; do sleep 1; done")  # 384M less 128M less what the kernel has
    given = 0
    while given < 128 + 64:  # more than the balloon holds: with free page reporting, also what the guest does not use
        guest.child.send("\x01m")
        told = guest.expect(r"guest memory: (\d+) MiB total, (\d+) MiB free, .*\b(\d+) MiB in the balloon, "
                            r"(\d+) MiB given back")
        total, available, held, given = map(int, told.groups())
        assert 200 < total < 384 and available < 256 and 100 < held <= 128, told[0]
    shut_down(guest)
    assert not path.exists()


@pytest.fixture(scope="session")
def vsock_initrd(guest_dir, tmp_path_factory):
    """The drivers' initramfs with the program vsock_guest.c."""
    return add_program(guest_dir / "initrd-virtio.cpio", tmp_path_factory.mktemp("vsock"), "vsock_guest.c", "vsock")


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    return client


def receive_all(client):
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def test_vsock(drivers, vsock_initrd, tmp_path):
    path, data = tmp_path / "vsock", os.urandom(1_000_000)
    guest = drivers("translate", "--initrd", vsock_initrd, "--device", f"virtio-vsock-pci,guest-cid=7,path={path}")
    # From the host: an echo of more than the buffers between hold.
    guest.child.sendline("vsock listen 1234")
    guest.child.expect_exact("listening")
    client = connect(path)
    client.sendall(b"CONNECT 1234\n")
    assert re.fullmatch(rb"OK \d+\n", b"".join(iter(lambda: client.recv(1), b"\n")) + b"\n")
    sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    sender.start()
    assert receive_all(client) == data
    sender.join()
    guest.child.expect_exact(guest.PROMPT)
    # Nobody listens; something else than a request.
    for line in (b"CONNECT 99\n", b"CONNECT -1\n", b"CONNECT 4294967296\n", b"x" * 100):
        client = connect(path)
        client.sendall(line)
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass  # it wrote more than anybody read
    # From the guest.
    assert "connect:" in guest.command("vsock connect 77 </dev/null")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}_77")
    listener.listen(1)
    guest.child.sendline("head -c 500000 /dev/urandom >/tmp/d; vsock connect 77 </tmp/d >/tmp/answer")
    client, _ = listener.accept()
    client.settimeout(PATIENCE)
    got = receive_all(client)
    client.sendall(data)
    client.close()
    guest.child.expect_exact(guest.PROMPT)
    assert guest.command("md5sum </tmp/d").split()[0] == hashlib.md5(got).hexdigest()
    assert guest.command("md5sum </tmp/answer").split()[0] == hashlib.md5(data).hexdigest()
    shut_down(guest)
    assert not path.exists()


def test_console_is_the_terminal(guest_dir, boot):
    guest = boot("translate", append="console=hvc0", extra=["--initrd", str(guest_dir / "initrd-virtio.cpio"), "--device",
                                                            "virtconsole"]).wait_shell()
    assert guest.command("tty").strip() == "/dev/hvc0"
    assert guest.command("seq 1 20000 | tail -n 1").strip() == "20000"
    guest.child.sendline("poweroff -f")
    assert guest.end() == 0


@pytest.mark.parametrize("device, says", [
    ("virtio-rng-device", "a pc board cannot have this device"),
    ("virtio-rng-pci,packed=perhaps", "neither on nor off"),
    ("virtio-vsock-pci", "needs path=SOCKET"),
    ("virtio-vsock-pci,guest-cid=2,path=/tmp/x", "is not a number from"),
    ("virtserialport,name=x", "needs name=NAME and path=SOCKET"),
    ("virtserialport,name=x,path=/nowhere/x", "cannot listen on /nowhere/x"),
    ("virtio-balloon-pci,inflate=1000000", "is not a number from"),
    ("virtio-rnd-pci", 'did you mean "virtio-rng-pci"'),
])
def test_bad_options(guest_dir, device, says):
    done = run("run", "--kernel", guest_dir / "vmlinuz", "--device", device)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_unknown_board(guest_dir):
    done = run("run", "--kernel", guest_dir / "vmlinuz", "--machine", "micro")
    assert done.returncode == 1 and 'did you mean "microvm"' in done.stderr
    assert subprocess.run([TRAPEZE, "run", "--machine", "help"], capture_output=True, text=True).stdout == "pc\nmicrovm\n"
