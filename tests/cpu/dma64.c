/* SPDX-License-Identifier: Apache-2.0 */
/* A device writes memory that the CPU knows: data, code it has run, page tables (fw_cfg's DMA, QEMU docs/specs/fw_cfg).
 */
#include "codegen.h"
#include "paging.h"

#define FW_CFG_DMA 0x514
#define KEY_SIGNATURE 0
#define KEY_NOTHING 0x7fff   /* gives zeros */
#define SIGNATURE 0x554d4551 /* "QEMU" */
#define ROUNDS 200

static u8 code[4 * 4096] __attribute__((aligned(4096)));

/* Zeros or the signature to memory; false: the device says that it failed. */
static bool device_writes(volatile void *at, bool zeros)
{
	static volatile struct {
		u32 control, length; /* all big endian */
		u64 address;
	} request;
	u64 where = (u64)&request;

	request.control = __builtin_bswap32((zeros ? KEY_NOTHING : KEY_SIGNATURE) << 16 | 8 | 2); /* select, read */
	request.length = __builtin_bswap32(4);
	request.address = __builtin_bswap64((u64)at);
	outl(FW_CFG_DMA, __builtin_bswap32((u32)(where >> 32)));
	outl(FW_CFG_DMA + 4, __builtin_bswap32((u32)where));
	return request.control == 0;
}

static void data(void)
{
	static volatile u32 value;
	u32 wrong = 0;

	for (u32 i = 0; i < ROUNDS; i++) {
		value = i;
		wrong += !device_writes(&value, i & 1) || value != (i & 1 ? 0 : SIGNATURE);
	}
	check_equal("data written by a device", wrong, 0);
}

static void with_invlpg(const u8 *at)
{
	invlpg(at);
}
static void with_cr3(const u8 *at)
{
	(void)at;
	WRITE_REG(cr3, READ_REG(cr3));
}
static void with_cpuid(const u8 *at)
{
	u32 r[4];

	(void)at;
	cpuid(0, 0, r);
}
static void with_iret(const u8 *at)
{
	(void)at;
	__asm__ volatile("int $0x40" ::: "memory");
}

static void nothing(void)
{
}

/* The immediate of a function that was run just before; then a serializing instruction (SDM 3A 9.3). */
static void code_in(const char *name, u8 *at, void (*serialize)(const u8 *))
{
	u32 wrong = 0;

	for (u32 i = 0; i < ROUNDS; i++) {
		put_return(at, i);
		wrong += call(at) != i;
		wrong += !device_writes(at + 1, i & 1);
		serialize(at);
		wrong += (u32)call(at) != (i & 1 ? 0 : SIGNATURE);
	}
	check_equal(name, wrong, 0);
}

/* Its lower half becomes zero: not present. */
static void page_table_entry(void)
{
	u8 *page = (u8 *)0x1a0000;
	u32 wrong = 0;

	for (u32 i = 0; i < ROUNDS; i++) {
		*(volatile u8 *)page = 1;
		wrong += !device_writes(&page_table[0x1a0], true);
		invlpg(page);
		wrong += TRY("movb (%0), %%al", "r"(page)) != 14;
		page_table[0x1a0] = (u64)page | PTE_ALL;
	}
	check_equal("a page table entry written by a device", wrong, 0);
}

int main(void)
{
	hooks[0x40] = nothing;
	data();
	page_table_entry();
	code_in("code written by a device, INVLPG", code + 64, with_invlpg);
	code_in("code written by a device, MOV CR3", code + 64, with_cr3);
	code_in("code written by a device, CPUID", code + 64, with_cpuid);
	code_in("code written by a device, IRET", code + 128, with_iret);
	code_in("code over a page end written by a device, INVLPG", code + 4096 - 3, with_invlpg);
	code_in("code over a page end written by a device, CPUID", code + 4096 - 3, with_cpuid);
	return (int)failures;
}
