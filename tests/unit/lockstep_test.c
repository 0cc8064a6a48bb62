/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lockstep engine: the same results as interp's, everything that leaves the vCPU once, and wrong results, planted
 * in either engine's idea of the code, found and reported.
 */
#include "fakecpu.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "core/engine.h"
#include "interp/engine.h"
#include "lockstep/engine.h"
#include "lockstep/lockstep.h"

#define DATA 0x30000u
#define MARK 0x12345678u
#define MMIO 0xfe000000u
#define REPORT_MAX 65536

static struct fake *f;
static struct x86_cpu *cpu;
static char report[REPORT_MAX];

static int setup(void **state)
{
	(void)state;
	f = fake_create(1 << 20);
	cpu = &f->cpu;
	fake_long_mode(f);
	return lockstep_engine.vcpu_create(cpu);
}

static int teardown(void **state)
{
	(void)state;
	lockstep_engine.vcpu_destroy(cpu);
	fake_destroy(f);
	return 0;
}

#define CODE(...) fake_poke(f, FAKE_CODE, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* Run from the start; what went to stderr is in `report`. */
static enum x86_exit run(void)
{
	FILE *file = tmpfile();
	int saved = dup(STDERR_FILENO);
	enum x86_exit exit;
	size_t n;

	assert_true(file && saved >= 0);
	fflush(stderr);
	dup2(fileno(file), STDERR_FILENO);
	cpu->rip = FAKE_CODE;
	exit = lockstep_engine.run(cpu, false);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(file);
	n = fread(report, 1, sizeof(report) - 1, file);
	report[n] = 0;
	fclose(file);
	return exit;
}

static void assert_reported(const char *text)
{
	if (!strstr(report, text))
		print_error("no \"%s\" in:\n%s", text, report);
	assert_non_null(strstr(report, text));
}

/* Of a register or memory that differs. */
static void assert_line(const char *name, const char *before, const char *translate, const char *interp)
{
	char line[128];

	snprintf(line, sizeof(line), "* %-20s  %16s  %16s  %16s\n", name, before, translate, interp);
	assert_reported(line);
}

/* A loop with a result in registers, memory and a vector register, which hits calls, side exits and a REP. */
static void put_loop(void)
{
	CODE(0xb9, 200, 0, 0, 0,                       /* mov ecx, 200 */
	     0xbb, 0x00, 0x00, 0x03, 0x00,             /* mov ebx, DATA */
	     0x31, 0xc0,                               /* xor eax, eax */
	     0x05, 0x78, 0x56, 0x34, 0x12,             /* 1: add eax, MARK */
	     0x01, 0x04, 0x8b,                         /* add [rbx + rcx * 4], eax */
	     0xe8, 0x05, 0, 0, 0,                      /* call 2f */
	     0xff, 0xc9,                               /* dec ecx */
	     0x75, 0xef,                               /* jnz 1b */
	     0xf4,                                     /* hlt */
	     0x66, 0x0f, 0x6e, 0xc0,                   /* 2: movd xmm0, eax */
	     0x66, 0x0f, 0x70, 0xc8, 0x00,             /* pshufd xmm1, xmm0, 0 */
	     0x66, 0x0f, 0xfe, 0xd1,                   /* paddd xmm2, xmm1 */
	     0xc7, 0x43, 0xf8, 0x77, 0x66, 0x55, 0x44, /* mov dword [rbx - 8], 0x44556677 */
	     0xc3);                                    /* ret */
}

static struct lockstep *lockstep(void)
{
	return lockstep_of(cpu);
}

/* Once in what translate made: the first place with these bytes behind the fixed code gets another last one. */
static void plant_in_translation(const uint8_t *bytes, unsigned n)
{
	struct translate *t = lockstep()->t;

	for (uint32_t at = t->fixed; at + n <= t->code_size; at++)
		if (!memcmp(t->rw + at, bytes, n)) {
			t->rw[at + n - 1] ^= 1;
			return;
		}
	fail_msg("not in the translation");
}

/* In interp's decoded blocks: an immediate operand. */
static void plant_in_interp(uint64_t imm)
{
	struct interp_cache *c = lockstep()->interp->cache;

	for (unsigned n = 0; n < ARRAY_SIZE(c->table); n++)
		for (unsigned k = 0; c->table[n] && k < c->table[n]->count; k++)
			if (c->table[n]->insn[k].imm == imm) {
				c->table[n]->insn[k].imm ^= 1;
				return;
			}
	fail_msg("not decoded");
}

/* ---- no difference ---- */

static void same_as_interp(void **state)
{
	uint64_t gpr[16], data[128];

	(void)state;
	put_loop();
	assert_int_equal(run(), X86_EXIT_HLT);
	assert_string_equal(report, "");
	memcpy(gpr, cpu->gpr, sizeof(gpr));
	memcpy(data, f->ram + DATA, sizeof(data));
	assert_int_equal(f->stat[STAT_INSNS], 3 + 200 * 10 + 1);
	assert_true(lockstep()->compared >= 2000);
	teardown(NULL);

	f = fake_create(1 << 20);
	cpu = &f->cpu;
	fake_long_mode(f);
	assert_int_equal(interp_engine.vcpu_create(cpu), 0);
	put_loop();
	cpu->rip = FAKE_CODE;
	assert_int_equal(interp_engine.run(cpu, false), X86_EXIT_HLT);
	assert_memory_equal(gpr, cpu->gpr, sizeof(gpr));
	assert_memory_equal(data, f->ram + DATA, sizeof(data));
	interp_engine.vcpu_destroy(cpu);
	fake_destroy(f);
	setup(NULL);
}

static void leaves_the_vcpu_once(void **state)
{
	(void)state;
	/* mov ebx, MMIO; mov [rbx], eax; add eax, [rbx + 8]; out 0x80, al; rdtsc; hlt */
	CODE(0xbb, 0, 0, 0, 0xfe, 0x89, 0x03, 0x03, 0x43, 0x08, 0xe6, 0x80, 0x0f, 0x31, 0xf4);
	f->io_handled = true;
	f->read_data[f->read_count++] = 5;
	cpu->gpr[X86_RAX] = 2;
	assert_int_equal(run(), X86_EXIT_HLT);
	assert_string_equal(report, "");
	assert_int_equal(f->io_count, 3);
	assert_true(f->io[0].write && f->io[0].addr == MMIO && f->io[0].data == 2);
	assert_true(!f->io[1].write && f->io[1].addr == MMIO + 8);
	assert_true(f->io[2].pio && f->io[2].data == 7);
	assert_int_equal(f->tsc, 100);
	assert_int_equal(cpu->gpr[X86_RAX], 100);
}

/* An exit to the client in the middle of an instruction, which goes on with the answer. */
static void client_answers(void **state)
{
	(void)state;
	/* mov ebx, MMIO; add eax, [rbx]; hlt */
	CODE(0xbb, 0, 0, 0, 0xfe, 0x03, 0x03, 0xf4);
	cpu->gpr[X86_RAX] = 1;
	assert_int_equal(run(), X86_EXIT_MMIO);
	x86_io_complete(cpu, (const uint8_t[]){ 41, 0, 0, 0 });
	assert_int_equal(lockstep_engine.run(cpu, false), X86_EXIT_HLT);
	assert_int_equal(cpu->gpr[X86_RAX], 42);
}

/* More pages than a stretch has room for. */
static void many_pages(void **state)
{
	unsigned pages = LOCKSTEP_PAGES, at = FAKE_CODE;

	teardown(state);
	f = fake_create((pages + 256) * 4096);
	cpu = &f->cpu;
	fake_long_mode(f);
	assert_int_equal(lockstep_engine.vcpu_create(cpu), 0);
	/* add [rbx + n * 4096], ebx, one behind the other; hlt */
	for (unsigned n = 0; n < pages; n++, at += 6) {
		fake_poke(f, at, (const uint8_t[]){ 0x01, 0x9b }, 2);
		fake_poke32(f, at + 2, n * 4096);
		fake_poke32(f, DATA + n * 4096, n);
	}
	f->ram[at] = 0xf4;
	cpu->gpr[X86_RBX] = DATA;
	assert_int_equal(run(), X86_EXIT_HLT);
	assert_string_equal(report, "");
	for (unsigned n = 0; n < pages; n++)
		assert_int_equal(fake_peek32(f, DATA + n * 4096), DATA + n);
	assert_int_equal(f->stat[STAT_INSNS], pages + 1);
}

/* REP is stopped by a fault in the middle; without an IDT that is a triple fault. */
static void fault_in_rep(void **state)
{
	(void)state;
	/* rep stosb; hlt, over the end of what is mapped */
	CODE(0xf3, 0xaa, 0xf4);
	fake_map(f, UINT64_C(0x8000000000), 0x40000, 0x67);
	cpu->gpr[X86_RDI] = UINT64_C(0x8000000f00);
	cpu->gpr[X86_RCX] = 0x200;
	cpu->gpr[X86_RAX] = 0x5a;
	cpu->idtr.limit = 0;
	assert_int_equal(run(), X86_EXIT_SHUTDOWN);
	assert_string_equal(report, "");
	assert_int_equal(cpu->gpr[X86_RCX], 0x100);
	assert_int_equal(f->ram[0x40fff], 0x5a);
}

/* mov byte [rip], 0xc8 makes the inc behind it a dec, in the running block. */
static void changes_its_code(void **state)
{
	(void)state;
	CODE(0xc6, 0x05, 0x01, 0, 0, 0, 0xc8, 0xff, 0xc0, 0xf4);
	for (unsigned n = 0; n < 3; n++) {
		f->ram[FAKE_CODE + 8] = 0xc0;
		cpu->gpr[X86_RAX] = 5;
		assert_int_equal(run(), X86_EXIT_HLT);
		assert_int_equal(cpu->gpr[X86_RAX], 4);
	}
	assert_string_equal(report, "");
}

/* SHL by 4 leaves AF and OF to the processor. */
static void undefined_flags(void **state)
{
	(void)state;
	/* mov ecx, 0xffff; mov eax, 0x7fffffff; shl eax, 4; bsf edx, ecx; mul ecx; jmp 1f; 1: hlt */
	CODE(0xb9, 0xff, 0xff, 0, 0, 0xb8, 0xff, 0xff, 0xff, 0x7f, 0xc1, 0xe0, 4, 0x0f, 0xbc, 0xd1, 0xf7, 0xe1, 0xeb, 0,
	     0xf4);
	assert_int_equal(run(), X86_EXIT_HLT);
	assert_string_equal(report, "");
}

/* The shadow of STI ends with its block: the one translated next goes its plain way (over a page end) without. */
static void shadow_is_one_blocks(void **state)
{
	(void)state;
	/* sti; nop; jmp 1f; 1: nop; pop rcx; hlt */
	CODE(0xfb, 0x90, 0xeb, 0, 0x90, 0x59, 0xf4);
	fake_poke32(f, DATA + 0xffc, MARK);
	cpu->gpr[X86_RSP] = DATA + 0xffc;
	assert_int_equal(run(), X86_EXIT_HLT);
	assert_string_equal(report, "");
	assert_int_equal(cpu->gpr[X86_RCX], MARK);
}

/* ---- differences ---- */

static void wrong_translation(void **state)
{
	(void)state;
	put_loop();
	assert_int_equal(run(), X86_EXIT_HLT);
	plant_in_translation((const uint8_t[]){ 0x78, 0x56, 0x34, 0x12 }, 4);
	assert_int_equal(run(), X86_EXIT_INTERNAL_ERROR);
	assert_reported("lockstep: translate and interp differ");
	/* Made anew it is right. */
	assert_reported("not so when the same blocks were translated anew");
	assert_reported("* rax");
	assert_non_null(strstr(cpu->error_text, "differ at RIP 0x10000: rax"));
	/* It stays that way, and nothing of the stretch is in memory. */
	assert_int_equal(lockstep_engine.run(cpu, false), X86_EXIT_INTERNAL_ERROR);
	assert_int_equal(fake_peek32(f, DATA + 200 * 4), MARK);
}

static void wrong_interp(void **state)
{
	(void)state;
	put_loop();
	assert_int_equal(run(), X86_EXIT_HLT);
	plant_in_interp(MARK);
	assert_int_equal(run(), X86_EXIT_INTERNAL_ERROR);
	/* The block, what it is made of and came to, and where it came from. */
	assert_reported("in the block at 0x10000");
	assert_reported("add eax, 0x12345678");
	assert_reported("its translation");
	assert_line("rax", "38e38dc0", "12345678", "12345679"); /* before: of the first run */
	assert_line("30320", "", "2468acf0", "2468acf1");
	assert_reported("the last blocks that interp ran");
	assert_non_null(strstr(cpu->error_text, "rax"));
}

static void wrong_memory(void **state)
{
	(void)state;
	put_loop();
	assert_int_equal(run(), X86_EXIT_HLT);
	fake_poke32(f, DATA - 8, 0);
	plant_in_interp(0x44556677);
	assert_int_equal(run(), X86_EXIT_INTERNAL_ERROR);
	assert_reported("memory, by guest physical address");
	assert_line("2fff8", "", "44556677", "44556676");
	assert_non_null(strstr(cpu->error_text, "memory"));
	assert_int_equal(fake_peek32(f, DATA - 8), 0);
}

static void wrong_vector(void **state)
{
	(void)state;
#ifdef __SANITIZE_ADDRESS__
	print_message("left out: under ASan translated code leaves vector instructions to interp\n");
	skip();
#endif
	put_loop();
	assert_int_equal(run(), X86_EXIT_HLT);
	plant_in_translation((const uint8_t[]){ 0x66, 0x0f, 0x70, 0xc8, 0x00 }, 5);
	assert_int_equal(run(), X86_EXIT_INTERNAL_ERROR);
	assert_reported("vector and x87 state");
	assert_non_null(strstr(cpu->error_text, "vector state"));
}

/* ---- one vCPU ---- */

static void second_vcpu_is_refused(void **state)
{
	struct fake *other = fake_create(1 << 20);

	(void)state;
	other->cpu.mem = &f->mem;
	other->cpu.id = 1;
	assert_int_equal(lockstep_engine.vcpu_create(&other->cpu), -EINVAL);
	assert_null(other->cpu.engine_data);
	fake_destroy(other);
	put_loop();
	assert_int_equal(run(), X86_EXIT_HLT);
}

static void not_offered_but_there(void **state)
{
	(void)state;
	assert_ptr_equal(tz_engine_find("lockstep"), &lockstep_engine);
	for (unsigned n = 0; tz_engines[n]; n++)
		assert_ptr_not_equal(tz_engines[n], &lockstep_engine);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(same_as_interp),         T(leaves_the_vcpu_once),  T(client_answers),  T(many_pages),
		T(fault_in_rep),           T(changes_its_code),      T(undefined_flags), T(shadow_is_one_blocks),
		T(wrong_translation),      T(wrong_interp),          T(wrong_memory),    T(wrong_vector),
		T(second_vcpu_is_refused), T(not_offered_but_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
