/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest of one engine, made through libtrapeze's public API: long mode, the kernel of guest.S, Linux's GDT, the
 * slots as user pages at the addresses that the native child has them at.
 */
#include "oracle.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "trapeze/trapeze.h"

/* Guest-physical layout */
#define GPA_TABLES 0x0u /* page tables */
#define GPA_KERNEL 0x80000u
#define GPA_SYSTEM 0x90000u /* GDT, TSS, IDT */
#define GPA_KSTACK 0xa0000u /* one page, its top is KSTACK_TOP */
#define GPA_CONTROL 0xb0000u
#define GPA_EXIT 0xc0000u
#define GPA_STATES 0x100000u
#define GPA_SLOTS 0x200000u
#define RAM_SIZE 0x400000u
_Static_assert(GPA_SLOTS + SLOT_COUNT * SLOT_PAGES * 4096 <= RAM_SIZE, "RAM");

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_NX BIT64(63)
#define RUN_SECONDS 30 /* of CPU time: the machine may be busy */

struct control {
	uint64_t current, count, xcr0, panic;
};
_Static_assert(offsetof(struct control, panic) == CONTROL_PANIC, "assembly counts on it");

struct engine {
	char name[32];
	int sys, vm, vcpu;
	struct kvm_run *run;
	int run_size;
	uint8_t *ram;
	uint64_t tables_used;
	char error[160];
};

extern const uint8_t oracle_guest_start[], oracle_guest_end[];

/* The run area of the engine that runs, for the timer. */
static struct kvm_run *volatile running;
static struct engine *volatile running_engine;

static void on_timer(int sig)
{
	(void)sig;
	if (running)
		running->immediate_exit = 1;
}

static void checked(const struct engine *e, int r, const char *what)
{
	if (r < 0)
		die("%s: %s: %s", e->name, what, strerror(errno));
}

/* ---- guest memory ---- */

static uint64_t *table_at(struct engine *e, uint64_t gpa)
{
	return (uint64_t *)(void *)(e->ram + gpa);
}

/* One 4 KiB page, all levels made as needed. */
static void map_page(struct engine *e, uint64_t va, uint64_t gpa, uint64_t flags)
{
	uint64_t *table = table_at(e, GPA_TABLES);

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *entry = &table[va >> shift & 511];

		if (!*entry) {
			e->tables_used += 4096;
			if (GPA_TABLES + e->tables_used >= GPA_KERNEL)
				die("%s: too many page tables", e->name);
			*entry = (GPA_TABLES + e->tables_used) | PTE_P | PTE_W | PTE_U;
		}
		table = table_at(e, *entry & 0xfffffffff000);
	}
	table[va >> 12 & 511] = gpa | flags | PTE_P;
}

static void map_memory(struct engine *e)
{
	static const uint64_t flags[SLOT_PAGES] = {
		PTE_U, PTE_U, PTE_U | PTE_W | PTE_NX, PTE_U | PTE_W | PTE_NX, PTE_U | PTE_NX, PTE_U | PTE_W | PTE_NX,
	};

	for (unsigned n = 0; n < KERNEL_SIZE; n += 4096)
		map_page(e, KERNEL_VA + n, GPA_KERNEL + n, 0);
	map_page(e, TABLES_VA, GPA_SYSTEM, PTE_W | PTE_NX);
	map_page(e, TABLES_VA + 0x1000, GPA_SYSTEM + 0x1000, PTE_W | PTE_NX);
	map_page(e, KSTACK_TOP - 0x1000, GPA_KSTACK, PTE_W | PTE_NX);
	map_page(e, CONTROL_VA, GPA_CONTROL, PTE_W | PTE_NX);
	for (unsigned n = 0; n < 2 * SLOT_COUNT * sizeof(struct state); n += 4096)
		map_page(e, STATES_VA + n, GPA_STATES + n, PTE_W | PTE_NX);
	map_page(e, EXIT_PAGE, GPA_EXIT, PTE_U);
	for (unsigned n = 0; n < SLOT_COUNT * SLOT_PAGES; n++)
		map_page(e, slot_address(n / SLOT_PAGES) + slot_page_offset(n % SLOT_PAGES), GPA_SLOTS + n * 4096,
			 flags[n % SLOT_PAGES]);
}

/* Gates of all vectors to the kernel's stubs; INT3 and INTO from user mode, as under Linux (SDM 3A 6.14.1). */
static void make_tables(struct engine *e)
{
	uint64_t *gdt = (uint64_t *)(void *)(e->ram + GPA_SYSTEM);
	uint32_t *idt = (uint32_t *)(void *)(e->ram + GPA_SYSTEM + TABLES_IDT);
	uint64_t tss = TABLES_VA + TABLES_TSS, top = KSTACK_TOP;

	gdt[SEL_KERNEL_CS32 / 8] = UINT64_C(0x00cf9b000000ffff);
	gdt[SEL_KERNEL_CS / 8] = UINT64_C(0x00af9b000000ffff);
	gdt[SEL_KERNEL_DS / 8] = UINT64_C(0x00cf93000000ffff);
	gdt[SEL_USER_CS32 / 8] = UINT64_C(0x00cffb000000ffff);
	gdt[SEL_USER_DS / 8] = UINT64_C(0x00cff3000000ffff);
	gdt[SEL_USER_CS / 8] = UINT64_C(0x00affb000000ffff);
	/* Busy TSS of 104 bytes, no I/O bitmap. */
	gdt[SEL_TSS / 8] = 0x67 | (tss & 0xffffff) << 16 | UINT64_C(0x8b) << 40 | (tss >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = tss >> 32;
	memcpy(e->ram + GPA_SYSTEM + TABLES_TSS + 4, &top, 8);
	e->ram[GPA_SYSTEM + TABLES_TSS + 102] = 0x68;
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = KERNEL_VA + STUBS_OFFSET + v * STUB_SIZE;
		uint32_t dpl = v == V_BP || v == V_OF ? 3 : 0;

		idt[v * 4] = (uint32_t)(at & 0xffff) | SEL_KERNEL_CS << 16;
		idt[v * 4 + 1] = (uint32_t)(at & 0xffff0000) | 0x8e00 | dpl << 13;
		idt[v * 4 + 2] = (uint32_t)(at >> 32);
		idt[v * 4 + 3] = 0;
	}
}

/* ---- the vCPU ---- */

static struct kvm_segment segment(uint16_t sel, uint8_t type, uint8_t dpl, bool code)
{
	return (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = sel,
				     .type = type,
				     .present = 1,
				     .dpl = dpl,
				     .s = 1,
				     .g = 1,
				     .l = code,
				     .db = !code };
}

static void set_registers(struct engine *e)
{
	struct kvm_regs regs = { .rip = KERNEL_VA, .rflags = 2, .rsp = KSTACK_TOP };
	struct kvm_sregs s;

	checked(e, tz_ioctl(e->vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = segment(SEL_KERNEL_CS, 11, 0, true);
	s.ss = s.ds = s.es = s.fs = s.gs = segment(SEL_KERNEL_DS, 3, 0, false);
	s.tr = (struct kvm_segment){
		.base = TABLES_VA + TABLES_TSS, .limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1
	};
	s.ldt = (struct kvm_segment){ .unusable = 1 };
	s.gdt.base = TABLES_VA;
	s.gdt.limit = GDT_ENTRIES * 8 - 1;
	s.idt.base = TABLES_VA + TABLES_IDT;
	s.idt.limit = 256 * 16 - 1;
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE, as Linux */
	s.cr3 = GPA_TABLES;
	s.cr4 = 0x50660; /* OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR MCE PAE */
	s.efer = 0xd01;  /* NXE LMA LME SCE */
	checked(e, tz_ioctl(e->vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	checked(e, tz_ioctl(e->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

struct engine *engine_create(const char *name)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM_SIZE };
	struct engine *e = calloc(1, sizeof(*e));
	struct sigaction sa = { .sa_handler = on_timer };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	size_t size;

	if (!e)
		die("no memory");
	snprintf(e->name, sizeof(e->name), "%s", name);
	sigaction(SIGPROF, &sa, NULL);
	e->sys = tz_open(name);
	checked(e, e->sys, "tz_open");
	e->vm = tz_ioctl(e->sys, KVM_CREATE_VM, 0);
	checked(e, e->vm, "KVM_CREATE_VM");
	e->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (e->ram == MAP_FAILED)
		die("no memory");
	region.userspace_addr = (uintptr_t)e->ram;
	checked(e, tz_ioctl(e->vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	e->vcpu = tz_ioctl(e->vm, KVM_CREATE_VCPU, 0);
	checked(e, e->vcpu, "KVM_CREATE_VCPU");
	e->run_size = tz_ioctl(e->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	e->run = mmap(NULL, (size_t)e->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, e->vcpu, 0);
	if (e->run == MAP_FAILED)
		die("%s: no run area", name);
	map_memory(e);
	make_tables(e);
	memcpy(e->ram + GPA_KERNEL, oracle_guest_start, (size_t)(oracle_guest_end - oracle_guest_start));
	memcpy(e->ram + GPA_EXIT, native_exit_page(&size), 4096);
	xcrs.xcrs[0].value = features_xcr0();
	set_registers(e);
	checked(e, tz_ioctl(e->vcpu, KVM_SET_XCRS, &xcrs), "KVM_SET_XCRS");
	return e;
}

void engine_destroy(struct engine *e)
{
	munmap(e->run, (size_t)e->run_size);
	tz_close(e->vcpu);
	tz_close(e->vm);
	tz_close(e->sys);
	munmap(e->ram, RAM_SIZE);
	free(e);
}

const char *engine_name(const struct engine *e)
{
	return e->name;
}

const char *engine_error(const struct engine *e)
{
	return e->error;
}

static struct state *states(const struct engine *e)
{
	return (struct state *)(void *)(e->ram + GPA_STATES);
}

void engine_put(struct engine *e, const struct test_case *c)
{
	memcpy(e->ram + GPA_SLOTS + c->slot * sizeof(c->pages), &c->pages, sizeof(c->pages));
	memcpy(&states(e)[c->slot], &c->in, sizeof(c->in));
	memset(&states(e)[SLOT_COUNT + c->slot], 0, sizeof(c->in));
}

/* True: all done. False: the case at control->current is lost, e->error says why. */
static bool run_once(struct engine *e, struct control *ctl)
{
	int r;

	e->run->immediate_exit = 0;
	running = e->run;
	running_engine = e;
	setitimer(ITIMER_PROF, &(struct itimerval){ .it_value.tv_sec = RUN_SECONDS }, NULL);
	r = tz_ioctl(e->vcpu, KVM_RUN, 0);
	setitimer(ITIMER_PROF, &(struct itimerval){ 0 }, NULL);
	running = NULL;
	running_engine = NULL;
	if (r < 0 && errno == EINTR)
		snprintf(e->error, sizeof(e->error), "no end within %u s", RUN_SECONDS);
	else if (r < 0)
		die("%s: KVM_RUN: %s", e->name, strerror(errno));
	else if (ctl->panic)
		snprintf(e->error, sizeof(e->error), "exception %u in the guest's kernel", (unsigned)ctl->panic - 256);
	else if (e->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		snprintf(e->error, sizeof(e->error), "%s", tz_vcpu_error(e->vcpu));
	else if (e->run->exit_reason != KVM_EXIT_HLT || ctl->current != ctl->count)
		snprintf(e->error, sizeof(e->error), "exit %u", e->run->exit_reason);
	else
		return true;
	return false;
}

void engine_run(struct engine *e, unsigned first, unsigned count)
{
	struct control *ctl = (struct control *)(void *)(e->ram + GPA_CONTROL);

	*ctl = (struct control){ .current = first, .count = first + count, .xcr0 = features_xcr0() };
	while (!run_once(e, ctl)) {
		unsigned lost = (unsigned)ctl->current;

		fprintf(stderr, "%s: slot %u lost: %s\n", e->name, lost, e->error);
		if (lost >= first + count)
			return;
		states(e)[SLOT_COUNT + lost].vector = V_LOST;
		ctl->current = lost + 1;
		ctl->panic = 0;
		set_registers(e);
	}
}

const struct engine *engine_running(unsigned *slot)
{
	const struct engine *e = running_engine;

	if (e)
		*slot = (unsigned)((const struct control *)(const void *)(e->ram + GPA_CONTROL))->current;
	return e;
}

const struct state *engine_result_of(const struct engine *e, unsigned slot)
{
	struct state *r = &states(e)[SLOT_COUNT + slot];

	/* The store at EXIT faults here: that is the end. */
	if (r->vector == V_PF && r->rip == EXIT) {
		r->vector = V_NONE;
		r->rflags &= ~FLAG_RF;
		r->error = r->cr2 = 0;
	}
	return r;
}

const struct slot_pages *engine_pages_of(const struct engine *e, unsigned slot)
{
	return (const struct slot_pages *)(const void *)(e->ram + GPA_SLOTS + slot * sizeof(struct slot_pages));
}
