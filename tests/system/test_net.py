# SPDX-License-Identifier: Apache-2.0
"""--net from outside: what is refused and how, and that a host port is held while the machine runs and no longer."""
import socket
import subprocess
import time

import pytest

from conftest import PATIENCE, TRAPEZE, run
from test_cli import complains


def test_kinds():
    done = run("run", "--net", "help")
    assert done.returncode == 0 and done.stdout.split() == ["user", "tap", "none"]


@pytest.mark.parametrize("value,words", [
    ("usr", ["--net usr", '"user"']),
    ("user,hostfw=tcp::1022-:22", ["hostfw", '"hostfwd"']),
    ("user,hostfwd=tcp::22", ["hostfwd=tcp::22", "expected"]),
    ("user,hostfwd=tcp:203.0.113.1:2222-:22", ["203.0.113.1", "no such address"]),
    ("user,restrict=maybe", ["restrict=maybe", "on or off"]),
    ("user,net=10.0.2.15/24", ["net=10.0.2.15/24"]),
    ("user,mac=1:2:3:4:5:6", ["mac=1:2:3:4:5:6"]),
    ("tap", ["ifname="]),
    ("tap,ifname=lo,queues=99", ["queues=99", "16"]),
    ("tap,fd=77", ["fd=77"]),
    ("none,ifname=x", ["ifname"]),
])
def test_bad_networks(guest_dir, value, words):
    complains(run("run", "--kernel", guest_dir / "vmlinuz", "--net", value), *words)


def test_too_many_networks(guest_dir):
    complains(run("run", "--kernel", guest_dir / "vmlinuz", *["--net", "none"] * 9), "--net", "too many")


def test_port_in_use(guest_dir):
    with socket.create_server(("127.0.0.1", 0)) as server:
        forward = f"hostfwd=tcp:127.0.0.1:{server.getsockname()[1]}-:22"
        complains(run("run", "--kernel", guest_dir / "vmlinuz", "--net", f"user,{forward}"), forward, "another program")


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_forwarded_port_lives_as_long_as_the_machine(guest_dir):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    args = ["run", "--kernel", guest_dir / "vmlinuz", "--initrd", guest_dir / "initrd.cpio", "--append",
            "console=ttyS0", "--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:22"]
    process = subprocess.Popen([TRAPEZE, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + PATIENCE
        while not connects(port) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        assert connects(port)
        process.terminate()
        assert process.wait(PATIENCE) == 128 + 15
        assert not connects(port)
    finally:
        process.kill()
        process.stderr.close()
        process.stdin.close()
