/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector and x87 state. Such instructions are executed by the host's own unit on
 * guest state. While an engine runs, that state may sit in the host's registers
 * (fpu.live); lib/x86, lib/mem and lib/interp are compiled with -mgeneral-regs-only
 * and call no libc function that uses vector registers, so it survives there
 * (`make check-isolation` proves it). Whoever leaves that world, or looks at
 * fpu.area, calls x86_fpu_put() first.
 *
 * What is never loaded into the host: PKRU (cpu->pkru is the truth), and x87
 * instruction/data pointers of the host are never shown to the guest.
 */
#ifndef TZ_X86_FPU_H
#define TZ_X86_FPU_H

#include "x86/cpu.h"

/* XCR0 components the library can hold: host's XCR0 without AMX, plus PKRU (bit 9) where offered. */
uint64_t x86_fpu_supported_xcr0(void);
/* Size in bytes of the standard-format area for `xcr0`, and of one component with its offset (CPUID 0xD). */
uint32_t x86_fpu_area_size(uint64_t xcr0);
bool x86_fpu_component(unsigned n, uint32_t *offset, uint32_t *size);

void x86_fpu_reset(struct x86_cpu *cpu); /* power-on / INIT = false: FNINIT state, MXCSR 0x1f80 */

void x86_fpu_load_slow(struct x86_cpu *cpu);
void x86_fpu_put_slow(struct x86_cpu *cpu);

/* Make the guest's state live in the host's registers. */
static inline void x86_fpu_load(struct x86_cpu *cpu)
{
	if (!cpu->fpu.live)
		x86_fpu_load_slow(cpu);
}

/* Save it to fpu.area and give the host its ABI default state (x87 empty, MXCSR default, upper halves clean). */
static inline void x86_fpu_put(struct x86_cpu *cpu)
{
	if (cpu->fpu.live)
		x86_fpu_put_slow(cpu);
}

/*
 * For who works on fpu.area while the guest's state may be live: sync brings the area up to
 * date, changed loads it back (only if live). Neither changes `live`.
 */
void x86_fpu_sync(struct x86_cpu *cpu);
void x86_fpu_changed(struct x86_cpu *cpu);

/* Forget what is live: the area, as of the last sync, is the truth again. */
void x86_fpu_discard(struct x86_cpu *cpu);

/* XGETBV(1): which components enabled in XCR0 are not in their initial state (SDM 1 13.6). */
uint64_t x86_fpu_xinuse(struct x86_cpu *cpu);

/* Bits of MXCSR that may be set (MXCSR_MASK, SDM 1 11.6.6). */
uint32_t x86_fpu_mxcsr_mask(void);

/*
 * KVM_GET/SET_XSAVE images (standard format, 4096 bytes) and the legacy
 * FXSAVE-like struct kvm_fpu is built on them by api/. Set returns -EINVAL for a
 * bad XSTATE_BV, MXCSR or header.
 */
void x86_fpu_get_image(struct x86_cpu *cpu, void *image4096);
int x86_fpu_set_image(struct x86_cpu *cpu, const void *image4096);

#endif
