/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What segmentation shares with control transfers, inside the model. Thread: the vCPU's own.
 */
#ifndef TZ_X86_SEGMENT_INTERNAL_H
#define TZ_X86_SEGMENT_INTERNAL_H

#include "x86/segment.h"

/* TSS layout (SDM 3A figures 7-2, 7-10, 7-11). */
#define X86_TSS16_SIZE 0x2cu
#define X86_TSS32_SIZE 0x68u
#define X86_TSS_IO_BASE 0x66u

/* A null selector: index 0 of the GDT, any RPL. */
static inline bool x86_sel_null(uint16_t sel)
{
	return (sel & ~3) == 0;
}

static inline bool x86_ar_is_code(uint32_t ar)
{
	return (ar & (X86_AR_S | X86_AR_CODE)) == (X86_AR_S | X86_AR_CODE);
}

static inline bool x86_ar_is_writable_data(uint32_t ar)
{
	return (ar & (X86_AR_S | X86_AR_CODE | X86_AR_WRITABLE)) == (X86_AR_S | X86_AR_WRITABLE);
}

/* Loadable into DS, ES, FS, GS. */
static inline bool x86_ar_is_readable(uint32_t ar)
{
	return (ar & X86_AR_S) && (!(ar & X86_AR_CODE) || (ar & X86_AR_READABLE));
}

/* Conforming code is exempt from the DPL checks of data segments. */
static inline bool x86_ar_is_conforming(uint32_t ar)
{
	return x86_ar_is_code(ar) && (ar & X86_AR_CONFORMING);
}

static inline bool x86_ar_is_system(uint32_t ar, enum x86_sys_type type)
{
	return (ar & (X86_AR_S | X86_AR_TYPE)) == (uint32_t)type;
}

/* The access rights of a raw descriptor. */
static inline uint32_t x86_desc_ar(const struct x86_desc *d)
{
	return (uint32_t)(d->lo >> 40) & 0xf0ff;
}

/* Linear addresses of tables are 32 bits wide outside long mode. */
static inline uint64_t x86_system_address(const struct x86_cpu *cpu, uint64_t a)
{
	return cpu->long_mode ? a : (uint32_t)a;
}

/* The value of a null selector: unusable, and of privilege `dpl` (what SS keeps the CPL in). */
static inline struct x86_seg x86_seg_null(uint16_t sel, unsigned dpl)
{
	return (struct x86_seg){ .sel = sel, .ar = X86_AR_UNUSABLE | dpl << X86_AR_DPL_SHIFT };
}

/* Flat code and data as SYSCALL, SYSENTER and theirs load them, ignoring the GDT. */
static inline struct x86_seg x86_seg_flat(uint16_t sel, uint32_t ar)
{
	return (struct x86_seg){ .sel = sel, .ar = ar, .limit = UINT32_MAX };
}

bool x86_seg_in_limit(const struct x86_seg *s, uint64_t offset, unsigned size);

/* May RIP have this value when `cs` is in CS? */
bool x86_code_holds(const struct x86_cpu *cpu, const struct x86_seg *cs, uint64_t rip);

/* SP = sp in the stack's width. */
void x86_stack_set(struct x86_cpu *cpu, uint64_t sp);

/* The descriptor of `sel`, or false if it is outside its table. Only #PF is raised. */
bool x86_desc_fetch(struct x86_cpu *cpu, uint16_t sel, struct x86_desc *d);

/* A 16-byte descriptor's upper half must have type 0 (SDM 3A figure 3-7 and 5-8). */
static inline bool x86_desc_upper_ok(const struct x86_desc *d)
{
	return !(d->hi >> 40 & 0x1f);
}

/* TSS descriptor: flip the busy bit in memory. Locked, as other CPUs share the GDT. */
void x86_desc_set_busy(struct x86_cpu *cpu, uint64_t gva, bool busy);

/* SS for privilege `cpl`, from a TSS or far frame: #TS(sel | ext), #SS(sel | ext) (SDM 3A 6.12.1). */
struct x86_seg x86_stack_segment_prepare(struct x86_cpu *cpu, uint16_t sel, unsigned cpl, uint32_t ext);

#endif
