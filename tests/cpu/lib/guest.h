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

/* As the entry stubs push it. */
struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error, rip, cs, rflags, rsp, ss;
};
typedef bool frame_hook(struct frame *);      /* may change it; false: not mine */
extern frame_hook *volatile frame_hooks[256]; /* asked first; `last` is not touched then */
void gate_set_entry(unsigned vector, unsigned dpl, void (*entry)(void));

/*
 * Go on with all the registers of *f (but `vector` and `error`) until an exception or INT; *f is what it found.
 * Interrupts with a frame hook do not end it.
 */
void run_frame(struct frame *f);

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
static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
#define READ_REG(reg)                                                                                                  \
	({                                                                                                             \
		u64 v_;                                                                                                \
		__asm__ volatile("mov %%" #reg ", %0" : "=r"(v_));                                                     \
		v_;                                                                                                    \
	})
#define WRITE_REG(reg, value) __asm__ volatile("mov %0, %%" #reg ::"r"((u64)(value)) : "memory")
static inline u64 xgetbv(void)
{
	u32 a, d;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (u64)d << 32 | a;
}
static inline void xsetbv(u64 v)
{
	__asm__ volatile("xsetbv" ::"a"((u32)v), "d"((u32)(v >> 32)), "c"(0));
}
static inline void invlpg(const void *p)
{
	__asm__ volatile("invlpg (%0)" ::"r"(p) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

#define READ_FLAGS()                                                                                                   \
	({                                                                                                             \
		u64 v_;                                                                                                \
		__asm__ volatile("pushf; pop %0" : "=r"(v_)::"memory");                                                \
		v_;                                                                                                    \
	})

/* A feature bit of CPUID: register 0..3 are EAX, EBX, ECX, EDX. */
static inline bool has_feature(u32 leaf, unsigned reg, unsigned bit)
{
	u32 r[4];

	cpuid(leaf & 0x80000000, 0, r);
	if (r[0] < leaf)
		return false;
	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}
#define HAS_PCID has_feature(1, 2, 17)
#define HAS_XSAVE has_feature(1, 2, 26)
#define HAS_AVX has_feature(1, 2, 28)
#define HAS_FSGSBASE has_feature(7, 1, 0)
#define HAS_AVX2 has_feature(7, 1, 5)
#define HAS_SMEP has_feature(7, 1, 7)
#define HAS_INVPCID has_feature(7, 1, 10)
#define HAS_AVX512F has_feature(7, 1, 16)
#define HAS_SMAP has_feature(7, 1, 20)
#define HAS_UMIP has_feature(7, 2, 2)
#define HAS_PKU has_feature(7, 2, 3)
#define HAS_PKS has_feature(7, 2, 31)
#define HAS_RDPID has_feature(7, 2, 22)
#define HAS_RDTSCP has_feature(0x80000001, 3, 27)
#define HAS_1G_PAGES has_feature(0x80000001, 3, 26)
bool vendor_is_amd(void);

/* Control bits by number, in the notation of the manual. */
#define CR0_MP (1u << 1)
#define CR0_TS (1u << 3)
#define CR0_WP (1u << 16)
#define CR4_TSD (1u << 2)
#define CR4_PGE (1u << 7)
#define CR4_PCE (1u << 8)
#define CR4_UMIP (1u << 11)
#define CR4_FSGSBASE (1u << 16)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define CR4_PKE (1u << 22)
#define CR4_PKS (1u << 24)
static inline void cr4_set(u64 bits)
{
	WRITE_REG(cr4, READ_REG(cr4) | bits);
}
static inline void cr4_clear(u64 bits)
{
	WRITE_REG(cr4, READ_REG(cr4) & ~bits);
}

/* Numbers without a pattern, the same in every run. */
static inline u64 random64(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1d;
}

#define LAPIC(reg) (*(volatile u32 *)(0xfee00000ull + (reg)))
#define LAPIC_ID 0x20
#define LAPIC_TPR 0x80
#define LAPIC_EOI 0xb0
#define LAPIC_SVR 0xf0
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_TIMER_DIVIDE 0x3e0

#endif
