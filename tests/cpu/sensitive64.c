/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that read or write what a hypervisor has to keep apart: each must show what this guest set up,
 * at every privilege, and fault where the manual says so (SDM 2 and 3, AMD APM 3).
 */
#include "snippet.h"

#define MSR_APIC_BASE 0x1b
#define MSR_TSC 0x10
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

/* Places and sizes that no host has. */
static u64 own_gdt[0x40] __attribute__((aligned(16)));
static u64 own_idt[0x200] __attribute__((aligned(16)));
static u64 own_ldt[4];
#define GDT_LIMIT 0x1e7
#define IDT_LIMIT 0x10ab
#define LDT_SELECTOR 0x60
#define MARKED_SELECTOR 0xf8 /* user data with a base */
static u8 buffer[64] __attribute__((aligned(16)));
static u64 marker[2] = { 0x1122334455667788, 0x99aabbccddeeff00 };

struct pointer {
	u16 limit;
	u64 base;
} __attribute__((packed));

static void set_system(unsigned selector, u64 base, u64 limit, u8 access)
{
	own_gdt[selector / 8] = (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)access << 40 |
				(limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
	own_gdt[selector / 8 + 1] = base >> 32;
}

static void set_up_tables(void)
{
	struct pointer p;
	static struct tss spare;

	for (unsigned i = 0; i < 12; i++)
		own_gdt[i] = gdt[i];
	set_system(LDT_SELECTOR, (u64)own_ldt, sizeof(own_ldt) - 1, 0x82);
	own_gdt[0x70 / 8] = 0x00af9f000000ffff;                         /* conforming code64 */
	own_gdt[0x78 / 8] = 0x00cff9000000ffff;                         /* execute-only, DPL 3 */
	own_gdt[0x80 / 8] = 0x00cff1000000ffff;                         /* read-only data, DPL 3 */
	own_gdt[0x88 / 8] = 0x0040f70000001fff;                         /* expand-down, DPL 3 */
	own_gdt[0x90 / 8] = 0x00c0b3000000ffff;                         /* data, DPL 1 */
	own_gdt[0x98 / 8] = 0x000ffb000000ffffull & ~((u64)0x80 << 40); /* code, not present */
	own_gdt[0xa0 / 8] = 0x0041f30000005678;                         /* limit 0x15678 bytes */
	set_system(0xa8, 0x12345678, 0x67, 0xec);                       /* call gate, DPL 3 */
	set_system(0xb8, (u64)&spare, 0x77, 0xe9);                      /* TSS, DPL 3 */
	set_system(0xc8, 0, 0, 0xee);                                   /* interrupt gate */
	own_gdt[0xd8 / 8] = 0x0000e50000000000;                         /* task gate */
	own_gdt[0xe0 / 8] = 0x0000e10000000067;                         /* 16-bit TSS */
	own_gdt[0xe8 / 8] = 0x0000e30000000067;                         /* 16-bit TSS, busy */
	own_gdt[0xf0 / 8] = 0x0000e40000000000;                         /* 16-bit call gate */
	own_gdt[MARKED_SELECTOR / 8] =
		0x0040f3000000ffff | ((u64)marker & 0xffffff) << 16 | ((u64)marker >> 24 & 0xff) << 56;
	own_ldt[1] = 0x00cff3000000ffff;
	own_ldt[2] = 0x00cf93000000ffff;
	p = (struct pointer){ GDT_LIMIT, (u64)own_gdt };
	__asm__ volatile("lgdt %0" ::"m"(p));
	__asm__ volatile("lldt %w0" ::"r"(LDT_SELECTOR));
	__asm__ volatile("sidt %0" : "=m"(p));
	for (unsigned i = 0; i < 0x200; i++)
		own_idt[i] = ((u64 *)p.base)[i];
	p = (struct pointer){ IDT_LIMIT, (u64)own_idt };
	__asm__ volatile("lidt %0" ::"m"(p));
}

/* ---- descriptor tables: SGDT SIDT SLDT STR SMSW, and UMIP ---- */

SNIPPET(do_sgdt, "sgdt (%rdi)");
SNIPPET(do_sidt, "sidt (%rdi)");
SNIPPET(do_sldt, "sldt %rax; sldt %ecx; sldt %dx; sldt (%rdi)");
SNIPPET(do_str, "str %rax; str %ecx; str %dx; str (%rdi)");
SNIPPET(do_smsw, "smsw %rax; smsw %ecx; smsw %dx; smsw (%rdi)");
SNIPPET32(do_sgdt32, "sgdt (%edi)");
SNIPPET32(do_sidt32, "sidt (%edi)");
SNIPPET32(do_sldt32, "sldt %eax; sldt %ecx; sldt %dx; sldt (%edi)");
SNIPPET32(do_str32, "str %eax; str %ecx; str %dx; str (%edi)");
SNIPPET32(do_smsw32, "smsw %eax; smsw %ecx; smsw %dx; smsw (%edi)");

static bool wide(enum mode mode)
{
	return mode == KERNEL64 || mode == USER64;
}

static void clear_buffer(void)
{
	for (unsigned i = 0; i < sizeof(buffer); i++)
		buffer[i] = 0xee;
}

static void table_pointer(enum mode mode, const char *what, const char *code, u16 limit, u64 base)
{
	clear_buffer();
	exec(mode, code, (u64)buffer, 0);
	check_in(mode, what, got.vector, 0x80);
	check_in(mode, "its limit", *(u16 *)buffer, limit);
	check_in(mode, "its base", *(u32 *)(buffer + 2), (u32)base);
	check_in(mode, "the rest of its base", *(u32 *)(buffer + 6), wide(mode) ? base >> 32 : 0xeeeeeeee);
	check_in(mode, "nothing behind it", buffer[10], 0xee);
}

/* A 16-bit value to registers of three sizes and to memory. */
static void short_value(enum mode mode, const char *what, const char *code, u64 value)
{
	clear_buffer();
	exec(mode, code, (u64)buffer, 0);
	check_in(mode, what, got.vector, 0x80);
	check_in(mode, "to the widest register", got.rax, value);
	check_in(mode, "to 32 bits", got.rcx, (u32)value);
	check_in(mode, "to 16 bits", got.rdx & (wide(mode) ? ~0ull : 0xffffffff),
		 ((UNTOUCHED & ~0xffffull) | (value & 0xffff)) & (wide(mode) ? ~0ull : 0xffffffff));
	check_in(mode, "to memory", *(u32 *)buffer, 0xeeee0000 | (value & 0xffff));
}

static void tables_in(enum mode mode)
{
	bool w = wide(mode);

	table_pointer(mode, "SGDT", w ? do_sgdt : do_sgdt32, GDT_LIMIT, (u64)own_gdt);
	table_pointer(mode, "SIDT", w ? do_sidt : do_sidt32, IDT_LIMIT, (u64)own_idt);
	short_value(mode, "SLDT", w ? do_sldt : do_sldt32, LDT_SELECTOR);
	short_value(mode, "STR", w ? do_str : do_str32, 0x38);
	WRITE_REG(cr0, READ_REG(cr0) | CR0_TS);
	short_value(mode, "SMSW with TS", w ? do_smsw : do_smsw32, READ_REG(cr0));
	WRITE_REG(cr0, READ_REG(cr0) & ~(u64)(CR0_TS | CR0_MP));
	short_value(mode, "SMSW without", w ? do_smsw : do_smsw32, READ_REG(cr0));
	WRITE_REG(cr0, READ_REG(cr0) | CR0_MP);
}

static void umip(void)
{
	static const struct {
		const char *name, *code, *code32;
	} rows[] = { { "SGDT", do_sgdt, do_sgdt32 },
		     { "SIDT", do_sidt, do_sidt32 },
		     { "SLDT", do_sldt, do_sldt32 },
		     { "STR", do_str, do_str32 },
		     { "SMSW", do_smsw, do_smsw32 } };

	if (!HAS_UMIP) {
		print("skip UMIP\n");
		return;
	}
	cr4_set(CR4_UMIP);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		clear_buffer();
		print(rows[i].name);
		print(" with UMIP\n");
		check_in(USER64, "is #GP(0)", fault_of(USER64, rows[i].code, (u64)buffer, 0), FAULT(13, 0));
		check_in(USER32, "is #GP(0)", fault_of(USER32, rows[i].code32, (u64)buffer, 0), FAULT(13, 0));
		check_in(USER32, "writes nothing", *(u64 *)buffer, 0xeeeeeeeeeeeeeeee);
	}
	tables_in(KERNEL64);
	tables_in(KERNEL32);
	cr4_clear(CR4_UMIP);
}

/* ---- LAR LSL VERR VERW, against what the manual says of each descriptor ---- */

SNIPPET(do_lar, "lar %esi, %eax");
SNIPPET(do_lsl, "lsl %esi, %eax");
SNIPPET(do_verr, "verr %si");
SNIPPET(do_verw, "verw %si");
SNIPPET32(do_lar32, "lar %esi, %eax");
SNIPPET32(do_lsl32, "lsl %esi, %eax");
SNIPPET32(do_verr32, "verr %si");
SNIPPET32(do_verw32, "verw %si");

/* The descriptor a selector stands for, if the instruction may look at it. */
static bool visible(u16 selector, unsigned cpl, u64 *descriptor)
{
	u64 limit = selector & 4 ? sizeof(own_ldt) - 1 : GDT_LIMIT;
	unsigned dpl, rpl = selector & 3;
	bool conforming;

	if (selector < 4 || (selector | 7u) > limit)
		return false;
	*descriptor = (selector & 4 ? own_ldt : own_gdt)[selector / 8];
	if ((selector & 4) && (selector | 7u) > limit)
		return false;
	dpl = *descriptor >> 45 & 3;
	conforming = (*descriptor >> 40 & 0x1c) == 0x1c;
	return conforming || (cpl <= dpl && rpl <= dpl);
}

/* Types of system descriptors in long mode (SDM 2, tables of LAR and LSL). */
static bool type_ok(u64 descriptor, u32 system_types)
{
	return (descriptor >> 44 & 1) || (system_types >> (descriptor >> 40 & 15) & 1);
}

static u64 limit_of(u64 descriptor)
{
	u64 limit = (descriptor & 0xffff) | (descriptor >> 32 & 0xf0000);

	return descriptor >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

enum { LAR, LSL, VERR, VERW, LOOKS };

static bool look_ok(unsigned what, u16 selector, unsigned cpl, u64 *value)
{
	u64 d = 0;

	if (!visible(selector & 0xffff, cpl, &d))
		return false;
	switch (what) {
	case LAR: *value = d >> 32 & 0xf0ff00; return type_ok(d, 1 << 2 | 1 << 9 | 1 << 0xb | 1 << 0xc);
	case LSL: *value = limit_of(d); return type_ok(d, 1 << 2 | 1 << 9 | 1 << 0xb);
	case VERR: return (d >> 44 & 1) && (!(d >> 43 & 1) || (d >> 41 & 1));
	default: return (d >> 44 & 1) && !(d >> 43 & 1) && (d >> 41 & 1);
	}
}

static bool look(enum mode mode, unsigned what, u16 selector)
{
	static const char *const code[2][LOOKS] = { { do_lar, do_lsl, do_verr, do_verw },
						    { do_lar32, do_lsl32, do_verr32, do_verw32 } };
	u64 value = 0, flags = 2 | (IS_USER(mode) ? FLAGS_IF : 0) | (selector & 8 ? FLAGS_STATUS : 0);
	bool ok = look_ok(what, selector, IS_USER(mode) ? 3 : 0, &value);

	exec_flags(mode, code[!wide(mode)][what], 0, 0x77770000u | selector, flags);
	if (got.vector != 0x80 || (got.rflags & FLAGS_ZF ? 1 : 0) != ok)
		return false;
	if ((got.rflags ^ flags) & FLAGS_STATUS & ~FLAGS_ZF)
		return false;
	if (what == LAR && ok)
		return (got.rax & 0xfffffffffff0ff00) == value;
	if (what == LSL && ok)
		return got.rax == value;
	return (u32)got.rax == (u32)UNTOUCHED;
}

static void looks_in(enum mode mode)
{
	static const char *const names[] = { "LAR", "LSL", "VERR", "VERW" };

	for (unsigned what = 0; what < LOOKS; what++) {
		u32 wrong = ~0u;

		for (u32 selector = 0; selector < 0x208 && wrong == ~0u; selector++)
			if (!look(mode, what, (u16)selector))
				wrong = selector;
		check_in(mode, names[what], wrong, ~0u);
	}
}

/* ---- flags: PUSHF POPF LAHF SAHF CLI STI ---- */

SNIPPET(do_pushf, "pushfq; pop %rax; pushfw; pop %cx");
SNIPPET(do_popf, "push %rsi; popfq; pushfq; pop %rax");
SNIPPET(do_popfw, "push %si; popfw; pushfq; pop %rax");
SNIPPET(do_popf_trap, "push %rsi; popfq; 1: nop; 2: nop; nop");
SNIPPET(do_cli, "cli; pushfq; pop %rax");
SNIPPET(do_sti, "sti; pushfq; pop %rax");
SNIPPET(do_lahf, "lahf");
SNIPPET(do_sahf, "mov %esi, %eax; sahf; pushfq; pop %rax");
SNIPPET32(do_pushf32, "pushfl; pop %eax; pushfw; pop %cx");
SNIPPET32(do_popf32, "push %esi; popfl; pushfl; pop %eax");
SNIPPET32(do_popfw32, "push %si; popfw; pushfl; pop %eax");
SNIPPET32(do_popf_trap32, "push %esi; popfl; nop; nop; nop");
SNIPPET32(do_cli32, "cli; pushfl; pop %eax");
SNIPPET32(do_sti32, "sti; pushfl; pop %eax");

#define FLAGS_FREE (FLAGS_STATUS | FLAGS_DF | FLAGS_NT | FLAGS_AC | FLAGS_ID)

static void flags_in(enum mode mode)
{
	u64 state = 0x9e3779b97f4a7c15, first = 0, popped = 0, popped16 = 0, trap = 0;
	bool w = wide(mode), user = IS_USER(mode);

	for (unsigned i = 0; i < 400; i++) {
		u64 now = 2 | (random64(&state) & (FLAGS_FREE | FLAGS_IOPL | FLAGS_IF));
		u64 image = random64(&state) & (FLAGS_FREE | FLAGS_IOPL | FLAGS_IF);
		bool open = user && (now & FLAGS_IOPL) == FLAGS_IOPL;
		u64 fixed = user ? FLAGS_IOPL | (open ? 0 : FLAGS_IF) : 0;
		u64 want = (now & fixed) | (image & ~fixed) | 2;
		bool ok;

		exec_flags(mode, w ? do_pushf : do_pushf32, 0, 0, now);
		ok = got.vector == 0x80 && got.rax == now && (got.rcx & 0xffff) == (now & 0xffff);
		first += !ok;
		/* Reserved bits of the image are ignored. */
		exec_flags(mode, w ? do_popf : do_popf32, 0, image | 0x8028, now);
		popped += got.vector != 0x80 || got.rax != want || (got.rflags & ~(u64)FLAGS_RF) != want;
		exec_flags(mode, w ? do_popfw : do_popfw32, 0, image, now);
		popped16 += got.vector != 0x80 || got.rax != ((want & 0xffff) | (now & ~0xffffull));
	}
	check_in(mode, "PUSHF", first, 0);
	check_in(mode, "POPF", popped, 0);
	check_in(mode, "POPF of 16 bits", popped16, 0);
	WRITE_REG(dr6, 0xffff0ff0);
	exec_flags(mode, w ? do_popf_trap : do_popf_trap32, 0, FLAGS_TF | 2, user ? 0x202 : 2);
	trap = got.rip - (u64)(w ? do_popf_trap : do_popf_trap32);
	check_in(mode, "POPF of TF traps", got.vector, 1);
	check_in(mode, "after the next instruction", trap, 3); /* PUSH, POPF, NOP */
	check_in(mode, "TF in the image of #DB", got.rflags & FLAGS_TF, FLAGS_TF);
}

static void interrupt_flag_in(enum mode mode)
{
	bool w = wide(mode), user = IS_USER(mode);

	exec_flags(mode, w ? do_cli : do_cli32, 0, 0, 0x202);
	check_in(mode, "CLI with IOPL 0", FAULT(got.vector, got.error), user ? FAULT(13, 0) : DONE);
	if (!user)
		check_in(mode, "clears IF", got.rax, 2);
	exec_flags(mode, w ? do_sti : do_sti32, 0, 0, 2);
	check_in(mode, "STI with IOPL 0", FAULT(got.vector, got.error), user ? FAULT(13, 0) : DONE);
	if (!user)
		check_in(mode, "sets IF", got.rax, 0x202);
	exec_flags(mode, w ? do_cli : do_cli32, 0, 0, 0x3202);
	check_in(mode, "CLI with IOPL 3", FAULT(got.vector, got.rax), FAULT(0x80, 0x3002));
	exec_flags(mode, w ? do_sti : do_sti32, 0, 0, 0x3002);
	check_in(mode, "STI with IOPL 3", FAULT(got.vector, got.rax), FAULT(0x80, 0x3202));
	exec_flags(mode, w ? do_cli : do_cli32, 0, 0, 0x2202);
	check_in(mode, "CLI with IOPL 2", got.vector, user ? 13 : 0x80);
}

static void status_bytes(enum mode mode)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 256; i++) {
		u64 want = (i & 0xd5) | 2;

		exec_flags(mode, do_lahf, 0, 0, (i & 0xd5) | 0x202);
		wrong += (got.rax >> 8 & 0xff) != want;
		exec_flags(mode, do_sahf, 0, i << 8, 0xad7);
		wrong += got.rax != (want | 0xa00);
	}
	check_in(mode, "LAHF and SAHF", wrong, 0);
}

/* ---- segment registers ---- */

SNIPPET(do_get_segments, "mov %cs, %rax; mov %ss, %ebx; mov %ds, %rcx; mov %es, %dx; mov %fs, %r8; mov %gs, %r9d\n"
			 "mov %cs, (%rdi); mov %ss, 4(%rdi); push %fs; pop %r10; push %gs; pop %r11");
SNIPPET32(do_get_segments32, "mov %cs, %eax; mov %ss, %ebx; mov %ds, %ecx; mov %es, %dx; mov %cs, (%edi)\n"
			     "mov %ss, 4(%edi); push $0; push %cs; pop %esi; push %ss; pop %ebp");
SNIPPET(do_set_segments, "mov %esi, %ds; mov %esi, %es; mov %esi, %fs; push %rsi; pop %gs\n"
			 "mov %ds, %eax; mov %es, %ecx; mov %fs, %edx; mov %gs, %ebx; mov %fs:0, %r8; mov %gs:8, %r9");
SNIPPET(do_load_far,
	"lfs (%rdi), %eax; lgs (%rdi), %ecx; mov %fs, %edx; mov %gs, %ebx; mov %fs:0, %r8; lss 8(%rdi), %ebp\n"
	"mov %ss, %r9d");
SNIPPET(do_set_ds, "mov %esi, %ds; mov %ds, %eax");
SNIPPET(do_set_ss, "mov %esi, %ss; mov %ss, %eax");
SNIPPET32(do_set_ds32, "mov %esi, %ds; mov %ds, %eax");
SNIPPET32(do_marked32, "mov %esi, %es; mov %es:0, %eax; mov %es:8, %ecx");

static void segments_in(enum mode mode)
{
	clear_buffer();
	exec(mode, wide(mode) ? do_get_segments : do_get_segments32, (u64)buffer, 0);
	check_in(mode, "MOV from CS", got.rax, mode_cs[mode]);
	check_in(mode, "MOV from SS", got.rbx, mode_ss[mode]);
	check_in(mode, "MOV from DS", got.rcx, 0x23);
	check_in(mode, "MOV from ES to 16 bits", got.rdx & 0xffffffff, (UNTOUCHED & 0xffff0000) | 0x23);
	check_in(mode, "MOV from CS to memory", *(u32 *)buffer, 0xeeee0000 | mode_cs[mode]);
	check_in(mode, "MOV from SS to memory", *(u32 *)(buffer + 4), 0xeeee0000 | mode_ss[mode]);
	if (wide(mode)) {
		check_in(mode, "MOV from FS", got.r8, 0);
		check_in(mode, "MOV from GS", got.r9, 0);
		check_in(mode, "PUSH FS", got.r10, 0);
		check_in(mode, "PUSH GS", got.r11, 0);
	} else {
		check_in(mode, "PUSH CS", got.rsi & 0xffff, mode_cs[mode]);
		check_in(mode, "PUSH SS", got.rbp & 0xffff, mode_ss[mode]);
	}
	check_in(mode, "CS of the frame", got.cs, mode_cs[mode]);
	check_in(mode, "SS of the frame", got.ss, mode_ss[mode]);
}

static void segment_loads(enum mode mode)
{
	struct {
		u32 offset;
		u16 selector, pad;
		u32 ss_offset;
		u16 ss;
	} far = { 0x1234, MARKED_SELECTOR | 3, 0, (u32)SNIPPET_RSP, mode_ss[mode] };
	bool user = mode == USER64;

	exec(mode, do_set_segments, 0, MARKED_SELECTOR | 3);
	check_in(mode, "loads of DS, ES, FS, GS", got.vector, 0x80);
	check_in(mode, "read back", got.rax << 48 | got.rcx << 32 | got.rdx << 16 | got.rbx, 0x00fb00fb00fb00fb);
	check_in(mode, "FS has its base", got.r8, marker[0]);
	check_in(mode, "GS has its base", got.r9, marker[1]);
	exec(mode, do_load_far, (u64)&far, 0);
	check_in(mode, "LFS, LGS, LSS", got.vector, 0x80);
	check_in(mode, "their selectors", got.rdx << 32 | got.rbx << 16 | got.r9, 0x00fb00fb0000 | mode_ss[mode]);
	check_in(mode, "FS by LFS has its base", got.r8, marker[0]);
	for (u64 s = 0; s < 4; s++) {
		exec(mode, do_set_ds, 0, s);
		check_in(mode, "a null DS keeps its RPL", got.rax, s);
	}
	check_in(mode, "DS of DPL 0", fault_of(mode, do_set_ds, 0, 0x10), user ? FAULT(13, 0x10) : DONE);
	check_in(mode, "DS execute-only", fault_of(mode, do_set_ds, 0, 0x7b), FAULT(13, 0x78));
	check_in(mode, "DS system", fault_of(mode, do_set_ds, 0, 0x3b), FAULT(13, 0x38));
	check_in(mode, "DS not present", fault_of(mode, do_set_ds, 0, 0x48), user ? FAULT(13, 0x48) : FAULT(11, 0x48));
	check_in(mode, "DS from the LDT", fault_of(mode, do_set_ds, 0, 0xf), DONE);
	check_in(mode, "DS beyond the LDT", fault_of(mode, do_set_ds, 0, 0x27), FAULT(13, 0x24));
	check_in(mode, "SS null", fault_of(mode, do_set_ss, 0, 0), user ? FAULT(13, 0) : DONE);
	check_in(mode, "SS of another ring", fault_of(mode, do_set_ss, 0, user ? 0x10 : 0x23),
		 FAULT(13, user ? 0x10 : 0x20));
	check_in(mode, "SS read-only", fault_of(mode, do_set_ss, 0, 0x83), FAULT(13, 0x80));
}

static void segment_loads32(enum mode mode)
{
	exec(mode, do_marked32, 0, MARKED_SELECTOR | 3);
	check_in(mode, "ES with a base", got.rcx << 32 | got.rax, (u64)(u32)marker[1] << 32 | (u32)marker[0]);
	check_in(mode, "DS null", fault_of(mode, do_set_ds32, 0, 0), DONE);
	check_in(mode, "DS of DPL 0", fault_of(mode, do_set_ds32, 0, 0x10), IS_USER(mode) ? FAULT(13, 0x10) : DONE);
}

/* ---- identity, time, counters ---- */

SNIPPET(do_cpuid, "mov %esi, %eax; mov %edi, %ecx; cpuid");
SNIPPET32(do_cpuid32, "mov %esi, %eax; mov %edi, %ecx; cpuid");
SNIPPET(do_rdtsc, "rdtsc");
SNIPPET32(do_rdtsc32, "rdtsc");
SNIPPET(do_rdtscp, "rdtscp");
SNIPPET32(do_rdtscp32, "rdtscp");
SNIPPET(do_rdpid, ".byte 0xf3, 0x0f, 0xc7, 0xf8"); /* to RAX */
SNIPPET32(do_rdpid32, ".byte 0xf3, 0x0f, 0xc7, 0xf8");
SNIPPET(do_rdpmc, "mov %esi, %ecx; rdpmc");
SNIPPET32(do_rdpmc32, "mov %esi, %ecx; rdpmc");

static void cpuid_in(enum mode mode)
{
	static const u32 leaves[] = { 0, 1, 2, 4, 7, 0x40000000, 0x80000000, 0x80000001, 0x80000002, 0x80000008 };
	unsigned wrong = 0;
	u32 r[4];

	for (unsigned i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
		cpuid(leaves[i], 0, r);
		exec(mode, wide(mode) ? do_cpuid : do_cpuid32, 0, leaves[i]);
		wrong += got.vector != 0x80 || got.rax != r[0] || got.rbx != r[1] || got.rcx != r[2] || got.rdx != r[3];
	}
	check_in(mode, "CPUID is that of ring 0", wrong, 0);
	exec(mode, wide(mode) ? do_cpuid : do_cpuid32, 0, 1);
	check_in(mode, "CPUID.1: the APIC id", got.rbx >> 24, LAPIC(LAPIC_ID) >> 24);
	if (HAS_XSAVE) {
		check_in(mode, "CPUID.1: OSXSAVE off", got.rcx >> 27 & 1, 0);
		cr4_set(CR4_OSXSAVE);
		exec(mode, wide(mode) ? do_cpuid : do_cpuid32, 0, 1);
		check_in(mode, "CPUID.1: OSXSAVE on", got.rcx >> 27 & 1, 1);
		xsetbv(3);
		exec(mode, wide(mode) ? do_cpuid : do_cpuid32, 0, 0xd);
		check_in(mode, "CPUID.D: the area for XCR0 = 3", got.rbx, 576);
		if (HAS_AVX) {
			xsetbv(7);
			exec(mode, wide(mode) ? do_cpuid : do_cpuid32, 0, 0xd);
			check_in(mode, "CPUID.D: the area for XCR0 = 7", got.rbx, 832);
		}
		xsetbv(1);
		cr4_clear(CR4_OSXSAVE);
	}
}

static u64 pair(void)
{
	return got.rdx << 32 | got.rax;
}

static void time_in(enum mode mode)
{
	const char *tsc = wide(mode) ? do_rdtsc : do_rdtsc32, *tscp = wide(mode) ? do_rdtscp : do_rdtscp32;
	bool user = IS_USER(mode);
	u64 before;

	/* Far from where any host's is. */
	wrmsr(MSR_TSC, 1ull << 60);
	exec(mode, tsc, 0, 0);
	before = pair();
	check_in(mode, "RDTSC goes on from what was written", before >> 50, 1 << 10);
	exec(mode, tsc, 0, 0);
	check_in(mode, "RDTSC does not go back", pair() >= before, 1);
	wrmsr(MSR_TSC, 0);
	exec(mode, tsc, 0, 0);
	check_in(mode, "RDTSC set back", pair() >> 50, 0);
	cr4_set(CR4_TSD);
	check_in(mode, "RDTSC with TSD", fault_of(mode, tsc, 0, 0), user ? FAULT(13, 0) : DONE);
	if (HAS_RDTSCP)
		check_in(mode, "RDTSCP with TSD", fault_of(mode, tscp, 0, 0), user ? FAULT(13, 0) : DONE);
	if (HAS_RDTSCP || HAS_RDPID)
		wrmsr(MSR_TSC_AUX, 0xabcd1234);
	if (HAS_RDPID) { /* TSD does not matter to it */
		exec(mode, wide(mode) ? do_rdpid : do_rdpid32, 0, 0);
		check_in(mode, "RDPID", got.rax, 0xabcd1234);
	} else {
		check_in(mode, "RDPID without the feature", fault_of(mode, wide(mode) ? do_rdpid : do_rdpid32, 0, 0),
			 FAULT(6, 0));
	}
	cr4_clear(CR4_TSD);
	if (!HAS_RDTSCP)
		return;
	exec(mode, tscp, 0, 0);
	check_in(mode, "RDTSCP: TSC_AUX", got.rcx, 0xabcd1234);
	check_in(mode, "RDTSCP: the time", pair() >> 50, 0);
	wrmsr(MSR_TSC_AUX, 7);
	exec(mode, tscp, 0, 0);
	check_in(mode, "RDTSCP: TSC_AUX changed", got.rcx, 7);
}

static void counters_in(enum mode mode)
{
	const char *code = wide(mode) ? do_rdpmc : do_rdpmc32;
	u64 open;

	check_in(mode, "RDPMC of no counter", fault_of(mode, code, 0, 0x3fff), FAULT(13, 0));
	if (!IS_USER(mode))
		return;
	check_in(mode, "RDPMC without PCE", fault_of(mode, code, 0, 0), FAULT(13, 0));
	cr4_set(CR4_PCE);
	open = fault_of(KERNEL64, do_rdpmc, 0, 0);
	check_in(mode, "RDPMC with PCE is as in ring 0", fault_of(mode, code, 0, 0), open);
	cr4_clear(CR4_PCE);
}

/* ---- XGETBV, RDPKRU, FSGSBASE ---- */

SNIPPET(do_xgetbv, "mov %esi, %ecx; xgetbv");
SNIPPET32(do_xgetbv32, "mov %esi, %ecx; xgetbv");
SNIPPET(do_xsetbv, "mov %edi, %eax; xor %edx, %edx; xor %ecx, %ecx; xsetbv");
SNIPPET32(do_xsetbv32, "mov %edi, %eax; xor %edx, %edx; xor %ecx, %ecx; xsetbv");
SNIPPET(do_rdpkru, "xor %ecx, %ecx; rdpkru");
SNIPPET(do_wrpkru, "mov %esi, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; rdpkru");
SNIPPET32(do_rdpkru32, "xor %ecx, %ecx; rdpkru");
SNIPPET(do_fsgsbase,
	"rdfsbase %rax; rdgsbase %rcx; rdfsbase %edx; wrfsbase %rdi; rdfsbase %rbx; wrgsbase %rsi; rdgsbase %rbp\n"
	"mov %fs:0, %r8; mov %gs:0, %r9; wrfsbase %edi; rdfsbase %r10; rdgsbase %r11d");
SNIPPET(do_wrfsbase, "wrfsbase %rdi");
SNIPPET32(do_rdfsbase32, ".byte 0xf3, 0x0f, 0xae, 0xc0");
SNIPPET(do_swapgs, "swapgs; mov %gs:0, %rax; swapgs");

static void xcr0_in(enum mode mode)
{
	const char *get = wide(mode) ? do_xgetbv : do_xgetbv32, *set = wide(mode) ? do_xsetbv : do_xsetbv32;
	u64 values[] = { 1, 3, HAS_AVX ? 7 : 3, 1 };
	u32 r[4];

	if (!HAS_XSAVE) {
		print("skip XSAVE\n");
		return;
	}
	check_in(mode, "XGETBV without OSXSAVE", fault_of(mode, get, 0, 0), FAULT(6, 0));
	cr4_set(CR4_OSXSAVE);
	for (unsigned i = 0; i < 4; i++) {
		xsetbv(values[i]);
		exec(mode, get, 0, 0);
		check_in(mode, "XGETBV", pair(), values[i]);
		cpuid(0xd, 1, r);
		if (r[0] & 4) {
			exec(mode, get, 0, 1);
			check_in(mode, "XGETBV of what is in use: within XCR0", pair() & ~values[i], 0);
		}
	}
	check_in(mode, "XGETBV of no XCR", fault_of(mode, get, 0, 2), FAULT(13, 0));
	check_in(mode, "XSETBV", fault_of(mode, set, 3, 0), IS_USER(mode) ? FAULT(13, 0) : DONE);
	check_in(mode, "XSETBV without x87", fault_of(mode, set, 2, 0), FAULT(13, 0));
	check_in(mode, "XCR0 after them", xgetbv(), IS_USER(mode) ? 1 : 3);
	xsetbv(1);
	cr4_clear(CR4_OSXSAVE);
}

static void pkru_in(enum mode mode)
{
	const char *code = wide(mode) ? do_rdpkru : do_rdpkru32;

	if (!HAS_PKU) {
		print("skip PKU\n");
		return;
	}
	check_in(mode, "RDPKRU without PKE", fault_of(mode, code, 0, 0), FAULT(6, 0));
	cr4_set(CR4_PKE);
	exec(KERNEL64, do_wrpkru, 0, 0xc1234560);
	check_in(mode, "WRPKRU", got.rax, 0xc1234560);
	exec(mode, code, 0, 0);
	check_in(mode, "RDPKRU", pair(), 0xc1234560);
	exec(KERNEL64, do_wrpkru, 0, 0);
	cr4_clear(CR4_PKE);
}

static void bases_in(enum mode mode)
{
	u64 second = (u64)&marker[1];

	if (!HAS_FSGSBASE) {
		print("skip FSGSBASE\n");
		return;
	}
	check_in(mode, "RDFSBASE without CR4.FSGSBASE", fault_of(mode, do_fsgsbase, 0, 0), FAULT(6, 0));
	cr4_set(CR4_FSGSBASE);
	wrmsr(MSR_FS_BASE, 0x123456789a0);
	wrmsr(MSR_GS_BASE, 0xffffaaaabbbb0000);
	wrmsr(MSR_KERNEL_GS_BASE, (u64)marker);
	/* exec() clears them by null selectors: not this time. */
	got.cs = mode_cs[mode];
	got.ss = mode_ss[mode];
	got.rip = (u64)do_fsgsbase;
	got.rsp = SNIPPET_RSP;
	got.rflags = 0x2;
	got.rdi = (u64)marker;
	got.rsi = second;
	run_frame(&got);
	check_in(mode, "RD/WR FS/GSBASE", got.vector, 0x80);
	check_in(mode, "RDFSBASE", got.rax, 0x123456789a0);
	check_in(mode, "RDGSBASE", got.rcx, 0xffffaaaabbbb0000);
	check_in(mode, "RDFSBASE to 32 bits", got.rdx, 0x456789a0);
	check_in(mode, "WRFSBASE", got.rbx, (u64)marker);
	check_in(mode, "WRGSBASE", got.rbp, second);
	check_in(mode, "a load through FS", got.r8, marker[0]);
	check_in(mode, "a load through GS", got.r9, marker[1]);
	check_in(mode, "the MSR of FS", rdmsr(MSR_FS_BASE), (u64)marker);
	check_in(mode, "the MSR of GS", rdmsr(MSR_GS_BASE), second);
	check_in(mode, "WRFSBASE of 32 bits", got.r10, (u32)(u64)marker);
	check_in(mode, "WRFSBASE, non-canonical", fault_of(mode, do_wrfsbase, 1ull << 62, 0), FAULT(13, 0));
	check_in(mode, "SWAPGS", fault_of(mode, do_swapgs, 0, 0), mode == USER64 ? FAULT(13, 0) : DONE);
	if (mode == KERNEL64)
		check_in(mode, "a load through swapped GS", got.rax, marker[0]);
	check_in(mode == USER64 ? USER32 : KERNEL32, "RDFSBASE",
		 fault_of(mode == USER64 ? USER32 : KERNEL32, do_rdfsbase32, 0, 0), FAULT(6, 0));
	cr4_clear(CR4_FSGSBASE);
}

int main(void)
{
	set_up_tables();
	LAPIC(LAPIC_SVR) = 0x1ff;
	for (enum mode mode = 0; mode < MODES; mode++) {
		tables_in(mode);
		looks_in(mode);
		flags_in(mode);
		interrupt_flag_in(mode);
		segments_in(mode);
		cpuid_in(mode);
		time_in(mode);
		counters_in(mode);
		xcr0_in(mode);
		pkru_in(mode);
		if (wide(mode)) {
			status_bytes(mode);
			segment_loads(mode);
			bases_in(mode);
		} else {
			segment_loads32(mode);
		}
	}
	umip();
	return (int)failures;
}
