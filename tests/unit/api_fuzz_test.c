/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API in the hands of a careless client: every request on every kind of handle, in random order, with random or
 * damaged arguments, and random guest code in between. Nothing may crash, hang or be written behind an argument's end.
 */
#include "apifix.h"
#include "base/compiler.h"
#include "fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

#define ROUNDS 4000
#define PER_VM 1000 /* then a new one */
#define ARENA_SIZE 0x100000u
#define ARG_SIZE 0x8000u
#define TICK_US 1000
#define HANG_S 20
#define VCPUS 2
#define SIGNAL_BIT(n) (UINT64_C(1) << ((n)-1))

struct world {
	struct fuzz z;
	int sys, vm, vcpu[VCPUS];
	struct kvm_run *run[VCPUS];
	uint8_t *arena; /* guest memory comes from here */
	uint8_t *arg;   /* ARG_SIZE bytes: survives from call to call, so what a GET gave comes back damaged in a SET */
	uint32_t msr[1024];
	unsigned msrs;
	unsigned runs, reached; /* KVM_RUNs; those that ended otherwise than by an error */
};

#define REQUESTS                                                                                                       \
	R(KVM_GET_API_VERSION)                                                                                         \
	R(KVM_CHECK_EXTENSION)                                                                                         \
	R(KVM_GET_VCPU_MMAP_SIZE)                                                                                      \
	R(KVM_GET_SUPPORTED_CPUID)                                                                                     \
	R(KVM_GET_EMULATED_CPUID)                                                                                      \
	R(KVM_GET_MSR_INDEX_LIST)                                                                                      \
	R(KVM_GET_MSR_FEATURE_INDEX_LIST)                                                                              \
	R(KVM_IRQ_LINE)                                                                                                \
	R(KVM_IRQ_LINE_STATUS)                                                                                         \
	R(KVM_SIGNAL_MSI)                                                                                              \
	R(KVM_ENABLE_CAP)                                                                                              \
	R(KVM_SET_USER_MEMORY_REGION)                                                                                  \
	R(KVM_CREATE_VCPU)                                                                                             \
	R(KVM_GET_DIRTY_LOG)                                                                                           \
	R(KVM_SET_TSS_ADDR)                                                                                            \
	R(KVM_SET_IDENTITY_MAP_ADDR)                                                                                   \
	R(KVM_CREATE_IRQCHIP)                                                                                          \
	R(KVM_CREATE_PIT2)                                                                                             \
	R(KVM_GET_IRQCHIP)                                                                                             \
	R(KVM_SET_IRQCHIP)                                                                                             \
	R(KVM_GET_PIT2)                                                                                                \
	R(KVM_SET_PIT2)                                                                                                \
	R(KVM_SET_BOOT_CPU_ID)                                                                                         \
	R(KVM_GET_CLOCK)                                                                                               \
	R(KVM_SET_CLOCK)                                                                                               \
	R(KVM_SET_TSC_KHZ)                                                                                             \
	R(KVM_GET_TSC_KHZ)                                                                                             \
	R(KVM_GET_REGS)                                                                                                \
	R(KVM_SET_REGS)                                                                                                \
	R(KVM_GET_SREGS)                                                                                               \
	R(KVM_SET_SREGS)                                                                                               \
	R(KVM_GET_SREGS2)                                                                                              \
	R(KVM_SET_SREGS2)                                                                                              \
	R(KVM_GET_FPU)                                                                                                 \
	R(KVM_SET_FPU)                                                                                                 \
	R(KVM_GET_XSAVE)                                                                                               \
	R(KVM_SET_XSAVE)                                                                                               \
	R(KVM_GET_XCRS)                                                                                                \
	R(KVM_SET_XCRS)                                                                                                \
	R(KVM_GET_DEBUGREGS)                                                                                           \
	R(KVM_SET_DEBUGREGS)                                                                                           \
	R(KVM_GET_MSRS)                                                                                                \
	R(KVM_SET_MSRS)                                                                                                \
	R(KVM_GET_CPUID2)                                                                                              \
	R(KVM_SET_CPUID2)                                                                                              \
	R(KVM_GET_VCPU_EVENTS)                                                                                         \
	R(KVM_SET_VCPU_EVENTS)                                                                                         \
	R(KVM_INTERRUPT)                                                                                               \
	R(KVM_NMI)                                                                                                     \
	R(KVM_GET_MP_STATE)                                                                                            \
	R(KVM_SET_MP_STATE)                                                                                            \
	R(KVM_GET_LAPIC)                                                                                               \
	R(KVM_SET_LAPIC)                                                                                               \
	R(KVM_TRANSLATE)                                                                                               \
	R(KVM_SET_SIGNAL_MASK)                                                                                         \
	R(KVM_KVMCLOCK_CTRL)                                                                                           \
	R(KVM_RUN)

static const unsigned long requests[] = {
#define R(x) x,
	REQUESTS
#undef R
};

static volatile sig_atomic_t alarms_without_progress;

/* Ends a KVM_RUN once a tick; a library that does not notice hangs. */
static void on_tick(int signal)
{
	(void)signal;
	if (alarms_without_progress++ > HANG_S * (1000000 / TICK_US))
		abort();
}

static void set_ticks(bool on)
{
	struct sigaction action = { .sa_handler = on_tick };
	struct itimerval interval = { { 0, on ? TICK_US : 0 }, { 0, on ? TICK_US : 0 } };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &interval, NULL);
}

static void create_vm(struct world *w)
{
	struct kvm_userspace_memory_region region = { .memory_size = ARENA_SIZE,
						      .userspace_addr = (uintptr_t)w->arena };

	w->vm = tz_ioctl(w->sys, KVM_CREATE_VM, 0);
	assert_true(w->vm >= 0);
	OK(tz_ioctl(w->vm, KVM_SET_USER_MEMORY_REGION, &region));
	if (fuzz_below(&w->z, 2)) {
		struct kvm_pit_config pit = { 0 };

		OK(tz_ioctl(w->vm, KVM_CREATE_IRQCHIP, 0));
		OK(tz_ioctl(w->vm, KVM_CREATE_PIT2, &pit));
	}
	for (unsigned i = 0; i < VCPUS; i++) {
		w->vcpu[i] = tz_ioctl(w->vm, KVM_CREATE_VCPU, i);
		assert_true(w->vcpu[i] >= 0);
		w->run[i] = map_run(w->vcpu[i]);
	}
}

static void destroy_vm(struct world *w)
{
	bool vm_first = fuzz_below(&w->z, 2);

	if (vm_first)
		OK(tz_close(w->vm));
	for (unsigned i = 0; i < VCPUS; i++) {
		munmap(w->run[i], 3 * 4096);
		OK(tz_close(w->vcpu[i]));
	}
	if (!vm_first)
		OK(tz_close(w->vm));
}

/* ---- arguments ---- */

static void fill_msrs(struct world *w)
{
	struct kvm_msrs *msrs = (void *)w->arg;

	msrs->nmsrs = (uint32_t)(fuzz_below(&w->z, 16) ? 1 + fuzz_below(&w->z, 8) : fuzz_value(&w->z));
	for (unsigned i = 0; i < 8; i++) {
		msrs->entries[i].index = w->msr[fuzz_below(&w->z, w->msrs)];
		if (fuzz_below(&w->z, 16) == 0)
			msrs->entries[i].index = (uint32_t)fuzz_value(&w->z);
		msrs->entries[i].data = fuzz_value(&w->z);
	}
}

/* Memory of the client is memory it has; where the guest sees it is its business. */
static void fill_region(struct world *w)
{
	struct kvm_userspace_memory_region *r = (void *)w->arg;
	uint64_t at = fuzz_below(&w->z, ARENA_SIZE);

	r->slot = (uint32_t)fuzz_below(&w->z, fuzz_below(&w->z, 8) ? 4 : UINT32_MAX);
	r->flags = (uint32_t)fuzz_below(&w->z, fuzz_below(&w->z, 8) ? 4 : UINT32_MAX);
	r->guest_phys_addr = fuzz_below(&w->z, 2) ? fuzz_below(&w->z, 0x200) << 12 : fuzz_value(&w->z);
	r->userspace_addr = (uintptr_t)w->arena + at;
	r->memory_size = fuzz_below(&w->z, ARENA_SIZE - at + 1);
	if (fuzz_below(&w->z, 8)) {
		r->userspace_addr &= ~UINT64_C(0xfff);
		r->memory_size &= ~UINT64_C(0xfff);
		r->guest_phys_addr &= ~UINT64_C(0xfff);
	}
}

/* KVM_GET_SUPPORTED_CPUID needs room, KVM_SET_CPUID2 a table; either may be absurd. */
static void fill_cpuid(struct world *w, bool set)
{
	struct kvm_cpuid2 *table = (void *)w->arg;

	table->nent = 128;
	if (set && tz_ioctl(w->sys, KVM_GET_SUPPORTED_CPUID, table) == 0 && fuzz_below(&w->z, 4))
		for (unsigned i = 0; i < table->nent && fuzz_below(&w->z, 2); i++)
			table->entries[i].eax = table->entries[i].ebx = table->entries[i].ecx = table->entries[i].edx =
				UINT32_MAX;
	if (fuzz_below(&w->z, 8) == 0)
		table->nent = (uint32_t)fuzz_value(&w->z);
}

static void fill_argument(struct world *w, unsigned long request)
{
	switch (request) {
	case KVM_GET_MSRS:
	case KVM_SET_MSRS: fill_msrs(w); return;
	case KVM_SET_USER_MEMORY_REGION: fill_region(w); return;
	case KVM_GET_SUPPORTED_CPUID:
	case KVM_GET_EMULATED_CPUID:
	case KVM_GET_CPUID2: fill_cpuid(w, false); return;
	case KVM_SET_CPUID2: fill_cpuid(w, true); return;
	case KVM_GET_MSR_INDEX_LIST:
	case KVM_GET_MSR_FEATURE_INDEX_LIST: *(uint32_t *)w->arg = (uint32_t)fuzz_below(&w->z, 2048); return;
	case KVM_GET_DIRTY_LOG:
		*(struct kvm_dirty_log *)w->arg = (struct kvm_dirty_log){ .slot = (uint32_t)fuzz_below(&w->z, 5),
									  .dirty_bitmap = w->arg + 0x1000 };
		return;
	case KVM_SET_SIGNAL_MASK: {
		uint64_t mask = fuzz_next(&w->z) & ~SIGNAL_BIT(SIGALRM);

		*(uint32_t *)w->arg = fuzz_below(&w->z, 8) ? 8 : (uint32_t)fuzz_value(&w->z);
		memcpy(w->arg + 4, &mask, sizeof(mask));
		return;
	}
	default:
		if (fuzz_below(&w->z, 2))
			fuzz_mutate(&w->z, w->arg, _IOC_SIZE(request) ? _IOC_SIZE(request) : 8);
	}
}

static bool takes_number(unsigned long request)
{
	return _IOC_SIZE(request) == 0;
}

/* ---- guest code ---- */

/* Opcodes by map and prefix; operands at random, so that memory operands meet random registers. */
static unsigned put_instruction(struct fuzz *z, uint8_t *p)
{
	static const uint8_t prefixes[] = {
		0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x48, 0x4c
	};
	unsigned n = 0;

	while (n < 3 && fuzz_below(z, 2))
		p[n++] = prefixes[fuzz_below(z, sizeof(prefixes))];
	switch (fuzz_below(z, 6)) {
	case 0: p[n++] = 0x0f; break;
	case 1:
		p[n++] = 0x0f;
		p[n++] = fuzz_below(z, 2) ? 0x38 : 0x3a;
		break;
	case 2:
		p[n++] = 0xc4;
		p[n++] = (uint8_t)(0xe0 | (1 + fuzz_below(z, 3)));
		p[n++] = (uint8_t)fuzz_next(z);
		break;
	case 3:
		p[n++] = 0x62;
		p[n++] = (uint8_t)(0xf0 | (1 + fuzz_below(z, 3)));
		p[n++] = (uint8_t)(fuzz_next(z) | 4);
		p[n++] = (uint8_t)fuzz_next(z);
		break;
	default: break;
	}
	fuzz_bytes(z, p + n, 7);
	return n + 2 + (unsigned)fuzz_below(z, 6);
}

static void put_code(struct world *w, uint64_t at)
{
	for (unsigned n = 0; n < 64;)
		n += put_instruction(&w->z, w->arena + (at + n) % (ARENA_SIZE - 0x100));
}

/* Page tables at 0x2000..0x4fff: identity in 2 MiB pages, with damage now and then. */
static void put_page_tables(struct world *w)
{
	uint64_t *table = (uint64_t *)(w->arena + 0x2000);

	table[0] = 0x3007;
	table[511] = 0x3007;
	table[512] = 0x4007;
	table[1023] = 0x4007;
	for (unsigned i = 0; i < 512; i++)
		table[1024 + i] = (uint64_t)i << 21 | 0xe7;
	if (fuzz_below(&w->z, 4) == 0)
		fuzz_mutate(&w->z, table, 0x3000);
}

/* Vector state of all kinds, and what it takes that a guest may use it. */
static void set_vectors(struct world *w, int vcpu)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = fuzz_below(&w->z, 4) ? 0xe7 : 7 };
	static struct kvm_xsave image;

	(void)tz_ioctl(vcpu, KVM_SET_XCRS, &xcrs);
	if (fuzz_below(&w->z, 4) || tz_ioctl(vcpu, KVM_GET_XSAVE, &image))
		return;
	fuzz_bytes(&w->z, image.region + 40, 352);             /* ST and XMM */
	image.region[6] = 0x1f80 & (uint32_t)fuzz_next(&w->z); /* MXCSR: unmasked exceptions */
	image.region[0] = 0x37f & (uint32_t)fuzz_next(&w->z);
	image.region[128] |= 3;
	(void)tz_ioctl(vcpu, KVM_SET_XSAVE, &image);
}

/* A state that can execute something: real, 16-bit, 32-bit, 64-bit, and then one of its registers damaged. */
static void set_state(struct world *w, int vcpu)
{
	unsigned mode = (unsigned)fuzz_below(&w->z, 4);
	struct kvm_sregs s;
	struct kvm_regs r;
	uint64_t rip = 0x8000 + fuzz_below(&w->z, 0x4000);

	for (unsigned i = 0; i < sizeof(r) / 8; i++)
		((uint64_t *)&r)[i] = fuzz_below(&w->z, 3) ? fuzz_below(&w->z, ARENA_SIZE) : fuzz_value(&w->z);
	r.rip = rip;
	r.rflags = fuzz_below(&w->z, 4) ? 2 : fuzz_value(&w->z);
	if (tz_ioctl(vcpu, KVM_GET_SREGS, &s))
		return;
	s.cr0 = mode ? 0x11 : 0x10;
	s.cr4 = fuzz_below(&w->z, 4) ? 0x40600 : 0; /* OSXSAVE, OSFXSR, OSXMMEXCPT */
	s.efer = 0;
	s.cs = (struct kvm_segment){ .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .g = 1 };
	s.cs.db = mode == 2;
	s.cs.l = mode == 3;
	s.cs.dpl = fuzz_below(&w->z, 4) ? 0 : 3;
	s.ds = s.es = s.fs = s.gs = s.ss = s.cs;
	s.ds.type = s.es.type = s.fs.type = s.gs.type = s.ss.type = 3;
	s.ss.db = 1;
	s.gdt.base = s.idt.base = fuzz_below(&w->z, ARENA_SIZE);
	s.gdt.limit = s.idt.limit = 0xffff;
	s.cr3 = 0x2000;
	if (mode == 3 || (mode == 2 && fuzz_below(&w->z, 2))) {
		s.cr0 |= UINT64_C(0x80000000);
		s.cr4 |= 0x20 | (fuzz_next(&w->z) & 0x10);
	}
	if (mode == 3)
		s.efer = 0xd01;
	if (fuzz_below(&w->z, 4) == 0)
		fuzz_mutate(&w->z, &s, sizeof(s));
	(void)tz_ioctl(vcpu, KVM_SET_SREGS, &s);
	(void)tz_ioctl(vcpu, KVM_SET_REGS, &r);
	set_vectors(w, vcpu);
	put_page_tables(w);
	put_code(w, rip);
}

static void run_guest(struct world *w, unsigned n)
{
	if (fuzz_below(&w->z, 4))
		set_state(w, w->vcpu[n]);
	for (unsigned i = 0; i < 4; i++) {
		fuzz_bytes(&w->z, (uint8_t *)w->run[n] + 0x1000, 8);
		w->run[n]->immediate_exit = fuzz_below(&w->z, 16) == 0;
		w->run[n]->request_interrupt_window = fuzz_below(&w->z, 16) == 0;
		w->run[n]->cr8 = fuzz_below(&w->z, 16) ? 0 : fuzz_value(&w->z);
		w->run[n]->kvm_valid_regs = fuzz_below(&w->z, 8);
		w->run[n]->kvm_dirty_regs = fuzz_below(&w->z, 8) ? 0 : fuzz_below(&w->z, 16);
		w->runs++;
		if (tz_ioctl(w->vcpu[n], KVM_RUN, 0) == 0)
			w->reached++;
		else
			break;
	}
}

static int some_handle(struct world *w)
{
	switch (fuzz_below(&w->z, 16)) {
	case 0: return w->sys;
	case 1: return (int)fuzz_below(&w->z, 32) - 4;
	case 2: return (int)fuzz_value(&w->z);
	case 3 ... 7: return w->vm;
	default: return w->vcpu[fuzz_below(&w->z, VCPUS)];
	}
}

static void one_call(struct world *w)
{
	unsigned long request = requests[fuzz_below(&w->z, ARRAY_SIZE(requests))];
	int fd = some_handle(w);

	if (request == KVM_RUN) {
		run_guest(w, (unsigned)fuzz_below(&w->z, VCPUS));
	} else if (request == KVM_CREATE_VCPU) {
		int vcpu = tz_ioctl(fd, request, fuzz_below(&w->z, 2) ? fuzz_below(&w->z, 8) : fuzz_value(&w->z));

		if (vcpu >= 0)
			OK(tz_close(vcpu));
	} else if (takes_number(request)) {
		(void)tz_ioctl(fd, request, fuzz_below(&w->z, 2) ? 0 : (unsigned long)fuzz_value(&w->z));
	} else if (fuzz_below(&w->z, 64) == 0) {
		(void)tz_ioctl(fd, request, NULL);
	} else {
		fill_argument(w, request);
		(void)tz_ioctl(fd, request, w->arg);
	}
}

static int fuzz_setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct kvm_msr_list *list;

	w->z = fuzz_start(11);
	w->sys = tz_open(getenv("FUZZ_ENGINE"));
	assert_true(w->sys >= 0);
	w->arena = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(w->arena != MAP_FAILED);
	w->arg = calloc(1, ARG_SIZE);
	list = (void *)w->arg;
	list->nmsrs = ARRAY_SIZE(w->msr);
	OK(tz_ioctl(w->sys, KVM_GET_MSR_INDEX_LIST, list));
	w->msrs = list->nmsrs;
	memcpy(w->msr, list->indices, w->msrs * sizeof(w->msr[0]));
	set_ticks(true);
	*state = w;
	return 0;
}

static int fuzz_teardown(void **state)
{
	struct world *w = *state;

	set_ticks(false);
	OK(tz_close(w->sys));
	munmap(w->arena, ARENA_SIZE);
	free(w->arg);
	free(w);
	return 0;
}

static void test_requests(void **state)
{
	struct world *w = *state;

	for (unsigned done = 0; done < fuzz_rounds(ROUNDS); done += PER_VM) {
		create_vm(w);
		for (unsigned i = 0; i < PER_VM; i++) {
			alarms_without_progress = 0;
			one_call(w);
		}
		destroy_vm(w);
	}
	assert_true(w->reached > 0);
}

/* One random state after the other: what a hostile guest does. */
static void test_guest_code(void **state)
{
	struct world *w = *state;

	for (unsigned done = 0; done < fuzz_rounds(ROUNDS); done += PER_VM) {
		create_vm(w);
		for (unsigned i = 0; i < PER_VM; i++) {
			alarms_without_progress = 0;
			run_guest(w, 0);
		}
		destroy_vm(w);
	}
	assert_true(w->reached > w->runs / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_requests, fuzz_setup, fuzz_teardown),
		cmocka_unit_test_setup_teardown(test_guest_code, fuzz_setup, fuzz_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
