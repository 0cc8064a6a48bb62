/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image loaders. Each takes bytes, puts them into guest RAM and says in which state the first
 * vCPU starts. Pure functions of (image, RAM, board facts): fuzzable, no KVM, no globals.
 */
#ifndef VMM_BOOT_BOOT_H
#define VMM_BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/board.h"
#include "machine/ram.h"

struct boot_request {
	const char *kernel_name; /* for messages and Multiboot's argv[0] */
	const uint8_t *kernel;
	size_t kernel_size;
	const uint8_t *initrd; /* NULL: none */
	size_t initrd_size;
	const char *initrd_name; /* Multiboot's module string; NULL: "initrd" */
	const char *append;      /* never NULL */
	struct guest_ram *ram;
	struct e820_entry e820[E820_MAX];
	unsigned e820_count;
	uint64_t rsdp;
	bool vga; /* in text mode 3 */
};

enum boot_mode { BOOT_LONG64, BOOT_PROT32, BOOT_REAL16 };

/*
 * The BSP's start state: flat segments of the mode, interrupts off, registers below, the rest zero. BOOT_REAL16: as
 * after reset, but CS:IP is a paragraph and an offset below 16 that make rip, which is below 1 MiB.
 */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rax, rbx, rsi, rsp;
	uint64_t cr3; /* BOOT_LONG64: identity map set up by the loader */
	uint64_t gdt; /* GPA of a GDT with the flat segments */
	uint16_t gdt_limit;
	uint16_t cs, ds; /* selectors in it */
};

/*
 * Recognise and load: bzImage (64- or 32-bit boot protocol, Linux Documentation/arch/x86/boot.rst), ELF with a
 * PVH note (Xen PVH start info), Multiboot 1 (ELF or a.out kludge). 0; or -errno with `error` filled:
 * one line naming what and why.
 */
int boot_load(const struct boot_request *req, struct boot_entry *entry, char *error, size_t error_size);

#endif
