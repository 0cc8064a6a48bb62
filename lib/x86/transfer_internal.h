/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kinds of control transfer share: frames that are checked whole before the first byte is
 * written, gates, stacks from the TSS, and the commit of CS:RIP. Thread: the vCPU's own.
 */
#ifndef TZ_X86_TRANSFER_INTERNAL_H
#define TZ_X86_TRANSFER_INTERNAL_H

#include "x86/segment_internal.h"
#include "x86/transfer.h"

/* SS, SP, 31 parameters, CS, IP of a call gate; ten of an interrupt from virtual-8086 mode. */
#define X86_FRAME_MAX 36

/* Slots to be pushed on a stack that may not be the current one yet. */
struct x86_frame {
	struct x86_seg ss;
	uint64_t sp;     /* after the pushes so far */
	uint8_t sp_size; /* 2, 4, 8: how much of SP counts */
	uint8_t width;   /* of a slot: 2, 4, 8 */
	uint8_t cpl;     /* the privilege that the pushes are made with */
	uint8_t mmu;
	uint8_t count;
	uint32_t error; /* of the #SS that a slot outside the stack raises */
	uint64_t gva[X86_FRAME_MAX];
	uint64_t value[X86_FRAME_MAX];
};

/* On the current stack. */
void x86_frame_begin(struct x86_cpu *cpu, struct x86_frame *f, unsigned width, uint32_t error);
/* On a stack of privilege `cpl`; sp_size 8 ignores the segment. */
void x86_frame_begin_on(struct x86_cpu *cpu, struct x86_frame *f, const struct x86_seg *ss, uint64_t sp,
			unsigned sp_size, unsigned cpl, unsigned width, uint32_t error);
/* Next slot: raises #SS and #AC, writes nothing. */
void x86_frame_push(struct x86_cpu *cpu, struct x86_frame *f, uint64_t value);
/* Raise what the writes would raise; after it x86_frame_write() cannot fail. */
void x86_frame_probe(struct x86_cpu *cpu, const struct x86_frame *f);
void x86_frame_write(struct x86_cpu *cpu, const struct x86_frame *f);

/* A call, interrupt or trap gate, taken apart. */
struct x86_gate {
	uint16_t sel;
	uint8_t width; /* 2, 4, 8 */
	uint8_t params;
	uint64_t offset;
};
struct x86_gate x86_gate_decode(const struct x86_cpu *cpu, const struct x86_desc *d);

/* Code segment that a gate names: #GP(ext) null, #GP(sel), #NP(sel); DPL above the CPL is refused. */
struct x86_seg x86_gate_code(struct x86_cpu *cpu, uint16_t sel, uint32_t ext, struct x86_desc *d);

/* The same as the public ones, with the EXT bit for error codes. */
struct x86_tss_stack x86_tss_stack_read_ext(struct x86_cpu *cpu, unsigned cpl, uint32_t ext);
uint64_t x86_tss_ist_read_ext(struct x86_cpu *cpu, unsigned ist, uint32_t ext);

/* #GP(error) unless `rip` may be executed with `cs`. */
void x86_check_target(struct x86_cpu *cpu, const struct x86_seg *cs, uint64_t rip, uint32_t error);

/* CS:RIP, with the RPL of CS = cpl. The caller sets SS where the CPL changes, and calls x86_mode_update(). */
void x86_commit_code(struct x86_cpu *cpu, const struct x86_seg *cs, unsigned cpl, uint64_t rip);

/*
 * Task switch with what only an event knows: EXT for error codes, and the EFLAGS image to save.
 * x86_task_switch() is for instructions.
 */
struct x86_task {
	uint16_t sel;
	enum x86_task_switch why;
	uint64_t next_rip;
	uint64_t flags;
	bool has_error;
	uint32_t error;
	uint32_t ext;
};
void x86_task_enter(struct x86_cpu *cpu, const struct x86_task *t);

/* Vendor by CPUID leaf 0: where AMD (and Hygon) and Intel define an instruction differently. */
bool x86_vendor_is_amd(const struct x86_cpu *cpu);

#endif
