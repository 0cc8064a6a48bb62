/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio device on a board, driven through its registers: PCI with MSI-X or a line, and MMIO. */
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <time.h>

#include "boardfix.h"
#include "device/pci/pci.h"
#include "machine/ram.h"

#define RAM_SIZE (UINT64_C(4) << 20)
#define DESC 0x200000u
#define DRIVER 0x201000u
#define DEVICE 0x202000u
#define DATA 0x210000u
#define MSI_ADDRESS 0xfee00000u
#define MMIO 0xfeb00000u
#define F_VERSION_1_HIGH 1u

struct world {
	struct guest_ram ram;
	struct recorder rec;
	struct board *board;
	struct bus *bus;
	uint64_t common, notify, isr; /* addresses */
	unsigned access;              /* the capability for configuration accesses */
	_Atomic unsigned msis;
	_Atomic uint32_t msi_data;
	_Atomic unsigned level; /* of the lines, as bits */
};

static void take_msi(void *ctx, uint64_t address, uint32_t data)
{
	struct world *w = ctx;

	assert_int_equal(address, MSI_ADDRESS);
	w->msi_data = data;
	w->msis++;
}

static void take_line(void *ctx, unsigned n, bool level)
{
	struct world *w = ctx;

	if (level)
		w->level |= BIT32(n);
	else
		w->level &= ~BIT32(n);
}

static struct world *create(enum board_kind kind, const char *device)
{
	struct world *w = calloc(1, sizeof(*w));
	const char *const devices[] = { device, NULL };
	struct board_config config = { .kind = kind,
				       .ram = &w->ram,
				       .cpus = 1,
				       .gsi = { .set = take_line, .ctx = w },
				       .accel = { .msi = take_msi, .ctx = w },
				       .control = fix_control(&w->rec),
				       .devices = devices };

	assert_int_equal(ram_create(&w->ram, RAM_SIZE), 0);
	assert_int_equal(board_create(&config, &w->board), 0);
	board_reset(w->board);
	w->bus = board_bus(w->board);
	return w;
}

static void destroy(struct world *w)
{
	board_destroy(w->board);
	ram_destroy(&w->ram);
	free(w);
}

/* The I/O thread works on its own: wait until it has. */
#define WAIT_FOR(condition)                                                                                            \
	do {                                                                                                           \
		for (unsigned waited_ = 0; !(condition); waited_++) {                                                  \
			struct timespec ms_ = { .tv_nsec = 1000000 };                                                  \
                                                                                                                       \
			assert_true(waited_ < 20000);                                                                  \
			nanosleep(&ms_, NULL);                                                                         \
		}                                                                                                      \
	} while (0)

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

static uint32_t config(struct world *w, unsigned reg, unsigned size)
{
	fix_out(w->bus, 0xcf8, 0x80000800 | (reg & 0xfc), 4);
	return (uint32_t)fix_in(w->bus, 0xcfc + (reg & 3), size);
}

static void set_config(struct world *w, unsigned reg, uint32_t value, unsigned size)
{
	fix_out(w->bus, 0xcf8, 0x80000800 | (reg & 0xfc), 4);
	fix_out(w->bus, 0xcfc + (reg & 3), value, size);
}

/* Walk the capabilities as a driver does. */
static void find_structures(struct world *w)
{
	unsigned seen = 0;

	assert_int_equal(config(w, 0, 4), 0x10441af4);
	for (unsigned at = config(w, PCI_CAPABILITY_LIST, 1); at; at = config(w, at + 1, 1)) {
		unsigned bar = config(w, at + 4, 1), offset = config(w, at + 8, 4);
		uint64_t base = config(w, PCI_BASE_ADDRESS_0 + 4 * bar, 4) & ~0xfu;

		assert_true(seen++ < 10);
		if (config(w, at, 1) != PCI_CAP_ID_VNDR)
			continue;
		assert_true(config(w, at + 2, 1) >= 16);
		switch (config(w, at + 3, 1)) {
		case VIRTIO_PCI_CAP_COMMON_CFG: w->common = base + offset; break;
		case VIRTIO_PCI_CAP_NOTIFY_CFG: w->notify = base + offset; break;
		case VIRTIO_PCI_CAP_ISR_CFG: w->isr = base + offset; break;
		case VIRTIO_PCI_CAP_PCI_CFG: w->access = at; break;
		default: fail();
		}
	}
	assert_true(w->common && w->notify && w->isr && w->access);
	set_config(w, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static uint8_t status(struct world *w)
{
	return (uint8_t)load(w, w->common + VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(struct world *w, uint8_t value)
{
	store(w, w->common + VIRTIO_PCI_COMMON_STATUS, value, 1);
}

static void accept_features(struct world *w, uint32_t low, uint32_t high)
{
	for (unsigned i = 0; i < 2; i++) {
		store(w, w->common + VIRTIO_PCI_COMMON_GFSELECT, i, 4);
		store(w, w->common + VIRTIO_PCI_COMMON_GF, i ? high : low, 4);
	}
}

static void to_features_ok(struct world *w, uint32_t low, uint32_t high)
{
	set_status(w, 0);
	assert_int_equal(status(w), 0);
	set_status(w, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	accept_features(w, low, high);
	set_status(w, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

static void enable_queue(struct world *w, uint32_t desc)
{
	memset(ram_ptr(&w->ram, DESC, 0x3000), 0, 0x3000);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_SIZE, 8, 2);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_DESCLO, desc, 4);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_AVAILLO, DRIVER, 4);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_USEDLO, DEVICE, 4);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

/* One writable buffer in descriptor 0, made available as the n-th. */
static void offer(struct world *w, unsigned n, uint64_t addr, uint32_t len)
{
	const uint16_t flags = 2, index = (uint16_t)n;

	ram_write(&w->ram, DESC, &addr, 8);
	ram_write(&w->ram, DESC + 8, &len, 4);
	ram_write(&w->ram, DESC + 12, &flags, 2);
	ram_write(&w->ram, DRIVER + 2, &index, 2);
}

static uint16_t used(struct world *w)
{
	return *(volatile uint16_t *)ram_ptr(&w->ram, DEVICE + 2, 2);
}

static void driver_ok(struct world *w)
{
	set_status(w, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
			      VIRTIO_CONFIG_S_DRIVER_OK);
}

static void use_msix(struct world *w)
{
	unsigned at = config(w, PCI_CAPABILITY_LIST, 1);
	uint64_t table;

	while (config(w, at, 1) != PCI_CAP_ID_MSIX)
		at = config(w, at + 1, 1);
	table = config(w, PCI_BASE_ADDRESS_0 + 4 * (config(w, at + 4, 4) & 7), 4) & ~0xfu;
	for (unsigned i = 0; i < 2; i++) {
		store(w, table + 16 * i, MSI_ADDRESS, 8);
		store(w, table + 16 * i + 8, 0x40 + i, 4);
		store(w, table + 16 * i + 12, 0, 4);
	}
	set_config(w, at + 2, PCI_MSIX_FLAGS_ENABLE, 2);
}

static void test_pci_with_messages(void **state)
{
	struct world *w = create(BOARD_PC, "virtio-rng-pci");

	(void)state;
	find_structures(w);
	use_msix(w);
	to_features_ok(w, 0, F_VERSION_1_HIGH);
	assert_true(status(w) & VIRTIO_CONFIG_S_FEATURES_OK);
	accept_features(w, 1u << 28, F_VERSION_1_HIGH); /* too late */
	store(w, w->common + VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_GF, 4), 0);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
	enable_queue(w, DESC);
	store(w, w->common + VIRTIO_PCI_COMMON_Q_MSIX, 1, 2);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
	store(w, w->common + VIRTIO_PCI_COMMON_MSIX, 9, 2); /* there is no such vector */
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
	offer(w, 1, DATA, 64);
	store(w, w->notify, 0, 2); /* before DRIVER_OK: not served */
	assert_int_equal(used(w), 0);
	driver_ok(w);
	WAIT_FOR(w->msis == 1);
	assert_int_equal(w->msi_data, 0x41);
	assert_int_equal(used(w), 1);
	offer(w, 2, DATA, 64);
	store(w, w->notify, 0, 2);
	WAIT_FOR(w->msis == 2);
	/* One queue's reset: nothing is served until it is set up again. */
	store(w, w->common + 58, 1, 2);
	assert_int_equal(load(w, w->common + 58, 2), 0);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	enable_queue(w, DESC);
	offer(w, 1, DATA, 64);
	store(w, w->notify, 0, 2);
	WAIT_FOR(used(w) == 1);
	set_status(w, 0);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	destroy(w);
}

static void test_pci_with_line(void **state)
{
	struct world *w = create(BOARD_PC, "virtio-rng-pci");
	uint8_t data[64] = { 0 }, zero[64] = { 0 };

	(void)state;
	find_structures(w);
	to_features_ok(w, 0, F_VERSION_1_HIGH);
	enable_queue(w, DESC);
	driver_ok(w);
	offer(w, 1, DATA, 64);
	store(w, w->notify, 0, 2);
	WAIT_FOR(w->level);
	ram_read(&w->ram, DATA, data, sizeof(data));
	assert_memory_not_equal(data, zero, sizeof(data));
	assert_int_equal(load(w, w->isr, 1), 1);
	assert_int_equal(w->level, 0);
	assert_int_equal(load(w, w->isr, 1), 0);
	destroy(w);
}

static void test_features(void **state)
{
	struct world *w = create(BOARD_PC, "virtio-rng-pci,packed=on,event_idx=off");

	(void)state;
	find_structures(w);
	store(w, w->common + VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_DF, 4), 1u << 28); /* indirect, no event index */
	store(w, w->common + VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_DF, 4), 1 | 1u << 2 | 1u << 8);
	store(w, w->common + VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
	assert_int_equal(load(w, w->common + VIRTIO_PCI_COMMON_DF, 4), 0);
	to_features_ok(w, 0, 0); /* not version 1 */
	assert_false(status(w) & VIRTIO_CONFIG_S_FEATURES_OK);
	driver_ok(w);
	assert_false(status(w) & VIRTIO_CONFIG_S_DRIVER_OK);
	to_features_ok(w, 1u << 29, F_VERSION_1_HIGH); /* not offered */
	assert_false(status(w) & VIRTIO_CONFIG_S_FEATURES_OK);
	to_features_ok(w, 1u << 28, F_VERSION_1_HIGH | 1u << 2);
	assert_true(status(w) & VIRTIO_CONFIG_S_FEATURES_OK);
	destroy(w);
}

static void test_broken_ring(void **state)
{
	struct world *w = create(BOARD_PC, "virtio-rng-pci");

	(void)state;
	find_structures(w);
	to_features_ok(w, 0, F_VERSION_1_HIGH);
	enable_queue(w, DESC);
	driver_ok(w);
	offer(w, 1, RAM_SIZE, 64);
	store(w, w->notify, 0, 2);
	WAIT_FOR(status(w) & VIRTIO_CONFIG_S_NEEDS_RESET);
	WAIT_FOR(w->level);
	assert_int_equal(load(w, w->isr, 1), 2); /* a configuration change */
	offer(w, 2, DATA, 64);
	store(w, w->notify, 0, 2); /* it stays stopped */
	to_features_ok(w, 0, F_VERSION_1_HIGH);
	enable_queue(w, RAM_SIZE); /* a ring outside memory */
	assert_true(status(w) & VIRTIO_CONFIG_S_NEEDS_RESET);
	to_features_ok(w, 0, F_VERSION_1_HIGH);
	enable_queue(w, DESC);
	driver_ok(w);
	offer(w, 1, DATA, 64);
	store(w, w->notify, 0, 2);
	WAIT_FOR(used(w) == 1);
	destroy(w);
}

/* Without BARs: through configuration space. */
static void test_access_capability(void **state)
{
	struct world *w = create(BOARD_PC, "virtio-rng-pci");

	(void)state;
	find_structures(w);
	set_config(w, PCI_COMMAND, 0, 2);
	set_config(w, w->access + 4, 0, 1);
	set_config(w, w->access + 8, VIRTIO_PCI_COMMON_NUMQ, 4);
	set_config(w, w->access + 12, 2, 4);
	assert_int_equal(config(w, w->access + 16, 2), 1);
	set_config(w, w->access + 8, VIRTIO_PCI_COMMON_STATUS, 4);
	set_config(w, w->access + 12, 1, 4);
	set_config(w, w->access + 16, VIRTIO_CONFIG_S_ACKNOWLEDGE, 1);
	set_config(w, w->access + 16, VIRTIO_CONFIG_S_ACKNOWLEDGE, 1);
	assert_int_equal(config(w, w->access + 16, 1), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_config(w, w->access + 8, 0xfffffffc, 4); /* beyond the BAR: nothing happens */
	set_config(w, w->access + 12, 4, 4);
	(void)config(w, w->access + 16, 4);
	set_config(w, w->access + 12, 3, 4);
	set_config(w, w->access + 16, 0, 4);
	set_config(w, w->access + 8, VIRTIO_PCI_COMMON_STATUS, 4);
	set_config(w, w->access + 12, 1, 4);
	assert_int_equal(config(w, w->access + 16, 1), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	destroy(w);
}

static void test_mmio(void **state)
{
	struct world *w = create(BOARD_MICROVM, "virtio-rng-device");

	(void)state;
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_MAGIC_VALUE, 4), 0x74726976);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_VERSION, 4), 2);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_DEVICE_ID, 4), 4);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_SHM_LEN_LOW, 4), 0xffffffff);
	store(w, MMIO + VIRTIO_MMIO_STATUS, 3, 4);
	store(w, MMIO + VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1, 4);
	store(w, MMIO + VIRTIO_MMIO_DRIVER_FEATURES, 1, 4);
	store(w, MMIO + VIRTIO_MMIO_STATUS, 11, 4);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_STATUS, 4), 11);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_SEL, 5, 4);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_QUEUE_NUM_MAX, 4), 0);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_SEL, 0, 4);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_QUEUE_NUM_MAX, 4), 64);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_NUM, 8, 4);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_DESC_LOW, DESC, 4);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_AVAIL_LOW, DRIVER, 4);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_USED_LOW, DEVICE, 4);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_READY, 1, 4);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_QUEUE_READY, 4), 1);
	store(w, MMIO + VIRTIO_MMIO_STATUS, 15, 4);
	offer(w, 1, DATA, 64);
	store(w, MMIO + VIRTIO_MMIO_QUEUE_NOTIFY, 0, 4);
	WAIT_FOR(w->level == BIT32(16));
	assert_int_equal(used(w), 1);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_INTERRUPT_STATUS, 4), 1);
	store(w, MMIO + VIRTIO_MMIO_INTERRUPT_ACK, 1, 4);
	assert_int_equal(w->level, 0);
	store(w, MMIO + VIRTIO_MMIO_STATUS, 0, 4);
	assert_int_equal(load(w, MMIO + VIRTIO_MMIO_QUEUE_READY, 4), 0);
	destroy(w);
}

static void test_options(void **state)
{
	static const struct {
		enum board_kind kind;
		const char *device;
	} bad[] = { { BOARD_PC, "virtio-rng-pci,packed=maybe" },
		    { BOARD_PC, "virtio-rng-pci,pack=on" },
		    { BOARD_PC, "virtio-rng-device" },
		    { BOARD_MICROVM, "virtio-rng-pci" } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct recorder rec = { 0 };
		struct guest_ram ram;
		const char *const devices[] = { bad[i].device, NULL };
		struct board_config c = {
			.kind = bad[i].kind, .ram = &ram, .cpus = 1, .control = fix_control(&rec), .devices = devices
		};
		struct board *board;

		assert_int_equal(ram_create(&ram, RAM_SIZE), 0);
		assert_true(board_create(&c, &board) < 0);
		ram_destroy(&ram);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pci_with_messages), cmocka_unit_test(test_pci_with_line),
		cmocka_unit_test(test_features),          cmocka_unit_test(test_broken_ring),
		cmocka_unit_test(test_access_capability), cmocka_unit_test(test_mmio),
		cmocka_unit_test(test_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
