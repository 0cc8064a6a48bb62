/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "machine/message.h"
#include "machine/ram.h"
#include "trapeze/trapeze.h"

#define VCPU_KICK_SIGNAL SIGUSR1
#define KICK_AGAIN_NS 10000000

static int vcpu_ioctl(const struct vcpu *vcpu, unsigned long request, const void *arg)
{
	return vcpu->host->accel->ioctl(vcpu->fd, request, (uintptr_t)arg);
}

static void kick_handler(int signal)
{
	(void)signal; /* its arrival is enough: KVM_RUN returns EINTR */
}

void vmm_vcpu_setup_signals(void)
{
	struct sigaction action = { .sa_handler = kick_handler };

	sigaction(VCPU_KICK_SIGNAL, &action, NULL);
}

static int set_cpuid(struct vcpu *vcpu, unsigned cpus, const struct cpu_model *model)
{
	struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + sizeof(model->entry));
	int err = 0;

	if (!table)
		return -ENOMEM;
	cpu_model_for_vcpu(model, vcpu->id, cpus, table);
	if (vcpu_ioctl(vcpu, KVM_SET_CPUID2, table) < 0) {
		err = -errno;
		msg_error("the accelerator refuses the CPU model: %s", strerror(errno));
	}
	free(table);
	return err;
}

/*
 * Memory types as a PC's firmware leaves them (SDM 3A 11.11): write-back by default, the VGA window and the hole below
 * 4 GiB uncached. Without them a kernel takes MTRRs and PAT for switched off.
 */
static int set_memory_types(struct vcpu *vcpu, unsigned phys_bits)
{
	uint64_t hole_mask = ((UINT64_C(1) << phys_bits) - 1) & ~(RAM_ABOVE_4G - RAM_HOLE_START - 1);
	const struct {
		uint32_t index;
		uint64_t value;
	} types[] = {
		{ 0x250, UINT64_C(0x0606060606060606) }, /* 0 to 512 KiB: write-back */
		{ 0x258, UINT64_C(0x0606060606060606) }, /* to 640 KiB */
		{ 0x259, 0 },                            /* VGA: uncached */
		{ 0x268, UINT64_C(0x0505050505050505) }, /* ROMs, 32 KiB each from 768 KiB: write-protected */
		{ 0x269, UINT64_C(0x0505050505050505) },
		{ 0x26a, UINT64_C(0x0505050505050505) },
		{ 0x26b, UINT64_C(0x0505050505050505) },
		{ 0x26c, UINT64_C(0x0505050505050505) },
		{ 0x26d, UINT64_C(0x0505050505050505) },
		{ 0x26e, UINT64_C(0x0505050505050505) },
		{ 0x26f, UINT64_C(0x0505050505050505) },
		{ 0x200, RAM_HOLE_START },       /* base, uncached */
		{ 0x201, hole_mask | 1u << 11 }, /* 1 GiB of it, valid */
		{ 0x2ff, 0xc06 },                /* on, fixed ones too; default write-back */
	};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[sizeof(types) / sizeof(types[0])];
	} msrs = { .head.nmsrs = sizeof(types) / sizeof(types[0]) };

	for (unsigned i = 0; i < msrs.head.nmsrs; i++) {
		msrs.entry[i].index = types[i].index;
		msrs.entry[i].data = types[i].value;
	}
	if (vcpu_ioctl(vcpu, KVM_SET_MSRS, &msrs) == (int)msrs.head.nmsrs)
		return 0;
	msg_error("vCPU %u: the accelerator refuses the memory types (MTRRs)", vcpu->id);
	return -EINVAL;
}

int vmm_vcpu_create(struct vcpu_host *host, struct vcpu *vcpu, unsigned id, unsigned cpus,
		    const struct cpu_model *model)
{
	const struct accel *accel = host->accel;
	int size = accel->ioctl(accel->system_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	int err;

	memset(vcpu, 0, sizeof(*vcpu));
	vcpu->host = host;
	vcpu->id = id;
	vcpu->fd = accel->ioctl(host->vm_fd, KVM_CREATE_VCPU, id);
	if (vcpu->fd < 0 || size < (int)sizeof(struct kvm_run)) {
		err = vcpu->fd < 0 ? -errno : -EINVAL;
		msg_error("cannot create vCPU %u: %s", id, strerror(-err));
		return err;
	}
	vcpu->run_size = (size_t)size;
	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		err = -errno;
		msg_error("cannot map the state of vCPU %u: %s", id, strerror(errno));
		vcpu->run = NULL;
	} else {
		err = set_cpuid(vcpu, cpus, model);
		if (!err && cpu_model_has(model, "mtrr"))
			err = set_memory_types(vcpu, cpu_model_phys_bits(model));
	}
	if (err)
		vmm_vcpu_destroy(vcpu);
	return err;
}

void vmm_vcpu_destroy(struct vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_size);
	if (vcpu->fd > 0)
		vcpu->host->accel->close(vcpu->fd);
	vcpu->run = NULL;
	vcpu->fd = -1;
}

static struct kvm_segment flat_segment(uint16_t selector, bool code, bool long_mode)
{
	return (struct kvm_segment){
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = code ? 11 : 3, /* accessed; readable code, writable data */
		.present = 1,
		.s = 1,
		.l = code && long_mode,
		.db = !(code && long_mode),
		.g = 1,
	};
}

/* Control registers and segments of the start state; s: those after reset. */
static void entry_sregs(struct kvm_sregs *s, const struct boot_entry *entry)
{
	bool long_mode = entry->mode == BOOT_LONG64;
	struct kvm_segment data = flat_segment(entry->ds, false, false);

	if (entry->mode == BOOT_REAL16) {
		s->cs.selector = (uint16_t)(entry->rip >> 4);
		s->cs.base = entry->rip & ~UINT64_C(0xf);
		return;
	}
	s->cs = flat_segment(entry->cs, true, long_mode);
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){ .limit = 0x67, .type = 11, .present = 1 };
	s->ldt = (struct kvm_segment){ .type = 2, .limit = 0xffff, .present = 1 };
	s->gdt.base = entry->gdt;
	s->gdt.limit = entry->gdt_limit;
	s->idt.base = 0;
	s->idt.limit = 0;
	s->cr0 = 0x11; /* PE, ET */
	s->cr3 = s->cr4 = s->efer = 0;
	if (long_mode) {
		s->cr0 |= UINT64_C(0x80000000);
		s->cr3 = entry->cr3;
		s->cr4 = 0x20;   /* PAE */
		s->efer = 0x500; /* LME, LMA */
	}
}

int vmm_vcpu_set_entry(struct vcpu *vcpu, const struct boot_entry *entry)
{
	struct kvm_sregs sregs = { 0 };
	struct kvm_regs regs = {
		.rax = entry->rax,
		.rbx = entry->rbx,
		.rsi = entry->rsi,
		.rsp = entry->rsp,
		.rip = entry->mode == BOOT_REAL16 ? entry->rip & 0xf : entry->rip,
		.rflags = 2,
	};

	if (vcpu_ioctl(vcpu, KVM_GET_SREGS, &sregs) == 0) {
		entry_sregs(&sregs, entry);
		if (vcpu_ioctl(vcpu, KVM_SET_SREGS, &sregs) == 0 && vcpu_ioctl(vcpu, KVM_SET_REGS, &regs) == 0)
			return 0;
	}
	msg_error("cannot set the start state of the vCPU: %s%s", strerror(errno),
		  entry->mode == BOOT_LONG64 ? " (does the CPU model have long mode?)" : "");
	return -EINVAL;
}

/* --- exits --- */

enum vcpu_next { VCPU_CONTINUE, VCPU_STOP };

static enum vcpu_next vcpu_fail(struct vcpu *vcpu)
{
	vmm_vcpu_dump(vcpu);
	vcpu->host->failed(vcpu->host->ctx);
	return VCPU_STOP;
}

static enum vcpu_next exit_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(vcpu->host->bus, BUS_PIO, run->io.port, data, run->io.size);
		else
			bus_read(vcpu->host->bus, BUS_PIO, run->io.port, data, run->io.size);
	}
	return VCPU_CONTINUE;
}

static enum vcpu_next exit_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->mmio.is_write)
		bus_write(vcpu->host->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(vcpu->host->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	return VCPU_CONTINUE;
}

static enum vcpu_next exit_shutdown(struct vcpu *vcpu)
{
	msg_error("vCPU %u: triple fault", vcpu->id);
	return vcpu_fail(vcpu);
}

static enum vcpu_next exit_internal_error(struct vcpu *vcpu)
{
	const char *text = vcpu->host->accel->software ? tz_vcpu_error(vcpu->fd) : "";

	msg_error("vCPU %u: the accelerator %s gave up: %s (KVM internal error %u)", vcpu->id, vcpu->host->accel->name,
		  *text ? text : "no further information", vcpu->run->internal.suberror);
	return vcpu_fail(vcpu);
}

static enum vcpu_next exit_fail_entry(struct vcpu *vcpu)
{
	msg_error("vCPU %u: VM entry failed, hardware reason 0x%llx", vcpu->id,
		  vcpu->run->fail_entry.hardware_entry_failure_reason);
	return vcpu_fail(vcpu);
}

static enum vcpu_next exit_nothing(struct vcpu *vcpu)
{
	(void)vcpu;
	return VCPU_CONTINUE;
}

struct exit_row {
	const char *name;
	enum vcpu_next (*handle)(struct vcpu *vcpu);
};

/* By KVM_EXIT_*. A reason without a row cannot come with the capabilities this monitor enables. */
static const struct exit_row exit_rows[VCPU_EXIT_REASONS] = {
	[KVM_EXIT_IO] = { "io", exit_io },
	[KVM_EXIT_MMIO] = { "mmio", exit_mmio },
	[KVM_EXIT_HLT] = { "hlt", exit_nothing },
	[KVM_EXIT_IRQ_WINDOW_OPEN] = { "irq_window", exit_nothing },
	[KVM_EXIT_INTR] = { "signal", exit_nothing },
	[KVM_EXIT_SHUTDOWN] = { "shutdown", exit_shutdown },
	[KVM_EXIT_FAIL_ENTRY] = { "fail_entry", exit_fail_entry },
	[KVM_EXIT_INTERNAL_ERROR] = { "internal_error", exit_internal_error },
};

static enum vcpu_next handle_exit(struct vcpu *vcpu)
{
	uint32_t reason = vcpu->run->exit_reason;

	if (reason < VCPU_EXIT_REASONS) {
		vcpu->exits[reason]++;
		if (exit_rows[reason].handle)
			return exit_rows[reason].handle(vcpu);
	}
	msg_error("vCPU %u: exit reason %u, which this monitor does not know", vcpu->id, reason);
	return vcpu_fail(vcpu);
}

static void park(struct vcpu *vcpu)
{
	struct vcpu_host *host = vcpu->host;

	pthread_mutex_lock(&host->park_lock);
	atomic_store(&vcpu->parked, true);
	while (atomic_load(&host->hold) && !atomic_load(&host->stop))
		pthread_cond_wait(&host->park_wake, &host->park_lock);
	atomic_store(&vcpu->parked, false);
	pthread_mutex_unlock(&host->park_lock);
}

/* May it enter the guest? Waits while it is to be held. */
static bool may_run(struct vcpu *vcpu)
{
	/* Before the looks at what it may have been set for, so that a kick is not lost. */
	if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_RELAXED))
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	while (atomic_load(&vcpu->host->hold) && !atomic_load(&vcpu->host->stop))
		park(vcpu);
	return !atomic_load(&vcpu->host->stop);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	struct vcpu_host *host = vcpu->host;
	char name[16];

	snprintf(name, sizeof(name), "vcpu-%u", vcpu->id);
	pthread_setname_np(pthread_self(), name);
	prctl(PR_SET_TIMERSLACK, 1); /* its sleep in HLT ends by the guest's timer: at once, not within 50 us */
	while (may_run(vcpu)) {
		if (host->accel->ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			msg_error("vCPU %u: KVM_RUN: %s", vcpu->id, strerror(errno));
			vcpu_fail(vcpu);
			break;
		}
		if (handle_exit(vcpu) == VCPU_STOP)
			break;
	}
	return NULL;
}

int vmm_vcpu_start(struct vcpu *vcpu)
{
	sigset_t kick, old;
	int err;

	/* The thread takes the kick and leaves every other signal to the main thread. */
	sigfillset(&kick);
	sigdelset(&kick, VCPU_KICK_SIGNAL);
	sigdelset(&kick, SIGSEGV);
	sigdelset(&kick, SIGBUS);
	sigdelset(&kick, SIGFPE);
	sigdelset(&kick, SIGILL);
	sigdelset(&kick, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &kick, &old);
	err = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		msg_error("cannot start vCPU %u: %s", vcpu->id, strerror(err));
		return -err;
	}
	vcpu->started = true;
	return 0;
}

void vmm_vcpus_hold(struct vcpu_host *host, bool on)
{
	pthread_mutex_lock(&host->park_lock);
	atomic_store(&host->hold, on);
	pthread_cond_broadcast(&host->park_wake);
	pthread_mutex_unlock(&host->park_lock);
}

bool vmm_vcpus_parked(struct vcpu *vcpu, unsigned count)
{
	bool all = true;

	for (unsigned i = 0; i < count; i++) {
		if (!vcpu[i].started || atomic_load(&vcpu[i].parked))
			continue;
		__atomic_store_n(&vcpu[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(vcpu[i].thread, VCPU_KICK_SIGNAL);
		all = false;
	}
	return all;
}

void vmm_vcpu_join(struct vcpu *vcpu)
{
	struct timespec until;

	if (!vcpu->started)
		return;
	/* immediate_exit closes the window between the stop test and KVM_RUN; */
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	/* kicking again the one before other calls that block (a console that nobody reads). */
	do {
		pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += KICK_AGAIN_NS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
	} while (pthread_clockjoin_np(vcpu->thread, NULL, CLOCK_MONOTONIC, &until) == ETIMEDOUT);
	vcpu->started = false;
}

/* --- reports --- */

static void dump_segment(const char *name, const struct kvm_segment *s)
{
	fprintf(stderr, "%-4s %04x base %016llx limit %08x type %x s %u dpl %u p %u db %u l %u g %u\n", name,
		s->selector, s->base, s->limit, s->type, s->s, s->dpl, s->present, s->db, s->l, s->g);
}

void vmm_vcpu_dump(struct vcpu *vcpu)
{
	struct kvm_regs r = { 0 };
	struct kvm_sregs s = { 0 };

	if (vcpu_ioctl(vcpu, KVM_GET_REGS, &r) < 0 || vcpu_ioctl(vcpu, KVM_GET_SREGS, &s) < 0)
		return;
	flockfile(stderr);
	fprintf(stderr, "vCPU %u state:\n", vcpu->id);
	fprintf(stderr, "rip  %016llx rflags %08llx\n", r.rip, r.rflags);
	fprintf(stderr, "rax  %016llx rbx %016llx rcx %016llx rdx %016llx\n", r.rax, r.rbx, r.rcx, r.rdx);
	fprintf(stderr, "rsi  %016llx rdi %016llx rbp %016llx rsp %016llx\n", r.rsi, r.rdi, r.rbp, r.rsp);
	fprintf(stderr, "r8   %016llx r9  %016llx r10 %016llx r11 %016llx\n", r.r8, r.r9, r.r10, r.r11);
	fprintf(stderr, "r12  %016llx r13 %016llx r14 %016llx r15 %016llx\n", r.r12, r.r13, r.r14, r.r15);
	dump_segment("cs", &s.cs);
	dump_segment("ss", &s.ss);
	dump_segment("ds", &s.ds);
	dump_segment("es", &s.es);
	dump_segment("fs", &s.fs);
	dump_segment("gs", &s.gs);
	dump_segment("tr", &s.tr);
	dump_segment("ldtr", &s.ldt);
	fprintf(stderr, "gdtr base %016llx limit %04x  idtr base %016llx limit %04x\n", s.gdt.base, s.gdt.limit,
		s.idt.base, s.idt.limit);
	fprintf(stderr, "cr0  %08llx cr2 %016llx cr3 %016llx cr4 %08llx cr8 %llx efer %llx\n", s.cr0, s.cr2, s.cr3,
		s.cr4, s.cr8, s.efer);
	funlockfile(stderr);
}

static void print_library_stats(const struct vcpu *vcpu)
{
	struct tz_stat stats[128];
	int n = tz_vcpu_stats(vcpu->fd, stats, sizeof(stats) / sizeof(stats[0]));

	for (int i = 0; i < n && i < (int)(sizeof(stats) / sizeof(stats[0])); i++) {
		if (!strcmp(stats[i].unit, "ns"))
			fprintf(stderr, "  %-28s %15.6f s\n", stats[i].name, (double)stats[i].value / 1e9);
		else
			fprintf(stderr, "  %-28s %15llu\n", stats[i].name, (unsigned long long)stats[i].value);
	}
}

void vmm_vcpu_print_stats(const struct vcpu *vcpu)
{
	fprintf(stderr, "vCPU %u (%s):\n", vcpu->id, vcpu->host->accel->name);
	for (unsigned i = 0; i < VCPU_EXIT_REASONS; i++)
		if (vcpu->exits[i])
			fprintf(stderr, "  exits to the monitor: %-6s %15llu\n",
				exit_rows[i].name ? exit_rows[i].name : "other", (unsigned long long)vcpu->exits[i]);
	if (vcpu->host->accel->software)
		print_library_stats(vcpu);
}
