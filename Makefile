# SPDX-License-Identifier: Apache-2.0
# `make run` and `make test` need nothing but Debian: see README.md. `make help` lists the targets.

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
ifeq ($(origin CC),default)
CC := gcc
endif
VERSION := $(shell cat VERSION)
SAN ?=

include scripts/build.mk
include scripts/check.mk
include scripts/guests.mk
include scripts/fuzz.mk
include scripts/oracle.mk
include examples/build.mk

.PHONY: run test test-long bench bench-machine install uninstall help deps-build deps-guest deps-test deps-bench guest

help:
	@echo 'make            build $(BUILD)/trapeze and libtrapeze'
	@echo 'make run        boot a Debian kernel to a shell (installs and fetches what is missing)'
	@echo 'make test       all tests (likewise); make unit builds the unit tests only'
	@echo 'make test-long  the tests with sanitizers throughout and longer campaigns'
	@echo 'make bench      engine speed, boot time, memory; programs against native and QEMU TCG'
	@echo 'make bench-machine disk, network, a Debian from its disk, beside QEMU TCG'
	@echo 'make check      layout, format, headers, isolation'
	@echo 'make format     clang-format all sources'
	@echo 'make install    PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'

# What is missing comes from Debian's packages (scripts/packages.txt). A build alone installs nothing.
deps-build:
	@scripts/install-packages build
deps-guest:
	@scripts/install-packages guest
deps-test:
	@scripts/install-packages build guest test

deps-bench:
	@scripts/install-packages build guest test bench

guest: deps-guest
	@scripts/fetch-guest >/dev/null

run: deps-build deps-guest
	@$(MAKE) --no-print-directory -s -j2 all
	@cache=$$(scripts/fetch-guest) && echo "Starting the guest; its kernel unpacks itself first, in silence. Ctrl-A x ends it, Ctrl-A h helps." >&2 && \
	exec $(BUILD)/trapeze run --kernel "$$cache/vmlinuz" --initrd "$$cache/initrd.cpio" --cpus 2 \
		--append "console=ttyS0" $(ARGS)

test: deps-test
	@scripts/run-tests

test-long: deps-test
	@scripts/run-tests --long

bench: deps-bench
	@$(MAKE) --no-print-directory -s -j2 all bench-programs
	@scripts/fetch-guest >/dev/null
	@bench/run
	@bench/programs

bench-machine: deps-bench
	@$(MAKE) --no-print-directory -s -j2 all
	@bench/io
	@bench/debian

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/trapeze \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/trapeze
	install -m 755 $(BUILD)/trapeze $(DESTDIR)$(PREFIX)/bin/trapeze
	install -m 755 $(BUILD)/libtrapeze.so $(DESTDIR)$(PREFIX)/lib/libtrapeze.so.1
	ln -sf libtrapeze.so.1 $(DESTDIR)$(PREFIX)/lib/libtrapeze.so
	install -m 644 include/trapeze/*.h $(DESTDIR)$(PREFIX)/include/trapeze/
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' trapeze.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/trapeze.pc
	install -m 644 docs/trapeze.1 $(DESTDIR)$(PREFIX)/share/man/man1/trapeze.1
	install -m 755 scripts/make-debian-image $(DESTDIR)$(PREFIX)/share/trapeze/make-debian-image

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/trapeze $(DESTDIR)$(PREFIX)/lib/libtrapeze.so $(DESTDIR)$(PREFIX)/lib/libtrapeze.so.1 \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig/trapeze.pc $(DESTDIR)$(PREFIX)/share/man/man1/trapeze.1
	rm -rf $(DESTDIR)$(PREFIX)/include/trapeze $(DESTDIR)$(PREFIX)/share/trapeze
