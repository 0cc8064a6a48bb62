/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host CPU as oracle: the same instruction bytes run natively and in `interp`, from the same random
 * registers, flags and memory; the outcome must be the same. Flags that the SDM leaves undefined are
 * masked. Memory lies at the same linear address on both sides.
 */
#include "fakecpu.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "core/engine.h"
#include "interp/cache.h"
#include "interp/engine.h"

#define DATA UINT64_C(0x200000000000) /* above what fake_long_mode() maps, away from what the host (or ASan) uses */
#define DATA_GPA 0x40000u
#define DATA_SIZE 4096u
#define WINDOW 512u /* the part that instructions use and the test compares */

#define FLAGS (X86_ARITH_FLAGS | X86_DF)
#define LOGIC_UNDEF X86_AF
#define MUL_UNDEF (X86_SF | X86_ZF | X86_AF | X86_PF)
#define DIV_UNDEF X86_ARITH_FLAGS
#define BT_UNDEF (X86_OF | X86_SF | X86_AF | X86_PF)
#define BSF_UNDEF (X86_CF | X86_OF | X86_SF | X86_AF | X86_PF)
#define CNT_UNDEF (X86_OF | X86_SF | X86_AF | X86_PF)
#define BMI_UNDEF (X86_AF | X86_PF)
/* OF for counts other than one, and AF; CF for counts beyond a narrow operand is checked where it is defined. */
#define SHIFT_UNDEF (X86_OF | X86_AF)

#define BYTE 1u    /* 8-bit operands */
#define NOMEM 2u   /* register form only */
#define MEMONLY 4u /* memory form only */
#define LOCKABLE 8u
#define VEX 16u
#define NO16 32u     /* no operand-size prefix */
#define PLUS_R 64u   /* register in the opcode, no ModRM */
#define PLAIN 128u   /* no ModRM at all */
#define SHORT 256u   /* the count may be beyond a narrow operand: shifts of 8 and 16 bits */
#define STRING 512u  /* rSI, rDI at the window, small rCX; runs until it is through */
#define BITOFF 1024u /* a register bit offset with memory: keep it small */
#define NOW 2048u    /* no REX.W */

struct form {
	const char *name;
	uint8_t prefix, map, op;
	int8_t digit; /* ModRM.reg, -1: any register */
	uint8_t imm;  /* bytes; 4: 2 with a 16-bit operand */
	uint32_t kind;
	uint64_t undef;
};

#define ALU_FORMS(n, name, undef, lock)                                                                                \
	{ name, 0, 0, (n)*8 + 0, -1, 0, BYTE | (lock), undef }, { name, 0, 0, (n)*8 + 1, -1, 0, lock, undef },         \
		{ name, 0, 0, (n)*8 + 2, -1, 0, BYTE, undef }, { name, 0, 0, (n)*8 + 3, -1, 0, 0, undef },             \
		{ name, 0, 0, (n)*8 + 4, 0, 1, BYTE | PLAIN, undef }, { name, 0, 0, (n)*8 + 5, 0, 4, PLAIN, undef },   \
		{ name, 0, 0, 0x80, n, 1, BYTE | (lock), undef }, { name, 0, 0, 0x81, n, 4, lock, undef },             \
	{                                                                                                              \
		name, 0, 0, 0x83, n, 1, lock, undef                                                                    \
	}
#define SHIFT_FORMS(n, name, undef)                                                                                    \
	{ name, 0, 0, 0xc0, n, 1, BYTE | SHORT, undef }, { name, 0, 0, 0xc1, n, 1, SHORT, undef },                     \
		{ name, 0, 0, 0xd0, n, 0, BYTE, (undef) & ~X86_OF }, { name, 0, 0, 0xd1, n, 0, 0, (undef) & ~X86_OF }, \
		{ name, 0, 0, 0xd2, n, 0, BYTE | SHORT, undef },                                                       \
	{                                                                                                              \
		name, 0, 0, 0xd3, n, 0, SHORT, undef                                                                   \
	}

static const struct form forms[] = {
	ALU_FORMS(0, "add", 0, LOCKABLE),
	ALU_FORMS(1, "or", LOGIC_UNDEF, LOCKABLE),
	ALU_FORMS(2, "adc", 0, LOCKABLE),
	ALU_FORMS(3, "sbb", 0, LOCKABLE),
	ALU_FORMS(4, "and", LOGIC_UNDEF, LOCKABLE),
	ALU_FORMS(5, "sub", 0, LOCKABLE),
	ALU_FORMS(6, "xor", LOGIC_UNDEF, LOCKABLE),
	ALU_FORMS(7, "cmp", 0, 0),
	SHIFT_FORMS(0, "rol", X86_OF),
	SHIFT_FORMS(1, "ror", X86_OF),
	SHIFT_FORMS(2, "rcl", X86_OF),
	SHIFT_FORMS(3, "rcr", X86_OF),
	SHIFT_FORMS(4, "shl", SHIFT_UNDEF),
	SHIFT_FORMS(5, "shr", SHIFT_UNDEF),
	SHIFT_FORMS(7, "sar", SHIFT_UNDEF),
	{ "shld", 0, 1, 0xa4, -1, 1, SHORT, SHIFT_UNDEF },
	{ "shld", 0, 1, 0xa5, -1, 0, SHORT, SHIFT_UNDEF },
	{ "shrd", 0, 1, 0xac, -1, 1, SHORT, SHIFT_UNDEF },
	{ "shrd", 0, 1, 0xad, -1, 0, SHORT, SHIFT_UNDEF },
	{ "test", 0, 0, 0x84, -1, 0, BYTE, LOGIC_UNDEF },
	{ "test", 0, 0, 0x85, -1, 0, 0, LOGIC_UNDEF },
	{ "test", 0, 0, 0xa9, 0, 4, PLAIN, LOGIC_UNDEF },
	{ "test", 0, 0, 0xf6, 0, 1, BYTE, LOGIC_UNDEF },
	{ "test", 0, 0, 0xf7, 0, 4, 0, LOGIC_UNDEF },
	{ "not", 0, 0, 0xf6, 2, 0, BYTE | LOCKABLE, 0 },
	{ "not", 0, 0, 0xf7, 2, 0, LOCKABLE, 0 },
	{ "neg", 0, 0, 0xf6, 3, 0, BYTE | LOCKABLE, 0 },
	{ "neg", 0, 0, 0xf7, 3, 0, LOCKABLE, 0 },
	{ "mul", 0, 0, 0xf6, 4, 0, BYTE, MUL_UNDEF },
	{ "mul", 0, 0, 0xf7, 4, 0, 0, MUL_UNDEF },
	{ "imul", 0, 0, 0xf6, 5, 0, BYTE, MUL_UNDEF },
	{ "imul", 0, 0, 0xf7, 5, 0, 0, MUL_UNDEF },
	{ "imul", 0, 1, 0xaf, -1, 0, 0, MUL_UNDEF },
	{ "imul", 0, 0, 0x69, -1, 4, 0, MUL_UNDEF },
	{ "imul", 0, 0, 0x6b, -1, 1, 0, MUL_UNDEF },
	{ "div", 0, 0, 0xf6, 6, 0, BYTE, DIV_UNDEF },
	{ "div", 0, 0, 0xf7, 6, 0, 0, DIV_UNDEF },
	{ "idiv", 0, 0, 0xf6, 7, 0, BYTE, DIV_UNDEF },
	{ "idiv", 0, 0, 0xf7, 7, 0, 0, DIV_UNDEF },
	{ "inc", 0, 0, 0xfe, 0, 0, BYTE | LOCKABLE, 0 },
	{ "inc", 0, 0, 0xff, 0, 0, LOCKABLE, 0 },
	{ "dec", 0, 0, 0xfe, 1, 0, BYTE | LOCKABLE, 0 },
	{ "dec", 0, 0, 0xff, 1, 0, LOCKABLE, 0 },
	{ "mov", 0, 0, 0x88, -1, 0, BYTE, 0 },
	{ "mov", 0, 0, 0x89, -1, 0, 0, 0 },
	{ "mov", 0, 0, 0x8a, -1, 0, BYTE, 0 },
	{ "mov", 0, 0, 0x8b, -1, 0, 0, 0 },
	{ "mov", 0, 0, 0xc6, 0, 1, BYTE, 0 },
	{ "mov", 0, 0, 0xc7, 0, 4, 0, 0 },
	{ "mov", 0, 0, 0xb0, 0, 1, BYTE | PLUS_R, 0 },
	{ "mov", 0, 0, 0xb8, 0, 4, PLUS_R | NOW, 0 },
	{ "movzx", 0, 1, 0xb6, -1, 0, 0, 0 },
	{ "movzx", 0, 1, 0xb7, -1, 0, 0, 0 },
	{ "movsx", 0, 1, 0xbe, -1, 0, 0, 0 },
	{ "movsx", 0, 1, 0xbf, -1, 0, 0, 0 },
	{ "movsxd", 0, 0, 0x63, -1, 0, 0, 0 },
	{ "movnti", 0, 1, 0xc3, -1, 0, MEMONLY | NO16, 0 },
	{ "movbe", 0, 2, 0xf0, -1, 0, MEMONLY, 0 },
	{ "movbe", 0, 2, 0xf1, -1, 0, MEMONLY, 0 },
	{ "lea", 0, 0, 0x8d, -1, 0, MEMONLY, 0 },
	{ "xchg", 0, 0, 0x86, -1, 0, BYTE | LOCKABLE, 0 },
	{ "xchg", 0, 0, 0x87, -1, 0, LOCKABLE, 0 },
	{ "xchg", 0, 0, 0x90, 0, 0, PLUS_R, 0 },
	{ "xadd", 0, 1, 0xc0, -1, 0, BYTE | LOCKABLE, 0 },
	{ "xadd", 0, 1, 0xc1, -1, 0, LOCKABLE, 0 },
	{ "cmpxchg", 0, 1, 0xb0, -1, 0, BYTE | LOCKABLE, 0 },
	{ "cmpxchg", 0, 1, 0xb1, -1, 0, LOCKABLE, 0 },
	{ "cmpxchg8b", 0, 1, 0xc7, 1, 0, MEMONLY | LOCKABLE | NO16, 0 },
	{ "bswap", 0, 1, 0xc8, 0, 0, PLUS_R | NO16, 0 },
	{ "cbw", 0, 0, 0x98, 0, 0, PLAIN, 0 },
	{ "cwd", 0, 0, 0x99, 0, 0, PLAIN, 0 },
	{ "lahf", 0, 0, 0x9f, 0, 0, PLAIN, 0 },
	{ "sahf", 0, 0, 0x9e, 0, 0, PLAIN, 0 },
	{ "cmc", 0, 0, 0xf5, 0, 0, PLAIN, 0 },
	{ "clc", 0, 0, 0xf8, 0, 0, PLAIN, 0 },
	{ "stc", 0, 0, 0xf9, 0, 0, PLAIN, 0 },
	{ "cld", 0, 0, 0xfc, 0, 0, PLAIN, 0 },
	{ "std", 0, 0, 0xfd, 0, 0, PLAIN, 0 },
	{ "bt", 0, 1, 0xa3, -1, 0, BITOFF, BT_UNDEF },
	{ "bts", 0, 1, 0xab, -1, 0, BITOFF | LOCKABLE, BT_UNDEF },
	{ "btr", 0, 1, 0xb3, -1, 0, BITOFF | LOCKABLE, BT_UNDEF },
	{ "btc", 0, 1, 0xbb, -1, 0, BITOFF | LOCKABLE, BT_UNDEF },
	{ "bt", 0, 1, 0xba, 4, 1, 0, BT_UNDEF },
	{ "bts", 0, 1, 0xba, 5, 1, LOCKABLE, BT_UNDEF },
	{ "btr", 0, 1, 0xba, 6, 1, LOCKABLE, BT_UNDEF },
	{ "btc", 0, 1, 0xba, 7, 1, LOCKABLE, BT_UNDEF },
	{ "bsf", 0, 1, 0xbc, -1, 0, 0, BSF_UNDEF },
	{ "bsr", 0, 1, 0xbd, -1, 0, 0, BSF_UNDEF },
	{ "tzcnt", 0xf3, 1, 0xbc, -1, 0, 0, CNT_UNDEF },
	{ "lzcnt", 0xf3, 1, 0xbd, -1, 0, 0, CNT_UNDEF },
	{ "popcnt", 0xf3, 1, 0xb8, -1, 0, 0, 0 },
	{ "crc32", 0xf2, 2, 0xf0, -1, 0, BYTE, 0 },
	{ "crc32", 0xf2, 2, 0xf1, -1, 0, 0, 0 },
	{ "adcx", 0x66, 2, 0xf6, -1, 0, NO16, 0 },
	{ "adox", 0xf3, 2, 0xf6, -1, 0, NO16, 0 },
	{ "andn", 0, 2, 0xf2, -1, 0, VEX, BMI_UNDEF },
	{ "blsr", 0, 2, 0xf3, 1, 0, VEX, BMI_UNDEF },
	{ "blsmsk", 0, 2, 0xf3, 2, 0, VEX, BMI_UNDEF },
	{ "blsi", 0, 2, 0xf3, 3, 0, VEX, BMI_UNDEF },
	{ "bzhi", 0, 2, 0xf5, -1, 0, VEX, BMI_UNDEF },
	{ "pext", 0xf3, 2, 0xf5, -1, 0, VEX, 0 },
	{ "pdep", 0xf2, 2, 0xf5, -1, 0, VEX, 0 },
	{ "mulx", 0xf2, 2, 0xf6, -1, 0, VEX, 0 },
	{ "bextr", 0, 2, 0xf7, -1, 0, VEX, BMI_UNDEF | X86_SF },
	{ "shlx", 0x66, 2, 0xf7, -1, 0, VEX, 0 },
	{ "sarx", 0xf3, 2, 0xf7, -1, 0, VEX, 0 },
	{ "shrx", 0xf2, 2, 0xf7, -1, 0, VEX, 0 },
	{ "rorx", 0xf2, 3, 0xf0, -1, 1, VEX, 0 },
	{ "movs", 0, 0, 0xa4, 0, 0, BYTE | STRING, 0 },
	{ "movs", 0, 0, 0xa5, 0, 0, STRING, 0 },
	{ "rep movs", 0xf3, 0, 0xa4, 0, 0, BYTE | STRING, 0 },
	{ "rep movs", 0xf3, 0, 0xa5, 0, 0, STRING, 0 },
	{ "repne movs", 0xf2, 0, 0xa5, 0, 0, STRING, 0 },
	{ "cmps", 0, 0, 0xa6, 0, 0, BYTE | STRING, 0 },
	{ "rep cmps", 0xf3, 0, 0xa6, 0, 0, BYTE | STRING, 0 },
	{ "repne cmps", 0xf2, 0, 0xa7, 0, 0, STRING, 0 },
	{ "stos", 0, 0, 0xaa, 0, 0, BYTE | STRING, 0 },
	{ "rep stos", 0xf3, 0, 0xaa, 0, 0, BYTE | STRING, 0 },
	{ "rep stos", 0xf3, 0, 0xab, 0, 0, STRING, 0 },
	{ "lods", 0, 0, 0xac, 0, 0, BYTE | STRING, 0 },
	{ "rep lods", 0xf3, 0, 0xad, 0, 0, STRING, 0 },
	{ "scas", 0, 0, 0xae, 0, 0, BYTE | STRING, 0 },
	{ "repne scas", 0xf2, 0, 0xae, 0, 0, BYTE | STRING, 0 },
	{ "rep scas", 0xf3, 0, 0xaf, 0, 0, STRING, 0 },
	{ "xlat", 0, 0, 0xd7, 0, 0, BYTE | PLAIN, 0 },
};

/* ---- random numbers that like corners ---- */

static uint64_t seed = 0x123456789abcdef;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t rnd_value(void)
{
	static const uint64_t corner[] = {
		0,         1,      2,          0x7f,       0x80,       0xff,      0x7fff,
		0x8000,    0xffff, 0x7fffffff, 0x80000000, 0xffffffff, INT64_MAX, (uint64_t)INT64_MIN,
		UINT64_MAX
	};

	switch (rnd() % 4) {
	case 0: return corner[rnd() % ARRAY_SIZE(corner)];
	case 1: return rnd() >> (rnd() % 64);
	default: return rnd();
	}
}

/* ---- the native side ---- */

struct image {
	uint64_t gpr[16];
	uint64_t rflags;
};

/*
 * Code page, then a data page that the stub reaches RIP-relative: guest registers at +0, the host's
 * stack pointer at +0x100. RSP stays the host's.
 */
static uint8_t *native;
static sigjmp_buf native_fault;

static void on_fault(int sig)
{
	siglongjmp(native_fault, sig);
}

static uint8_t *emit_mov(uint8_t *p, unsigned reg, uint64_t at, bool store)
{
	int32_t disp = (int32_t)(native + 4096 + at - (p + 7));

	*p++ = reg >= 8 ? 0x4c : 0x48;
	*p++ = store ? 0x89 : 0x8b;
	*p++ = (uint8_t)((reg & 7) << 3 | 5);
	memcpy(p, &disp, 4);
	return p + 4;
}

static void native_setup(void)
{
	void *data;

	native = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(native, MAP_FAILED);
	data = mmap((void *)DATA, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		    -1, 0);
	assert_ptr_equal(data, (void *)DATA);
}

/* In the test proper: cmocka has handlers of its own, which it sets before each. */
static void native_signals(void)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
}

/* Run `insn` on *io; 0 or the signal it ended with. */
static int native_run(const uint8_t *insn, unsigned len, struct image *io)
{
	static const uint8_t prologue[] = { 0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57 };
	static const uint8_t epilogue[] = { 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xfc, 0xc3 };
	uint8_t *p = native;
	int sig;

	assert_int_equal(mprotect(native, 4096, PROT_READ | PROT_WRITE), 0);
	memcpy(p, prologue, sizeof(prologue));
	p += sizeof(prologue);
	/* push flags image; popfq */
	p = emit_mov(p, 0, 16 * 8, false);
	*p++ = 0x50;
	*p++ = 0x9d;
	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP)
			p = emit_mov(p, r, r * 8, false);
	memcpy(p, insn, len);
	p += len;
	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP)
			p = emit_mov(p, r, r * 8, true);
	*p++ = 0x9c;
	*p++ = 0x58;
	p = emit_mov(p, 0, 16 * 8, true);
	memcpy(p, epilogue, sizeof(epilogue));
	assert_int_equal(mprotect(native, 4096, PROT_READ | PROT_EXEC), 0);

	memcpy(native + 4096, io, sizeof(*io));
	sig = sigsetjmp(native_fault, 0);
	if (!sig)
		((void (*)(void))(uintptr_t)native)();
	else
		__asm__ volatile("cld");
	memcpy(io, native + 4096, sizeof(*io));
	return sig;
}

/* ---- the interpreter's side ---- */

static struct fake *f;

static int interp_run(const uint8_t *insn, unsigned len, struct image *io)
{
	struct x86_cpu *cpu = &f->cpu;
	struct interp *in = interp_of(cpu);
	int why;

	memcpy(f->ram + FAKE_CODE, insn, len);
	memcpy(cpu->gpr, io->gpr, sizeof(cpu->gpr));
	cpu->gpr[X86_RSP] = FAKE_STACK;
	cpu->rip = FAKE_CODE;
	cpu->rflags = (io->rflags & FLAGS) | X86_FIXED1;
	do {
		why = FAKE_CATCH(f, {
			const struct interp_block *b = interp_block_find(cpu, in);
			b->insn->exec(cpu, b->insn);
		});
	} while (!why && cpu->rip == FAKE_CODE);
	if (!why)
		assert_int_equal(cpu->rip, FAKE_CODE + len);
	memcpy(io->gpr, cpu->gpr, sizeof(cpu->gpr));
	io->rflags = cpu->rflags;
	return why;
}

/* ---- generation ---- */

struct test {
	uint8_t bytes[15];
	unsigned len;
	unsigned size; /* operand size */
	bool mem;
	unsigned count; /* of a shift, masked; else 1 */
};

static void put_imm(struct test *t, const struct form *fm)
{
	unsigned n = fm->imm == 4 && t->size == 2 ? 2 : fm->imm;
	uint64_t v = rnd_value();

	memcpy(&t->bytes[t->len], &v, n);
	if (n == 1)
		t->count = (uint8_t)v;
	t->len += n;
}

static void make_vex(struct test *t, const struct form *fm, uint8_t modrm, unsigned reg, unsigned rm)
{
	static const uint8_t pp[] = { [0] = 0 };
	uint8_t p = fm->prefix == 0x66 ? 1 : fm->prefix == 0xf3 ? 2 : fm->prefix == 0xf2 ? 3 : pp[0];
	unsigned v = rnd() % 16;

	if (v == X86_RSP)
		v = X86_RAX;
	if (fm->map == 3)
		v = 0;
	t->bytes[t->len++] = 0xc4;
	t->bytes[t->len++] = (uint8_t)((reg < 8 ? 0x80 : 0) | 0x40 | (rm < 8 ? 0x20 : 0) | fm->map);
	t->bytes[t->len++] = (uint8_t)((t->size == 8 ? 0x80 : 0) | (~v & 15) << 3 | p);
	t->bytes[t->len++] = fm->op;
	t->bytes[t->len++] = modrm;
}

static unsigned rnd_reg(const struct form *fm, bool rex)
{
	unsigned r;

	do
		r = rnd() % (rex ? 16 : 8);
	while (r == X86_RSP && !(fm->kind & BYTE && !rex && fm->map != 2)); /* AH is fine, CRC32's ESP is not */
	return r;
}

static void make_prefixes(struct test *t, const struct form *fm)
{
	if ((fm->kind & LOCKABLE) && t->mem && rnd() % 2)
		t->bytes[t->len++] = 0xf0;
	if (t->size == 2)
		t->bytes[t->len++] = 0x66;
	if (fm->prefix)
		t->bytes[t->len++] = fm->prefix;
}

static void make_opcode(struct test *t, const struct form *fm, uint8_t op)
{
	if (fm->map)
		t->bytes[t->len++] = 0x0f;
	if (fm->map > 1)
		t->bytes[t->len++] = fm->map == 2 ? 0x38 : 0x3a;
	t->bytes[t->len++] = op;
}

static void make(struct test *t, const struct form *fm)
{
	bool w, rex;
	unsigned reg, rm;
	uint8_t modrm;

	memset(t, 0, sizeof(*t));
	t->count = 1;
	t->size = fm->kind & BYTE ? 1 : fm->kind & (NO16 | VEX) ? 4u << (rnd() % 2) : 2u << (rnd() % 3);
	if ((fm->kind & NOW || !strcmp(fm->name, "cmpxchg8b")) && t->size == 8)
		t->size = 4;
	w = t->size == 8;
	rex = w || rnd() % 2;
	t->mem = fm->kind & MEMONLY || (!(fm->kind & (NOMEM | PLUS_R | PLAIN | STRING)) && rnd() % 2);
	reg = fm->digit >= 0 ? (unsigned)fm->digit : rnd_reg(fm, rex);
	rm = t->mem ? X86_RDI : rnd_reg(fm, rex);
	modrm = (uint8_t)((t->mem ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
	if (fm->kind & VEX) {
		make_vex(t, fm, modrm, reg, rm);
	} else {
		make_prefixes(t, fm);
		if (fm->kind & (PLAIN | STRING))
			reg = rm = 0;
		if (rex)
			t->bytes[t->len++] = (uint8_t)(0x40 | w << 3 | (reg >= 8) << 2 | (rm >= 8));
		make_opcode(t, fm, fm->kind & PLUS_R ? fm->op | (rm & 7) : fm->op);
		if (!(fm->kind & (PLUS_R | PLAIN | STRING)))
			t->bytes[t->len++] = modrm;
	}
	if (fm->imm)
		put_imm(t, fm);
}

static void make_state(const struct test *t, const struct form *fm, struct image *s)
{
	for (unsigned r = 0; r < 16; r++)
		s->gpr[r] = rnd_value();
	s->rflags = (rnd() & X86_ARITH_FLAGS) | X86_FIXED1;
	if (t->mem)
		s->gpr[X86_RDI] = DATA + 128 + rnd() % 64;
	if (fm->kind & BITOFF && t->mem) {
		for (unsigned r = 0; r < 16; r++)
			if (r != X86_RDI)
				s->gpr[r] = (s->gpr[r] & ~UINT64_C(0xffff)) | rnd() % 512;
		if (t->size > 2)
			for (unsigned r = 0; r < 16; r++)
				if (r != X86_RDI)
					s->gpr[r] = rnd() % 2 ? rnd() % 512 : 0 - rnd() % 512;
		/* With rDI itself as the offset the address is anywhere. */
		s->gpr[X86_RDI] = DATA + 128 + rnd() % 64;
	}
	if (fm->kind & STRING) {
		s->rflags |= rnd() & X86_DF;
		s->gpr[X86_RSI] = DATA + 128 + rnd() % 128;
		s->gpr[X86_RDI] = rnd() % 2 ? DATA + 128 + rnd() % 128 : s->gpr[X86_RSI] + rnd() % 16;
		s->gpr[X86_RCX] = rnd() % 12;
		if (rnd() % 2)
			s->gpr[X86_RAX] = 0x4141414141414141;
	}
	if (!strcmp(fm->name, "xlat"))
		s->gpr[X86_RBX] = DATA;
	if (fm->op == 0xd2 || fm->op == 0xd3)
		s->gpr[X86_RCX] = rnd_value();
	/* Division: let some quotients fit. */
	if (strstr(fm->name, "div") && rnd() % 2)
		s->gpr[X86_RDX] = rnd() % 2 ? 0 : rnd() % 16;
	if (!strcmp(fm->name, "cmpxchg") && t->mem && rnd() % 2)
		memcpy(&s->gpr[X86_RAX], (void *)s->gpr[X86_RDI], 8);
	if (!strcmp(fm->name, "cmpxchg8b") && rnd() % 2) {
		memcpy(&s->gpr[X86_RAX], (void *)s->gpr[X86_RDI], 4);
		memcpy(&s->gpr[X86_RDX], (void *)(s->gpr[X86_RDI] + 4), 4);
	}
}

/* What more is undefined once the count is known (SDM 2B: SAL/SAR/SHL/SHR, RCL/RCR, SHLD). */
static uint64_t undefined(const struct test *t, const struct form *fm, const struct image *before)
{
	uint64_t undef = fm->undef;
	unsigned count = fm->op == 0xd2 || fm->op == 0xd3 || (fm->map == 1 && (fm->op == 0xa5 || fm->op == 0xad))
				 ? (uint8_t)before->gpr[X86_RCX]
				 : t->count;

	if (!(fm->kind & SHORT))
		return undef;
	count &= t->size == 8 ? 63 : 31;
	if (!count)
		return 0;
	if (count == 1)
		undef &= ~X86_OF;
	if (count >= t->size * 8 && !strncmp(fm->name, "sh", 2))
		undef |= X86_CF;
	if (count > t->size * 8 && fm->map)
		undef |= X86_ARITH_FLAGS;
	return undef;
}

static bool result_undefined(const struct test *t, const struct form *fm, const struct image *before)
{
	unsigned count = fm->op & 1 ? (uint8_t)before->gpr[X86_RCX] : t->count;

	return fm->map == 1 && (fm->op & 0xf6) == 0xa4 && t->size == 2 && (count & 31) > 16;
}

static void report(const struct test *t, const struct form *fm, const struct image *before, const struct image *want,
		   const struct image *got, int sig, int why)
{
	fprintf(stderr, "%s:", fm->name);
	for (unsigned n = 0; n < t->len; n++)
		fprintf(stderr, " %02x", t->bytes[n]);
	fprintf(stderr, "\n  native signal %d, interp unwind %d\n", sig, why);
	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP)
			fprintf(stderr, "  r%-2u %016lx -> %016lx %016lx%s\n", r, before->gpr[r], want->gpr[r],
				got->gpr[r], want->gpr[r] != got->gpr[r] ? " *" : "");
	fprintf(stderr, "  flags %lx -> %lx %lx (differ: %lx)\n", before->rflags, want->rflags, got->rflags,
		(want->rflags ^ got->rflags) & FLAGS);
}

static bool same(const struct image *a, const struct image *b, uint64_t undef)
{
	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP && a->gpr[r] != b->gpr[r])
			return false;
	return !((a->rflags ^ b->rflags) & FLAGS & ~undef) && !memcmp((void *)DATA, f->ram + DATA_GPA, WINDOW);
}

static bool one(const struct form *fm)
{
	struct image before, want, got;
	struct test t;
	int sig, why;

	make(&t, fm);
	for (unsigned n = 0; n < WINDOW; n += 8)
		*(uint64_t *)(DATA + n) = rnd() % 4 ? rnd_value() : 0x4141414141414141;
	make_state(&t, fm, &before);
	if (result_undefined(&t, fm, &before))
		return true;
	/* XCHG and XADD of rDI with its own memory operand and the like are fine; a bit offset in rDI is not. */
	if (fm->kind & BITOFF && t.mem && (t.bytes[t.len - 1] >> 3 & 7) == 7)
		return true;
	memcpy(f->ram + DATA_GPA, (void *)DATA, WINDOW);
	want = got = before;
	sig = native_run(t.bytes, t.len, &want);
	why = interp_run(t.bytes, t.len, &got);
	if (!sig && !why && same(&want, &got, undefined(&t, fm, &before)))
		return true;
	if (sig == SIGFPE && why == X86_UNWIND_EVENT && f->cpu.ev.exc_vector == X86_DE &&
	    !memcmp(got.gpr, before.gpr, sizeof(uint64_t) * 4)) {
		f->cpu.ev.exc_pending = false;
		return true;
	}
	report(&t, fm, &before, &want, &got, sig, why);
	return false;
}

static bool host_has(const char *name)
{
	if (!strcmp(name, "adcx") || !strcmp(name, "adox"))
		return __builtin_cpu_supports("adx");
	for (const char *const *n =
		     (const char *const[]){ "pext", "pdep", "mulx", "bzhi", "shlx", "sarx", "shrx", "rorx", NULL };
	     *n; n++)
		if (!strcmp(name, *n))
			return __builtin_cpu_supports("bmi2");
	for (const char *const *n = (const char *const[]){ "andn", "blsr", "blsmsk", "blsi", "bextr", "tzcnt", NULL };
	     *n; n++)
		if (!strcmp(name, *n))
			return __builtin_cpu_supports("bmi");
	if (!strcmp(name, "lzcnt"))
		return __builtin_cpu_supports("lzcnt");
	if (!strcmp(name, "movbe"))
		return __builtin_cpu_supports("movbe");
	return true;
}

static void oracle(void **state)
{
	unsigned rounds = getenv("ORACLE_ROUNDS") ? (unsigned)atoi(getenv("ORACLE_ROUNDS")) : 200;
	unsigned bad = 0;

	(void)state;
	native_signals();
	for (unsigned n = 0; n < ARRAY_SIZE(forms); n++) {
		unsigned wrong = 0;

		if (!host_has(forms[n].name))
			continue;
		for (unsigned r = 0; r < rounds && wrong < 2; r++)
			wrong += !one(&forms[n]);
		bad += wrong;
	}
	assert_int_equal(bad, 0);
}

static int setup(void **state)
{
	(void)state;
	f = fake_create(1 << 20);
	fake_long_mode(f);
	fake_map(f, DATA, DATA_GPA, 0x67);
	native_setup();
	return interp_engine.vcpu_create(&f->cpu);
}

static int teardown(void **state)
{
	(void)state;
	interp_engine.vcpu_destroy(&f->cpu);
	fake_destroy(f);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(oracle) };

	return cmocka_run_group_tests(tests, setup, teardown);
}
