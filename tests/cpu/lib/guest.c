/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4

volatile struct exception last;
volatile u64 fault_resume, return_flags;
interrupt_hook *volatile hooks[256];
unsigned failures;
struct tss tss __attribute__((aligned(16)));
extern u64 user_return_rsp, user_return_rip;
extern char stubs[];
void setup_tables(void);
void handle_exception(struct frame *f);

frame_hook *volatile frame_hooks[256];
extern char run_back[];
struct frame *volatile run_capture; /* of run_frame(), while it runs */
u64 run_rsp;

static struct {
	u64 lo, hi;
} idt[256] __attribute__((aligned(16)));
static u8 ist_stacks[7][4096] __attribute__((aligned(16)));
static u8 ring0_stack[16384] __attribute__((aligned(16)));

static void putc(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, (u8)c);
}

void print(const char *s)
{
	for (; *s; s++)
		putc(*s);
}

void print_hex(u64 v)
{
	for (int i = 60; i >= 0; i -= 4)
		putc("0123456789abcdef"[v >> i & 15]);
}

void check(const char *name, bool ok)
{
	print(ok ? "ok " : "not ok ");
	print(name);
	putc('\n');
	failures += !ok;
}

void check_equal(const char *name, u64 got, u64 want)
{
	if (got != want) {
		print("got ");
		print_hex(got);
		print(" want ");
		print_hex(want);
		putc('\n');
	}
	check(name, got == want);
}

void guest_exit(int status)
{
	outl(DEBUG_EXIT, (u32)status);
	for (;;)
		__asm__ volatile("cli; hlt");
}

static void gate_write(unsigned vector, unsigned dpl, unsigned ist, u64 target)
{
	idt[vector].lo = (target & 0xffff) | 0x08 << 16 | (u64)ist << 32 | (u64)(0x8e | dpl << 5) << 40 |
			 (target >> 16 & 0xffff) << 48;
	idt[vector].hi = target >> 32;
}

static void gate_set(unsigned vector, unsigned dpl, unsigned ist)
{
	gate_write(vector, dpl, ist, (u64)stubs + vector * 16);
}

void gate_set_entry(unsigned vector, unsigned dpl, void (*entry)(void))
{
	gate_write(vector, dpl, 0, (u64)entry);
}

void gate_set_ist(unsigned vector, unsigned ist)
{
	gate_set(vector, 0, ist);
}

void setup_tables(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (u64)idt };
	u64 base = (u64)&tss;

	outb(0x21, 0xff); /* the PICs: no timer tick under vector 8 */
	outb(0xa1, 0xff);
	for (unsigned i = 0; i < 256; i++)
		gate_set(i, 0, 0);
	gate_set(3, 3, 0);
	gate_set(4, 3, 0);
	gate_set(0x80, 3, 0);
	__asm__ volatile("lidt %0" ::"m"(pointer));
	for (unsigned i = 0; i < 7; i++)
		tss.ist[i] = (u64)ist_stacks[i] + sizeof(ist_stacks[i]);
	tss.rsp[0] = (u64)ring0_stack + sizeof(ring0_stack);
	tss.io_map = 104;
	for (unsigned i = 0; i < sizeof(tss.io_bitmap); i++)
		tss.io_bitmap[i] = 0xff;
	gdt[7] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | (u64)0x89 << 40 | (base >> 24 & 0xff) << 56;
	gdt[8] = base >> 32;
	__asm__ volatile("ltr %w0" ::"r"(0x38));
}

bool vendor_is_amd(void)
{
	u32 r[4];

	cpuid(0, 0, r);
	return r[1] == 0x68747541 || r[1] == 0x6f677948; /* "Auth"enticAMD, "Hygo"nGenuine */
}

static void go_back(struct frame *f, u64 rip, u64 rsp)
{
	f->rip = rip;
	f->cs = 0x08;
	f->rflags = 2;
	f->rsp = rsp;
	f->ss = 0x10;
}

static void note_exception(const struct frame *f)
{
	last.vector = f->vector;
	last.error = f->error;
	last.rip = f->rip;
	last.cs = f->cs;
	last.rflags = f->rflags;
	last.rsp = f->rsp;
	last.ss = f->ss;
	last.cr2 = READ_REG(cr2);
	last.dr6 = READ_REG(dr6);
	last.count++;
}

void handle_exception(struct frame *f)
{
	if (frame_hooks[f->vector] && frame_hooks[f->vector](f))
		return;
	note_exception(f);
	if (hooks[f->vector]) {
		hooks[f->vector]();
		f->rflags |= return_flags;
		return_flags = 0;
	} else if (run_capture) {
		*run_capture = *f;
		run_capture = 0;
		go_back(f, (u64)run_back, run_rsp);
	} else if (f->cs & 3) { /* user code ended, by its exit call or by a fault */
		go_back(f, user_return_rip, user_return_rsp);
	} else if (fault_resume) {
		f->rip = fault_resume;
		f->rflags &= ~(u64)0x100; /* no more single steps */
	} else {
		print("unexpected exception ");
		print_hex(f->vector);
		print(" error ");
		print_hex(f->error);
		print(" rip ");
		print_hex(f->rip);
		print(" cr2 ");
		print_hex(last.cr2);
		print("\n");
		guest_exit(63);
	}
}
