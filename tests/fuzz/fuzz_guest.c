/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest code at random from a state at random, three times: the interpreter instruction by instruction, the interpreter
 * by blocks, the translator. All must come to the same end with the same registers, vector state, memory and I/O;
 * none may hang, crash or touch anything but guest memory, which lies between guards.
 *
 * Random code faults soon. So in 64-bit mode exceptions lead to a handler that goes on with the next CHUNK_SIZE bytes
 * of the code, until there are no more.
 *
 * Input: HEAD bytes that make the state (struct start) and perhaps the beginning of the code, then the code.
 */
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/engine.h"
#include "fakecpu.h"
#include "flags.h"
#include "input.h"
#include "insn_gen.h"
#include "interp/engine.h"
#include "tame.h"
#include "translate/engine.h"
#include "x86/control.h"
#include "x86/event.h"
#include "x86/fpu.h"
#include "x86/segment.h"

#define RAM_SIZE UINT64_C(0x100000)
#define GUARD UINT64_C(0x200000000)
#define STEPS_MAX 800
#define IO_MAX 100
#define CODE_MAX 1024u
#define TAME_MAX 60u /* instructions */
#define DATA 0x30000u
#define DATA_SIZE 0x10000u
#define HANDLER 0x6000u
#define HANDLER_STACK 0x8000u /* the top; frames hold flags that may differ, see same_memory() */
#define CHUNK 0x9000u         /* where the chunk is that runs */
#define CHUNK_SIZE 16
#define HIGH UINT64_C(0x8000000000) /* fake_map()'s range */
#define HIGH_PAGES 8
#define CODE_CACHE (UINT64_C(1) << 20)
#define TICK_NS 2000000
#define TICKS_MAX 3

struct start {
	uint8_t mode;    /* MODE_*, and in the upper bits where registers point */
	uint8_t options; /* OPT_* */
	uint16_t seed;   /* registers and data */
	uint32_t cr4;
	uint16_t cr0;
	uint16_t rflags;
	uint8_t page_flags[HIGH_PAGES];
	uint8_t patch[4]; /* of the system registers */
} __attribute__((packed));
#define HEAD sizeof(struct start)

enum { MODE_LONG, MODE_LONG_USER, MODE_COMPAT, MODE_PROT32, MODE_PROT16, MODE_PAGING32, MODE_REAL, MODE_LONG_TOO };
#define OPT_NO_IDT 1u /* the first exception is the end */
#define OPT_PATCH 2u
#define OPT_IRQ 4u
#define OPT_READONLY_SLOT 8u
#define OPT_VECTORS 16u
#define OPT_UNMASKED 32u
#define OPT_TAME 64u /* before the input's code come instructions that mostly do not fault, made from the seed */

struct world {
	const char *name;
	const struct tz_engine_ops *engine;
	struct fake *f;
	uint8_t *ram;
	enum x86_exit end;
	bool ended; /* of itself, and not because it took too long */
	unsigned io_count;
	uint64_t io_hash;
};

static struct world stepped = { .name = "interp, stepped", .engine = &interp_engine };
static struct world blocks = { .name = "interp", .engine = &interp_engine };
static struct world translated = { .name = "translate", .engine = &translate_engine };
static struct x86_cpu *volatile watched;
static volatile sig_atomic_t ticks;

/* ---- once ---- */

static void on_tick(int signal)
{
	struct x86_cpu *cpu = watched;

	(void)signal;
	if (cpu && ++ticks >= TICKS_MAX)
		x86_cpu_attention(cpu, X86_ATT_EXIT);
}

static uint8_t *map_ram(void)
{
	uint8_t *p = mmap(NULL, RAM_SIZE + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED && mprotect(p + GUARD, RAM_SIZE, PROT_READ | PROT_WRITE) == 0);
	return p + GUARD;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct sigaction action = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN };
	struct itimerspec interval = { { 0, TICK_NS }, { 0, TICK_NS } };
	timer_t timer;

	(void)argc, (void)argv;
	mallopt(M_MMAP_THRESHOLD, 0x10000); /* large blocks come and go: not between small ones that stay */
	stepped.ram = map_ram();
	blocks.ram = map_ram();
	translated.ram = map_ram();
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
	CHECK(timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0); /* the machine may be busy */
	CHECK(timer_settime(timer, 0, &interval, NULL) == 0);
	return 0;
}

/* A third of the time: another program of ordinary instructions from an ordinary state. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	struct random r = { seed };
	struct start s;

	if (size < HEAD || random_below(&r, 3))
		return insn_gen_mutate(data, size, max_size, seed, HEAD);
	memcpy(&s, data, HEAD);
	s.mode = (uint8_t)(0x10 | (random_next(&r) & 9)); /* MODE_LONG, MODE_LONG_USER */
	s.options = OPT_TAME | (random_next(&r) & OPT_VECTORS);
	s.seed = (uint16_t)random_next(&r);
	s.cr0 = 0;
	s.cr4 = 0;
	s.rflags = (uint16_t)(random_next(&r) & X86_ARITH_FLAGS);
	memcpy(data, &s, HEAD);
	return HEAD;
}

/* ---- I/O: a bus that answers by address, and remembers what was asked of it ---- */

static void io_note(struct world *w, uint64_t what)
{
	w->io_hash = (w->io_hash ^ what) * UINT64_C(0x100000001b3);
	w->io_hash ^= w->io_hash >> 29;
}

/* The client's part of an access that left the engine. False: too many. */
static bool io_serve(struct world *w)
{
	struct x86_cpu *cpu = &w->f->cpu;
	const struct x86_io_access *a = &cpu->io.pending;
	uint64_t value = 0;
	uint8_t data[8];

	CHECK(cpu->io.pending_valid && a->len >= 1 && a->len <= 8);
	io_note(w, a->addr);
	io_note(w, (uint64_t)a->len << 2 | a->write << 1 | a->pio);
	if (a->write) {
		memcpy(&value, a->data, a->len);
		io_note(w, value);
	}
	if (getenv("FUZZ_TRACE"))
		fprintf(stderr, "%s: %s %s %llx, %u bytes\n", w->name, a->pio ? "port" : "memory",
			a->write ? "write" : "read", (unsigned long long)a->addr, a->len);
	value = a->addr * UINT64_C(0x9e3779b97f4a7c15) + w->io_count;
	memcpy(data, &value, sizeof(data));
	x86_io_complete(cpu, data);
	return ++w->io_count < IO_MAX;
}

/* ---- the start ---- */

static void set_segments(struct fake *f, unsigned mode)
{
	struct x86_cpu *c = &f->cpu;

	if (mode == MODE_COMPAT)
		c->seg[X86_CS] = fake_seg(FAKE_CS32, 0, 0xffffffff, 0xc09b);
	if (mode == MODE_PROT16) {
		c->seg[X86_CS] = fake_seg(FAKE_CS16, FAKE_CODE, 0xffff, 0x009b);
		c->rip = 0;
	}
}

/* Four-MiB pages that map memory to itself, in a table at the end of RAM. */
static void page_32bit(struct fake *f)
{
	uint64_t table = fake_table(f);

	for (uint32_t i = 0; i < 1024; i++)
		fake_poke32(f, table + i * 4, i << 22 | 0xe7);
	f->cpu.cr3 = table;
	f->cpu.cr4 |= X86_CR4_PSE;
	f->cpu.cr0 |= X86_CR0_PG;
}

/* At HIGH: pages of data, and of code at times, with all kinds of rights. */
static void map_high_pages(struct fake *f, const struct start *s)
{
	for (unsigned i = 0; i < HIGH_PAGES; i++) {
		uint64_t flags = s->page_flags[i] & 0x67, gpa = i == 7 ? FAKE_CODE : DATA + i * 0x1000;

		flags |= s->page_flags[i] & 8 ? BIT64(63) : 0;
		flags |= s->page_flags[i] & 16 ? BIT64(8) : 0;
		fake_map(f, HIGH + i * 0x1000, gpa, flags);
		if (i == 3) /* the same page twice */
			fake_map(f, HIGH + 0x10000, gpa, flags | 3);
	}
}

static void set_mode(struct fake *f, const struct start *s)
{
	unsigned mode = s->mode & 7;

	switch (mode) {
	case MODE_REAL: break;
	case MODE_PROT32:
	case MODE_PROT16: fake_protected_mode(f); break;
	case MODE_PAGING32:
		fake_protected_mode(f);
		page_32bit(f);
		break;
	default:
		fake_long_mode(f);
		map_high_pages(f, s);
		if (mode == MODE_LONG_USER)
			fake_user_mode(f);
	}
	set_segments(f, mode);
	f->cpu.cr0 |= s->cr0 & (X86_CR0_MP | X86_CR0_EM | X86_CR0_TS);
	f->cpu.cr0 ^= s->cr0 & 0x100 ? X86_CR0_WP : 0;
	f->cpu.cr0 |= s->cr0 & 0x200 ? X86_CR0_AM : 0;
	f->cpu.cr4 ^= s->cr4 & (X86_CR4_TSD | X86_CR4_DE | X86_CR4_PGE | X86_CR4_UMIP | X86_CR4_FSGSBASE |
				X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE);
	if (f->cpu.long_mode)
		f->cpu.cr4 ^= s->cr4 & (X86_CR4_PCIDE | X86_CR4_PKE |
					(s->options & OPT_NO_IDT ? X86_CR4_SMAP : 0)); /* memory is the user's */
}

/* Any registers that KVM_SET_SREGS would take. */
static void patch_sregs(struct fake *f, const struct start *s)
{
	struct x86_sregs sregs;
	uint8_t copy[sizeof(sregs)];

	x86_get_sregs(&f->cpu, &sregs);
	memcpy(copy, &sregs, sizeof(sregs));
	for (unsigned i = 0; i < 2; i++)
		copy[(s->patch[i] * 7 + s->patch[i + 2]) % sizeof(copy)] ^= s->patch[i + 2];
	memcpy(&sregs, copy, sizeof(sregs));
	(void)x86_set_sregs(&f->cpu, &sregs);
}

/*
 * mov rax, [CHUNK]; add rax, CHUNK_SIZE; mov [CHUNK], rax; mov rsp, FAKE_STACK - 0x100; cmp rax, end; jb 1f; hlt;
 * 1: mov ah, [rax]; sahf; jmp [CHUNK] -- or to CPL 3: mov rcx, [CHUNK]; pushfq; pop r11; sysretq
 */
static void put_handler64(struct fake *f, bool user, uint32_t end)
{
	static const uint8_t jump[] = { 0xff, 0x24, 0x25, 0, 0x90, 0, 0 };
	static const uint8_t sysret[] = { 0x48, 0x8b, 0x0c, 0x25, 0, 0x90, 0, 0, 0x9c, 0x41, 0x5b, 0x48, 0x0f, 0x07 };
	uint8_t code[] = { 0x48, 0x8b, 0x04, 0x25, 0,    0x90, 0, 0,    0x48, 0x83, 0xc0, CHUNK_SIZE, 0x48,
			   0x89, 0x04, 0x25, 0,    0x90, 0,    0, 0x48, 0xc7, 0xc4, 0,    0xff,       0x01,
			   0,    0x48, 0x3d, 0,    0,    0,    0, 0x72, 0x01, 0xf4, 0x8a, 0x20,       0x9e };

	_Static_assert(CHUNK == 0x9000 && FAKE_STACK - 0x100 == 0x1ff00, "as in the code");
	memcpy(code + 29, &end, sizeof(end));
	fake_poke(f, HANDLER, code, sizeof(code));
	if (user)
		fake_poke(f, HANDLER + sizeof(code), sysret, sizeof(sysret));
	else
		fake_poke(f, HANDLER + sizeof(code), jump, sizeof(jump));
	fake_poke64(f, CHUNK, FAKE_CODE);
}

/* In other modes the first exception ends the program in a HLT. */
static void put_idt(struct fake *f, const struct start *s, size_t code_size)
{
	struct x86_cpu *c = &f->cpu;

	f->ram[HANDLER] = 0xf4;
	for (unsigned v = 0; v < 256; v++)
		if (c->long_mode) /* IST 1 */
			fake_poke64(f, FAKE_IDT + v * 16, UINT64_C(0x8e01) << 32 | FAKE_CS64 << 16 | HANDLER);
		else if (!c->real_mode)
			fake_poke64(f, FAKE_IDT + v * 8, UINT64_C(0x8e00) << 32 | FAKE_CS32 << 16 | HANDLER);
	fake_poke64(f, FAKE_TSS + 4, FAKE_STACK - 0x800); /* RSP0 */
	fake_poke64(f, FAKE_TSS + 36, HANDLER_STACK);     /* IST 1 */
	if (c->real_mode)
		for (unsigned v = 0; v < 256; v++)
			fake_poke32(f, v * 4, HANDLER);
	if (c->long_mode)
		put_handler64(f, (s->mode & 7) == MODE_LONG_USER, FAKE_CODE + (uint32_t)code_size);
}

static uint64_t some_register(struct random *r, unsigned where)
{
	uint64_t noise = random_next(r);

	switch ((noise >> 32) % (where & 1 ? 4 : 8)) {
	case 0: return DATA + noise % DATA_SIZE;
	case 1: return HIGH + noise % (HIGH_PAGES << 12);
	case 2: return (DATA + noise % DATA_SIZE) & ~UINT64_C(0x3f);
	case 3: return FAKE_CODE + noise % 64;
	case 4: return noise;
	case 5: return noise & 0x3f;
	case 6: return HIGH + 0xfff;
	default: return (uint64_t)(int64_t)(int8_t)noise;
	}
}

static void set_vectors(struct fake *f, struct random *r, unsigned options)
{
	uint8_t *area = f->cpu.fpu.area;

	f->cpu.xcr0 = options & OPT_VECTORS ? 0xe7 & x86_fpu_supported_xcr0() : 3;
	for (unsigned i = 0; i < 256; i += 8) {
		uint64_t noise = random_next(r);

		memcpy(area + 160 + i, &noise, 8);
	}
	area[512] = 3; /* XSTATE_BV: x87, SSE */
	if (options & OPT_UNMASKED) {
		uint16_t mxcsr = (uint16_t)(random_next(r) & 0xffc0);

		memcpy(area + 24, &mxcsr, 2);
		area[0] = (uint8_t)(0x40 | (random_next(r) & 0x3f)); /* bit 6 is fixed, bit 7 reserved */
	}
}

static void set_registers(struct fake *f, const struct start *s)
{
	struct random r = { s->seed };
	struct x86_cpu *c = &f->cpu;

	for (uint64_t at = DATA; at < DATA + DATA_SIZE; at += 8)
		fake_poke64(f, at, random_next(&r) >> (at & 0x38));
	for (unsigned i = 0; i < 16; i++)
		if (i != X86_RSP)
			c->gpr[i] = some_register(&r, s->mode >> 3);
	if (s->mode & 0x10) { /* where tame.h's instructions find memory */
		c->gpr[X86_RSI] = DATA + 0x80 + (c->gpr[X86_RSI] & 0x1fff);
		c->gpr[X86_RDI] = DATA + 0x80 + (c->gpr[X86_RDI] & 0xfff0);
		c->gpr[X86_RCX] &= 0x1f; /* of repetitions */
		c->gpr[X86_RBX] = DATA + 0x1000 - (c->gpr[X86_RBX] & 0x1f);
	}
	c->gpr[X86_RSP] = (c->real_mode ? 0x8000 : FAKE_STACK) - 0x100;
	c->rflags = X86_FIXED1 | (s->rflags & (X86_ARITH_FLAGS | X86_DF | X86_IF | X86_NT | X86_IOPL | X86_TF));
	if (s->rflags & 2)
		c->rflags |= X86_AC;
	set_vectors(f, &r, s->options);
	c->msr.star = (uint64_t)FAKE_CS64 << 32 | UINT64_C(0x38) << 48;
	c->msr.lstar = c->msr.sysenter_eip = HANDLER;
	c->msr.sysenter_cs = FAKE_CS64;
	c->msr.sysenter_esp = FAKE_STACK - 0x400;
	c->seg[X86_FS].base = DATA;
	c->seg[X86_GS].base = HIGH;
}

/* The program of an input. Returns its length. */
static size_t make_code(const struct start *s, const uint8_t *input, size_t size, uint8_t code[CODE_MAX])
{
	struct random r = { s->seed };
	uint64_t undefined = 0;
	size_t n = 0;

	if (s->options & OPT_TAME)
		for (unsigned i = 4 + random_below(&r, TAME_MAX - 3); i; i--)
			n += tame_insn(&r, &undefined, code + n);
	if (size > CODE_MAX - n)
		size = CODE_MAX - n;
	memcpy(code + n, input, size);
	return n + size;
}

static void create_world(struct world *w, const struct start *s, const uint8_t *code, size_t n)
{
	struct fake *f = fake_create(RAM_SIZE);

	munmap(f->ram, RAM_SIZE);
	CHECK(madvise(w->ram, RAM_SIZE, MADV_DONTNEED) == 0);
	f->ram = w->ram;
	fake_slot(f, 0, 0, 0, 0, NULL);
	fake_slot(f, 0, 0, 0, RAM_SIZE, w->ram);
	if (s->options & OPT_READONLY_SLOT) /* the same memory again, not to be written */
		fake_slot(f, 1, MEM_SLOT_READONLY, 0x40000000, 0x4000, w->ram + DATA);
	w->f = f;
	w->ended = false;
	w->io_count = 0;
	w->io_hash = 0;
	set_mode(f, s);
	set_registers(f, s);
	if (!(s->options & OPT_NO_IDT))
		put_idt(f, s, n);
	else
		f->cpu.idtr.limit = 0;
	memcpy(f->ram + FAKE_CODE, code, n);
	memset(f->ram + FAKE_CODE + n, 0xf4, 64);
	f->cpu.code_cache_size = CODE_CACHE;
	CHECK(w->engine->vcpu_create(&f->cpu) == 0);
	x86_mode_update(&f->cpu);
	if (s->options & OPT_PATCH)
		patch_sregs(f, s);
	if (s->options & OPT_IRQ) {
		f->irq[f->irq_count++] = 0x40;
		x86_cpu_attention(&f->cpu, X86_ATT_IRQ);
	}
}

static void destroy_world(struct world *w)
{
	w->engine->vcpu_destroy(&w->f->cpu);
	x86_tlb_destroy(&w->f->cpu);
	mem_fini(&w->f->mem);
	free(w->f);
}

/* ---- running ---- */

/* What holds whenever an engine has come back. */
static void check_sanity(const struct x86_cpu *c)
{
	CHECK(!c->fpu.live && !c->unwind_valid);
	CHECK(c->code_size == 2 || c->code_size == 4 || c->code_size == 8);
	CHECK(c->cpl <= 3 && c->mmu_index < X86_MMU_COUNT);
	CHECK(c->rflags & X86_FIXED1);
	CHECK(!(c->code_size == 8) || c->long_mode);
}

/* The exit is served. True: go on. */
static bool go_on(struct world *w, enum x86_exit why)
{
	check_sanity(&w->f->cpu);
	w->end = why;
	switch (why) {
	case X86_EXIT_INSN_DONE: return true;
	case X86_EXIT_PIO:
	case X86_EXIT_MMIO: return io_serve(w);
	case X86_EXIT_ATTENTION: return false;
	case X86_EXIT_HLT:
	case X86_EXIT_SHUTDOWN:
	case X86_EXIT_INTERNAL_ERROR: w->ended = true; return false;
	default: CHECK(!"an exit that nobody asked for"); return false;
	}
}

static void run_stepped(struct world *w, struct flag_watch *flags)
{
	struct x86_cpu *cpu = &w->f->cpu;
	unsigned steps = 0;

	do {
		flag_watch_step(flags, cpu, w->ram, RAM_SIZE);
		atomic_fetch_and(&cpu->attention, ~X86_ATT_EXIT);
	} while (steps++ < STEPS_MAX && go_on(w, w->engine->run(cpu, true)));
}

static void run_freely(struct world *w)
{
	struct x86_cpu *cpu = &w->f->cpu;

	ticks = 0;
	watched = cpu;
	while (go_on(w, w->engine->run(cpu, false)))
		;
	watched = NULL;
}

/* ---- judging ---- */

static bool same_number(const char *what, unsigned index, uint64_t a, uint64_t b)
{
	if (a != b)
		fprintf(stderr, "%s[%u]: %016llx, %016llx\n", what, index, (unsigned long long)a,
			(unsigned long long)b);
	return a == b;
}

static bool same_system(const struct x86_cpu *a, const struct x86_cpu *b)
{
	const uint64_t x[] = { a->cr0,           a->cr2,
			       a->cr3,           a->cr4,
			       a->efer,          a->xcr0,
			       a->pkru,          a->gdtr.base,
			       a->gdtr.limit,    a->idtr.base,
			       a->idtr.limit,    a->dr[6],
			       a->dr[7],         a->msr.star,
			       a->msr.lstar,     a->msr.kernel_gs_base,
			       a->ev.shadow,     a->ev.exc_pending,
			       a->ev.nmi_masked, a->cpl };
	const uint64_t y[] = { b->cr0,           b->cr2,
			       b->cr3,           b->cr4,
			       b->efer,          b->xcr0,
			       b->pkru,          b->gdtr.base,
			       b->gdtr.limit,    b->idtr.base,
			       b->idtr.limit,    b->dr[6],
			       b->dr[7],         b->msr.star,
			       b->msr.lstar,     b->msr.kernel_gs_base,
			       b->ev.shadow,     b->ev.exc_pending,
			       b->ev.nmi_masked, b->cpl };
	bool same = true;

	for (unsigned i = 0; i < ARRAY_SIZE(x); i++)
		same &= same_number("system", i, x[i], y[i]);
	for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
		same &= same_number("selector", i, a->seg[i].sel, b->seg[i].sel);
		same &= same_number("base", i, a->seg[i].base, b->seg[i].base);
		same &= same_number("rights", i, a->seg[i].ar, b->seg[i].ar);
		same &= same_number("limit", i, a->seg[i].limit, b->seg[i].limit);
	}
	return same;
}

/* A component that is said to be in its initial state gets the initial values (SDM 1 13.6). */
static void get_vectors(struct x86_cpu *c, uint8_t image[X86_XSAVE_AREA])
{
	uint32_t offset, size;

	x86_fpu_get_image(c, image);
	if (!(image[512] & 1)) {
		memset(image, 0, 24);
		memset(image + 32, 0, 128);
		image[0] = 0x7f;
		image[1] = 0x03;
	}
	if (!(image[512] & 2))
		memset(image + 160, 0, 256);
	for (unsigned n = 2; n < 8; n++)
		if (!(image[512] >> n & 1) && x86_fpu_component(n, &offset, &size))
			memset(image + offset, 0, size);
	memset(image + 512, 0, 8);
}

static bool same_vectors(struct x86_cpu *a, struct x86_cpu *b)
{
	static uint8_t x[X86_XSAVE_AREA], y[X86_XSAVE_AREA];

	get_vectors(a, x);
	get_vectors(b, y);
	for (unsigned i = 0; i < sizeof(x); i++)
		if (x[i] != y[i])
			return same_number("vector state, from byte", i, x[i], y[i]);
	return true;
}

/*
 * Of the 64 bits at `at`, those of the image of RFLAGS that an exception, or INT n, pushed: it may hold undefined
 * flags, and of flags nobody reads again the translator may have kept older ones (docs/caveats.md). In 64-bit mode
 * frames go to a stack of their own; in others the handler is a HLT, so RSP still points to the frame: flags behind IP
 * and CS, of 16 or 32 bits, and perhaps an error code.
 */
static uint64_t pushed_flags(const struct x86_cpu *c, uint64_t at)
{
	static const uint8_t places[] = { 4, 8, 12 };
	uint64_t mask = 0;

	if (c->long_mode)
		return at == HANDLER_STACK - 24 ? X86_ARITH_FLAGS : 0;
	if (c->rip != HANDLER + 1)
		return 0;
	for (unsigned i = 0; i < 8 * sizeof(places); i++) {
		uint64_t in_flags = at + i % 8 - (c->gpr[X86_RSP] + places[i / 8]);

		if (in_flags < 2)
			mask |= (X86_ARITH_FLAGS >> 8 * in_flags & 0xff) << 8 * (i % 8);
	}
	return mask;
}

static bool same_memory(const struct world *a, const struct world *b)
{
	bool same = true;

	if (!memcmp(a->ram, b->ram, RAM_SIZE))
		return true;
	for (uint64_t at = 0; same && at < RAM_SIZE; at += 8) {
		uint64_t x = fake_peek64(a->f, at), y = fake_peek64(b->f, at);

		if (x == y || !((x ^ y) & ~pushed_flags(&a->f->cpu, at)))
			continue;
		same = same_number("memory, 64 bits at", (unsigned)at, x, y);
	}
	return same;
}

static void compare(const struct world *a, const struct world *b, uint64_t undefined)
{
	struct x86_cpu *x = &a->f->cpu, *y = &b->f->cpu;
	uint64_t mask = ~undefined;
	bool same = same_number("exit", 0, a->end, b->end);

	/* Of a fault; the handler of 64-bit mode leaves them defined. */
	if (b == &translated && (a->end == X86_EXIT_SHUTDOWN || (a->f->stat[STAT_EXCEPTIONS] && !x->long_mode)))
		mask &= ~X86_ARITH_FLAGS;
	for (unsigned i = 0; i < 16; i++)
		same &= same_number("register", i, x->gpr[i], y->gpr[i]);
	same &= same_number("rip", 0, x->rip, y->rip);
	same &= same_number("rflags", 0, x->rflags & mask, y->rflags & mask);
	same &= same_number("I/O", a->io_count, a->io_hash, b->io_hash);
	same &= same_number("TSC reads", 0, a->f->tsc, b->f->tsc);
	same &= same_system(x, y);
	same &= same_vectors(x, y);
	same &= same_memory(a, b);
	if (!same)
		fprintf(stderr, "the first is %s, the second %s\n", a->name, b->name);
	CHECK(same);
}

static void judge(const struct world *a, struct world *b, const struct flag_watch *flags)
{
	run_freely(b);
	if (!a->ended || flags->lost)
		return;
	/* Too slow for the clock is no difference; a loop where the other ended is. */
	if (!b->ended && b->end == X86_EXIT_ATTENTION)
		return;
	compare(a, b, flags->undefined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct flag_watch flags = { 0 };
	uint8_t code[CODE_MAX];
	struct start start;
	size_t n;

	if (size < HEAD)
		return -1;
	memcpy(&start, data, HEAD);
	n = make_code(&start, data + HEAD, size - HEAD, code);
	create_world(&stepped, &start, code, n);
	create_world(&blocks, &start, code, n);
	create_world(&translated, &start, code, n);
	run_stepped(&stepped, &flags);
	judge(&stepped, &blocks, &flags);
	judge(&stepped, &translated, &flags);
	destroy_world(&stepped);
	destroy_world(&blocks);
	destroy_world(&translated);
	return 0;
}
