/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit code with flat segments, and with others: what wraps around at 4 GiB, byte registers, FS and GS, faults and
 * single steps in the middle of hot code, code that changes itself, ring 3. Its own Multiboot start.
 */
#include "guest32.h"

#define ROUNDS 200
#define TOP 0xfffff000u
enum { GDT_CODE = 1, GDT_DATA, GDT_UCODE, GDT_UDATA, GDT_TSS, GDT_BASED, GDT_SMALL, GDT_READONLY, GDT_DOWN, GDT_COUNT };

/* As the entry stubs leave it. */
struct frame {
	u32 edi, esi, ebp, esp_, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss;
};

static u64 gdt[GDT_COUNT];
static u64 idt[256];
static u32 tss[26];
static u8 stack0[8192];
static u8 user_stack[4096] __attribute__((used, aligned(4096))); /* by assembly alone */
static u32 page_dir[1024] __attribute__((aligned(4096)));
static u32 top_table[1024] __attribute__((aligned(4096)));
static u8 top[4096] __attribute__((aligned(4096)));
static u8 buffer[8192] __attribute__((aligned(4096)));
static volatile struct frame last;
static volatile u32 __attribute__((used)) resume_eip, resume_esp;
static volatile u32 steps, step_eip[16];
extern char stubs32[], step_first[], step_last[], user_code[];
void guest_main(void);
void handle(struct frame *f);
u32 on_wrapped_stack(u32 esp, u32 a, u32 b);
u32 byte_registers(u8 *at);
u32 patch_ahead(u32 rounds);
u32 step_through(void);
void run_user(u32 what);
u32 string_ops(u8 *to, const u8 *from);
u32 frames(u32 a, u32 b);

__asm__(".section .multiboot, \"a\"\n"
	".align 4\n.long 0x1badb002, 0, -0x1badb002\n"
	".text\n.globl start\n"
	"start: cli\n mov $main_stack_top, %esp\n call guest_main\n"
	/* Entry stubs: vector and error code on the stack. */
	".align 16\nstubs32:\n"
	"vector = 0\n.rept 256\n.align 16\n"
	".if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != "
	"17\n"
	"push $0\n.endif\n"
	"push $vector\njmp common32\nvector = vector + 1\n.endr\n"
	/* The handler's segments are its own: FS and GS are what is tested. */
	"common32: pusha\n mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %esp, %eax\n push %eax\n call handle\n"
	"add $4, %esp\n popa\n add $8, %esp\n iret\n"
	/* Pushes a and b where ESP wraps around; returns what POP finds there, minus what is missing of ESP. */
	"on_wrapped_stack: push %ebx\n push %esi\n mov %esp, %esi\n mov 20(%esp), %ecx\n mov 16(%esp), %eax\n"
	"mov 12(%esp), %esp\n push %eax\n push %ecx\n mov 4(%esp), %edx\n mov (%esp), %ebx\n add %edx, %ebx\n"
	"pop %ecx\n pop %eax\n sub %ecx, %eax\n sub 12(%esi), %esp\n sub %esp, %eax\n add %ebx, %eax\n"
	"mov %esi, %esp\n pop %esi\n pop %ebx\n ret\n"
	/* AH to BH beside memory: at[0] = 1, 2, 3, 4 moves around. */
	"byte_registers: push %ebx\n mov 8(%esp), %edx\n xor %eax, %eax\n xor %ecx, %ecx\n mov (%edx), %ah\n add "
	"1(%edx), "
	"%ah\n"
	"mov 2(%edx), %ch\n xchg %ch, 3(%edx)\n mov %ah, 4(%edx)\n sub %ch, 4(%edx)\n inc %ah\n adc %ah, 5(%edx)\n"
	"cmp %ch, 4(%edx)\n setb 6(%edx)\n movzbl %ah, %ebx\n mov %bl, %bh\n xor %bh, 7(%edx)\n test %bh, 7(%edx)\n"
	"mov $0x1234, %ebx\n xadd %bh, (%edx)\n movl 4(%edx), %eax\n add (%edx), %eax\n add %ebx, %eax\n pop %ebx\n "
	"ret\n"
	/* Each round writes the immediate of the instruction that follows. */
	"patch_ahead: push %ebx\n mov 8(%esp), %ecx\n xor %eax, %eax\n"
	"1: mov %cl, patched + 1\n jmp 2f\n2:\n"
	"patched: mov $0, %bl\n movzbl %bl, %ebx\n add %ebx, %eax\n dec %ecx\n jnz 1b\n pop %ebx\n ret\n"
	/* TF for five instructions; the sixth runs before it is off. */
	"step_through: pushf\n orl $0x100, (%esp)\n popf\n"
	"step_first: inc %eax\n mov $7, %eax\n push %eax\n pop %ecx\n pushf\n andl $~0x100, (%esp)\n popf\n"
	"step_last: mov %ecx, %eax\n ret\n"
	/* Repeated and not, upwards and downwards. */
	"string_ops: push %esi\n push %edi\n mov 12(%esp), %edi\n mov 16(%esp), %esi\n lodsb\n stosb\n movsb\n lodsw\n "
	"stosw\n"
	"movsl\n std\n scasb\n cmpsb\n lodsb\n cld\n mov $16, %ecx\n rep movsb\n scasl\n mov %edi, %eax\n sub "
	"12(%esp), %eax\n"
	"shl $8, %eax\n sub 16(%esp), %esi\n add %esi, %eax\n pop %edi\n pop %esi\n ret\n"
	"frames: enter $16, $0\n mov 8(%ebp), %eax\n mov %eax, -4(%ebp)\n pusha\n mov 12(%ebp), %eax\n add %eax, "
	"28(%esp)\n popa\n"
	"pushw $0x1234\n popw %cx\n push %ds\n pop %ecx\n push -4(%ebp)\n pop %ecx\n add %ecx, %eax\n leave\n ret\n"
	/* Ring 3: EAX says what to do; comes back by INT 0x80 or a fault. */
	"run_user: pusha\n mov 36(%esp), %eax\n movl $1f, resume_eip\n mov %esp, resume_esp\n"
	"push $0x23\n push $user_stack + 4096\n pushf\n push $0x1b\n push $user_code\n"
	"mov $0x23, %ecx\n mov %ecx, %ds\n mov %ecx, %es\n iret\n"
	"1: popa\n ret\n"
	".align 4096\nuser_code: mov $1000, %ecx\n xor %edx, %edx\n 1: add %ecx, %edx\n dec %ecx\n jnz 1b\n push "
	"%edx\n pop "
	"%ebx\n"
	"test %eax, %eax\n jz 2f\n mov (%eax), %ecx\n 2: int $0x80\n .align 4096\n"
	".bss\n.align 16\n.skip 16384\nmain_stack_top:\n.text\n");

void handle(struct frame *f)
{
	if (f->vector == 1) {
		if (steps < 16)
			step_eip[steps] = f->eip;
		steps++;
		return;
	}
	for (unsigned i = 0; i < sizeof(*f) / 4; i++)
		((volatile u32 *)&last)[i] = ((u32 *)f)[i];
	if (!resume_eip) {
		print("unexpected exception\n");
		guest_exit(63);
	}
	__asm__ volatile("mov %0, %%esp\n\tjmp *%1" ::"r"(resume_esp), "r"(resume_eip));
}

static u64 descriptor(u32 base, u32 limit, u32 access, u32 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static void load_tables(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) g = { sizeof(gdt) - 1, (u32)gdt }, i = { sizeof(idt) - 1, (u32)idt };

	gdt[GDT_CODE] = descriptor(0, 0xfffff, 0x9b, 12);
	gdt[GDT_DATA] = descriptor(0, 0xfffff, 0x93, 12);
	gdt[GDT_UCODE] = descriptor(0, 0xfffff, 0xfb, 12);
	gdt[GDT_UDATA] = descriptor(0, 0xfffff, 0xf3, 12);
	gdt[GDT_TSS] = descriptor((u32)tss, sizeof(tss) - 1, 0x89, 0);
	gdt[GDT_BASED] = descriptor((u32)buffer + 64, 0xfffff, 0x93, 12);
	gdt[GDT_SMALL] = descriptor((u32)buffer, 0xff, 0x93, 4);
	gdt[GDT_READONLY] = descriptor((u32)buffer, 0xfffff, 0x91, 12);
	gdt[GDT_DOWN] = descriptor((u32)buffer, 0xff, 0x97, 4);
	__asm__ volatile("lgdt %0\n\tljmp $0x08, $1f\n1:" ::"m"(g));
	__asm__ volatile(
		"mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %0, %%fs; mov %0, %%gs" ::"r"(SELECTOR(GDT_DATA, 0)));
	for (u32 n = 0; n < 256; n++) {
		u32 target = (u32)stubs32 + n * 16;

		idt[n] = (target & 0xffff) | SELECTOR(GDT_CODE, 0) << 16 |
			 (u64)(n == 0x80 || n == 4 ? 0xee00 : 0x8e00) << 32 | (u64)(target >> 16) << 48;
	}
	__asm__ volatile("lidt %0" ::"m"(i));
	tss[1] = (u32)stack0 + sizeof(stack0);
	tss[2] = SELECTOR(GDT_DATA, 0);
	__asm__ volatile("ltr %w0" ::"r"(SELECTOR(GDT_TSS, 0)));
}

/* 32 MiB as they are, those with this program for ring 3, too; the last page of the address space is `top`. */
static void load_paging(void)
{
	u32 v;

	for (u32 i = 0; i < 8; i++)
		page_dir[i] = i << 22 | 0x83;
	top_table[1023] = (u32)top | 3;
	page_dir[1023] = (u32)top_table | 3;
	page_dir[(u32)user_code >> 22] |= 4;
	page_dir[(u32)user_stack >> 22] |= 4;
	__asm__ volatile("mov %%cr4, %0\n\tor $0x10, %0\n\tmov %0, %%cr4" : "=&r"(v));
	__asm__ volatile("mov %0, %%cr3" ::"r"(page_dir));
	__asm__ volatile("mov %%cr0, %0\n\tor $0x80010000, %0\n\tmov %0, %%cr0" : "=&r"(v));
}

/* Assembly that may fault: true if it does, with the frame in `last`. */
#define FAULTS(code, ...)                                                                                              \
	({                                                                                                             \
		last.vector = 255;                                                                                     \
		__asm__ volatile("pusha\n\tmovl $1f, resume_eip\n\tmov %%esp, resume_esp\n\t" code                     \
				 "\n1:\n\tpopa" ::__VA_ARGS__                                                          \
				 : "memory", "cc");                                                                    \
		resume_eip = 0;                                                                                        \
		last.vector != 255;                                                                                    \
	})

static bool fault_is(u32 vector, u32 error)
{
	return last.vector == vector && last.error == error;
}

static u32 load32(const u8 *p)
{
	return *(const volatile u32 *)p;
}

/* ---- hot code ---- */

static u32 crc32(const u8 *p, u32 n)
{
	u32 crc = ~0u;

	while (n--) {
		crc ^= *p++;
		for (unsigned k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

/* What byte_registers() does. */
static u32 bytes_in_c(u8 *m)
{
	u8 ah = m[0] + m[1], ch = m[3];
	bool carry;

	m[3] = m[2];
	carry = ah < ch;
	m[4] = ah - ch;
	ah++;
	m[5] += ah + carry;
	m[6] = m[4] < ch;
	m[7] ^= ah;
	ch = m[0];
	m[0] += 0x12;
	return load32(m + 4) + load32(m) + (ch << 8 | 0x34);
}

static void test_hot_code(void)
{
	bool crc = true, bytes = true, stack = true, strings = true;
	u8 *to = buffer + 1024;

	for (u32 k = 0; k < ROUNDS; k++) {
		crc &= crc32((const u8 *)"123456789", 9) == 0xcbf43926;
		for (u32 n = 0; n < 8; n++)
			buffer[n] = buffer[n + 16] = (u8)(37 * n * k + k);
		bytes &= byte_registers(buffer) == bytes_in_c(buffer + 16);
		bytes &= load32(buffer) == load32(buffer + 16) && load32(buffer + 4) == load32(buffer + 20);
		stack &= frames(5 + k, 7) == 17 + 2 * k;
		for (u32 n = 0; n < 64; n++) {
			buffer[n] = (u8)(n * k);
			to[n] = 0;
		}
		strings &= string_ops(to, buffer) == (26 << 8) + 22;
		for (u32 n = 0; n < 64; n++)
			strings &= to[n] == (n < 22 ? (u8)(n * k) : 0);
	}
	check("a CRC", crc);
	check("AH to BH beside memory", bytes);
	check("ENTER, PUSHA, slots of two bytes, PUSH of a segment, LEAVE", stack);
	check("string instructions upwards and downwards", strings);
	check("code that changes the next instruction", patch_ahead(200) == 200 * 201 / 2);
	check("and again", patch_ahead(100) == 100 * 101 / 2);
}

/* ---- 4 GiB ---- */

static void test_wrapping(void)
{
	bool stack = true, data = true, code = true;
	volatile u8 *low;

	__asm__("xor %0, %0" : "=r"(low));
	for (u32 k = 0; k < ROUNDS; k++) {
		u32 a, b, eax = k;

		stack &= on_wrapped_stack(12, k, 3) == 2 * k && on_wrapped_stack(8, k, 5) == 2 * k;
		stack &= on_wrapped_stack(4, k, 7) == 2 * k && on_wrapped_stack(0, k, 9) == 2 * k;
		*(volatile u32 *)(buffer + 16) = k;
		__asm__ volatile("mov 32(%2), %0\n\tadd $16, %2\n\tmov (%2, %3), %1"
				 : "=&r"(a), "=&r"(b)
				 : "r"((u32)buffer - 16), "r"(0)
				 : "memory");
		data &= a == k && b == load32(buffer);
		__asm__ volatile("mov 16(%1, %2), %0" : "=r"(a) : "r"(0xfffffff0u), "r"((u32)buffer + 16) : "memory");
		data &= a == k;
		for (u32 n = 0; n < 16; n++)
			((volatile u8 *)TOP)[4080 + n] = 0x40; /* inc eax */
		low[0] = 0x40;
		low[1] = 0xc3; /* ret */
		__asm__ volatile("call *%1" : "+a"(eax) : "r"(0xfffffff0u) : "memory");
		code &= eax == k + 17;
	}
	check("a stack across 0", stack);
	check("addresses modulo 4 GiB", data);
	check("code goes on at 0", code);
}

/* ---- segments ---- */

static void test_bases(void)
{
	bool base = true, data = true;

	__asm__ volatile("mov %0, %%fs" ::"r"(SELECTOR(GDT_BASED, 0)));
	for (u32 k = 0; k < ROUNDS; k++) {
		u32 a, b, c;

		*(volatile u32 *)(buffer + 48) = k;
		*(volatile u32 *)(buffer + 80) = 2 * k;
		__asm__ volatile(
			"mov %%fs:0xfffffff0, %0\n\tmov %%fs:(%3), %1\n\tadd %0, %%fs:16\n\tmov %%fs:-16(%4), %2"
			: "=&r"(a), "=&r"(b), "=&r"(c)
			: "r"(0xfffffff0u), "r"(32)
			: "memory");
		base &= a == k && b == k && c == 3 * k;
		/* In the middle of flat code, one access by another DS. */
		__asm__ volatile("mov %3, %%ds\n\tmov 16, %0\n\tmov %4, %%ds\n\tmov (%2), %1"
				 : "=&r"(a), "=&r"(b)
				 : "r"(buffer + 48), "r"(SELECTOR(GDT_BASED, 0)), "r"(SELECTOR(GDT_DATA, 0))
				 : "memory");
		data &= a == 3 * k && b == k;
	}
	check("FS adds its base", base);
	check("a DS with a base", data);
}

/* By GS, whose selector is given: a read, a write. */
static bool reads(u32 selector, u32 offset)
{
	return !FAULTS("mov %0, %%gs\n\tmov %%gs:(%1), %%eax", "r"(selector), "r"(offset));
}

static bool writes(u32 selector, u32 offset)
{
	return !FAULTS("mov %0, %%gs\n\tadd %%eax, %%gs:(%1)", "r"(selector), "r"(offset));
}

static void test_limits(void)
{
	bool small = true, readonly = true, down = true, null = true, ds = true;

	for (u32 k = 0; k < ROUNDS; k++) {
		small &= reads(SELECTOR(GDT_SMALL, 0), 0xfc) && writes(SELECTOR(GDT_SMALL, 0), 0xfc);
		small &= !reads(SELECTOR(GDT_SMALL, 0), 0xfd) && fault_is(13, 0);
		small &= !writes(SELECTOR(GDT_SMALL, 0), 0xfffffff0) && fault_is(13, 0);
		readonly &= reads(SELECTOR(GDT_READONLY, 0), 0xfc);
		readonly &= !writes(SELECTOR(GDT_READONLY, 0), 0xfc) && fault_is(13, 0);
		down &= reads(SELECTOR(GDT_DOWN, 0), 0x100) && !reads(SELECTOR(GDT_DOWN, 0), 0xff) && fault_is(13, 0);
		null &= !reads(0, 0xfc) && fault_is(13, 0);
		ds &= FAULTS("mov %0, %%ds\n\tmov %%eax, 0xfd", "r"(SELECTOR(GDT_SMALL, 0))) && fault_is(13, 0);
		ds &= !FAULTS("mov %0, %%ds\n\tmov 0xfc, %%eax\n\tmov %1, %%ds", "r"(SELECTOR(GDT_SMALL, 0)),
			      "r"(SELECTOR(GDT_DATA, 0)));
	}
	check("a limit", small);
	check("a segment to be read only", readonly);
	check("an expand-down segment", down);
	check("a null selector", null);
	check("a limit of DS", ds);
}

/* ---- faults ---- */

static void test_faults(void)
{
	static const u32 bounds[2] = { 1, 5 };
	bool page = true, divide = true, others = true;
	u32 cr2;

	for (u32 k = 0; k < ROUNDS; k++) {
		page &= FAULTS("mov $1, %%eax\n\tpush %%eax\n\tinc %%eax\n\tmov %%eax, (%0)\n\tinc %%eax",
			       "c"(0x80000000u));
		__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
		page &= fault_is(14, 2) && cr2 == 0x80000000 && last.eax == 2 && *(u16 *)last.eip == 0x0189;
		divide &= FAULTS("mov $7, %%eax\n\tcltd\n\tincl %0\n\tdivl %1", "m"(*(u32 *)buffer), "c"(0)) &&
			  fault_is(0, 0);
		divide &= last.eax == 7;
		others &= FAULTS("boundl %0, %1", "r"(6), "m"(bounds)) && fault_is(5, 0);
		others &= !FAULTS("boundl %0, %1", "r"(5), "m"(bounds));
		others &= FAULTS("mov $0x7fffffff, %%eax\n\tinc %%eax\n\tinto\n\tnop", ) && fault_is(4, 0);
		others &= *(u8 *)last.eip == 0x90;
	}
	check("a page fault in the middle of a block", page);
	check("#DE", divide);
	check("#BR, #OF", others);
}

static void test_steps(void)
{
	bool good = true;

	for (u32 k = 0; k < 20; k++) {
		steps = 0;
		good &= step_through() == 7;
		/* Behind each instruction but the first POPF, behind the last one, too. */
		good &= steps == 7 && step_eip[0] == (u32)step_first + 1 && step_eip[6] == (u32)step_last;
	}
	check("single steps", good);
}

static void test_ring3(void)
{
	bool good = true;
	u32 cr2;

	for (u32 k = 0; k < ROUNDS; k++) {
		run_user(0);
		resume_eip = 0;
		good &= last.vector == 0x80 && last.cs == SELECTOR(GDT_UCODE, 3) && last.ebx == 500500;
		run_user(0x1000);
		resume_eip = 0;
		__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
		good &= fault_is(14, 5) && cr2 == 0x1000 && last.ebx == 500500;
	}
	check("ring 3", good);
}

void guest_main(void)
{
	load_tables();
	load_paging();
	test_hot_code();
	test_wrapping();
	test_bases();
	test_limits();
	test_faults();
	test_steps();
	test_ring3();
	guest_exit(failures);
}
