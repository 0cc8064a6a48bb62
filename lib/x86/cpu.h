/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The architectural state of one x86 vCPU: what every engine works on and what
 * the KVM API's get/set calls show. Between two instructions this struct is the
 * whole truth, except the vector/x87 state while `fpu.live` (see x86/fpu.h).
 *
 * The model knows no engine and no KVM struct. What it needs from above it gets
 * through `struct x86_platform_ops`.
 *
 * Field legend:  (o) only the vCPU's own thread, or any thread while the vCPU is
 * stopped;  (a) any thread, atomically.
 */
#ifndef TZ_X86_CPU_H
#define TZ_X86_CPU_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "mem/addr.h"
#include "x86/defs.h"
#include "x86/pv/pv.h"

struct mem;
struct lapic;
struct x86_cpu;
struct x86_tlb;

/* A segment register with its hidden part. `ar` has the VMCS access-rights layout (SDM 3C 24.4.1). */
struct x86_seg {
	uint16_t sel;
	uint32_t ar;    /* X86_AR_*; X86_AR_UNUSABLE for a null selector */
	uint32_t limit; /* in bytes, granularity applied */
	uint64_t base;
};

struct x86_dtable {
	uint64_t base;
	uint16_t limit;
};

/* Why engine run() came back. Core maps them to KVM_EXIT_* in vcpu_run.c. */
enum x86_exit {
	X86_EXIT_NONE, /* never returned by run() */
	X86_EXIT_PIO,  /* cpu->io.pending describes it; complete with x86_io_complete() */
	X86_EXIT_MMIO, /* likewise */
	X86_EXIT_HLT,
	X86_EXIT_SHUTDOWN,       /* triple fault */
	X86_EXIT_ATTENTION,      /* cpu->attention has bits that only core can serve */
	X86_EXIT_IRQ_WINDOW,     /* client asked (request_interrupt_window) and the guest can take one now */
	X86_EXIT_DEBUG,          /* guest debug (KVM_SET_GUEST_DEBUG) */
	X86_EXIT_INSN_DONE,      /* run(once): the one instruction was completed */
	X86_EXIT_INTERNAL_ERROR, /* cpu->error_text says what */
	X86_EXIT_COUNT
};

/*
 * Bits of cpu->attention. Any thread sets bits (x86_cpu_attention()); the engine
 * looks at the word at every poll point (at least each block) and, when it is not
 * zero, calls x86_poll() (x86/event.h), which serves what the model can and says
 * whether run() must return.
 */
#define X86_ATT_IRQ BIT32(0)       /* the interrupt picture may have changed: look again */
#define X86_ATT_NMI BIT32(1)       /* an NMI arrived */
#define X86_ATT_TLB_FLUSH BIT32(2) /* drop the whole TLB (memory slots changed, other CPU's request) */
#define X86_ATT_EXIT BIT32(3)      /* leave run(): kick, immediate_exit, signal, sync, INIT/SIPI */
#define X86_ATT_SMI BIT32(4)
#define X86_ATT_TRAP BIT32(5) /* own thread: TF/DR trap or other pending #DB work after this instruction */

/*
 * Callbacks into the layer above (core). Called from inside run(); the model has
 * put the guest's FPU state away before (x86_fpu_put).
 */
struct x86_platform_ops {
	/*
	 * An access that no memory slot backs. True: done inside the library (irqchip, PIT).
	 * False: the client must do it (run() returns X86_EXIT_MMIO / X86_EXIT_PIO).
	 * len: 1..8 for MMIO, 1, 2, 4 for ports.
	 */
	bool (*mmio_read)(struct x86_cpu *cpu, gpa_t gpa, void *data, unsigned len);
	bool (*mmio_write)(struct x86_cpu *cpu, gpa_t gpa, const void *data, unsigned len);
	bool (*pio_read)(struct x86_cpu *cpu, uint16_t port, void *data, unsigned len);
	bool (*pio_write)(struct x86_cpu *cpu, uint16_t port, const void *data, unsigned len);

	/* Is an external interrupt deliverable (LAPIC above TPR/PPR, ExtINT, or injected by the client)? */
	bool (*irq_pending)(struct x86_cpu *cpu);
	/* Acknowledge and return its vector; -1 if it went away. */
	int (*irq_ack)(struct x86_cpu *cpu);

	/* Guest TSC now, in guest cycles, TSC_ADJUST and offset included. Monotonic across the VM's vCPUs. */
	uint64_t (*tsc_read)(struct x86_cpu *cpu);
	void (*tsc_write)(struct x86_cpu *cpu, uint64_t value);
	/* CR8/TPR where there is no in-library LAPIC (kvm_run->cr8 belongs to the client). */
	void (*cr8_changed)(struct x86_cpu *cpu);
	/* MSRs that live above the model (paravirtual ones). True: known. Set *fault to raise #GP. */
	bool (*msr_read)(struct x86_cpu *cpu, uint32_t index, uint64_t *value, bool *fault);
	bool (*msr_write)(struct x86_cpu *cpu, uint32_t index, uint64_t value, bool *fault);
	/* The guest moved its TSC (WRMSR of TSC or TSC_ADJUST); may be NULL. */
	void (*tsc_changed)(struct x86_cpu *cpu);
	/*
	 * For x86/pv, all three or none: the VM's clock on this vCPU's TSC; CLOCK_REALTIME in ns when that clock was
	 * zero; CLOCK_REALTIME and the TSC at one moment.
	 */
	void (*pv_time)(struct x86_cpu *cpu, struct x86_pv_time *time);
	uint64_t (*pv_wall)(struct x86_cpu *cpu);
	void (*pv_pair)(struct x86_cpu *cpu, struct x86_pv_pair *pair);
	/*
	 * Stop every other vCPU of the VM between two instructions, for a locked access
	 * that host atomics cannot do (split over a page, MMIO). Must nest with no other lock held.
	 */
	void (*exclusive_begin)(struct x86_cpu *cpu);
	void (*exclusive_end)(struct x86_cpu *cpu);
	/* The guest waits in a loop (PAUSE, now and then). May be NULL. */
	void (*spinning)(struct x86_cpu *cpu);
};

/*
 * Accesses that leave the model (port I/O and MMIO), and how an instruction that
 * makes them is restarted: see x86/io.h. (o)
 */
#define X86_IO_LOG_MAX 16

struct x86_io_access {
	uint64_t addr; /* GPA or port */
	uint8_t len;   /* 1..8 */
	bool write;
	bool pio;
	uint8_t data[8];
};

struct x86_io {
	struct x86_io_access pending; /* what the client must do now */
	bool pending_valid;
	unsigned logged; /* accesses of the current instruction already done */
	unsigned cursor; /* next one to replay */
	uint64_t rip;    /* the instruction the log belongs to */
	struct x86_io_access log[X86_IO_LOG_MAX];
};

/* Pending events: what KVM_GET_VCPU_EVENTS shows. (o) Set and read through x86/event.h. */
struct x86_events {
	/* An exception or interrupt whose delivery was begun and must be (re)done before the next instruction. */
	bool exc_pending;
	uint8_t exc_vector;
	bool exc_has_error;
	uint32_t exc_error;
	uint64_t exc_cr2;  /* for #PF: loaded into CR2 at delivery */
	bool irq_injected; /* external interrupt taken from the controller or KVM_INTERRUPT, not yet delivered */
	bool irq_soft;
	uint8_t irq_vector;
	uint8_t shadow; /* X86_SHADOW_*: STI / MOV SS blocking for exactly one instruction */
	bool nmi_injected;
	bool nmi_masked; /* until IRET */
	bool smi_pending;
	uint64_t db_pending; /* DR6 bits of a #DB trap to raise after this instruction, or of the #DB in exc_vector */
	bool no_step;        /* this instruction entered a handler (INT n, SYSCALL ...): no TF trap behind it */
	/* (a) 0..2, like hardware's latch plus one in service. Aligned: compilers read neighbouring flags in one go. */
	_Alignas(8) _Atomic uint8_t nmi_pending;
};
#define X86_SHADOW_STI 1
#define X86_SHADOW_MOV_SS 2

/* The vector and x87 state: x86/fpu.h. (o) */
#define X86_XSAVE_AREA 4096 /* KVM_GET_XSAVE's struct; AVX-512 + PKRU ends at 2696 */
struct x86_fpu {
	_Alignas(64) uint8_t area[X86_XSAVE_AREA]; /* standard (non-compacted) XSAVE format, SDM 1 13.4 */
	bool live; /* the guest's state is in the host's registers, area is stale but for MXCSR's masks and FIP, FDP,
		      FOP */
	uint16_t host_fcw; /* what the host thread had before it was loaded: control bits are callee-saved (psABI 3.2.3)
			    */
	uint32_t host_mxcsr;
};

struct x86_msrs {
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t tsc_aux, pat, apic_base, tsc_adjust, misc_enable, spec_ctrl, debugctl, xss, pkrs;
	uint64_t mtrr_def_type, mtrr_phys[2 * 8], mtrr_fixed[11];
	uint64_t mcg_status, mcg_ctl, mcg_cap, mc[4 * 32];
	uint64_t feature_control, smbase, hwcr, ucode_rev, virt_ssbd, arch_capabilities;
};

/* Guest CPUID as set by KVM_SET_CPUID2; rows as in struct kvm_cpuid_entry2. */
#define X86_CPUID_MAX 160
struct x86_cpuid_entry {
	uint32_t leaf, subleaf;
	bool has_subleaf;
	uint32_t eax, ebx, ecx, edx;
};
struct x86_cpuid {
	unsigned count;
	struct x86_cpuid_entry entry[X86_CPUID_MAX];
	/* derived by x86_cpuid_changed(): */
	uint32_t features[X86_FEATURE_WORDS]; /* bit set: X86_FEAT_* (x86/cpuid.h) */
	uint8_t maxphyaddr;
	uint64_t rsvd_gpa_bits; /* GPA bits at and above MAXPHYADDR, up to 51 */
	uint64_t cr4_allowed, xcr0_allowed, efer_allowed;
};

/*
 * How a vCPU's TSC follows from the host's, for an engine that reads that itself:
 * (RDTSC * ratio >> X86_HOST_TSC_BITS) + offset + IA32_TSC_ADJUST. Changed by the vCPU's thread or while it is stopped.
 */
#define X86_HOST_TSC_BITS 48
struct x86_host_tsc {
	_Atomic uint64_t ratio, offset;
};

struct x86_cpu {
	/* Hot: first, and together. */
	uint64_t gpr[16]; /* X86_RAX.. */
	uint64_t rip;
	uint64_t rflags;            /* bit 1 always set */
	_Atomic uint32_t attention; /* (a) X86_ATT_* */

	/* Derived from CR0, EFER, CS, SS, RFLAGS, CR4 by x86_mode_update(); read only elsewhere. */
	uint8_t cpl;
	uint8_t code_size;  /* 2, 4, 8: default operand world of CS */
	uint8_t stack_size; /* 2, 4, 8: width of SP */
	bool real_mode;     /* CR0.PE = 0 */
	bool v8086;         /* RFLAGS.VM (and PE) */
	bool long_mode;     /* EFER.LMA; code_size 8 means 64-bit mode, else compatibility */
	uint8_t mmu_index;  /* X86_MMU_*: for data accesses of the current CPL/AC (x86/tlb.h) */
	bool dr_watch;      /* DR7 enables data or I/O breakpoints */
	bool dr_exec;       /* DR7 enables instruction breakpoints */
	/*
	 * When interrupts could last be taken there was none, and `attention` tells of any that came since: who sets IF
	 * need not ask for a look. Set by x86_poll(). (o)
	 */
	bool irq_quiet;

	struct x86_tlb *tlb;
	struct x86_seg seg[X86_SEG_COUNT]; /* X86_ES..X86_GS, X86_LDTR, X86_TR */

	uint64_t cr0, cr2, cr3, cr4;
	uint64_t cr8; /* only without an in-library LAPIC; use x86_cr8_read/write */
	uint64_t efer, xcr0;
	uint32_t pkru;     /* kept here, never loaded into the host's PKRU; x86/fpu.h copies it into XSAVE images */
	uint64_t pdpte[4]; /* PAE: loaded by MOV CR3 (SDM 3A 4.4.1) */
	struct x86_dtable gdtr, idtr;
	uint64_t dr[8]; /* DR4, DR5 unused */
	struct x86_msrs msr;
	struct x86_events ev;
	struct x86_io io;
	struct x86_pv pv;
	struct x86_cpuid cpuid;
	struct x86_fpu fpu;

	/* Unwinding: x86_raise() and friends jump here; each engine's run() sets it. (o) */
	jmp_buf unwind;
	bool unwind_valid; /* asserts that nobody raises outside run() */

	/* Wiring, constant after creation. */
	unsigned id; /* vCPU id = initial APIC id */
	bool bsp;
	struct mem *mem;
	struct lapic *lapic; /* NULL without in-library irqchip */
	const struct x86_platform_ops *ops;
	const struct x86_host_tsc *host_tsc; /* or NULL: ops->tsc_read() alone knows */
	void *owner;                         /* core's struct vcpu */
	void *engine_data;                   /* the engine's own */
	uint64_t code_cache_size;            /* bytes, for an engine that makes code; 0: as it likes */
	bool count_insns;                    /* an engine may leave STAT_INSNS alone unless this is set */
	bool undisturbed;                    /* run() is called again and the client has not been back in between */
	_Atomic uint32_t *_Atomic poll;      /* the engine's copy of "attention was set"; may be NULL */
	/* The engine's, while it waits for who executes guest code: makes it come back. Thread: any. Else NULL. */
	void (*_Atomic interrupt)(struct x86_cpu *cpu);
	uint64_t *stat;                        /* STAT_* counters (base/stats.def), written by the vCPU thread only */
	uint64_t run_request;                  /* client wants X86_EXIT_IRQ_WINDOW when nonzero */
	bool guest_debug_step, guest_debug_bp; /* KVM_SET_GUEST_DEBUG; #DB/#BP go to the client */
	uint64_t guest_debug_dr[8];
	uint8_t pauses;            /* PAUSE instructions, modulo 256 */
	uint8_t debug_vector;      /* with X86_EXIT_DEBUG: X86_DB or X86_BP, */
	uint64_t debug_dr6;        /* and what DR6 would have got */
	enum x86_exit exit_reason; /* with X86_UNWIND_EXIT */
	char error_text[128];      /* for X86_EXIT_INTERNAL_ERROR */
};

/* How run() is left from the depth of the model: the value given to longjmp. */
enum x86_unwind {
	X86_UNWIND_EVENT = 1, /* an exception was recorded in cpu->ev; deliver it, go on */
	X86_UNWIND_EXIT,      /* cpu->exit_reason is set: leave run(), the instruction was not committed */
	X86_UNWIND_RESTART,   /* nothing recorded; start over at cpu->rip (e.g. state changed under us) */
};

/* Set attention bits of a vCPU. Thread: any. Does not wake a sleeping (HLT) vCPU: core's vcpu_kick() does. */
static inline void x86_cpu_attention(struct x86_cpu *cpu, uint32_t bits)
{
	void (*interrupt)(struct x86_cpu * cpu);
	_Atomic uint32_t *poll;

	atomic_fetch_or_explicit(&cpu->attention, bits, memory_order_seq_cst);
	poll = cpu->poll;
	if (poll)
		atomic_store_explicit(poll, 1, memory_order_seq_cst);
	interrupt = cpu->interrupt;
	if (unlikely(interrupt != NULL))
		interrupt(cpu);
}

static inline bool x86_long64(const struct x86_cpu *cpu)
{
	return cpu->code_size == 8;
}

/* Protected mode proper: PE set and not virtual-8086. */
static inline bool x86_protected(const struct x86_cpu *cpu)
{
	return !cpu->real_mode && !cpu->v8086;
}

static inline bool x86_paging(const struct x86_cpu *cpu)
{
	return (cpu->cr0 & X86_CR0_PG) != 0;
}

/* Leave run() with `reason` from any depth; the current instruction leaves no trace. */
tz_noreturn void x86_exit_unwind(struct x86_cpu *cpu, enum x86_exit reason);

#endif
