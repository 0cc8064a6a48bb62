/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of code are left to the processor: those without an instruction that would show it the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/nh.h"
#include "translate/direct.h"

#define PAGE ((int)TZ_PAGE_SIZE)
#define FLAGS 8u /* DIRECT_AVOID_*: all values below */

static uint8_t all[DIRECT_SCAN_BEFORE + TZ_PAGE_SIZE + DIRECT_SCAN_AFTER];
static uint8_t *const page = all + DIRECT_SCAN_BEFORE, *const end = all + sizeof(all);
#define BEFORE all /* DIRECT_SCAN_BEFORE bytes */
#define BEHIND (page + PAGE)

static bool scan(unsigned avoid)
{
	return direct_scan_page(page, BEFORE, BEHIND, avoid);
}

/* What compilers write most, in turn: none of it is to be found. */
static const char *const ordinary[] = {
	"\x48\x89\xe5",                             /* mov %rsp, %rbp */
	"\x55",                                     /* push %rbp */
	"\x48\x83\xec\x20",                         /* sub $32, %rsp */
	"\x89\x7d\xfc",                             /* mov %edi, -4(%rbp) */
	"\x48\x8b\x45\xf8",                         /* mov -8(%rbp), %rax */
	"\x48\x63\xd0",                             /* movslq %eax, %rdx */
	"\x8d\x54\x10\x01",                         /* lea 1(%rax,%rdx), %edx */
	"\x0f\xb6\x07",                             /* movzbl (%rdi), %eax */
	"\x85\xc0",                                 /* test %eax, %eax */
	"\x74\x05",                                 /* jz */
	"\xe8\x12\x34\x56\x70",                     /* call */
	"\xf3\x0f\x6f\x06",                         /* movdqu (%rsi), %xmm0 */
	"\x66\x0f\xef\xc1",                         /* pxor %xmm1, %xmm0 */
	"\xc5\xfd\x6f\x0e",                         /* vmovdqa (%rsi), %ymm1 */
	"\x41\x5c",                                 /* pop %r12 */
	"\xc3",                                     /* ret */
	"\x66\x0f\x1f\x44\x44\x44",                 /* nop 68(%rsp,%rax,2) */
	"\xbe\x40\x11\x40\x11",                     /* mov $, %esi */
	"\x48\xc1\xe8\x03",                         /* shr $3, %rax */
	"\x0f\x95\xc0",                             /* setne %al */
	"\x48\x0f\x44\xc2",                         /* cmove %rdx, %rax */
	"\xf0\x48\x0f\xb1\x17",                     /* lock cmpxchg %rdx, (%rdi) */
	"\xff\x25\x10\x20\x30\x40",                 /* jmp *(%rip) */
	"\x0f\x85\x10\x01\x11\x12",                 /* jnz */
	"\x49\xbb\x11\x22\x33\x44\x55\x66\x77\x78", /* movabs */
};

static uint64_t seed;

static unsigned random_number(unsigned below)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (unsigned)(seed >> 33) % below;
}

/* Fills up to `to` with whole instructions; a string cannot have a 0, and none of them needs one. */
static void fill(uint8_t *from, uint8_t *to)
{
	while (from < to) {
		const char *s = ordinary[random_number(ARRAY_SIZE(ordinary))];

		if (strlen(s) > (size_t)(to - from))
			s = "\x90";
		memcpy(from, s, strlen(s));
		from += strlen(s);
	}
}

/* The instruction at `at`, which may be in front of the page, among others. */
static void place(int at, const uint8_t *insn, unsigned length)
{
	uint8_t *insert = page + at;

	fill(all, insert);
	memcpy(insert, insn, length);
	fill(insert + length, end);
}

struct insn {
	const char *name;
	uint8_t bytes[9];
	uint8_t length, avoid; /* 0: always found */
};

static const struct insn sensitive[] = {
	{ "cpuid", { 0x0f, 0xa2 }, 2, 0 },
	{ "sgdt (%rdi)", { 0x0f, 0x01, 0x07 }, 3, 0 },
	{ "sidt 64(%rsp)", { 0x0f, 0x01, 0x4c, 0x24, 0x40 }, 5, 0 },
	{ "sldt %eax", { 0x0f, 0x00, 0xc0 }, 3, 0 },
	{ "str %rax", { 0x48, 0x0f, 0x00, 0xc8 }, 4, 0 },
	{ "smsw %eax", { 0x0f, 0x01, 0xe0 }, 3, 0 },
	{ "lar %esi, %eax", { 0x0f, 0x02, 0xc6 }, 3, 0 },
	{ "lsl %esi, %eax", { 0x0f, 0x03, 0xc6 }, 3, 0 },
	{ "lsl %r9, %r10", { 0x4d, 0x0f, 0x03, 0xd1 }, 4, 0 },
	{ "verr %si", { 0x0f, 0x00, 0xe6 }, 3, 0 },
	{ "verw (%rip)", { 0x0f, 0x00, 0x2d, 0x11, 0x22, 0x33, 0x44 }, 7, 0 },
	{ "rdpid %rax", { 0xf3, 0x0f, 0xc7, 0xf8 }, 4, 0 },
	{ "rdpmc", { 0x0f, 0x33 }, 2, 0 },
	{ "rdpru", { 0x0f, 0x01, 0xfd }, 3, 0 },
	{ "rdpkru", { 0x0f, 0x01, 0xee }, 3, 0 },
	{ "wrpkru", { 0x0f, 0x01, 0xef }, 3, 0 },
	{ "xgetbv", { 0x0f, 0x01, 0xd0 }, 3, 0 },
	{ "vmcall", { 0x0f, 0x01, 0xc1 }, 3, 0 },
	{ "vmmcall", { 0x0f, 0x01, 0xd9 }, 3, 0 },
	{ "sysenter", { 0x0f, 0x34 }, 2, 0 },
	{ "int $0x80", { 0xcd, 0x80 }, 2, 0 },
	{ "xsave64 (%rdi)", { 0x48, 0x0f, 0xae, 0x27 }, 4, DIRECT_AVOID_XSAVE },
	{ "xsavec 64(%rsp)", { 0x0f, 0xc7, 0x64, 0x24, 0x40 }, 5, DIRECT_AVOID_XSAVE },
	{ "xrstor 64(%rsp)", { 0x0f, 0xae, 0x6c, 0x24, 0x40 }, 5, DIRECT_AVOID_XSAVE },
	{ "xsaveopt (%rdi)", { 0x0f, 0xae, 0x37 }, 3, DIRECT_AVOID_XSAVE },
	{ "rdfsbase %rax", { 0xf3, 0x48, 0x0f, 0xae, 0xc0 }, 5, DIRECT_AVOID_FSGSBASE },
	{ "wrgsbase %r9", { 0xf3, 0x49, 0x0f, 0xae, 0xd9 }, 5, DIRECT_AVOID_FSGSBASE },
	{ "mov %cs, %eax", { 0x8c, 0xc8 }, 2, DIRECT_AVOID_SELECTORS },
	{ "mov %edx, %ds", { 0x8e, 0xda }, 2, DIRECT_AVOID_SELECTORS },
	{ "mov %fs, 16(%rbp)", { 0x8c, 0x65, 0x10 }, 3, DIRECT_AVOID_SELECTORS },
	{ "push %fs", { 0x0f, 0xa0 }, 2, DIRECT_AVOID_SELECTORS },
	{ "pop %gs", { 0x0f, 0xa9 }, 2, DIRECT_AVOID_SELECTORS },
	{ "lss (%rsi), %esp", { 0x0f, 0xb2, 0x26 }, 3, DIRECT_AVOID_SELECTORS },
	{ "lfs (%rsi), %eax", { 0x0f, 0xb4, 0x06 }, 3, DIRECT_AVOID_SELECTORS },
	{ "iretq", { 0x48, 0xcf }, 2, DIRECT_AVOID_SELECTORS },
	{ "lretq", { 0x48, 0xcb }, 2, DIRECT_AVOID_SELECTORS },
	{ "lret $16", { 0xca, 0x10, 0x11 }, 3, DIRECT_AVOID_SELECTORS },
	{ "ljmp *(%rdi)", { 0x48, 0xff, 0x2f }, 3, DIRECT_AVOID_SELECTORS },
	{ "lcall *16(%rbp)", { 0xff, 0x5d, 0x10 }, 3, DIRECT_AVOID_SELECTORS },
};

static void check_found(const struct insn *i, int at)
{
	for (unsigned avoid = 0; avoid < FLAGS; avoid++) {
		bool found = !i->avoid || (i->avoid & avoid);

		place(at, i->bytes, i->length);
		if (scan(avoid) == found)
			fail_msg("%s at %d, avoid %u: %s", i->name, at, avoid, found ? "missed" : "found");
	}
}

static void test_found_at_every_place(void **state)
{
	(void)state;
	seed = 1;
	for (unsigned n = 0; n < ARRAY_SIZE(sensitive); n++) {
		const struct insn *i = &sensitive[n];

		for (int at = 0; at < 40; at++)
			check_found(i, at);
		for (int at = PAGE - i->length - 40; at <= PAGE - i->length; at++)
			check_found(i, at);
		for (unsigned k = 0; k < 40; k++)
			check_found(i, (int)random_number((unsigned)PAGE - i->length));
	}
}

/* It takes both pages to execute it: one of them is refused. */
static void test_found_over_the_page_end(void **state)
{
	(void)state;
	seed = 2;
	for (unsigned n = 0; n < ARRAY_SIZE(sensitive); n++)
		for (int inside = 1; inside < sensitive[n].length; inside++)
			for (unsigned k = 0; k < 10; k++) {
				const struct insn *i = &sensitive[n];
				bool refused;

				place(PAGE - inside, i->bytes, i->length);
				refused = !scan(i->avoid);
				place(-inside, i->bytes, i->length);
				if (!refused && scan(i->avoid))
					fail_msg("%s, %d bytes before the end: missed", i->name, inside);
			}
}

/* From the page behind: the opcode may begin in the one before. */
static void test_found_from_the_page_before(void **state)
{
	(void)state;
	seed = 3;
	for (unsigned n = 0; n < ARRAY_SIZE(sensitive); n++) {
		const struct insn *i = &sensitive[n];

		for (unsigned k = 0; k < 10; k++) {
			place(-1, i->bytes, i->length);
			if (scan(i->avoid))
				fail_msg("%s, one byte before the page: missed", i->name);
		}
	}
}

/* Alone in a page that has no neighbours, and nothing but zeros or padding around it. */
static void test_found_without_neighbours(void **state)
{
	static const uint8_t around[] = { 0x00, 0x90, 0xcc };

	(void)state;
	for (unsigned n = 0; n < ARRAY_SIZE(sensitive); n++)
		for (unsigned k = 0; k < ARRAY_SIZE(around); k++)
			for (int at = 0; at <= PAGE - sensitive[n].length; at += at < 64 || at > PAGE - 80 ? 1 : 16) {
				memset(page, around[k], (size_t)PAGE);
				memcpy(page + at, sensitive[n].bytes, sensitive[n].length);
				if (direct_scan_page(page, NULL, NULL, sensitive[n].avoid))
					fail_msg("%s at %d in 0x%02x: missed", sensitive[n].name, at, around[k]);
			}
}

/* Their bytes inside instructions that may stay: immediates, displacements, and others with the same opcode. */
static const struct insn harmless[] = {
	{ "mov $0xa20f, %eax", { 0xb8, 0x0f, 0xa2, 0, 0 }, 5, 0 },
	{ "movabs $...", { 0x48, 0xb8, 0x0f, 0xa2, 0x0f, 0x01, 0xd0, 0x0f, 0x34 }, 9, 0 },
	{ "cmp $15, %eax", { 0x3d, 0x0f, 0, 0, 0 }, 5, 0 },
	{ "and $0x10f, %esi", { 0x81, 0xe6, 0x0f, 0x01, 0, 0 }, 6, 0 },
	{ "lea 0xa20f(%rax), %rcx", { 0x48, 0x8d, 0x88, 0x0f, 0xa2, 0, 0 }, 7, 0 },
	{ "movl $0x30f, 8(%rsp)", { 0xc7, 0x44, 0x24, 0x08, 0x0f, 0x03, 0, 0 }, 8, 0 },
	{ "jmp to 0x20f further", { 0xe9, 0x0f, 0x02, 0, 0 }, 5, 0 },
	{ "mov $0x80cd, %edx", { 0xba, 0xcd, 0x80, 0, 0 }, 5, 0 },
	{ "int $3", { 0xcd, 0x03 }, 2, 0 },
	{ "syscall", { 0x0f, 0x05 }, 2, 0 },
	{ "mov $0xcb, %ecx", { 0xb9, 0xcb, 0, 0, 0 }, 5, 0 },
	{ "mov $0x8c8e, %ecx", { 0xb9, 0x8e, 0x8c, 0, 0 }, 5, 0 },
	{ "mov %rcx, %rbx", { 0x48, 0x89, 0xcb }, 3, 0 },
	{ "jl far", { 0x0f, 0x8c, 0x11, 0x22, 0x33, 0x44 }, 6, 0 },
	{ "jle far", { 0x0f, 0x8e, 0x11, 0x22, 0x33, 0x44 }, 6, 0 },
	{ "fxsave64 (%rdi)", { 0x48, 0x0f, 0xae, 0x07 }, 4, 0 },
	{ "ldmxcsr 8(%rsp)", { 0x0f, 0xae, 0x54, 0x24, 0x08 }, 5, 0 },
	{ "mfence", { 0x0f, 0xae, 0xf0 }, 3, 0 },
	{ "rdrand %eax", { 0x0f, 0xc7, 0xf0 }, 3, 0 },
	{ "rdseed %eax", { 0x0f, 0xc7, 0xf8 }, 3, 0 },
	{ "cmpxchg16b (%rsi)", { 0x48, 0x0f, 0xc7, 0x0e }, 4, 0 },
	{ "push $15", { 0x6a, 0x0f }, 2, 0 },
	{ "call *8(%rax)", { 0xff, 0x50, 0x08 }, 3, 0 },
	{ "bswap %edx", { 0x0f, 0xca }, 2, 0 },
};

/*
 * Reading from a wrong start sees such bytes now and then, which only makes the page slower: it must be seldom. Not in
 * the first bytes of what is known, where there is no right start to be found.
 */
static void test_not_found_in_others(void **state)
{
	const unsigned places = 60;

	(void)state;
	seed = 4;
	for (unsigned n = 0; n < ARRAY_SIZE(harmless); n++) {
		unsigned found[FLAGS] = { 0 };

		for (unsigned k = 0; k < places; k++) {
			place((int)random_number((unsigned)PAGE - 16), harmless[n].bytes, harmless[n].length);
			for (unsigned avoid = 0; avoid < FLAGS; avoid++)
				found[avoid] += !scan(avoid);
		}
		for (unsigned avoid = 0; avoid < FLAGS; avoid++)
			if (found[avoid] > places / 20)
				fail_msg("%s, avoid %u: found at %u of %u places", harmless[n].name, avoid,
					 found[avoid], places);
	}
}

static void test_ordinary_code(void **state)
{
	(void)state;
	for (unsigned k = 0; k < 200; k++) {
		seed = 1000 + k;
		fill(all, end);
		for (unsigned avoid = 0; avoid < FLAGS; avoid++) {
			assert_true(scan(avoid));
			assert_true(direct_scan_page(page, NULL, NULL, avoid));
			assert_true(direct_scan_page(page, BEFORE, NULL, avoid));
			assert_true(direct_scan_page(page, NULL, BEHIND, avoid));
		}
	}
}

/* Behind data that may look like anything: reading must have fallen into step within the first lines of the function.
 */
static void test_found_behind_data(void **state)
{
	(void)state;
	seed = 5;
	for (unsigned k = 0; k < 400; k++) {
		unsigned at = 16 * (2 + random_number(250)), data = 1 + random_number(12);

		fill(all, end);
		for (unsigned n = 0; n < data; n++)
			page[at - data + n] = (uint8_t)random_number(256);
		fill(page + at, page + at + 32);
		memcpy(page + at + 32, "\x0f\xa2", 2);
		fill(page + at + 34, end);
		if (scan(0))
			fail_msg("CPUID of a function at %u behind %u bytes of data: missed", at, data);
	}
}

/* Bytes without a meaning are read to the end, whatever they are, and no further. */
static void test_random_bytes(void **state)
{
	unsigned refused = 0;

	(void)state;
	seed = 6;
	for (unsigned k = 0; k < 100; k++) {
		for (int n = 0; n < PAGE; n++)
			page[n] = (uint8_t)random_number(256);
		for (unsigned avoid = 0; avoid < FLAGS; avoid++)
			refused += !direct_scan_page(page, k & 1 ? BEFORE : NULL, k & 2 ? BEHIND : NULL, avoid);
	}
	assert_true(refused > 0);
}

/* What is remembered is of these bytes, these neighbours and this question. */
static void test_known(void **state)
{
	static struct direct_scans known;

	(void)state;
	assert_true(tz_nh_key(known.key, ARRAY_SIZE(known.key)));
	seed = 7;
	fill(all, end);
	for (unsigned k = 0; k < 3000; k++) {
		unsigned at = random_number(PAGE - 8), avoid = random_number(FLAGS);
		uint8_t old[8];
		bool good;

		memcpy(old, page + at, sizeof(old));
		memcpy(page + at, k & 1 ? "\x0f\xa2" : "\x90\x90", 2);
		for (unsigned again = 0; again < 2; again++) {
			good = direct_scan_known(&known, page, k & 2 ? BEFORE : NULL, k & 4 ? BEHIND : NULL, avoid);
			assert_int_equal(good,
					 direct_scan_page(page, k & 2 ? BEFORE : NULL, k & 4 ? BEHIND : NULL, avoid));
		}
		if (k & 8)
			memcpy(page + at, old, sizeof(old));
	}
}

/* At the page's end the answer depends on what follows, at its start on what precedes. */
static void test_known_neighbours(void **state)
{
	static struct direct_scans known;

	(void)state;
	assert_true(tz_nh_key(known.key, ARRAY_SIZE(known.key)));
	seed = 8;
	fill(all, end);
	memset(page + PAGE - 200, 0x90, 199);
	page[PAGE - 1] = 0x0f;
	BEHIND[0] = 0x10;
	assert_true(direct_scan_known(&known, page, BEFORE, BEHIND, 0) == scan(0));
	BEHIND[0] = 0xa2;
	assert_true(direct_scan_known(&known, page, BEFORE, BEHIND, 0) == scan(0));
	assert_false(scan(0));
	assert_true(direct_scan_known(&known, page, BEFORE, NULL, 0) == direct_scan_page(page, BEFORE, NULL, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_found_at_every_place),
		cmocka_unit_test(test_found_over_the_page_end),
		cmocka_unit_test(test_found_from_the_page_before),
		cmocka_unit_test(test_found_without_neighbours),
		cmocka_unit_test(test_not_found_in_others),
		cmocka_unit_test(test_ordinary_code),
		cmocka_unit_test(test_found_behind_data),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_known_neighbours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
