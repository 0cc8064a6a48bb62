/* SPDX-License-Identifier: Apache-2.0 */
/* Paravirtual EOI between LAPIC and guest memory; the steal time area's TLB flush. */
#include "fakechip.h"

#include "fakecpu.h"

#define SVR 0xf0
#define PPR 0xa0
#define EOI 0xb0
#define ISR 0x100
#define ICR 0x300
#define FLAG 0x1000u
#define STEAL 0x2000u
#define STEAL_PREEMPTED (STEAL + 16)

struct world {
	struct fakechip *f;
	struct mem mem;
	uint8_t ram[0x4000] __attribute__((aligned(4096)));
};

static int setup(void **state)
{
	static struct world world;
	struct world *w = &world;
	struct mem_map *old = NULL;

	memset(w, 0, sizeof(*w));
	w->f = fakechip_create(1);
	fakechip_put(w->f, 0, SVR, 0x1ff);
	assert_int_equal(mem_init(&w->mem), 0);
	pthread_mutex_lock(&w->mem.lock);
	assert_int_equal(mem_set_slot(&w->mem, 0, 0, GPA(0), sizeof(w->ram), w->ram, &old), 0);
	pthread_mutex_unlock(&w->mem.lock);
	mem_map_destroy(old);
	w->f->cpu[0]->mem = &w->mem;
	assert_true(x86_pv_msr_write(w->f->cpu[0], MSR_KVM_PV_EOI_EN, FLAG | 1, false));
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	fakechip_destroy(w->f);
	mem_fini(&w->mem);
	return 0;
}

static void send(struct world *w, uint8_t vector)
{
	fakechip_put(w->f, 0, ICR, 1u << 18 | 1u << 14 | vector);
}

static void take(struct world *w, int vector)
{
	assert_true(lapic_irq_pending(w->f->cpu[0]));
	assert_int_equal(lapic_irq_ack(w->f->cpu[0]), vector);
}

static bool in_service(struct world *w, uint8_t vector)
{
	return fakechip_get(w->f, 0, ISR + vector / 32 * 0x10u) >> (vector % 32) & 1;
}

static void test_guest_ends_by_memory(void **state)
{
	struct world *w = *state;
	unsigned kicks;

	send(w, 0x80);
	take(w, 0x80);
	assert_int_equal(w->ram[FLAG], 1);
	w->ram[FLAG] = 0; /* the guest's EOI */
	/* A lower one comes: the LAPIC alone would hold it back, so the vCPU must be made to look. */
	kicks = w->f->kicks[0];
	send(w, 0x40);
	assert_true(w->f->kicks[0] > kicks);
	take(w, 0x40);
	assert_int_equal(w->ram[FLAG], 1);
	w->ram[FLAG] = 0;
	assert_false(in_service(w, 0x80));
	assert_false(in_service(w, 0x40));
	assert_int_equal(fakechip_get(w->f, 0, PPR), 0);
}

static void test_offer_is_taken_back(void **state)
{
	struct world *w = *state;

	send(w, 0x80);
	take(w, 0x80);
	send(w, 0x40);
	/* Still in its handler: 0x40 has to wait for a real EOI. */
	assert_false(lapic_irq_pending(w->f->cpu[0]));
	assert_int_equal(w->ram[FLAG], 0);
	assert_true(in_service(w, 0x80));
	fakechip_put(w->f, 0, EOI, 0);
	take(w, 0x40);
	/* Nested: the higher one ended by memory, the lower one by register. */
	send(w, 0x90);
	take(w, 0x90);
	assert_int_equal(w->ram[FLAG], 1);
	w->ram[FLAG] = 0;
	fakechip_put(w->f, 0, EOI, 0);
	assert_false(in_service(w, 0x90));
	assert_false(in_service(w, 0x40));
}

static void test_no_offer(void **state)
{
	struct world *w = *state;

	/* Another one waits behind it. */
	send(w, 0x80);
	send(w, 0x40);
	take(w, 0x80);
	assert_int_equal(w->ram[FLAG], 0);
	fakechip_put(w->f, 0, EOI, 0);
	take(w, 0x40);
	assert_int_equal(w->ram[FLAG], 1);
	/* The guest uses the register in spite of the offer. */
	fakechip_put(w->f, 0, EOI, 0);
	assert_int_equal(w->ram[FLAG], 0);
	assert_false(in_service(w, 0x40));
	/* A level-triggered one: the IOAPIC waits for its EOI. */
	fakechip_redir(w->f, 10, 0x60 | 1u << 15);
	irqchip_set_ioapic_line(w->f->chip, 10, true);
	take(w, 0x60);
	assert_int_equal(w->ram[FLAG], 0);
	irqchip_set_ioapic_line(w->f->chip, 10, false);
	fakechip_put(w->f, 0, EOI, 0);
	assert_int_equal(w->f->eois, 1);
	/* Memory that is not there. */
	assert_true(x86_pv_msr_write(w->f->cpu[0], MSR_KVM_PV_EOI_EN, 0x100001, false));
	send(w, 0x80);
	take(w, 0x80);
	assert_true(in_service(w, 0x80));
	fakechip_put(w->f, 0, EOI, 0);
	assert_false(in_service(w, 0x80));
	assert_false(x86_pv_msr_write(w->f->cpu[0], MSR_KVM_PV_EOI_EN, FLAG | 3, false));
}

static void test_settled_outside(void **state)
{
	struct world *w = *state;

	send(w, 0x80);
	take(w, 0x80);
	w->ram[FLAG] = 0;
	lapic_pv_eoi_settle(w->f->cpu[0]);
	assert_false(in_service(w, 0x80));
	send(w, 0x80);
	take(w, 0x80);
	lapic_pv_eoi_settle(w->f->cpu[0]);
	assert_int_equal(w->ram[FLAG], 0);
	assert_true(in_service(w, 0x80));
	fakechip_put(w->f, 0, EOI, 0);
	/* Moved while one is under way: that one is settled at the old place. */
	send(w, 0x80);
	take(w, 0x80);
	w->ram[FLAG] = 0;
	assert_true(x86_pv_msr_write(w->f->cpu[0], MSR_KVM_PV_EOI_EN, (FLAG + 8) | 1, false));
	assert_false(in_service(w, 0x80));
	send(w, 0x80);
	take(w, 0x80);
	assert_int_equal(w->ram[FLAG + 8], 1);
	/* INIT forgets. */
	x86_pv_reset(w->f->cpu[0], true);
	lapic_reset(w->f->cpu[0], true);
	assert_false(in_service(w, 0x80));
}

/* ---- TLB flushes that others leave behind for a vCPU that sleeps ---- */

static uint8_t *steal_flags(struct fake *f)
{
	return f->ram + STEAL_PREEMPTED;
}

static void test_flush_while_asleep(tz_unused void **state)
{
	struct fake *f = fake_create(1 << 20);
	struct x86_cpu *c = &f->cpu;
	uint32_t flushes;

	*steal_flags(f) = 2; /* what a restored area may hold: it counts at once */
	flushes = c->tlb->flushes;
	assert_true(x86_pv_msr_write(c, MSR_KVM_STEAL_TIME, STEAL | 1, true));
	assert_int_equal(*steal_flags(f), 0);
	assert_true(c->tlb->flushes > flushes);

	flushes = c->tlb->flushes;
	x86_pv_asleep(c);
	assert_int_equal(*steal_flags(f), 1);
	x86_pv_awake(c);
	assert_int_equal(*steal_flags(f), 0);
	assert_int_equal(c->tlb->flushes, flushes); /* nobody asked */

	x86_pv_asleep(c);
	*steal_flags(f) |= 2;
	x86_pv_awake(c);
	assert_int_equal(*steal_flags(f), 0);
	assert_true(c->tlb->flushes > flushes);

	/* The area's memory is gone when it wakes: to be safe, flush. */
	x86_pv_asleep(c);
	flushes = c->tlb->flushes;
	fake_slot(f, 0, 0, 0, 0, NULL);
	flushes = c->tlb->flushes;
	x86_pv_awake(c);
	assert_true(c->tlb->flushes > flushes);
	fake_destroy(f);
}

static void test_steal_adds_up(tz_unused void **state)
{
	struct fake *f = fake_create(1 << 20);
	struct x86_cpu *c = &f->cpu;
	uint64_t steal;
	uint32_t version;

	steal = 1000; /* from before a migration */
	memcpy(f->ram + STEAL, &steal, 8);
	version = 7; /* left odd */
	memcpy(f->ram + STEAL + 8, &version, 4);
	assert_false(x86_pv_msr_write(c, MSR_KVM_STEAL_TIME, STEAL | 2 | 1, false));
	assert_true(x86_pv_msr_write(c, MSR_KVM_STEAL_TIME, STEAL | 1, false));
	x86_pv_steal_add(c, 500);
	memcpy(&steal, f->ram + STEAL, 8);
	memcpy(&version, f->ram + STEAL + 8, 4);
	assert_int_equal(steal, 1500);
	assert_true(version > 7 && version % 2 == 0);
	/* Off: memory is left alone. */
	assert_true(x86_pv_msr_write(c, MSR_KVM_STEAL_TIME, STEAL, false));
	x86_pv_steal_add(c, 500);
	x86_pv_asleep(c);
	memcpy(&steal, f->ram + STEAL, 8);
	assert_int_equal(steal, 1500);
	assert_int_equal(*steal_flags(f), 0);
	/* Not RAM, or RAM the guest may not write. */
	assert_true(x86_pv_msr_write(c, MSR_KVM_STEAL_TIME, UINT64_C(1) << 40 | 1, false));
	x86_pv_steal_add(c, 500);
	fake_slot(f, 1, MEM_SLOT_READONLY, 2 << 20, 4096, f->ram);
	assert_true(x86_pv_msr_write(c, MSR_KVM_STEAL_TIME, 2 << 20 | 1, false));
	x86_pv_steal_add(c, 500);
	x86_pv_asleep(c);
	assert_int_equal(f->ram[16], 0);
	fake_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_guest_ends_by_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_offer_is_taken_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_offer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_settled_outside, setup, teardown),
		cmocka_unit_test(test_flush_while_asleep),
		cmocka_unit_test(test_steal_adds_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
