/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/legacy.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "machine/message.h"

#define STUBS_GPA UINT64_C(0xfff00) /* F000:FF00, in the reserved BIOS area */
#define PIC_MASTER_VECTOR 0x08
#define PIC_SLAVE_VECTOR 0x70
#define PIC_CASCADE 2
#define PIC_SLAVE_LEVELS 0x0c /* IRQ 10 and 11 are the PCI lines' */

/* 16-bit code; offsets in the IVT below. */
static const uint8_t stubs[] = {
	0xcf,                                                 /* +0 exceptions, software interrupts: iret */
	0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf,             /* +1 master: EOI */
	0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf, /* +8 slave: EOI to both */
};

static void write_ivt(const struct guest_ram *ram)
{
	uint32_t ivt[256];

	for (unsigned i = 0; i < 256; i++) {
		uint32_t stub = (uint32_t)(STUBS_GPA - 0xf0000);

		if (i >= PIC_MASTER_VECTOR && i < PIC_MASTER_VECTOR + 8)
			stub += 1;
		else if (i >= PIC_SLAVE_VECTOR && i < PIC_SLAVE_VECTOR + 8)
			stub += 8;
		ivt[i] = UINT32_C(0xf000) << 16 | stub;
	}
	ram_write(ram, 0, ivt, sizeof(ivt));
	ram_write(ram, STUBS_GPA, stubs, sizeof(stubs));
}

static int setup_pic(const struct accel *accel, int vm_fd, unsigned chip_id, uint8_t vector, uint8_t mask,
		     uint8_t levels)
{
	struct kvm_irqchip chip = { .chip_id = chip_id };

	if (accel->ioctl(vm_fd, KVM_GET_IRQCHIP, (uintptr_t)&chip) < 0)
		return -errno;
	chip.chip.pic.irq_base = vector;
	chip.chip.pic.imr = mask;
	chip.chip.pic.elcr = levels;
	chip.chip.pic.init_state = 0;
	return accel->ioctl(vm_fd, KVM_SET_IRQCHIP, (uintptr_t)&chip) < 0 ? -errno : 0;
}

static int setup_pit(const struct accel *accel, int vm_fd)
{
	struct kvm_pit_state2 pit;

	if (accel->ioctl(vm_fd, KVM_GET_PIT2, (uintptr_t)&pit) < 0)
		return -errno;
	pit.channels[0].count = 0x10000;
	pit.channels[0].mode = 2;
	pit.channels[0].rw_mode = 3;
	pit.channels[0].gate = 1;
	return accel->ioctl(vm_fd, KVM_SET_PIT2, (uintptr_t)&pit) < 0 ? -errno : 0;
}

int legacy_setup(const struct accel *accel, int vm_fd, const struct guest_ram *ram)
{
	int err;

	if (ram)
		write_ivt(ram);
	err = setup_pic(accel, vm_fd, KVM_IRQCHIP_PIC_MASTER, PIC_MASTER_VECTOR, (uint8_t) ~(1u | 1u << PIC_CASCADE),
			0);
	if (!err)
		err = setup_pic(accel, vm_fd, KVM_IRQCHIP_PIC_SLAVE, PIC_SLAVE_VECTOR, 0xff, PIC_SLAVE_LEVELS);
	if (!err)
		err = setup_pit(accel, vm_fd);
	if (err)
		msg_error("cannot set up the interrupt controllers: %s", strerror(-err));
	return err;
}
