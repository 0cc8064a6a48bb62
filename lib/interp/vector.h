/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector/x87 group, inside: what its files share.
 *
 * The host's own unit executes these instructions on guest state. For each decoded instruction a
 * stub is generated (vector_emit.c): it loads the guest's general registers that the instruction
 * uses, executes it with its memory operand replaced by [rsi], and stores general registers and
 * flags. Everything that can fault is checked in C before; the host must never fault.
 *
 * Thread: all functions, the vCPU's own.
 */
#ifndef TZ_INTERP_VECTOR_H
#define TZ_INTERP_VECTOR_H

#include "interp/interp.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/tlb.h"

/* Which checks make it #UD or #NM (SDM 3A 2.5; SDM 2 2.4, 2.7). */
enum vector_class {
	VECTOR_X87,
	VECTOR_MMX,
	VECTOR_SSE,
	VECTOR_VEX,
	VECTOR_EVEX, /* and the VEX-encoded instructions on opmask registers */
	VECTOR_CLASS_COUNT
};

#define VECTOR_WAITS 0x01    /* reports a pending x87 exception first: waiting x87 instructions, MMX */
#define VECTOR_STORES 0x02   /* the memory operand is written, else read */
#define VECTOR_SIMD_FP 0x04  /* may raise SIMD floating-point exceptions */
#define VECTOR_CONTROL 0x08  /* x87 control instruction: leaves FIP, FDP, FOP alone */
#define VECTOR_PACKED 0x10   /* masked memory operand holds just the active elements, in a row: expand, compress */
#define VECTOR_MASK_VEC 0x20 /* the mask is the sign bits of a vector register (VMASKMOV, AVX2 gathers) */
#define VECTOR_EXPLICIT_ALIGN 0x40 /* aligned by name (MOVAPS …): MXCSR.MM does not relax it */
#define VECTOR_INDEX64 0x80        /* gather, scatter: quadword indices */

#define VECTOR_NO_MASK 0xff

/*
 * What the handlers need to know beside struct interp_insn's own fields: kept in its `imm`, as
 * immediates are part of the stub. `imm2` holds the generation of the stub cache that `priv` is of,
 * `extra` the enum vector_class.
 */
struct vector_info {
	uint8_t flags; /* VECTOR_* */
	uint8_t size;  /* bytes of the memory operand (a gather: of the data elements together) */
	uint8_t align; /* what it must be a multiple of, or 1 */
	uint8_t elem;  /* bytes of a masked element */
	uint8_t count; /* mask bits that count */
	uint8_t mask;  /* register number, or VECTOR_NO_MASK */
	uint8_t reg;   /* gather: destination; scatter: source; MASKMOV: data; masked store: 1, no fault suppression */
	uint8_t index; /* gather, scatter: index register */
} __attribute__((may_alias));
_Static_assert(sizeof(struct vector_info) == 8, "must fit interp_insn.imm");

static inline const struct vector_info *vector_info(const struct interp_insn *i)
{
	return (const struct vector_info *)&i->imm;
}

typedef void vector_stub_fn(struct x86_cpu *cpu, void *mem);
typedef uint64_t vector_read_k_fn(void);
typedef void vector_write_k_fn(uint64_t value);
typedef void vector_reg_fn(struct x86_cpu *cpu, void *mem); /* cpu unused: the stubs' calling convention */

#define VECTOR_CODE_SIZE (512u << 10)
#define VECTOR_TABLE_BITS 13
#define VECTOR_STUB_MAX 128
#define VECTOR_REGS 32

struct interp_vector {
	_Alignas(64) uint8_t bounce[64];     /* memory operands that have no direct pointer */
	_Alignas(64) uint8_t reg[3][64];     /* copies of vector registers */
	_Alignas(64) uint8_t scratch[4096];  /* FXSAVE, XSAVE and x87 environment images */
	uint64_t saved_gpr[16], saved_flags; /* while an instruction runs with masked exceptions */

	/* Stub cache: one memfd mapped twice, so no page is writable and executable at once. */
	uint8_t *rw, *rx;
	uint32_t used, fixed; /* bytes; `fixed` of them are the accessors below, never dropped */
	uint64_t generation;  /* changes when the cache was emptied: every `priv` is stale then */
	struct {
		uint32_t hash;
		uint32_t offset; /* 0: empty (an accessor is there) */
		uint32_t len;
	} table[1u << VECTOR_TABLE_BITS];

	/* Accessors of the live registers. Vector ones move 64 bytes, or what the host's registers have. */
	vector_reg_fn *reg_store[VECTOR_REGS], *reg_load[VECTOR_REGS];
	vector_reg_fn *mmx_store[8];
	vector_read_k_fn *k_read[8];
	vector_write_k_fn *k_write[8];

	uint32_t host_features[X86_FEATURE_WORDS]; /* needs_host features that this host does not lack */
};

static inline struct interp_vector *vector_of(struct x86_cpu *cpu)
{
	return interp_of(cpu)->vector;
}

/* ---- vector_isa.c ---- */
enum vector_isa { VECTOR_ISA_FOREIGN /* not of this group */, VECTOR_ISA_ABSENT /* #UD */, VECTOR_ISA_PRESENT };
enum vector_isa vector_isa_check(const struct x86_cpu *cpu, const struct interp_vector *v,
				 const ZydisDecodedInstruction *zi);
void vector_host_features(uint32_t features[X86_FEATURE_WORDS]);
bool vector_is_x87(const ZydisDecodedInstruction *zi);

/* ---- vector_emit.c ---- */
int vector_cache_create(struct interp_vector *v); /* 0, -ENOMEM */
void vector_cache_destroy(struct interp_vector *v);
/* The stub for this instruction, generated now or found. May empty the cache (generation). */
void *vector_stub(struct interp_vector *v, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
		  const uint8_t *raw);

/* Outside 64-bit mode W does not widen these to a quadword register or memory operand (SDM 2, each one's table). */
bool vector_ignores_w(ZydisMnemonic m);

/* ---- vector_bind.c ---- */
/* Register number 0..31 of a vector, MMX, opmask or general register. */
uint8_t vector_reg_number(ZydisRegister r);
void vector_bind_mem(struct interp_insn *i, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *mem);
/* The cache was emptied since `i` was bound. */
void vector_rebind(struct x86_cpu *cpu, const struct interp_insn *i);

/* ---- vector_exec.c: ordinary instructions ---- */
void vector_check_class(struct x86_cpu *cpu, enum vector_class class);
void vector_check_pending(struct x86_cpu *cpu); /* loads the state; #MF */
interp_exec_fn vector_exec_ud, vector_exec_reg, vector_exec_load, vector_exec_store;
interp_exec_fn vector_exec_masked_load, vector_exec_masked_store;
interp_exec_fn vector_exec_ldmxcsr, vector_exec_stmxcsr, vector_exec_zero_low;

/* vector_fp.c: the same when MXCSR unmasks an exception; `mem` is a host pointer or NULL. */
void vector_run_unmasked(struct x86_cpu *cpu, const struct interp_insn *i, void *mem);

/* ---- vector_gather.c ---- */
interp_exec_fn vector_exec_gather, vector_exec_scatter, vector_exec_maskmov, vector_exec_maskmovq;

/* ---- vector_x87.c ---- */
interp_exec_fn vector_exec_x87, vector_exec_x87_load, vector_exec_x87_store, vector_exec_fninit, vector_exec_fwait;
interp_exec_fn vector_exec_x87_nop;
/* vector_x87env.c */
interp_exec_fn vector_exec_fnstenv, vector_exec_fldenv, vector_exec_fnsave, vector_exec_frstor;

/* ---- vector_xsave.c ---- */
interp_exec_fn vector_exec_fxsave, vector_exec_fxrstor, vector_exec_xsave, vector_exec_xrstor;

/* ---- shared by the handlers ---- */

static inline void vector_begin(struct x86_cpu *cpu, const struct interp_insn *i)
{
	if (unlikely(i->imm2 != vector_of(cpu)->generation))
		vector_rebind(cpu, i);
}

/*
 * Done with the live registers for now. ASan's run-time, called also before an exception is raised, uses
 * vector registers: with it nothing stays live between two uses.
 */
static inline void vector_rest(struct x86_cpu *cpu)
{
#ifdef __SANITIZE_ADDRESS__
	x86_fpu_put(cpu);
#else
	(void)cpu;
#endif
}

static inline void vector_end(struct x86_cpu *cpu, const struct interp_insn *i)
{
	vector_rest(cpu);
	interp_next(cpu, i);
}

/* Leaves the result live. */
static inline void vector_call_live(struct x86_cpu *cpu, const struct interp_insn *i, void *mem)
{
	x86_fpu_load(cpu);
	((vector_stub_fn *)i->priv)(cpu, mem);
}

static inline void vector_call(struct x86_cpu *cpu, const struct interp_insn *i, void *mem)
{
	vector_call_live(cpu, i, mem);
	vector_rest(cpu);
}

static inline bool vector_checks_align(const struct x86_cpu *cpu)
{
	return unlikely(cpu->cpl == 3 && (cpu->rflags & X86_AC));
}

/*
 * #AC goes by the operand's size, but by 16 for what is larger and by 8 for 10 bytes, as AMD has it; the manual leaves
 * it to the processor (SDM 2B MOVUPS; SDM 3A table 6-7).
 */
static inline void vector_check_ac(struct x86_cpu *cpu, uint64_t a, unsigned size)
{
	if (vector_checks_align(cpu))
		x86_check_align(cpu, a, size > 16 ? 16 : size == 10 ? 8 : size);
}

/* Linear address of `size` bytes at `offset` in the operand's segment, and #AC. */
static inline uint64_t vector_linear(struct x86_cpu *cpu, const struct interp_insn *i, uint64_t offset, unsigned size,
				     bool write)
{
	uint64_t a = x86_linear(cpu, i->seg, offset, size, write);

	vector_check_ac(cpu, a, size);
	return a;
}

/* Offsets wrap at the address size. */
static inline uint64_t vector_offset(const struct interp_insn *i, uint64_t ea, uint64_t delta)
{
	ea += delta;
	return likely(i->addrsize == 8) ? ea : i->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static inline void *vector_read_ptr(struct x86_cpu *cpu, uint64_t a, unsigned size)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, a);

	if (likely(e->tag_read == (a & ~TZ_PAGE_MASK) && (a & TZ_PAGE_MASK) + size <= TZ_PAGE_SIZE))
		return x86_tlb_host(e, a);
	return x86_host_read_ptr(cpu, a, size, cpu->mmu_index);
}

static inline void *vector_write_ptr(struct x86_cpu *cpu, uint64_t a, unsigned size)
{
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, cpu->mmu_index, a);

	if (likely(e->tag_write == (a & ~TZ_PAGE_MASK) && (a & TZ_PAGE_MASK) + size <= TZ_PAGE_SIZE))
		return x86_tlb_host(e, a);
	return x86_host_write_ptr(cpu, a, size, cpu->mmu_index);
}

/* MXCSR's mask and control bits in the area are good even while the state is live. */
#define VECTOR_AREA_MXCSR 24
#define VECTOR_MXCSR_FLAGS 0x3fu
#define VECTOR_MXCSR_MASKS 0x1f80u
#define VECTOR_MXCSR_DAZ 0x40u
#define VECTOR_MXCSR_UM 0x800u
#define VECTOR_MXCSR_FTZ 0x8000u
#define VECTOR_MXCSR_MM 0x20000u /* AMD: misaligned exception mask */

static inline uint32_t vector_area_mxcsr(const struct x86_cpu *cpu)
{
	return guest_load32(cpu->fpu.area + VECTOR_AREA_MXCSR);
}

static inline bool vector_exceptions_masked(const struct x86_cpu *cpu)
{
	return (vector_area_mxcsr(cpu) & VECTOR_MXCSR_MASKS) == VECTOR_MXCSR_MASKS;
}

#endif
