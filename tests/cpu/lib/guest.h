/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the 64-bit guest programs share. A program checks facts with check(); each prints "ok NAME" or
 * "not ok NAME" on COM1; the number of failures goes to isa-debug-exit.
 */
#ifndef TESTS_CPU_GUEST_H
#define TESTS_CPU_GUEST_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

int main(void);

void print(const char *s);
void print_hex(u64 v);
void check(const char *name, bool ok);
/* check(a == b), printing both when they differ */
void check_equal(const char *name, u64 got, u64 want);
extern unsigned failures;
void guest_exit(int status) __attribute__((noreturn));

/* The last exception or interrupt, whoever caused it. */
struct exception {
	u64 vector; /* 255: none */
	u64 error, rip, cs, rflags, rsp, ss, cr2, dr6;
	u64 count;
};
extern volatile struct exception last;
/* Where to go on after an unexpected fault; 0: the program fails. */
extern volatile u64 fault_resume;

/* Run instructions that may fault; the value is the vector, 255 for none. `label` 9 is behind them. */
#define TRY(insns, ...)                                                                                                \
	({                                                                                                             \
		last.vector = 255;                                                                                     \
		__asm__ volatile("movq $9f, fault_resume\n\t" insns "\n9:\n\tmovq $0, fault_resume" ::__VA_ARGS__      \
				 : "memory", "cc", "rax", "rcx", "rdx", "rbx");                                        \
		last.vector;                                                                                           \
	})

#define GATE_IST(vector, ist) gate_set_ist(vector, ist)
void gate_set_ist(unsigned vector, unsigned ist);
typedef void interrupt_hook(void);
extern interrupt_hook *volatile hooks[256]; /* called for the vector instead of failing */

extern volatile u64 return_flags; /* what a hook wants set in RFLAGS when its exception returns, once */

u64 run_user(void (*fn)(void)); /* at CPL 3, until int $0x80 or a fault (then last.vector says which) */
#define USER_EXIT() __asm__ volatile("int $0x80")

struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7];
	u64 reserved2;
	u16 reserved3, io_map;
	u8 io_bitmap[8193];
} __attribute__((packed));
extern struct tss tss;
extern u64 gdt[], pml4[], pdpt[], pd[], page_table[];

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
	u8 v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline u64 rdmsr(u32 i)
{
	u32 a, d;
	__asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(i));
	return (u64)d << 32 | a;
}
static inline void wrmsr(u32 i, u64 v)
{
	__asm__ volatile("wrmsr" ::"c"(i), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
#define READ_REG(reg)                                                                                                  \
	({                                                                                                             \
		u64 v_;                                                                                                \
		__asm__ volatile("mov %%" #reg ", %0" : "=r"(v_));                                                     \
		v_;                                                                                                    \
	})
#define WRITE_REG(reg, value) __asm__ volatile("mov %0, %%" #reg ::"r"((u64)(value)) : "memory")
static inline void invlpg(const void *p)
{
	__asm__ volatile("invlpg (%0)" ::"r"(p) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

#endif
