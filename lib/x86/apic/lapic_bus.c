/* SPDX-License-Identifier: Apache-2.0 */
/* The APIC bus: who is addressed by a message, arbitration, acceptance (SDM 3A 10.6.2). */
#include "x86/apic/lapic_state.h"

static bool match_physical(const struct lapic *l, const struct apic_msg *msg)
{
	return l->id == msg->dest;
}

static bool match_logical(const struct lapic *l, const struct apic_msg *msg)
{
	uint32_t ldr = l->ldr, dest = msg->dest;

	/* x2APIC: one fixed cluster model; an 8-bit destination reaches cluster 0 (SDM 3A 10.12.10.2). */
	if (lapic_x2apic(l))
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	if (dest > 0xff)
		return false;
	ldr >>= 24;
	switch (l->dfr >> 28) {
	case 0xf: /* flat */ return ldr & dest;
	case 0: /* cluster: 4 bits number, 4 bits members */ return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
	default: return false;
	}
}

static bool match(const struct lapic *l, const struct apic_msg *msg)
{
	if (!lapic_hw_enabled(l))
		return false;
	if (msg->dest == (msg->wide ? 0xffffffff : 0xff))
		return true;
	return msg->logical ? match_logical(l, msg) : match_physical(l, msg);
}

static bool accept_fixed(struct lapic *l, const struct apic_msg *msg)
{
	bool taken;

	lapic_lock(l);
	taken = lapic_hw_enabled(l) && lapic_sw_enabled(l);
	if (taken)
		lapic_set_irr_locked(l, msg->vector, msg->level);
	lapic_unlock(l);
	return taken;
}

bool lapic_accept(struct lapic *l, const struct apic_msg *msg)
{
	const struct irqchip_ops *ops = l->chip->ops;
	void *ctx = l->chip->ctx;

	/* All but fixed ones are accepted by a software-disabled LAPIC too (SDM 3A 10.4.7.2). */
	switch (msg->mode) {
	case APIC_FIXED:
	case APIC_LOWEST: return accept_fixed(l, msg);
	case APIC_SMI: ops->smi(ctx, l->cpu); break;
	case APIC_NMI: ops->nmi(ctx, l->cpu); break;
	case APIC_INIT:
		if (msg->level && !msg->assert)
			return true; /* INIT level de-assert sets arbitration IDs only (SDM 3A 10.6.1) */
		ops->init(ctx, l->cpu);
		break;
	case APIC_SIPI: ops->sipi(ctx, l->cpu, msg->vector); break;
	case APIC_EXTINT: atomic_store(&l->extint_msg, true); break;
	default: return false;
	}
	lapic_kick(l);
	return true;
}

/* The addressed one with the lowest arbitration priority; equals take turns. */
static struct lapic *arbitrate(struct irqchip *chip, const struct apic_msg *msg)
{
	unsigned limit = atomic_load_explicit(&chip->lapic_limit, memory_order_acquire);
	unsigned first = limit ? atomic_load_explicit(&chip->lowest_next, memory_order_relaxed) % limit : 0;
	struct lapic *best = NULL;
	uint32_t best_priority = 0;

	for (unsigned n = 0; n < limit; n++) {
		struct lapic *l = atomic_load_explicit(&chip->lapic[(first + n) % limit], memory_order_acquire);
		uint32_t priority;

		if (!l || !lapic_sw_enabled(l) || !match(l, msg))
			continue;
		priority = atomic_load_explicit(&l->apr, memory_order_relaxed);
		if (!best || priority < best_priority) {
			best = l;
			best_priority = priority;
		}
	}
	if (best)
		atomic_store_explicit(&chip->lowest_next, best->cpu->id + 1, memory_order_relaxed);
	return best;
}

int apic_bus_send(struct irqchip *chip, const struct apic_msg *msg)
{
	unsigned limit = atomic_load_explicit(&chip->lapic_limit, memory_order_acquire);
	int accepted = 0;

	if (msg->arbitrate) {
		struct lapic *l = arbitrate(chip, msg);

		return l && lapic_accept(l, msg);
	}
	for (unsigned n = 0; n < limit; n++) {
		struct lapic *l = atomic_load_explicit(&chip->lapic[n], memory_order_acquire);

		if (l && match(l, msg))
			accepted += lapic_accept(l, msg);
	}
	return accepted;
}

int apic_bus_broadcast(struct irqchip *chip, const struct apic_msg *msg, const struct lapic *except)
{
	unsigned limit = atomic_load_explicit(&chip->lapic_limit, memory_order_acquire);
	int accepted = 0;

	for (unsigned n = 0; n < limit; n++) {
		struct lapic *l = atomic_load_explicit(&chip->lapic[n], memory_order_acquire);

		if (l && l != except && lapic_hw_enabled(l))
			accepted += lapic_accept(l, msg);
	}
	return accepted;
}

int lapic_send_set(struct x86_cpu *cpu, uint64_t set, uint64_t min, uint32_t icr)
{
	struct apic_msg msg = { .wide = true, .vector = (uint8_t)icr, .mode = LVT_MODE(icr) };
	int accepted = 0;

	if (msg.mode == APIC_EXTINT)
		return 0;
	for (; set; set &= set - 1) {
		uint64_t id = min + (unsigned)__builtin_ctzll(set);

		/* All ones is everybody's address, nobody's id. */
		if (id >= UINT32_MAX)
			break;
		msg.dest = (uint32_t)id;
		accepted += apic_bus_send(cpu->lapic->chip, &msg);
	}
	return accepted;
}

void lapic_unhalt(struct x86_cpu *cpu, uint32_t apic_id)
{
	struct irqchip *chip = cpu->lapic->chip;
	unsigned limit = atomic_load_explicit(&chip->lapic_limit, memory_order_acquire);

	for (unsigned n = 0; n < limit; n++) {
		struct lapic *l = atomic_load_explicit(&chip->lapic[n], memory_order_acquire);

		if (!l || atomic_load(&l->id) != apic_id)
			continue;
		atomic_store(&l->cpu->pv.unhalted, true);
		lapic_kick(l);
	}
}
