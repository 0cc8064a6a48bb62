/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM API in the hands of a careless client: every request the library has, on every kind of handle, in any order,
 * with random or damaged arguments, and random guest code run in between. The requests come from the library's own
 * tables, so a new one is fuzzed from its first day; one whose argument holds a pointer, a descriptor or an array needs
 * a row in fill() and length().
 *
 * Input: two bytes of set-up, then a sequence of operations.
 */
#include <linux/kvm.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "input.h"
#include "insn_gen.h"
#include "trapeze/trapeze.h"

#define ARENA_SIZE 0x40000u
#define GUARD UINT64_C(0x100000000)
#define SCRATCH_SIZE 0x4000u
#define RUN_SIZE (3 * 4096)
#define VCPUS 2
#define RUNS_MAX 16 /* each may last until the next tick */
#define TICK_NS 1000000
#define REQUESTS_MAX 256
#define CODE_CACHE (UINT64_C(1) << 20)

struct world {
	struct input in;
	int sys, vm, vcpu[VCPUS], event_fd[2];
	struct kvm_run *run[VCPUS];
	uint8_t *arena;                /* guest memory comes from here */
	uint8_t scratch[SCRATCH_SIZE]; /* what a GET gave comes back damaged in a SET */
	unsigned runs;
};

static const struct request *requests[REQUESTS_MAX];
static unsigned request_count;
static uint32_t msrs[1024];
static uint8_t *arena;

/* ---- once ---- */

static void on_tick(int signal)
{
	(void)signal;
}

/* A signal for this thread once a tick: KVM_RUN must notice it. */
static void start_ticks(void)
{
	struct sigaction action = { .sa_handler = on_tick };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN };
	struct itimerspec interval = { { 0, TICK_NS }, { 0, TICK_NS } };
	timer_t timer;

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	CHECK(timer_settime(timer, 0, &interval, NULL) == 0);
}

static void add_requests(const struct request_table *table)
{
	for (size_t i = 0; i < table->count; i++) {
		CHECK(request_count < REQUESTS_MAX);
		requests[request_count++] = &table->row[i];
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[ARRAY_SIZE(msrs)];
	} list = { .head.nmsrs = ARRAY_SIZE(msrs) };
	int sys = tz_open("interp");
	uint8_t *p = mmap(NULL, ARENA_SIZE + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	(void)argc, (void)argv;
	add_requests(&system_requests);
	add_requests(&vm_requests);
	add_requests(&vcpu_requests);
	CHECK(sys >= 0 && tz_ioctl(sys, KVM_GET_MSR_INDEX_LIST, &list) == 0);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		msrs[i] = list.index[i % list.head.nmsrs];
	tz_close(sys);
	/* Accesses of the guest that miss its memory are seen. */
	CHECK(p != MAP_FAILED);
	arena = p + GUARD;
	CHECK(mprotect(arena, ARENA_SIZE, PROT_READ | PROT_WRITE) == 0);
	start_ticks();
	return 0;
}

/* ---- the machine ---- */

static void create_vm(struct world *w)
{
	const char *const *engines = tz_engine_names();
	unsigned count = 0, flags = input_u8(&w->in);
	struct kvm_userspace_memory_region region = { .memory_size = ARENA_SIZE,
						      .userspace_addr = (uintptr_t)w->arena };
	struct kvm_pit_config pit = { 0 };

	while (engines[count])
		count++;
	w->sys = tz_open(engines[input_u8(&w->in) % count]);
	CHECK(w->sys >= 0);
	CHECK(tz_set_option(w->sys, "code_cache_size", CODE_CACHE) == 0);
	w->vm = tz_ioctl(w->sys, KVM_CREATE_VM, 0);
	CHECK(w->vm >= 0);
	CHECK(tz_ioctl(w->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0);
	if (flags & 1)
		CHECK(tz_ioctl(w->vm, KVM_CREATE_IRQCHIP, 0) == 0);
	if ((flags & 3) == 3)
		CHECK(tz_ioctl(w->vm, KVM_CREATE_PIT2, &pit) == 0);
	for (unsigned i = 0; i < VCPUS; i++) {
		w->vcpu[i] = tz_ioctl(w->vm, KVM_CREATE_VCPU, i);
		CHECK(w->vcpu[i] >= 0);
		w->run[i] = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, w->vcpu[i], 0);
		CHECK(w->run[i] != MAP_FAILED);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(w->event_fd); i++) {
		w->event_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		CHECK(w->event_fd[i] >= 0);
	}
}

static void destroy_vm(struct world *w)
{
	CHECK(tz_close(w->sys) == 0);
	if (input_flag(&w->in))
		CHECK(tz_close(w->vm) == 0);
	else
		w->sys = -1;
	for (unsigned i = 0; i < VCPUS; i++) {
		munmap(w->run[i], RUN_SIZE);
		CHECK(tz_close(w->vcpu[i]) == 0);
	}
	if (w->sys < 0)
		CHECK(tz_close(w->vm) == 0);
	for (unsigned i = 0; i < ARRAY_SIZE(w->event_fd); i++)
		close(w->event_fd[i]);
}

/* ---- arguments ---- */

static void fill_msrs(struct world *w)
{
	struct kvm_msrs *m = (void *)w->scratch;

	m->nmsrs = input_rarely(&w->in, 16) ? (uint32_t)input_value(&w->in) : 1 + input_u8(&w->in) % 4;
	for (unsigned i = 0; i < 4 && i < m->nmsrs; i++) {
		m->entries[i].index = input_rarely(&w->in, 16) ? (uint32_t)input_value(&w->in)
							       : msrs[input_below(&w->in, ARRAY_SIZE(msrs))];
		m->entries[i].data = input_value(&w->in);
	}
}

/* Memory of the client is memory it has; where the guest sees it is its business. */
static void fill_region(struct world *w)
{
	struct kvm_userspace_memory_region *r = (void *)w->scratch;
	uint64_t at = input_below(&w->in, ARENA_SIZE);
	uint8_t odd = input_u8(&w->in);

	r->slot = odd & 1 ? (uint32_t)input_value(&w->in) : odd >> 6;
	r->flags = odd & 2 ? (uint32_t)input_value(&w->in) : (odd >> 4) & 3;
	r->guest_phys_addr = odd & 4 ? input_value(&w->in) : input_number(&w->in, 1) << 12;
	r->memory_size = input_below(&w->in, ARENA_SIZE - at + 1);
	if (!(odd & 8)) {
		at &= ~UINT64_C(0xfff);
		r->memory_size &= ~UINT64_C(0xfff);
		r->guest_phys_addr &= ~UINT64_C(0xfff);
	}
	r->userspace_addr = (uintptr_t)w->arena + at;
}

/* KVM_GET_SUPPORTED_CPUID needs room, KVM_SET_CPUID2 a table; either may be absurd. */
static void fill_cpuid(struct world *w, bool set)
{
	struct kvm_cpuid2 *table = (void *)w->scratch;
	uint8_t odd = input_u8(&w->in);

	table->nent = 160;
	if (set && tz_ioctl(w->sys, KVM_GET_SUPPORTED_CPUID, table) == 0 && odd & 1)
		input_mutate(&w->in, table->entries, table->nent * sizeof(table->entries[0]));
	if (odd >= 0xe0)
		table->nent = (uint32_t)input_value(&w->in);
}

static void fill_irqfd(struct world *w)
{
	struct kvm_irqfd *i = (void *)w->scratch;

	input_mutate(&w->in, i, sizeof(*i));
	i->fd = (uint32_t)w->event_fd[0];
	i->resamplefd = (uint32_t)w->event_fd[1];
	i->gsi = input_u8(&w->in);
	i->flags = input_u8(&w->in) & 7;
}

static void fill_ioeventfd(struct world *w)
{
	static const uint32_t lengths[] = { 0, 1, 2, 4, 8, 3 };
	struct kvm_ioeventfd *i = (void *)w->scratch;

	i->datamatch = input_value(&w->in);
	i->addr = input_value(&w->in);
	i->len = lengths[input_u8(&w->in) % ARRAY_SIZE(lengths)];
	i->fd = w->event_fd[input_u8(&w->in) & 1];
	i->flags = input_u8(&w->in) & 15;
}

static void fill_routing(struct world *w)
{
	struct kvm_irq_routing *r = (void *)w->scratch;

	r->nr = input_rarely(&w->in, 16) ? UINT32_MAX : input_u8(&w->in) % 8;
	r->flags = input_rarely(&w->in, 16);
	for (unsigned i = 0; i < 8 && i < r->nr; i++) {
		r->entries[i].gsi = input_u8(&w->in);
		r->entries[i].type = 1 + input_u8(&w->in) % 4;
		r->entries[i].flags = input_rarely(&w->in, 16);
		input_bytes(&w->in, &r->entries[i].u, 12);
	}
}

static void fill_signal_mask(struct world *w)
{
	uint64_t mask = input_value(&w->in) & ~(UINT64_C(1) << (SIGALRM - 1)) & ~(UINT64_C(1) << (SIGRTMIN - 1));

	*(uint32_t *)w->scratch = input_rarely(&w->in, 8) ? (uint32_t)input_value(&w->in) : 8;
	memcpy(w->scratch + 4, &mask, sizeof(mask));
}

static void fill(struct world *w, unsigned long request)
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
	case KVM_GET_MSR_FEATURE_INDEX_LIST: *(uint32_t *)w->scratch = (uint32_t)input_below(&w->in, 2048); return;
	case KVM_SET_SIGNAL_MASK: fill_signal_mask(w); return;
	case KVM_IRQFD: fill_irqfd(w); return;
	case KVM_IOEVENTFD: fill_ioeventfd(w); return;
	case KVM_SET_GSI_ROUTING: fill_routing(w); return;
	default:
		if (input_flag(&w->in))
			input_mutate(&w->in, w->scratch, _IOC_SIZE(request) ? _IOC_SIZE(request) : 8);
	}
}

/* Bytes that the library may touch: as the counts in the argument say, and where they are absurd, what it ever uses. */
static size_t length(const struct world *w, unsigned long request)
{
	uint32_t n = *(const uint32_t *)w->scratch;

	switch (request) {
	case KVM_GET_MSRS:
	case KVM_SET_MSRS: return sizeof(struct kvm_msrs) + (n < 256 ? n : 256) * sizeof(struct kvm_msr_entry);
	case KVM_GET_SUPPORTED_CPUID:
	case KVM_GET_EMULATED_CPUID:
	case KVM_GET_CPUID2:
	case KVM_SET_CPUID2: return sizeof(struct kvm_cpuid2) + (n < 256 ? n : 256) * sizeof(struct kvm_cpuid_entry2);
	case KVM_GET_MSR_INDEX_LIST:
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
		return sizeof(struct kvm_msr_list) + (n < ARRAY_SIZE(msrs) ? n : ARRAY_SIZE(msrs)) * 4;
	case KVM_SET_SIGNAL_MASK: return sizeof(struct kvm_signal_mask) + 8;
	case KVM_SET_GSI_ROUTING:
		return sizeof(struct kvm_irq_routing) + (n < 8 ? n : 0) * sizeof(struct kvm_irq_routing_entry);
	default: return _IOC_SIZE(request);
	}
}

/* Handles that a request made: given back. */
static void drop_handle(unsigned long request, int fd)
{
	if (fd < 0)
		return;
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU || request == KVM_GET_STATS_FD) {
		if (tz_owns(fd))
			CHECK(tz_close(fd) == 0);
		else
			close(fd);
	}
}

static void call_with_pointer(struct world *w, int fd, unsigned long request)
{
	size_t size;
	uint8_t *exact, *bitmap = NULL;

	fill(w, request);
	size = length(w, request);
	CHECK(size <= SCRATCH_SIZE);
	exact = malloc(size ? size : 1); /* the sanitizer sees an access past it */
	memcpy(exact, w->scratch, size);
	if (request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG) {
		bitmap = calloc(1, ARENA_SIZE / 4096 / 8);
		((struct kvm_dirty_log *)exact)->slot &= 3;
		((struct kvm_dirty_log *)exact)->dirty_bitmap = bitmap;
	}
	drop_handle(request, tz_ioctl(fd, request, exact));
	memcpy(w->scratch, exact, size);
	free(bitmap);
	free(exact);
}

static int some_handle(struct world *w)
{
	unsigned n = input_u8(&w->in);

	switch (n & 15) {
	case 0: return w->sys;
	case 1: return (int)(n >> 4) - 4;
	case 2: return (int)input_value(&w->in);
	case 3 ... 7: return w->vm;
	default: return w->vcpu[n >> 4 & 1];
	}
}

/* ---- guest code ---- */

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
	if (input_rarely(&w->in, 4))
		input_mutate(&w->in, table, 0x3000);
}

/* What is in the input, and behind it instructions at random. */
static void put_code(struct world *w, uint64_t at)
{
	unsigned from_input = input_u8(&w->in) % 32;
	struct random r = { input_number(&w->in, 2) };

	input_bytes(&w->in, w->arena + at, from_input);
	for (unsigned n = from_input; n < 96;)
		n += insn_gen(&r, w->arena + at + n);
}

static void set_segments(struct world *w, struct kvm_sregs *s, unsigned mode)
{
	s->cs = (struct kvm_segment){ .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .g = 1 };
	s->cs.db = mode == 2;
	s->cs.l = mode == 3;
	s->cs.dpl = input_rarely(&w->in, 4) ? 3 : 0;
	s->ds = s->es = s->fs = s->gs = s->ss = s->cs;
	s->ds.type = s->es.type = s->fs.type = s->gs.type = s->ss.type = 3;
	s->ss.db = 1;
	s->gdt.base = s->idt.base = input_below(&w->in, ARENA_SIZE);
	s->gdt.limit = s->idt.limit = 0xffff;
}

static void set_registers(struct world *w, int vcpu, uint64_t rip)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = input_rarely(&w->in, 4) ? 7 : 0xe7 };
	struct kvm_regs r;

	for (unsigned i = 0; i < sizeof(r) / 8; i++)
		((uint64_t *)&r)[i] = (uint64_t)i * 0x2468 % ARENA_SIZE;
	input_mutate(&w->in, &r, sizeof(r));
	r.rip = rip;
	r.rflags = input_rarely(&w->in, 4) ? input_value(&w->in) : 2;
	(void)tz_ioctl(vcpu, KVM_SET_REGS, &r);
	(void)tz_ioctl(vcpu, KVM_SET_XCRS, &xcrs);
}

/* A state that can execute something: real, 16-bit, 32-bit, 64-bit, and then perhaps one of its registers damaged. */
static void set_state(struct world *w, int vcpu)
{
	unsigned flags = input_u8(&w->in), mode = flags & 3;
	uint64_t rip = 0x8000 + input_below(&w->in, 0x4000);
	struct kvm_sregs s;

	CHECK(tz_ioctl(vcpu, KVM_GET_SREGS, &s) == 0);
	s.cr0 = mode ? 0x11 : 0x10;
	s.cr4 = flags & 4 ? 0 : 0x40600; /* OSXSAVE, OSFXSR, OSXMMEXCPT */
	s.efer = 0;
	set_segments(w, &s, mode);
	s.cr3 = 0x2000;
	if (mode == 3 || (mode == 2 && flags & 8)) {
		s.cr0 |= UINT64_C(0x80000000);
		s.cr4 |= 0x20 | (flags & 0x10);
	}
	if (mode == 3)
		s.efer = 0xd01;
	if (flags & 0x20)
		input_mutate(&w->in, &s, sizeof(s));
	(void)tz_ioctl(vcpu, KVM_SET_SREGS, &s);
	set_registers(w, vcpu, rip);
	put_page_tables(w);
	put_code(w, rip);
}

static void run_guest(struct world *w, unsigned n)
{
	struct kvm_run *run = w->run[n];

	for (unsigned i = 1 + input_u8(&w->in) % 4; i && w->runs < RUNS_MAX; i--) {
		uint8_t odd = input_u8(&w->in);

		input_bytes(&w->in, (uint8_t *)run + 0x1000, 4);
		run->immediate_exit = odd >= 0xf0;
		run->request_interrupt_window = odd & 1;
		run->cr8 = odd & 2 && odd & 4 ? input_value(&w->in) : 0;
		run->kvm_valid_regs = odd >> 3 & 7;
		run->kvm_dirty_regs = odd & 8 && odd & 16 ? input_u8(&w->in) : 0;
		w->runs++;
		if (tz_ioctl(w->vcpu[n], KVM_RUN, 0))
			return;
	}
}

static void look_around(struct world *w)
{
	struct tz_stat stats[64];
	uint8_t n = input_u8(&w->in);
	int fd = some_handle(w), count = tz_vcpu_stats(fd, stats, n % ARRAY_SIZE(stats));

	for (int i = 0; i < count && i < (int)(n % ARRAY_SIZE(stats)); i++)
		CHECK(stats[i].name[0] && stats[i].unit[0]);
	if (count >= 0)
		CHECK(strlen(tz_vcpu_error(fd)) < 256);
	(void)tz_set_option(fd, n & 1 ? "code_cache_size" : "nothing", input_value(&w->in));
}

static void one_operation(struct world *w)
{
	unsigned what = input_u8(&w->in);
	const struct request *r;
	int fd;

	switch (what) {
	case 0 ... 15: run_guest(w, what & 1); return;
	case 16 ... 31: set_state(w, w->vcpu[what & 1]); return;
	case 32 ... 47:
		set_state(w, w->vcpu[what & 1]);
		run_guest(w, what & 1);
		return;
	case 48: look_around(w); return;
	case 49: input_mutate(&w->in, w->arena, ARENA_SIZE); return;
	case 50: (void)!write(w->event_fd[0], "\1\0\0\0\0\0\0", 8); return;
	default: break;
	}
	r = requests[(what - 51 + input_u8(&w->in)) % request_count];
	if (r->number == KVM_RUN)
		return;
	fd = some_handle(w);
	if (r->arg == ARG_NONE || r->arg == ARG_VALUE)
		drop_handle(r->number, tz_ioctl(fd, r->number, (unsigned long)input_value(&w->in)));
	else if (input_rarely(&w->in, 64))
		(void)tz_ioctl(fd, r->number, NULL);
	else
		call_with_pointer(w, fd, r->number);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;

	memset(&w, 0, sizeof(w));
	w.in = (struct input){ data, data + size };
	w.arena = arena;
	CHECK(madvise(arena, ARENA_SIZE, MADV_DONTNEED) == 0);
	create_vm(&w);
	while (input_left(&w.in))
		one_operation(&w);
	destroy_vm(&w);
	return 0;
}
