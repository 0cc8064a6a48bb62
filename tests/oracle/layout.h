/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things lie, for C and for assembly. A case has a slot of its own: pages at the same linear addresses in the
 * native child and in the guests, below 2 GiB so that every addressing mode reaches them.
 */
#ifndef ORACLE_LAYOUT_H
#define ORACLE_LAYOUT_H

#define SLOT_COUNT 64
#define SLOT_BASE 0x10000000
#define SLOT_STRIDE 0x10000

/* Pages of a slot by their offset from its base; what lies between is not mapped. */
#define SLOT_CODE 0x1000 /* two pages, read and execute */
#define SLOT_CODE_SIZE 0x2000
#define SLOT_DATA 0x5000 /* two pages, read and write */
#define SLOT_DATA_SIZE 0x2000
#define SLOT_RO 0x9000    /* one page, read */
#define SLOT_STACK 0xb000 /* one page, read and write */
#define SLOT_PAGES 6

/* Where a case leaves to: EXIT in 64-bit mode; in compatibility mode first EXIT32, which jumps there. */
#define EXIT_PAGE (SLOT_BASE + SLOT_COUNT * SLOT_STRIDE + 0x8000)
#define EXIT EXIT_PAGE
#define EXIT32 (EXIT_PAGE + 0x80)

/* Linux's selectors (arch/x86 ABI), so that those a program can see are the same. */
#define SEL_KERNEL_CS32 0x08
#define SEL_KERNEL_CS 0x10
#define SEL_KERNEL_DS 0x18
#define SEL_USER_CS32 0x23
#define SEL_USER_DS 0x2b
#define SEL_USER_CS 0x33
#define SEL_TSS 0x40
#define GDT_ENTRIES 16

/* The guest's kernel: one program, in the upper half. */
#define KERNEL_VA 0xffff800000000000 /* code, then the pages below */
#define KERNEL_SIZE 0x8000
#define TABLES_VA 0xffff800000010000 /* GDT, TSS, IDT */
#define TABLES_TSS 0x200
#define TABLES_IDT 0x1000
#define KSTACK_TOP 0xffff800000020000
#define CONTROL_VA 0xffff800000030000
#define STATES_VA 0xffff800000100000 /* SLOT_COUNT start states, then as many results */
#define STUBS_OFFSET 0x1000          /* 256 entry points, STUB_SIZE apart */
#define STUB_SIZE 16

/* struct control */
#define CONTROL_CURRENT 0
#define CONTROL_COUNT 8
#define CONTROL_XCR0 16
#define CONTROL_PANIC 24

/* struct state */
#define STATE_SHIFT 12
#define STATE_GPR 2816
#define STATE_RIP 2944
#define STATE_RFLAGS 2952
#define STATE_FS_BASE 2960
#define STATE_GS_BASE 2968
#define STATE_VECTOR 2976
#define STATE_ERROR 2984
#define STATE_CR2 2992
#define STATE_SEL 3000 /* ES CS SS DS FS GS */

#endif
