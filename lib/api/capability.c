/* SPDX-License-Identifier: Apache-2.0 */
/* KVM_CHECK_EXTENSION: what works, and nothing else. A capability that is not here is 0. */
#include <errno.h>
#include <unistd.h>

#include "api/api.h"
#include "x86/fpu.h"

/* The recommended number of vCPUs: one a host CPU. */
static int host_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	if (n < 1)
		return 1;
	return n > VM_MAX_VCPUS ? VM_MAX_VCPUS : (int)n;
}

struct capability {
	int number;
	int value;        /* what KVM_CHECK_EXTENSION returns, */
	int (*ask)(void); /* or the function that knows */
};

static const struct capability capabilities[] = {
	{ KVM_CAP_IRQCHIP, 1, NULL },
	{ KVM_CAP_HLT, 1, NULL },
	{ KVM_CAP_USER_MEMORY, 1, NULL },
	{ KVM_CAP_SET_TSS_ADDR, 1, NULL },
	{ KVM_CAP_EXT_CPUID, 1, NULL },
	{ KVM_CAP_CLOCKSOURCE, 1, NULL },
	{ KVM_CAP_NR_VCPUS, 0, host_cpus },
	{ KVM_CAP_NR_MEMSLOTS, MEM_SLOTS_MAX, NULL },
	{ KVM_CAP_NOP_IO_DELAY, 1, NULL },
	{ KVM_CAP_MP_STATE, 1, NULL },
	{ KVM_CAP_SYNC_MMU, 1, NULL }, /* guest memory is the client's mapping itself */
	{ KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1, NULL },
	{ KVM_CAP_USER_NMI, 1, NULL },
	{ KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1, NULL },
	{ KVM_CAP_IRQ_ROUTING, IRQCHIP_GSI_MAX, NULL },
	{ KVM_CAP_IRQFD, 1, NULL },
	{ KVM_CAP_PIT2, 1, NULL },
	{ KVM_CAP_SET_BOOT_CPU_ID, 1, NULL },
	{ KVM_CAP_PIT_STATE2, 1, NULL },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, 1, NULL },
	{ KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC, NULL },
	{ KVM_CAP_IOEVENTFD, 1, NULL },
	{ KVM_CAP_INTERNAL_ERROR_DATA, 1, NULL },
	{ KVM_CAP_VCPU_EVENTS, 1, NULL },
	{ KVM_CAP_INTR_SHADOW, 1, NULL },
	{ KVM_CAP_DEBUGREGS, 1, NULL },
	{ KVM_CAP_XSAVE, 1, NULL },
	{ KVM_CAP_XCRS, 1, NULL },
	{ KVM_CAP_TSC_CONTROL, 1, NULL },
	{ KVM_CAP_GET_TSC_KHZ, 1, NULL },
	{ KVM_CAP_MAX_VCPUS, VM_MAX_VCPUS, NULL },
	{ KVM_CAP_TSC_DEADLINE_TIMER, 1, NULL },
	{ KVM_CAP_KVMCLOCK_CTRL, 1, NULL },
	{ KVM_CAP_SIGNAL_MSI, 1, NULL },
	{ KVM_CAP_READONLY_MEM, 1, NULL },
	{ KVM_CAP_IRQFD_RESAMPLE, 1, NULL },
	{ KVM_CAP_IOEVENTFD_NO_LENGTH, 1, NULL },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, 1, NULL },
	{ KVM_CAP_EXT_EMUL_CPUID, 1, NULL },
	{ KVM_CAP_CHECK_EXTENSION_VM, 1, NULL },
	{ KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS, NULL },
	{ KVM_CAP_MAX_VCPU_ID, VM_MAX_VCPUS, NULL },
	{ KVM_CAP_IMMEDIATE_EXIT, 1, NULL },
	{ KVM_CAP_GET_MSR_FEATURES, 1, NULL },
	{ KVM_CAP_SREGS2, 1, NULL },
	{ KVM_CAP_XSAVE2, X86_XSAVE_AREA, NULL },
	{ KVM_CAP_VM_TSC_CONTROL, 1, NULL },
};

int check_extension(const struct call *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
		if ((unsigned long)capabilities[i].number == c->arg)
			return capabilities[i].ask ? capabilities[i].ask() : capabilities[i].value;
	return 0;
}

/* Nothing needs to be switched on yet; the answer to an unknown one is the kernel's. */
int enable_cap(const struct call *c)
{
	(void)c;
	return -EINVAL;
}
