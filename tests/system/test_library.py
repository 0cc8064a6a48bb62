# SPDX-License-Identifier: Apache-2.0
"""libtrapeze as an embedder sees it: the example, the installed files."""
import os
import subprocess

import pytest

from conftest import BUILD, ROOT

pytestmark = pytest.mark.skipif("asan" in str(BUILD), reason="the sanitizer build has no shared library")
HELLO = BUILD / "examples/hello"


def run(*args, **kwargs):
    return subprocess.run(list(map(str, args)), capture_output=True, text=True, timeout=120, **kwargs)


def test_example_on_libtrapeze():
    done = run(HELLO)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.strip(), done


def test_example_on_the_kernels_kvm():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is missing or may not be opened")
    done = run(HELLO, "--kvm")
    assert done.returncode == 0 and done.stderr == "", done
    assert done.stdout == run(HELLO).stdout  # the same guest, the same answer


def test_install_and_build_against_it(tmp_path):
    """make install honours DESTDIR and PREFIX; what it installs is enough to build and run the example."""
    env = dict(os.environ, MAKEFLAGS="")
    done = run("make", "-s", "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/tz", f"BUILD={BUILD}", cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    prefix = tmp_path / "opt/tz"
    for name in ("bin/trapeze", "lib/libtrapeze.so", "lib/libtrapeze.so.1", "include/trapeze/trapeze.h",
                 "lib/pkgconfig/trapeze.pc", "share/man/man1/trapeze.1"):
        assert (prefix / name).exists(), name
    pc = (prefix / "lib/pkgconfig/trapeze.pc").read_text()
    assert "prefix=/opt/tz" in pc and (ROOT / "VERSION").read_text().strip() in pc and "@" not in pc
    program = tmp_path / "hello"
    done = run("gcc", "-D_GNU_SOURCE", f"-I{prefix}/include", "-o", program, ROOT / "examples/hello.c",
               f"-L{prefix}/lib", "-ltrapeze")
    assert done.returncode == 0, done.stderr
    done = run(program, env=dict(os.environ, LD_LIBRARY_PATH=str(prefix / "lib")))
    assert done.returncode == 0, done
    assert run(prefix / "bin/trapeze", "--version").stdout.startswith("trapeze ")


def test_only_the_public_functions_are_exported():
    done = run("nm", "-D", "--defined-only", BUILD / "libtrapeze.so")
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    assert names and all(name.startswith("tz_") for name in names), names
