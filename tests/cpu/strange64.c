/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that do strange things: privileged and unusual instructions in loops that are hot, system calls by every
 * number, stacks, flags, segments and vector state that are none when they stop, mappings without end. What is right is
 * what the same code does with RFLAGS.AC set, which keeps it from being executed directly (CR0.AM is 0), and what the
 * other engine does.
 */
#include "codegen.h"
#include "native.h"
#include "smp.h"
#include "vectors.h"

#define VSYSCALL 0xffffffffff600000 /* Linux has code there for its own programs */
#define EFER 0xc0000080
#define PTE_DATA (PTE_ALL | PTE_NX)

USER_TEXT_BEGIN;

/* ---- one run beside the other ---- */

static u64 seed = 21;

struct result {
	struct frame f;
	u64 cr2, fs_base, gs_base;
};

static void run_once(struct result *r, const struct frame *start, u64 flags, u8 *after)
{
	got = *start;
	got.rflags |= flags;
	WRITE_REG(cr2, 0);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
	WRITE_REG(dr6, 0xffff0ff0);
	if (native_xcr0)
		xrstor(image[0]);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"((u32)sel->data));
	run_frame(&got);
	if (native_xcr0)
		xsave(after);
	r->f = got;
	r->f.rflags &= ~(u64)FLAGS_AC;
	r->f.r11 &= got.vector == SYSCALL ? ~flags : ~0ull;
	r->cr2 = READ_REG(cr2);
	r->fs_base = rdmsr(MSR_FS_BASE);
	r->gs_base = rdmsr(MSR_GS_BASE);
}

static void print_result(const struct result *r)
{
	const u64 *v = (const u64 *)r;

	for (unsigned i = 0; i < sizeof(*r) / 8; i++) {
		print_hex(v[i]);
		print(i % 4 == 3 ? "\n" : " ");
	}
	print("\n");
}

static unsigned disagreements;

static bool both_agree(const struct frame *start)
{
	struct result r[2];
	const u64 *a = (const u64 *)&r[0], *b = (const u64 *)&r[1];
	unsigned wrong = 0;

	run_once(&r[0], start, 0, image[1]);
	run_once(&r[1], start, FLAGS_AC, image[2]);
	for (unsigned i = 0; i < sizeof(r[0]) / 8; i++)
		wrong += a[i] != b[i];
	if (native_xcr0)
		wrong += images_differ(image[1], image[2]);
	if (wrong && disagreements++ < 2) {
		print_result(&r[0]);
		print_result(&r[1]);
	}
	return !wrong;
}

static void fill_random(struct frame *f)
{
	for (unsigned i = 0; i < 15; i++)
		((u64 *)f)[i] = random64(&seed);
	f->cs = sel->code;
	f->ss = sel->stack;
	f->rsp = USTACK_TOP;
	f->rflags = 0x202;
}

/* ---- instructions in hot loops ---- */

#define LOOPS 40
/* RDI counts; a hook goes on behind what faults. */
#define HOT(X)                                                                                                         \
	X(int3, "int3")                                                                                                \
	X(int_3, ".byte 0xcd, 3")                                                                                      \
	X(int_4, "int $4")                                                                                             \
	X(int_40, "int $0x40")                                                                                         \
	X(int_0, ".byte 0xcd, 0")                                                                                      \
	X(int_ff, "int $0xff")                                                                                         \
	X(icebp, ".byte 0xf1")                                                                                         \
	X(into, ".byte 0xce")                                                                                          \
	X(ud0, ".byte 0x0f, 0xff, 0xc0")                                                                               \
	X(ud1, ".byte 0x0f, 0xb9, 0xc0")                                                                               \
	X(ud2, "ud2")                                                                                                  \
	X(hlt, "hlt")                                                                                                  \
	X(cli, "cli")                                                                                                  \
	X(sti, "sti")                                                                                                  \
	X(in, "in %dx, %eax")                                                                                          \
	X(out, "out %al, $0x80")                                                                                       \
	X(insb, "insb")                                                                                                \
	X(outsl, "rep outsl")                                                                                          \
	X(rdmsr, "rdmsr")                                                                                              \
	X(wrmsr, "wrmsr")                                                                                              \
	X(mov_cr0, "mov %cr0, %rax")                                                                                   \
	X(mov_cr3, "mov %rax, %cr3")                                                                                   \
	X(mov_dr0, "mov %rax, %dr0")                                                                                   \
	X(lmsw, "lmsw %ax")                                                                                            \
	X(clts, "clts")                                                                                                \
	X(lgdt, "lgdt (%rsp)")                                                                                         \
	X(lidt, "lidt (%rsp)")                                                                                         \
	X(lldt, "lldt %ax")                                                                                            \
	X(ltr, "ltr %ax")                                                                                              \
	X(invlpg, "invlpg (%rsp)")                                                                                     \
	X(invpcid, "invpcid (%rsp), %rax")                                                                             \
	X(swapgs, "swapgs")                                                                                            \
	X(sysret, "sysretq")                                                                                           \
	X(sysexit, "sysexitq")                                                                                         \
	X(wbinvd, "wbinvd")                                                                                            \
	X(invd, "invd")                                                                                                \
	X(xsetbv, "xsetbv")                                                                                            \
	X(clac, "clac")                                                                                                \
	X(stac, "stac")                                                                                                \
	X(monitor, "monitor")                                                                                          \
	X(mwait, "mwait")                                                                                              \
	X(rsm, "rsm")                                                                                                  \
	X(vmrun, ".byte 0x0f, 0x01, 0xd8")                                                                             \
	X(vmlaunch, "vmlaunch")                                                                                        \
	X(vmread, "vmread %rax, %rcx")                                                                                 \
	X(stgi, ".byte 0x0f, 0x01, 0xdc")                                                                              \
	X(xrstors, "xrstors64 (%rsp)")                                                                                 \
	X(iret_zero, "push $0; push $0; push $0; push $0; push $0; iretq")                                             \
	X(far_null, "push $0; push $0; lretq")                                                                         \
	X(load_beyond, "movl $0xfffb, %eax; mov %eax, %es")                                                            \
	X(lock_lea, ".byte 0xf0, 0x8d, 0x00")                                                                          \
	X(too_long, ".fill 15, 1, 0x66; nop")                                                                          \
	X(divide, "mov $0, %ecx; div %ecx")                                                                            \
	X(wrfsbase_far, "movabs $0x800000000000, %rax; wrfsbase %rax")                                                 \
	X(ldmxcsr_all, "movl $-1, -8(%rsp); ldmxcsr -8(%rsp)")                                                         \
	X(xrstor_bad, "movl $7, %eax; xor %edx, %edx; xrstor64 1(%rsp)")
/* In pages of their own, called from such a loop. */
#define HOT_SENSITIVE(X)                                                                                               \
	X(int_80, "int $0x80")                                                                                         \
	X(sysenter, "sysenter")                                                                                        \
	X(vmcall, "mov $1, %eax; vmcall")                                                                              \
	X(vmmcall, "mov $1, %eax; vmmcall")                                                                            \
	X(vmfunc, ".byte 0x0f, 0x01, 0xd4")                                                                            \
	X(enclu, ".byte 0x0f, 0x01, 0xd7")                                                                             \
	X(wrpkru, "xor %eax, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru")                                            \
	X(rdpkru, "xor %ecx, %ecx; rdpkru")                                                                            \
	X(rdpru, "mov $1, %ecx; .byte 0x0f, 0x01, 0xfd")                                                               \
	X(xgetbv, "xor %ecx, %ecx; xgetbv")                                                                            \
	X(xgetbv_9, "mov $9, %ecx; xgetbv")                                                                            \
	X(rdpmc, "xor %ecx, %ecx; rdpmc")                                                                              \
	X(cpuid, "xor %eax, %eax; xor %ecx, %ecx; cpuid")                                                              \
	X(smsw, "smsw %rax")                                                                                           \
	X(sgdt, "sgdt -16(%rsp)")                                                                                      \
	X(str, "str %rax")                                                                                             \
	X(lar, "lar %esi, %eax")                                                                                       \
	X(monitorx, ".byte 0x0f, 0x01, 0xfa")                                                                          \
	X(mwaitx, "xor %ecx, %ecx; .byte 0x0f, 0x01, 0xfb")

#define X(name, text)                                                                                                  \
	USER(hot_##name, "1: " text "\nhot_skip_" #name ": dec %rdi; jnz 1b");                                         \
	extern char hot_skip_##name[];
HOT(X)
#undef X
#define X(name, text)                                                                                                  \
	USER(hot_##name, "1: call f_" #name "\nhot_skip_" #name ": dec %rdi; jnz 1b");                                 \
	extern char hot_skip_##name[];                                                                                 \
	__asm__(".pushsection .text.user_sensitive, \"ax\"\nf_" #name ": " text "; ret\n.popsection\n");
HOT_SENSITIVE(X)
#undef X

static struct {
	u64 skip, sum, count;
} hot;

static bool skip_it(struct frame *f)
{
	const u64 *v = (const u64 *)f;

	if (!(f->cs & 3))
		return false;
	for (unsigned i = 0; i < sizeof(*f) / 8; i++)
		hot.sum = (hot.sum ^ (i == 19 ? v[i] & ~(u64)FLAGS_AC : v[i])) * 0x9e3779b97f4a7c15 + (hot.sum >> 7);
	hot.count++;
	f->rip = hot.skip;
	f->rsp = USTACK_TOP;
	return true;
}

static void hot_loops(void)
{
#define X(name, text) { #name, hot_##name, hot_skip_##name },
	static const struct {
		const char *name, *code, *skip;
	} rows[] = { HOT(X) HOT_SENSITIVE(X) };
#undef X
	static const u8 vectors[] = { 0, 1, 3, 4, 6, 10, 11, 12, 13, 17, 0x80, 0x40 };

	for (unsigned i = 0; i < sizeof(vectors); i++)
		frame_hooks[vectors[i]] = skip_it;
	for (unsigned row = 0; row < sizeof(rows) / sizeof(rows[0]); row++) {
		struct frame f;
		u64 sum[2], count[2];

		fill_random(&f);
		f.rip = AT(rows[row].code);
		f.rdi = LOOPS;
		hot.skip = AT(rows[row].skip);
		for (unsigned n = 0; n < 2; n++) {
			hot.sum = hot.count = 0;
			got = f;
			got.rflags |= n ? FLAGS_AC : 0;
			run_frame(&got);
			sum[n] = hot.sum;
			count[n] = hot.count;
			if (got.vector != 0x82 || got.rdi)
				count[n] = ~0ull;
		}
		if (sum[0] != sum[1] || count[0] != count[1] || (count[0] && count[0] != LOOPS)) {
			print(rows[row].name);
			print("\n");
			check_equal("stops in a hot loop", count[0], count[1]);
			check_equal("what they saw", sum[0], sum[1]);
			check("all of them", false);
		}
	}
	check("instructions in hot loops", true);
	for (unsigned i = 0; i < sizeof(vectors); i++)
		frame_hooks[vectors[i]] = 0;
}

/* ---- system calls ---- */

USER(call_numbers, "1: mov %rdi, %rax; syscall; cmp %rdi, %rax; jne 2f; inc %rdi; cmp %rsi, %rdi; jne 1b; 2:");
USER(call_one, "syscall");

static u64 calls, calls_wrong;
static bool on_call(struct frame *f)
{
	calls_wrong += f->rcx != f->rip || f->rax != f->rdi || f->r11 != f->rflags || f->rdx != UNTOUCHED;
	calls++;
	return true;
}

static void system_calls(void)
{
	static const u64 from[] = { 0, 0x40000000, 0xffffffff80000000, ~0ull - 16, 0x100000000 };
	/* read, write, open, mmap, mprotect, munmap, rt_sigaction, rt_sigreturn, ioctl, mremap, clone, fork, execve,
	 * exit, kill, ptrace, getppid, sigaltstack, arch_prctl, futex, exit_group, tgkill, prctl, process_vm_readv,
	 * seccomp, memfd_create */
	static const u16 nasty[] = { 0,  1,  2,   9,   10,  11,  13,  15,  16,  25,  56,  57,  59,
				     60, 62, 101, 110, 131, 158, 202, 231, 234, 157, 310, 317, 319 };
	u64 wrong = 0;
	struct frame f;

	frame_hooks[SYSCALL] = on_call;
	calls = calls_wrong = 0;
	for (unsigned i = 0; i < sizeof(from) / sizeof(from[0]); i++) {
		u64 count = i == 0 ? 480 : 16;

		go(AT(call_numbers), from[i], from[i] + count);
		wrong += got.vector != 0x82 || got.rdi != from[i] + count;
	}
	frame_hooks[SYSCALL] = 0;
	check_equal("system calls by number", calls, 480 + 4 * 16);
	check_equal("what they saw", calls_wrong, 0);
	check_equal("and left", wrong, 0);
	for (unsigned i = 0; i < sizeof(nasty) / sizeof(nasty[0]); i++)
		for (unsigned n = 0; n < 6; n++) {
			static const u64 values[] = { 0, 1, ~0ull, 1ull << 47, USTACK, 0x10000 };

			fill_random(&f);
			f.rip = AT(call_one);
			f.rax = nasty[i];
			f.rdi = values[n];
			f.rsi = values[(n + i) % 6];
			f.rdx = values[(n + 2 * i) % 6];
			f.r10 = values[(n + 3 * i) % 6];
			wrong += !both_agree(&f) || got.vector != SYSCALL;
		}
	check_equal("those that a host would mind", wrong, 0);
	wrmsr(EFER, rdmsr(EFER) & ~1ull);
	for (unsigned n = 0; n < 4; n++) {
		fill_random(&f);
		f.rip = AT(call_one);
		wrong += !both_agree(&f) || got.vector != 6 || got.rcx != f.rcx || got.r11 != f.r11;
	}
	wrmsr(EFER, rdmsr(EFER) | 1);
	check_equal("SYSCALL without EFER.SCE changes nothing", wrong, 0);
}

USER(jump_to, "jmp *%rbx");
USER(call_to, "call *%rbx");

static void vsyscalls(void)
{
	static const u16 offsets[] = { 0, 0x400, 0x800, 1, 0x3ff, 0xc00, 0xfff };
	static const u16 numbers[] = { 96, 201, 309 }; /* in RAX, which may be lost (docs/caveats.md) */
	unsigned wrong = 0;
	struct frame f;

	for (unsigned i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
		for (unsigned n = 0; n < 3; n++) {
			fill_random(&f);
			f.rip = n ? AT(call_to) : AT(jump_to);
			f.rbx = VSYSCALL + offsets[i];
			f.rsp = n < 2 ? USTACK_TOP : USTACK - 0x800;
			f.rdi = f.rsi = n ? USTACK : 0;
			f.rax = i < 3 ? numbers[i] : f.rax;
			wrong += !both_agree(&f) || got.vector != 14 || (n < 2 && got.rip != f.rbx);
		}
	check_equal("jumps to where Linux has code", wrong, 0);
}

/* ---- odd states ---- */

#define STOPS(X)                                                                                                       \
	X(int3, "int3")                                                                                                \
	X(icebp, ".byte 0xf1")                                                                                         \
	X(ud2, "ud2")                                                                                                  \
	X(syscall, "syscall")                                                                                          \
	X(hlt, "hlt")                                                                                                  \
	X(load, "mov (%rdi), %rax")                                                                                    \
	X(store, "mov %rax, (%rdi)")                                                                                   \
	X(divide, "mov $0, %ecx; div %ecx")                                                                            \
	X(push, "push %rax")                                                                                           \
	X(pop, "pop %rax")                                                                                             \
	X(call, "call 1f; 1:")                                                                                         \
	X(ret, "ret")                                                                                                  \
	X(enter, "enter $16, $3")                                                                                      \
	X(leave, "leave")                                                                                              \
	X(popf, "popfq")                                                                                               \
	X(string, "mov $3, %ecx; rep movsb")                                                                           \
	X(iret, "iretq")                                                                                               \
	X(xlat, "xlatb %gs:(%rbx)")                                                                                    \
	X(fs_load, "mov %fs:(%rdi), %rax")
#define X(name, text)                                                                                                  \
	USER(stop_##name, text);                                                                                       \
	USER(trace_##name, "pushfq; orl $0x100, (%rsp); popfq; " text "; nop; nop");                                   \
	USER(base_##name, "wrfsbase %r8; wrgsbase %r9; " text);
STOPS(X)
#undef X

/* 0x100000000000: lowest of what the twin may have for itself. */
static const u64 odd_addresses[] = { 0,
				     1,
				     8,
				     0x1000,
				     0xffff,
				     0x10000,
				     USTACK,
				     USTACK + 5,
				     USTACK_TOP,
				     USTACK_TOP - 1,
				     USTACK + 0x4000,
				     UCODE + 0x40,
				     SCRATCH,
				     0x100000000000,
				     0x7ffffffff000,
				     0x7ffffffffff8,
				     0x7fffffffffff,
				     0x800000000000,
				     1ull << 62,
				     0xffff7fffffffffff,
				     0xffff800000000000,
				     VSYSCALL,
				     ~0ull - 7,
				     ~0ull };
#define ODD (sizeof(odd_addresses) / sizeof(odd_addresses[0]))

static void odd_states(void)
{
#define X(name, text) { { stop_##name, trace_##name, base_##name } },
	static const struct {
		const char *code[3];
	} rows[] = { STOPS(X) };
#undef X
	static const u32 flags[] = {
		0, FLAGS_DF, FLAGS_ID, FLAGS_NT, FLAGS_STATUS, FLAGS_NT | FLAGS_DF | FLAGS_ID | 1
	};
	const unsigned kinds = HAS_FSGSBASE ? 3 : 2, count = sizeof(rows) / sizeof(rows[0]);
	unsigned wrong[3] = { 0 };

	/* These would trap in the handler. */
	wrmsr(MSR_FMASK, FLAGS_IF | FLAGS_DF | FLAGS_TF | FLAGS_NT);
	for (unsigned kind = 0; kind < kinds; kind++)
		for (unsigned row = 0; row < count; row++)
			for (unsigned n = 0; n < ODD; n++) {
				struct frame f;

				if (native_xcr0)
					random_vectors(&seed);
				fill_random(&f);
				f.rip = AT(rows[row].code[kind]);
				f.rsp = odd_addresses[n];
				f.rdi = odd_addresses[(n * 7 + row) % ODD];
				f.rsi = odd_addresses[(n * 5 + row) % ODD];
				f.rbp = odd_addresses[(n * 3 + row) % ODD];
				f.r8 = odd_addresses[(n * 11 + row) % ODD];
				f.r9 = odd_addresses[(n * 13 + row) % ODD];
				f.rflags |= flags[(n + row) % 6];
				for (u64 i = 0; i < sizeof(native_stack); i += 8)
					*(u64 *)(native_stack + i) = (i ^ row) * 0x10101;
				if (!both_agree(&f) && wrong[kind]++ == 0) {
					print("row ");
					print_hex(row);
					print(" address ");
					print_hex(n);
					print("\n");
				}
			}
	wrmsr(MSR_FMASK, FLAGS_IF | FLAGS_DF);
	check_equal("odd stacks and pointers", wrong[0], 0);
	check_equal("with TF set by the program", wrong[1], 0);
	check_equal("odd FS and GS bases", wrong[2], 0);
}

/* All control words there are, each over a stop. */
USER(control_words, "ldmxcsr (%rdi); fldcw 4(%rdi); addps %xmm1, %xmm0; int3; stmxcsr 8(%rdi); fnstcw 12(%rdi); hlt");

/* Results of 16 bits that are tiny, exact or not. */
USER(halves, "ldmxcsr (%rdi); vcvtps2ph $4, %xmm1, %xmm0; hlt");

static bool behind_int3(struct frame *f)
{
	(void)f;
	return true;
}

static void control_states(void)
{
	u64 *words = (u64 *)native_stack;
	unsigned wrong = 0, kept = 0;

	if (!native_xcr0)
		return;
	frame_hooks[3] = behind_int3;
	for (unsigned n = 0; n < 400; n++) {
		struct frame f;
		u64 r = random64(&seed);

		random_vectors(&seed);
		fill_random(&f);
		f.rip = AT(control_words);
		f.rdi = USTACK;
		words[0] = (r & 0xffff) | (n % 8 == 7 ? r & 0xffff0000 : 0) | (r >> 32 & 0xf7f) << 32;
		words[1] = 0;
		wrong += !both_agree(&f);
		kept += got.vector == 13 && got.rip != AT(control_words) && words[1] == words[0];
	}
	frame_hooks[3] = 0;
	for (unsigned n = 0; n < 400 && has_feature(1, 2, 29) && (native_xcr0 & 4); n++) {
		u32 *xmm1 = (u32 *)(image[0] + 176);
		struct frame f;

		random_vectors(&seed);
		fill_random(&f);
		for (unsigned i = 0; i < 4; i++) {
			u64 r = random64(&seed);

			/* From 2^-26 to 2^-12, of few bits. */
			xmm1[i] = (u32)(101 + r % 15) << 23 | (r >> 8 & 0x7fffff & (~0u << (r >> 40) % 24)) |
				  (r >> 63) << 31;
		}
		f.rip = AT(halves);
		f.rdi = USTACK;
		words[0] = random64(&seed) & 0xffff;
		wrong += !both_agree(&f);
	}
	check_equal("MXCSR and FCW of all kinds", wrong, 0);
	check("those that stop nothing are kept", kept > 30);
}

/* ---- mappings without end ---- */

#define MANY 70000ull
#define FRAMES 16
USER(sum_pages, "xor %eax, %eax; 1: add (%rdi), %rax; add $4096, %rdi; dec %rsi; jnz 1b");
USER(add_pages, "1: incq 8(%rdi); add $4096 * 8, %rdi; sub $8, %rsi; jnz 1b");
USER(call_pages, "xor %eax, %eax; 1: call *%rdi; add $4096*7, %rdi; dec %rsi; jnz 1b");

static u64 frames[FRAMES][512] __attribute__((aligned(4096)));

/* More than a host lets one process have (vm.max_map_count), no two neighbours alike. */
static void many_mappings(void)
{
	const u64 from = WINDOW + 0x40000000;
	u64 sum, want = 0, written = 0;

	for (unsigned n = 0; n < FRAMES; n++) {
		frames[n][0] = n + 1;
		frames[n][1] = 0;
		put_ret(put((u8 *)&frames[n][2], 0xc0ff48, 3)); /* inc %rax */
	}
	for (u64 n = 0; n < MANY; n++) {
		*pte_at(pml4, from + n * 4096, 1) =
			(u64)frames[n * 5 % FRAMES] | (n & 1 ? PTE_P | PTE_U | PTE_NX : PTE_ALL);
		want += n * 5 % FRAMES + 1;
	}
	WRITE_REG(cr3, pml4);
	for (unsigned round = 0; round < 2; round++) {
		const u64 first = from + round * 4096;

		go(AT(sum_pages), from, MANY);
		check_equal("seventy thousand pages", got.rax, want);
		check_equal("written to", go(AT(add_pages), first, MANY), 0x82);
		written += MANY / 8;
		go(AT(call_pages), first + 16, MANY / 14);
		check("executed, as far as they may be", got.vector == 14 && last.error == 0x15 && got.rax == 1);
		/* Each the other way round. */
		for (u64 n = 0; n < MANY; n++)
			*pte_at(pml4, from + n * 4096, 1) = (u64)frames[n * 5 % FRAMES] |
							    ((n & 1) == (round & 1) ? PTE_P | PTE_U | PTE_NX : PTE_ALL);
		WRITE_REG(cr3, pml4);
	}
	sum = 0;
	for (unsigned n = 0; n < FRAMES; n++)
		sum += frames[n][1];
	check_equal("every write is there", sum, written);
	for (u64 n = 0; n < MANY; n++)
		*pte_at(pml4, from + n * 4096, 1) = 0;
	WRITE_REG(cr3, pml4);
	check_equal("gone", go(AT(sum_pages), from, MANY), 14);
}

USER_TEXT_END;

int main(void)
{
	native_enable();
	native_map(user_first, user_last);
	map(0, 0, 0);
	use_selectors(1);
	set_up_syscall();
	if (native_xcr0)
		random_vectors(&seed);
	hot_loops();
	system_calls();
	vsyscalls();
	odd_states();
	control_states();
	many_mappings();
	return (int)failures;
}
