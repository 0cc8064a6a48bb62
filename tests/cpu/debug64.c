/* SPDX-License-Identifier: Apache-2.0 */
/* Single-step, hardware breakpoints and watchpoints, ICEBP, the shadow of MOV SS (SDM 3B 17). */
#include "guest.h"

static volatile u64 steps, step_rip[16];
static void on_step(void)
{
	if (steps < 16)
		step_rip[steps] = last.rip;
	steps++;
}

static volatile struct {
	u64 before, value, after;
} area;
#define watched area.value
static volatile u64 hits, hit_dr6, hit_rip;
static void on_hit(void)
{
	hits++;
	hit_dr6 = last.dr6;
	hit_rip = last.rip;
	WRITE_REG(dr6, 0xffff0ff0);
}
static void on_hit_once(void)
{
	on_hit();
	WRITE_REG(dr7, 0x400);
}

static void on_repeat(void)
{
	on_hit();
	return_flags = 1 << 16; /* RF: past the breakpoint */
}

static void single_step(void)
{
	hooks[1] = on_step;
	__asm__ volatile("pushf; orl $0x100, (%%rsp); popf\n\t"
			 "nop\n\tnop\n\tnop\n\t"
			 "pushf; andl $~0x100, (%%rsp); popf" ::
				 : "memory", "cc");
	/* Traps after each nop, pushf, andl, popf (which cleared TF too late for its own). */
	check_equal("single-step traps after each instruction", steps, 6);
	check_equal("at the next instruction", step_rip[1] - step_rip[0], 1);
	check("DR6.BS says why", last.dr6 >> 14 & 1);
	hooks[1] = 0;
}

static void watchpoints(void)
{
	WRITE_REG(dr6, 0xffff0ff0);
	WRITE_REG(dr0, (u64)&watched);
	WRITE_REG(dr7, 0x400 | 2 | 1 << 16 | 2 << 18); /* write, 8 bytes */
	hooks[1] = on_hit;
	hits = 0;
	(void)watched;
	check_equal("a read does not hit a write watchpoint", hits, 0);
	watched = 1;
	check_equal("a write does", hits, 1);
	check_equal("DR6.B0", hit_dr6 & 15, 1);
	*((volatile u8 *)&watched + 7) = 1;
	check_equal("so does a write to its last byte", hits, 2);
	area.before = 1;
	area.after = 1;
	check_equal("its neighbours do not", hits, 2);
	WRITE_REG(dr7, 0x400 | 2 | 3 << 16 | 2 << 18); /* read or write */
	(void)watched;
	check_equal("a read hits a read/write watchpoint", hits, 3);
	WRITE_REG(dr7, 0x400);
	watched = 2;
	check_equal("a watchpoint can be taken away", hits, 3);
}

static void breakpoint(void)
{
	u64 where;

	hooks[1] = on_hit_once;
	hits = 0;
	__asm__ volatile("lea 1f(%%rip), %0\n\t"
			 "mov %0, %%dr1\n\t"
			 "mov $0x408, %%eax\n\t"
			 "mov %%rax, %%dr7\n\t"
			 "nop\n"
			 "1:\tnop"
			 : "=r"(where)::"rax", "memory");
	check_equal("an instruction breakpoint hits before it", hit_rip, where);
	check_equal("once", hits, 1);
	check_equal("DR6.B1", hit_dr6 & 15, 2);
	hooks[1] = 0;
}

static void hit_behind(const char *name, u64 hits_wanted, u64 rip, u64 where)
{
	check_equal(name, hits, hits_wanted);
	check_equal("returns behind it", rip, where);
}

/* A data breakpoint that MOV SS holds back, and what the next instruction makes of it. */
static void mov_ss(void)
{
	u64 where;

	WRITE_REG(dr6, 0xffff0ff0);
	WRITE_REG(dr0, (u64)&watched);
	__asm__ volatile("mov %%ss, %0" : "=r"(where));
	watched = where;
	hooks[1] = on_hit;
	WRITE_REG(dr7, 0x400 | 2 | 3 << 16 | 2 << 18);
	hits = 0;
	__asm__ volatile("lea 1f(%%rip), %0\n\tmov %1, %%ss\n\tnop\n1:" : "=&r"(where) : "m"(watched));
	hit_behind("MOV SS delays a watchpoint by one instruction", 1, hit_rip, where);
	check_equal("DR6.B0 of it", hit_dr6 & 15, 1);
	hits = 0;
	__asm__ volatile("lea 1f(%%rip), %0\n\tmov %1, %%ss\n\t.byte 0xf1\n1:" : "=&r"(where) : "m"(watched));
	hit_behind("INT1 behind it is the same #DB", 1, hit_rip, where);
	check_equal("DR6.B0 of both", hit_dr6 & 15, 1);
	hits = 0;
	__asm__ volatile("mov %0, %%ss\n\tint $1" ::"m"(watched));
	check_equal("INT 1 behind it is another one", hits, 2);
	WRITE_REG(dr7, 0x400);
	hooks[1] = 0;
}

/* REP is one instruction for its breakpoint. */
static void repeated(void)
{
	static u8 from[8] = "1234567", to[8];

	hooks[1] = on_repeat;
	hits = 0;
	__asm__ volatile("lea 1f(%%rip), %%rax\n\t"
			 "mov %%rax, %%dr1\n\t"
			 "mov $0x408, %%eax\n\t"
			 "mov %%rax, %%dr7\n\t"
			 "mov $8, %%ecx\n"
			 "1:\trep movsb\n\t"
			 "mov $0x400, %%eax\n\t"
			 "mov %%rax, %%dr7" ::"S"(from),
			 "D"(to)
			 : "rax", "rcx", "memory");
	check_equal("a breakpoint on REP MOVSB hits once", hits, 1);
	check("and the copy is made", to[0] == '1' && to[6] == '7');
	hooks[1] = 0;
}

static void others(void)
{
	check("ICEBP", TRY(".byte 0xf1", "i"(0)) == 1);
	WRITE_REG(dr7, 0x400 | 0x2000); /* GD */
	check("DR7.GD makes MOV DR trap", TRY("mov %%dr3, %%rax", "i"(0)) == 1);
	check("DR6.BD says so", last.dr6 >> 13 & 1);
	check("and GD is off in the handler", !(READ_REG(dr7) & 0x2000));
	check("#GP by upper bits of DR7", TRY("mov $-1, %%rax; mov %%rax, %%dr7", "i"(0)) == 13);
}

int main(void)
{
	single_step();
	watchpoints();
	breakpoint();
	mov_ss();
	repeated();
	others();
	return (int)failures;
}
