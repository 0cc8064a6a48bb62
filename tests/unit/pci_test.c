/* SPDX-License-Identifier: Apache-2.0 */
/* PCI through the host bridge of a board's bus: configuration mechanisms, BARs that move, MSI-X, lines. */
#include <errno.h>
#include <stdlib.h>

#include "boardfix.h"
#include "device/pci/host.h"

#define ECAM UINT64_C(0xb0000000)
#define MSIX_BAR 1

struct model {
	struct pci_function fn;
	uint64_t last;
	uint64_t moved;
};

struct world {
	struct bus *bus;
	struct pci_bus *pci;
	struct device *host, *isa, *reset;
	struct recorder rec;
	struct model *model[3];
	unsigned models;
	uint64_t msi_address;
	uint32_t msi_data;
	unsigned msis;
	uint64_t ecam;
	bool ecam_on;
};

static uint64_t model_read(struct pci_function *fn, unsigned bar, uint64_t offset, unsigned size)
{
	(void)fn, (void)size;
	return bar << 16 | offset;
}

static void model_write(struct pci_function *fn, unsigned bar, uint64_t offset, uint64_t value, unsigned size)
{
	(void)bar, (void)offset, (void)size;
	container_of(fn, struct model, fn)->last = value;
}

static void model_reset(struct pci_function *fn)
{
	(void)fn;
}

static void model_destroy(struct pci_function *fn)
{
	pci_function_fini(fn);
	free(container_of(fn, struct model, fn));
}

static void model_moved(struct pci_function *fn, unsigned bar, uint64_t base)
{
	if (bar == 0)
		container_of(fn, struct model, fn)->moved = base;
}

static const struct pci_ops model_ops = { "model",       model_read,  model_write, model_reset,
					  model_destroy, model_moved, NULL,        NULL };

static int map(void *ctx, bool io, uint64_t base, uint64_t len, struct device *dev, unsigned bar)
{
	return bus_map_quiet(((struct world *)ctx)->bus, io ? BUS_PIO : BUS_MMIO, base, len, dev, bar);
}

static void unmap(void *ctx, bool io, uint64_t base, struct device *dev, unsigned bar)
{
	bus_unmap(((struct world *)ctx)->bus, io ? BUS_PIO : BUS_MMIO, base, dev, bar);
}

static void msi(void *ctx, uint64_t address, uint32_t data)
{
	struct world *w = ctx;

	w->msi_address = address;
	w->msi_data = data;
	w->msis++;
}

static void intx(void *ctx, unsigned slot, unsigned pin, bool level)
{
	pci_isa_bridge_intx(((struct world *)ctx)->isa, slot, pin, level);
}

static void move_ecam(void *ctx, uint64_t base, bool on)
{
	struct world *w = ctx;

	if (w->ecam_on)
		bus_unmap(w->bus, BUS_MMIO, w->ecam, w->host, PCI_HOST_ECAM);
	w->ecam = base;
	w->ecam_on = on && !bus_map_quiet(w->bus, BUS_MMIO, base, PCI_HOST_ECAM_SIZE, w->host, PCI_HOST_ECAM);
}

static struct model *add_model(struct world *w)
{
	static const struct pci_identity id = { 0x1234, 0x5678, 0x9abc, 0xdef0, 0x010203, 4 };
	struct model *m = calloc(1, sizeof(*m));

	assert_int_equal(pci_function_init(&m->fn, w->pci, PCI_SLOT_ANY, &model_ops, &id), 0);
	pci_add_bar(&m->fn, 0, 0x4000, 0);
	pci_add_bar(&m->fn, 2, 32, PCI_BASE_ADDRESS_SPACE_IO);
	pci_add_bar(&m->fn, 4, 0x10000, PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
	pci_add_intx(&m->fn);
	assert_int_equal(pci_add_msix(&m->fn, MSIX_BAR, 3), 0);
	w->model[w->models++] = m;
	return m;
}

static void reset(struct device *dev)
{
	device_lock(dev);
	dev->ops->reset(dev);
	device_unlock(dev);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct pci_wiring wiring = { .map = map, .unmap = unmap, .msi = msi, .intx = intx, .ctx = w };
	const struct pci_ecam ecam = { ECAM, move_ecam, w };
	struct irq_line gsi = fix_line(&w->rec, 0);

	w->bus = bus_create();
	w->pci = pci_bus_create(&wiring);
	w->isa = pci_isa_bridge_create(w->pci, gsi);
	w->reset = reset_port_create(fix_control(&w->rec));
	w->host = pci_host_create(w->pci, &ecam, w->reset);
	assert_int_equal(bus_map(w->bus, BUS_PIO, 0xcf8, 4, w->host, PCI_HOST_ADDRESS), 0);
	assert_int_equal(bus_map(w->bus, BUS_PIO, 0xcfc, 4, w->host, PCI_HOST_DATA), 0);
	for (unsigned i = 0; i < 3; i++)
		add_model(w);
	reset(w->isa);
	reset(w->host);
	for (unsigned i = 0; i < 3; i++)
		reset(&w->model[i]->fn.dev);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < w->models; i++)
		w->model[i]->fn.dev.ops->destroy(&w->model[i]->fn.dev);
	w->isa->ops->destroy(w->isa);
	w->host->ops->destroy(w->host);
	w->reset->ops->destroy(w->reset);
	pci_bus_destroy(w->pci);
	bus_destroy(w->bus);
	free(w);
	return 0;
}

/* Slots 1.. are the models'. */
static uint32_t get(struct world *w, unsigned slot, unsigned reg, unsigned size)
{
	fix_out(w->bus, 0xcf8, 0x80000000u | slot << 11 | (reg & 0xfc), 4);
	return (uint32_t)fix_in(w->bus, 0xcfc + (reg & 3), size);
}

static void put(struct world *w, unsigned slot, unsigned reg, uint32_t value, unsigned size)
{
	fix_out(w->bus, 0xcf8, 0x80000000u | slot << 11 | (reg & 0xfc), 4);
	fix_out(w->bus, 0xcfc + (reg & 3), value, size);
}

static uint64_t load(struct world *w, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_read(w->bus, BUS_MMIO, addr, &value, size);
	return value;
}

static void store(struct world *w, uint64_t addr, uint64_t value, unsigned size)
{
	bus_write(w->bus, BUS_MMIO, addr, &value, size);
}

static void test_mechanisms(void **state)
{
	struct world *w = *state;

	assert_int_equal(get(w, 0, 0, 4), 0x29c08086);
	assert_int_equal(get(w, 31, 2, 2), 0x2918);
	assert_int_equal(get(w, 1, 0, 4), 0x56781234);
	assert_int_equal(get(w, 1, 8, 4), 0x01020304);
	assert_int_equal(get(w, 1, 0x2e, 2), 0xdef0);
	assert_int_equal(get(w, 9, 0, 4), 0xffffffff);
	fix_out(w->bus, 0xcf8, 0x80010000, 4); /* bus 1 */
	assert_int_equal(fix_in(w->bus, 0xcfc, 4), 0xffffffff);
	fix_out(w->bus, 0xcf8, 0x00000000, 4); /* not enabled */
	assert_int_equal(fix_in(w->bus, 0xcfc, 4), 0xffffffff);
	fix_out(w->bus, 0xcf8, 0x80000803, 4);
	assert_int_equal(fix_in(w->bus, 0xcf8, 4), 0x80000800);
	fix_out(w->bus, 0xcf9, 6, 1); /* the reset port in between */
	assert_int_equal(w->rec.requests, 1);
	assert_int_equal(fix_in(w->bus, 0xcf8, 4), 0x80000800);
	assert_int_equal(load(w, ECAM + (1 << 15), 4), 0x56781234);
	assert_int_equal(load(w, ECAM + (1 << 15) + 2, 1), 0x78);
	assert_int_equal(load(w, ECAM + (1 << 15) + 0x100, 4), 0xffffffff);
	assert_int_equal(load(w, ECAM + (1 << 20), 4), 0xffffffff);
	store(w, ECAM + (1 << 15) + PCI_INTERRUPT_LINE, 0x5a, 1);
	assert_int_equal(get(w, 1, PCI_INTERRUPT_LINE, 1), 0x5a);
	put(w, 1, 0, 0, 4); /* read-only */
	assert_int_equal(get(w, 1, 0, 4), 0x56781234);
}

static void test_ecam_moves(void **state)
{
	struct world *w = *state;

	put(w, 0, 0x60, 0xe0000001, 4);
	assert_int_equal(load(w, ECAM, 4), 0xffffffff);
	assert_int_equal(load(w, 0xe0000000, 4), 0x29c08086);
	put(w, 0, 0x60, 0xe0000000, 4);
	assert_int_equal(load(w, 0xe0000000, 4), 0xffffffff);
	reset(w->host);
	assert_int_equal(load(w, ECAM, 4), 0x29c08086);
}

static void test_bar_sizing(void **state)
{
	struct world *w = *state;

	put(w, 1, 0x10, 0xffffffff, 4);
	assert_int_equal(get(w, 1, 0x10, 4), 0xffffc000);
	put(w, 1, 0x18, 0xffffffff, 4);
	assert_int_equal(get(w, 1, 0x18, 4), 0xffffffe1);
	put(w, 1, 0x20, 0xffffffff, 4);
	put(w, 1, 0x24, 0xffffffff, 4);
	assert_int_equal(get(w, 1, 0x20, 4), 0xffff000c);
	assert_int_equal(get(w, 1, 0x24, 4), 0xffffffff);
	put(w, 1, 0x1c, 0xffffffff, 4); /* BAR 3: none */
	assert_int_equal(get(w, 1, 0x1c, 4), 0);
	put(w, 1, PCI_COMMAND, 7, 2); /* decoding on while all ones: nowhere */
	assert_int_equal(w->model[0]->moved, 0);
}

static void test_bar_moves(void **state)
{
	struct world *w = *state;

	put(w, 1, 0x10, 0xc0000000, 4);
	put(w, 1, 0x18, 0xc000, 4);
	put(w, 1, 0x20, 0, 4);
	put(w, 1, 0x24, 8, 4);
	assert_int_equal(load(w, 0xc0000010, 4), 0xffffffff);
	put(w, 1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(load(w, 0xc0000010, 4), 0x10);
	assert_int_equal(load(w, UINT64_C(0x800000020), 4), 0x40020);
	assert_int_equal(fix_in(w->bus, 0xc004, 4), 0xffffffff); /* ports are off */
	put(w, 1, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_IO, 2);
	assert_int_equal(fix_in(w->bus, 0xc004, 4), 0x20004);
	put(w, 1, 0x10, 0xd0000000, 4);
	assert_int_equal(load(w, 0xc0000010, 4), 0xffffffff);
	assert_int_equal(load(w, 0xd0000010, 4), 0x10);
	assert_int_equal(w->model[0]->moved, 0xd0000000);
	store(w, 0xd0000000, 77, 4);
	assert_int_equal(w->model[0]->last, 77);
	reset(&w->model[0]->fn.dev);
	assert_int_equal(load(w, 0xd0000010, 4), 0xffffffff);
	assert_int_equal(get(w, 1, 0x10, 4), 0);
}

/* Two functions at one place: the first has it, the second gets it when the first goes. */
static void test_bar_over_another(void **state)
{
	struct world *w = *state;

	for (unsigned slot = 1; slot < 3; slot++) {
		put(w, slot, 0x10, 0xc0000000, 4);
		put(w, slot, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	}
	store(w, 0xc0000000, 1, 4);
	assert_int_equal(w->model[0]->last, 1);
	put(w, 1, 0x10, 0xc0004000, 4);
	store(w, 0xc0000000, 2, 4);
	assert_int_equal(w->model[1]->last, 2);
	assert_int_equal(w->model[0]->last, 1);
	put(w, 3, 0x10, ECAM, 4); /* over ECAM */
	put(w, 3, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(load(w, ECAM, 4), 0x29c08086);
}

static void test_assignment(void **state)
{
	struct world *w = *state;
	const struct pci_windows windows = { 0xc0000000, 0xc0100000, 0xc000, 0xc100 };
	const struct pci_windows small = { 0xc0000000, 0xc0010000, 0xc000, 0xc100 };

	assert_int_equal(pci_bus_assign(w->pci, &windows), 0);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t base = get(w, i + 1, 0x10, 4);

		assert_int_equal(base, w->model[i]->moved);
		store(w, base, i + 10, 4);
		assert_int_equal(w->model[i]->last, i + 10);
	}
	assert_int_equal(pci_bus_assign(w->pci, &small), -ENOSPC);
}

static void test_msix(void **state)
{
	struct world *w = *state;
	struct pci_function *fn = &w->model[0]->fn;
	const uint64_t table = 0xc1000000;
	unsigned cap = get(w, 1, PCI_CAPABILITY_LIST, 1);

	assert_true(get(w, 1, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
	assert_int_equal(get(w, 1, cap, 1), PCI_CAP_ID_MSIX);
	assert_int_equal(get(w, 1, cap + 2, 2), 2); /* three vectors */
	put(w, 1, 0x14, (uint32_t)table, 4);
	put(w, 1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(load(w, table + 16 + 12, 4), 1); /* masked at reset */
	pci_msix_notify(fn, 1);                           /* disabled: lost */
	put(w, 1, cap + 2, 0x8000, 2);
	store(w, table + 16, UINT64_C(0x1fee01000), 8);
	store(w, table + 24, 0x41, 4);
	assert_int_equal(load(w, table + 16, 8), UINT64_C(0x1fee01000));
	pci_msix_notify(fn, 1);
	assert_int_equal(w->msis, 0);
	assert_int_equal(load(w, table + 0x800, 8), 2);
	store(w, table + 28, 0, 4); /* unmasked, but no bus master */
	assert_int_equal(w->msis, 0);
	put(w, 1, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	assert_int_equal(w->msis, 1);
	assert_true(w->msi_address == UINT64_C(0x1fee01000));
	assert_int_equal(w->msi_data, 0x41);
	assert_int_equal(load(w, table + 0x800, 4), 0);
	put(w, 1, cap + 2, 0xc000, 2); /* function mask */
	pci_msix_notify(fn, 1);
	pci_msix_notify(fn, 1);
	pci_msix_notify(fn, 7); /* no such vector */
	assert_int_equal(w->msis, 1);
	put(w, 1, cap + 2, 0x8000, 2);
	assert_int_equal(w->msis, 2);
	store(w, table + 16, 0x1111, 2); /* too narrow */
	assert_int_equal(load(w, table + 16, 4), 0xfee01000);
	store(w, table + 0x800, 0xff, 4);
	assert_int_equal(load(w, table + 0x800, 4), 0);
}

static void test_lines(void **state)
{
	struct world *w = *state;
	unsigned gsi = PCI_PIRQ_GSI + pci_pirq(1, 0);
	unsigned cap = get(w, 1, PCI_CAPABILITY_LIST, 1);

	assert_int_equal(get(w, 1, PCI_INTERRUPT_PIN, 1), 1);
	pci_intx_set(&w->model[0]->fn, true);
	assert_true(w->rec.level[gsi]);
	assert_int_equal(get(w, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	put(w, 1, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
	assert_false(w->rec.level[gsi]);
	assert_int_equal(get(w, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	put(w, 1, PCI_COMMAND, 0, 2);
	assert_true(w->rec.level[gsi]);
	put(w, 1, cap + 2, 0x8000, 2); /* MSI-X takes its place */
	assert_false(w->rec.level[gsi]);
	put(w, 1, cap + 2, 0, 2);
	/* For guests without IOAPIC: onto an ISA interrupt. */
	assert_int_equal(w->rec.rises[10] + w->rec.rises[11], 0);
	pci_isa_bridge_route(w->pci);
	assert_true(w->rec.level[PCI_PIRQ_ISA(pci_pirq(1, 0))]);
	pci_intx_set(&w->model[0]->fn, false);
	assert_false(w->rec.level[gsi]);
	assert_false(w->rec.level[PCI_PIRQ_ISA(pci_pirq(1, 0))]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_mechanisms),       TEST(test_ecam_moves), TEST(test_bar_sizing), TEST(test_bar_moves),
		TEST(test_bar_over_another), TEST(test_assignment), TEST(test_msix),       TEST(test_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
