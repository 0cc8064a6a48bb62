/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of a vCPU: what a stretch may change. */
#include "lockstep/lockstep.h"

/* struct x86_cpu between these is registers and what is derived from them, whatever is added there. */
_Static_assert(offsetof(struct x86_cpu, rflags) == offsetof(struct x86_cpu, gpr) + 17 * 8, "one piece");
_Static_assert(offsetof(struct x86_cpu, tlb) > offsetof(struct x86_cpu, dr_exec), "not a register");

void lockstep_state_save(struct lockstep_state *s, const struct x86_cpu *cpu)
{
	tz_copy(s->gpr, cpu->gpr, 18 * 8);
	tz_copy(s->mode, &cpu->cpl, sizeof(s->mode));
	tz_copy(s->system, cpu->seg, sizeof(s->system));
	s->kernel_gs_base = cpu->msr.kernel_gs_base;
	tz_copy(s->events, &cpu->ev, sizeof(s->events));
}

void lockstep_state_restore(const struct lockstep_state *s, struct x86_cpu *cpu)
{
	tz_copy(cpu->gpr, s->gpr, 18 * 8);
	tz_copy(&cpu->cpl, s->mode, sizeof(s->mode));
	tz_copy(cpu->seg, s->system, sizeof(s->system));
	cpu->msr.kernel_gs_base = s->kernel_gs_base;
	tz_copy(&cpu->ev, s->events, sizeof(s->events));
}

#define FIELD(member)                                                                                                  \
	{                                                                                                              \
#member, offsetof(struct x86_cpu, member), sizeof(((struct x86_cpu *)0)->member)                       \
	}
#define NAMED(name, member)                                                                                            \
	{                                                                                                              \
		name, offsetof(struct x86_cpu, member), sizeof(((struct x86_cpu *)0)->member)                          \
	}
#define SEGMENT(name, n)                                                                                               \
	NAMED(name, seg[n].sel), NAMED(name " access", seg[n].ar), NAMED(name " limit", seg[n].limit),                 \
		NAMED(name " base", seg[n].base)

const struct lockstep_field lockstep_fields[] = {
	NAMED("rax", gpr[0]),
	NAMED("rcx", gpr[1]),
	NAMED("rdx", gpr[2]),
	NAMED("rbx", gpr[3]),
	NAMED("rsp", gpr[4]),
	NAMED("rbp", gpr[5]),
	NAMED("rsi", gpr[6]),
	NAMED("rdi", gpr[7]),
	NAMED("r8", gpr[8]),
	NAMED("r9", gpr[9]),
	NAMED("r10", gpr[10]),
	NAMED("r11", gpr[11]),
	NAMED("r12", gpr[12]),
	NAMED("r13", gpr[13]),
	NAMED("r14", gpr[14]),
	NAMED("r15", gpr[15]),
	FIELD(rip),
	FIELD(rflags),
	FIELD(cpl),
	FIELD(code_size),
	FIELD(stack_size),
	FIELD(real_mode),
	FIELD(v8086),
	FIELD(long_mode),
	FIELD(mmu_index),
	FIELD(dr_watch),
	FIELD(dr_exec),
	SEGMENT("es", X86_ES),
	SEGMENT("cs", X86_CS),
	SEGMENT("ss", X86_SS),
	SEGMENT("ds", X86_DS),
	SEGMENT("fs", X86_FS),
	SEGMENT("gs", X86_GS),
	SEGMENT("ldtr", X86_LDTR),
	SEGMENT("tr", X86_TR),
	FIELD(cr0),
	FIELD(cr2),
	FIELD(cr3),
	FIELD(cr4),
	FIELD(cr8),
	FIELD(efer),
	FIELD(xcr0),
	FIELD(pkru),
	NAMED("pdpte0", pdpte[0]),
	NAMED("pdpte1", pdpte[1]),
	NAMED("pdpte2", pdpte[2]),
	NAMED("pdpte3", pdpte[3]),
	NAMED("gdtr base", gdtr.base),
	NAMED("gdtr limit", gdtr.limit),
	NAMED("idtr base", idtr.base),
	NAMED("idtr limit", idtr.limit),
	NAMED("dr0", dr[0]),
	NAMED("dr1", dr[1]),
	NAMED("dr2", dr[2]),
	NAMED("dr3", dr[3]),
	NAMED("dr6", dr[6]),
	NAMED("dr7", dr[7]),
	NAMED("kernel_gs_base", msr.kernel_gs_base),
	NAMED("exception pending", ev.exc_pending),
	NAMED("exception vector", ev.exc_vector),
	NAMED("exception has code", ev.exc_has_error),
	NAMED("exception code", ev.exc_error),
	NAMED("exception address", ev.exc_cr2),
	NAMED("interrupt injected", ev.irq_injected),
	NAMED("interrupt is INT n", ev.irq_soft),
	NAMED("interrupt vector", ev.irq_vector),
	NAMED("interrupt shadow", ev.shadow),
	NAMED("nmi injected", ev.nmi_injected),
	NAMED("nmi masked", ev.nmi_masked),
	NAMED("smi pending", ev.smi_pending),
	NAMED("debug trap", ev.db_pending),
	NAMED("no trap behind", ev.no_step),
	{ NULL, 0, 0 },
};

/* Where struct lockstep_state keeps what struct x86_cpu has at `offset`. */
static const uint8_t *field_at(const struct lockstep_state *s, unsigned offset)
{
	if (offset >= offsetof(struct x86_cpu, ev))
		return s->events + (offset - offsetof(struct x86_cpu, ev));
	if (offset >= offsetof(struct x86_cpu, msr))
		return (const uint8_t *)&s->kernel_gs_base;
	if (offset >= offsetof(struct x86_cpu, seg))
		return s->system + (offset - offsetof(struct x86_cpu, seg));
	if (offset >= offsetof(struct x86_cpu, cpl))
		return s->mode + (offset - offsetof(struct x86_cpu, cpl));
	return (const uint8_t *)s->gpr + offset;
}

uint64_t lockstep_state_field(const struct lockstep_state *s, const struct lockstep_field *f)
{
	uint64_t v = 0;

	tz_copy(&v, field_at(s, f->offset), f->size);
	return v;
}

static bool bytes_same(const void *a, const void *b, size_t n)
{
	const uint8_t *pa = a, *pb = b;

	for (; n >= 8; n -= 8, pa += 8, pb += 8)
		if (guest_load64(pa) != guest_load64(pb))
			return false;
	for (; n; n--)
		if (guest_load8(pa++) != guest_load8(pb++))
			return false;
	return true;
}

/* An exception's details mean something only while it is pending, and so on. */
static bool means_something(const struct lockstep_state *s, const struct lockstep_field *f)
{
	struct x86_events ev = { 0 };

	tz_copy(&ev, s->events, sizeof(s->events));
	switch (f->offset) {
	case offsetof(struct x86_cpu, ev.exc_vector):
	case offsetof(struct x86_cpu, ev.exc_has_error): return ev.exc_pending;
	case offsetof(struct x86_cpu, ev.exc_error): return ev.exc_pending && ev.exc_has_error;
	case offsetof(struct x86_cpu, ev.exc_cr2): return ev.exc_pending && ev.exc_vector == X86_PF_EXC;
	case offsetof(struct x86_cpu, ev.irq_soft):
	case offsetof(struct x86_cpu, ev.irq_vector): return ev.irq_injected;
	case offsetof(struct x86_cpu, ev.no_step): return false; /* until the next step begins */
	default: return true;
	}
}

bool lockstep_state_same(const struct lockstep_state *a, const struct lockstep_state *b, uint64_t flags)
{
	if (!bytes_same(a->gpr, b->gpr, 17 * 8) || ((a->rflags ^ b->rflags) & ~flags))
		return false;
	if (likely(bytes_same(a->mode, b->mode, sizeof(a->mode)) &&
		   bytes_same(a->system, b->system, sizeof(a->system)) && a->kernel_gs_base == b->kernel_gs_base &&
		   bytes_same(a->events, b->events, sizeof(a->events))))
		return true;
	/* The bytes between fields do not count. */
	for (const struct lockstep_field *f = lockstep_fields; f->name; f++)
		if (f->offset != offsetof(struct x86_cpu, rflags) && means_something(a, f) &&
		    lockstep_state_field(a, f) != lockstep_state_field(b, f))
			return false;
	return true;
}

/* XSTATE_BV (SDM 1 13.4.2) is left out: whether a component in its initial state is in use is up to the processor. */
#define AREA_HEADER 512
#define AREA_EXTENDED 576

bool lockstep_vector_same(const struct lockstep *ls, const uint8_t *a, const uint8_t *b)
{
	return bytes_same(a, b, AREA_HEADER) &&
	       bytes_same(a + AREA_EXTENDED, b + AREA_EXTENDED, ls->vector_size - AREA_EXTENDED);
}
