/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's state in the frame of the signal that the runner is held in. */
#include "translate/direct.h"
#include "x86/fpu.h"

/* ---- the state ---- */

#define AREA_MXCSR 24
#define AREA_ST 32
#define AREA_LEGACY 416 /* the rest up to the header is nobody's or the kernel's */
#define AREA_HEADER 512
#define AREA_EXTENDED 576
#define AREA_PKRU 2688 /* as the host's CPUs have it; the guest's is elsewhere */

static const uint8_t gregs[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

#define FLAGS_USER (X86_ARITH_FLAGS | X86_DF | X86_ID)

static uint32_t extended_end(uint32_t size)
{
	return size < AREA_PKRU ? size : AREA_PKRU;
}

/* The frame may be of the guest's making: of what it says there may only be what the processor could be in. */
static void fpu_from(struct translate_direct *d, const uint8_t *image, uint32_t size)
{
	uint8_t *area = d->t->cpu->fpu.area;
	uint64_t ours = guest_load64(area + AREA_HEADER);
	uint64_t theirs = guest_load64(image + AREA_HEADER) & d->host_xcr0;

	tz_copy(area, image, AREA_MXCSR);
	guest_store32(area + AREA_MXCSR, guest_load32(image + AREA_MXCSR) & x86_fpu_mxcsr_mask());
	tz_copy(area + AREA_ST, image + AREA_ST, AREA_LEGACY - AREA_ST);
	tz_copy(area + AREA_EXTENDED, image + AREA_EXTENDED, extended_end(size) - AREA_EXTENDED);
	guest_store64(area + AREA_HEADER, (ours & ~DIRECT_XSTATE) | (theirs & DIRECT_XSTATE));
}

static void fpu_to(struct x86_cpu *cpu, uint8_t *image, uint32_t size)
{
	const uint8_t *area = cpu->fpu.area;
	uint64_t ours = guest_load64(area + AREA_HEADER), theirs = guest_load64(image + AREA_HEADER);

	tz_copy(image, area, AREA_MXCSR + 4);
	tz_copy(image + AREA_ST, area + AREA_ST, AREA_LEGACY - AREA_ST);
	tz_copy(image + AREA_EXTENDED, area + AREA_EXTENDED, extended_end(size) - AREA_EXTENDED);
	/* Bits that the host does not have are not in ours either. */
	guest_store64(image + AREA_HEADER, (theirs & ~DIRECT_XSTATE) | (ours & DIRECT_XSTATE));
}

static uint64_t canonical(uint64_t base)
{
	return (uint64_t)((int64_t)(base << 16) >> 16);
}

void direct_state_load(struct translate_direct *d, const ucontext_t *uc, uint32_t vector_size)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	struct x86_cpu *cpu = d->t->cpu;
	uint64_t flags = (uint64_t)g[REG_EFL];

	for (unsigned n = 0; n < 16; n++)
		cpu->gpr[n] = (uint64_t)g[gregs[n]];
	cpu->rip = (uint64_t)g[REG_RIP];
	/* RF is that of the host's fault. */
	cpu->rflags = (cpu->rflags & ~(FLAGS_USER | X86_TF | X86_AC | X86_NT)) |
		      (flags & (FLAGS_USER | X86_TF | X86_AC | X86_NT));
	cpu->seg[X86_FS].base = canonical(d->region->report.fs_base);
	cpu->seg[X86_GS].base = canonical(d->region->report.gs_base);
	fpu_from(d, (const uint8_t *)uc->uc_mcontext.fpregs, vector_size);
}

void direct_state_store(struct translate_direct *d, ucontext_t *uc, uint32_t vector_size)
{
	greg_t *g = uc->uc_mcontext.gregs;
	struct x86_cpu *cpu = d->t->cpu;

	x86_fpu_put(cpu);
	for (unsigned n = 0; n < 16; n++)
		g[gregs[n]] = (greg_t)cpu->gpr[n];
	g[REG_RIP] = (greg_t)cpu->rip;
	g[REG_EFL] = (greg_t)((cpu->rflags & FLAGS_USER) | X86_IF | 2);
	/* A far jump may have left others. */
	g[REG_CSGSFS] = DIRECT_USER_CS | (greg_t)DIRECT_USER_SS << 48;
	d->region->orders.fs_base = cpu->seg[X86_FS].base;
	d->region->orders.gs_base = cpu->seg[X86_GS].base;
	d->region->orders.flags = (cpu->rflags & X86_ID) | X86_IF | 2;
	fpu_to(cpu, (uint8_t *)uc->uc_mcontext.fpregs, vector_size);
}

void direct_state_keep(struct translate_direct *d, const ucontext_t *uc)
{
	d->region->orders.flags = ((uint64_t)uc->uc_mcontext.gregs[REG_EFL] & (X86_ID | X86_NT)) | X86_IF | 2;
	d->region->orders.fs_base = d->region->report.fs_base;
	d->region->orders.gs_base = d->region->report.gs_base;
}

/* ---- the frame ---- */

#define FRAME_SW 464
#define FRAME_SW_SIZE (FRAME_SW + 16)
#define FRAME_MAGIC2 4 /* behind the image: without FP_XSTATE_MAGIC2 the kernel restores x87 and SSE alone */

static bool on_signal_stack(const struct translate_direct *d, uint64_t at, uint64_t size, uint64_t align)
{
	uint64_t lo = (uint64_t)(uintptr_t)d->region->signal_stack;

	return at >= lo && !(at % align) && at <= lo + DIRECT_SIGNAL_STACK && size <= lo + DIRECT_SIGNAL_STACK - at;
}

ucontext_t *direct_frame(struct translate_direct *d, uint32_t *vector_size)
{
	ucontext_t *uc = (ucontext_t *)(uintptr_t)d->where[2];
	uint64_t fp;

	/* The kernel's is shorter than libc's: up to the signal mask. */
	if (!on_signal_stack(d, d->where[2], offsetof(ucontext_t, uc_sigmask) + 8, 8))
		return NULL;
	fp = (uint64_t)(uintptr_t)uc->uc_mcontext.fpregs;
	if (!on_signal_stack(d, fp, FRAME_SW_SIZE + 4, 64))
		return NULL;
	*vector_size = guest_load32((const uint8_t *)uc->uc_mcontext.fpregs + FRAME_SW_SIZE);
	if (*vector_size < d->vector_size || !on_signal_stack(d, fp, (uint64_t)*vector_size + FRAME_MAGIC2, 64))
		return NULL;
	return uc;
}

void direct_frame_tidy(struct translate_direct *d)
{
	uint8_t *lo = d->region->signal_stack, *hi = lo + DIRECT_SIGNAL_STACK, *start, *end;
	uint32_t vector_size;
	ucontext_t *uc = direct_frame(d, &vector_size);

	if (!uc)
		return;            /* it will be found damaged */
	start = (uint8_t *)uc - 8; /* the return address */
	end = (uint8_t *)uc->uc_mcontext.fpregs + vector_size + FRAME_MAGIC2;
	if (start > lo)
		tz_clear(lo, (size_t)(start - lo));
	tz_clear(end, (size_t)(hi - end));
	tz_clear(&d->region->report, TZ_PAGE_SIZE);
}

const siginfo_t *direct_frame_siginfo(const struct translate_direct *d)
{
	return on_signal_stack(d, d->where[1], sizeof(siginfo_t), 8) ? (const siginfo_t *)(uintptr_t)d->where[1] : NULL;
}
