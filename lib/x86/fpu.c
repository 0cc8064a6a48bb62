/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector and x87 state: between fpu.area and the host's registers (SDM 1 chapter 13).
 *
 * The area is the host's standard XSAVE format. FIP, FDP and FOP in it are the guest's, kept
 * there by whoever executes x87 instructions; the host's own never get in, they would show
 * host addresses.
 */
#include "x86/fpu.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>

#include "x86/tlb.h"

#define XSTATE_X87 BIT64(0)
#define XSTATE_SSE BIT64(1)
#define XSTATE_AVX BIT64(2)
#define XSTATE_AVX512 (BIT64(5) | BIT64(6) | BIT64(7))
#define XSTATE_PKRU_BIT 9
#define XSTATE_PKRU BIT64(XSTATE_PKRU_BIT)
/* What may sit in host registers. AMX (17, 18) is left out, MPX (3, 4) is gone from hardware. */
#define XSTATE_LIVE (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX | XSTATE_AVX512)

/* Offsets in the legacy region and the header (SDM 1 table 13-1, 13.4.2). */
#define AREA_FCW 0
#define AREA_FOP 6
#define AREA_FIP 8
#define AREA_FDP 16
#define AREA_MXCSR 24
#define AREA_MXCSR_MASK 28
#define AREA_XSTATE_BV 512
#define AREA_XCOMP_BV 520
#define AREA_LEGACY_SIZE 512
#define AREA_HEADER_END 576

#define PKRU_OFFSET_DEFAULT 2688 /* where Intel has it; for hosts without PKU */

#define FCW_INIT 0x37f
#define MXCSR_INIT 0x1f80u

struct fpu_component {
	uint32_t offset, size;
};

static struct fpu_host {
	_Atomic bool ready;
	bool xsave;
	uint64_t mask; /* host XCR0 & XSTATE_LIVE: the operand of XSAVE64 and XRSTOR64 */
	uint64_t xcr0; /* what a guest may have */
	uint32_t mxcsr_mask;
	struct fpu_component comp[XSTATE_PKRU_BIT + 1];
} fpu_host;
static pthread_once_t fpu_host_once = PTHREAD_ONCE_INIT;

/* Registers in their initial state. XRSTOR takes MXCSR from the image whatever XSTATE_BV says. */
static const _Alignas(64) uint8_t fpu_init_area[AREA_HEADER_END] = { 0x7f, 0x03, [AREA_MXCSR] = 0x80, 0x1f };

static inline void area_xsave(void *area, uint64_t mask)
{
	__asm__ volatile("xsave64 (%0)" : : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
}

static inline void area_xrstor(const void *area, uint64_t mask)
{
	__asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
}

static void fpu_host_detect_xsave(struct fpu_host *h)
{
	uint32_t a, b, c, d, lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	h->mask = (lo | (uint64_t)hi << 32) & XSTATE_LIVE;
	/* AVX-512 is one thing (SDM 1 13.3): all of it, with AVX, or nothing. */
	if (!(h->mask & XSTATE_AVX) || (h->mask & XSTATE_AVX512) != XSTATE_AVX512)
		h->mask &= ~XSTATE_AVX512;
	h->comp[0] = (struct fpu_component){ 0, 160 };
	h->comp[1] = (struct fpu_component){ 160, 256 };
	for (unsigned n = 2; n <= XSTATE_PKRU_BIT; n++) {
		__cpuid_count(0xd, n, a, b, c, d);
		if ((h->mask | XSTATE_PKRU) & BIT64(n) && a && b + a <= X86_XSAVE_AREA)
			h->comp[n] = (struct fpu_component){ b, a };
		else
			h->mask &= ~BIT64(n);
	}
	if (!h->comp[XSTATE_PKRU_BIT].size)
		h->comp[XSTATE_PKRU_BIT] = (struct fpu_component){ PKRU_OFFSET_DEFAULT, 8 };
	h->xcr0 = h->mask | XSTATE_PKRU;
	(void)c;
	(void)d;
}

static void fpu_host_detect(void)
{
	struct fpu_host *h = &fpu_host;
	_Alignas(64) uint8_t image[AREA_LEGACY_SIZE];
	uint32_t a, b, c, d;

	__cpuid(1, a, b, c, d);
	h->xsave = c & BIT32(27); /* OSXSAVE */
	if (h->xsave) {
		fpu_host_detect_xsave(h);
	} else {
		h->mask = h->xcr0 = XSTATE_X87 | XSTATE_SSE;
		h->comp[0] = (struct fpu_component){ 0, 160 };
		h->comp[1] = (struct fpu_component){ 160, 256 };
	}
	tz_clear(image, sizeof(image));
	__asm__ volatile("fxsave64 (%0)" : : "r"(image) : "memory");
	h->mxcsr_mask = guest_load32(image + AREA_MXCSR_MASK);
	if (!h->mxcsr_mask)
		h->mxcsr_mask = 0xffbf; /* SDM 1 11.6.6 */
	(void)a;
	(void)b;
	(void)d;
	atomic_store_explicit(&h->ready, true, memory_order_release);
}

static inline const struct fpu_host *fpu_host_get(void)
{
	if (unlikely(!atomic_load_explicit(&fpu_host.ready, memory_order_acquire)))
		pthread_once(&fpu_host_once, fpu_host_detect);
	return &fpu_host;
}

uint64_t x86_fpu_supported_xcr0(void)
{
	return fpu_host_get()->xcr0;
}

uint32_t x86_fpu_mxcsr_mask(void)
{
	return fpu_host_get()->mxcsr_mask;
}

bool x86_fpu_component(unsigned n, uint32_t *offset, uint32_t *size)
{
	const struct fpu_host *h = fpu_host_get();

	if (n > XSTATE_PKRU_BIT || !(h->xcr0 & BIT64(n)))
		return false;
	*offset = h->comp[n].offset;
	*size = h->comp[n].size;
	return true;
}

uint32_t x86_fpu_area_size(uint64_t xcr0)
{
	uint32_t end = AREA_HEADER_END, offset, size;

	for (unsigned n = 2; n <= XSTATE_PKRU_BIT; n++)
		if ((xcr0 & BIT64(n)) && x86_fpu_component(n, &offset, &size) && offset + size > end)
			end = offset + size;
	return end;
}

/* ---- live state ---- */

static void fpu_save(struct x86_cpu *cpu)
{
	const struct fpu_host *h = fpu_host_get();
	uint8_t *area = cpu->fpu.area;
	uint64_t fip = guest_load64(area + AREA_FIP), fdp = guest_load64(area + AREA_FDP);
	uint16_t fop = guest_load16(area + AREA_FOP);

	if (h->xsave)
		area_xsave(area, h->mask);
	else
		__asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
	guest_store64(area + AREA_FIP, fip);
	guest_store64(area + AREA_FDP, fdp);
	guest_store16(area + AREA_FOP, fop);
	if (fip | fdp | fop)
		guest_store64(area + AREA_XSTATE_BV, guest_load64(area + AREA_XSTATE_BV) | XSTATE_X87);
}

static void fpu_restore(const struct x86_cpu *cpu)
{
	const struct fpu_host *h = fpu_host_get();

	if (h->xsave)
		area_xrstor(cpu->fpu.area, h->mask);
	else
		__asm__ volatile("fxrstor64 (%0)" : : "r"(cpu->fpu.area) : "memory");
}

/* The psABI's state for the host: x87 empty, upper halves zero, and the thread's own control bits. */
static void fpu_restore_host(const struct x86_cpu *cpu)
{
	const struct fpu_host *h = fpu_host_get();

	if (h->xsave)
		area_xrstor(fpu_init_area, h->mask);
	else
		__asm__ volatile("fninit");
	if (cpu->fpu.host_fcw != FCW_INIT)
		__asm__ volatile("fldcw %0" : : "m"(cpu->fpu.host_fcw));
	__asm__ volatile("ldmxcsr %0" : : "m"(cpu->fpu.host_mxcsr));
}

void x86_fpu_load_slow(struct x86_cpu *cpu)
{
	__asm__ volatile("fnstcw %0" : "=m"(cpu->fpu.host_fcw));
	__asm__ volatile("stmxcsr %0" : "=m"(cpu->fpu.host_mxcsr));
	fpu_restore(cpu);
	cpu->fpu.live = true;
}

void x86_fpu_put_slow(struct x86_cpu *cpu)
{
	fpu_save(cpu);
	x86_fpu_discard(cpu);
}

void x86_fpu_discard(struct x86_cpu *cpu)
{
	if (!cpu->fpu.live)
		return;
	fpu_restore_host(cpu);
	cpu->fpu.live = false;
}

void x86_fpu_sync(struct x86_cpu *cpu)
{
	if (cpu->fpu.live)
		fpu_save(cpu);
}

void x86_fpu_changed(struct x86_cpu *cpu)
{
	if (cpu->fpu.live)
		fpu_restore(cpu);
}

uint64_t x86_fpu_xinuse(struct x86_cpu *cpu)
{
	uint64_t in_use = XSTATE_X87 | XSTATE_SSE;

	x86_fpu_sync(cpu);
	if (fpu_host_get()->xsave)
		in_use = guest_load64(cpu->fpu.area + AREA_XSTATE_BV);
	if (cpu->pkru)
		in_use |= XSTATE_PKRU;
	return in_use & cpu->xcr0;
}

void x86_fpu_reset(struct x86_cpu *cpu)
{
	uint8_t *area = cpu->fpu.area;

	x86_fpu_discard(cpu);
	tz_clear(area, X86_XSAVE_AREA);
	guest_store16(area + AREA_FCW, FCW_INIT);
	guest_store32(area + AREA_MXCSR, MXCSR_INIT);
	guest_store32(area + AREA_MXCSR_MASK, fpu_host_get()->mxcsr_mask);
}

/* ---- images of the KVM API ---- */

void x86_fpu_get_image(struct x86_cpu *cpu, void *image4096)
{
	const struct fpu_host *h = fpu_host_get();
	uint64_t in_use = XSTATE_X87 | XSTATE_SSE;
	uint8_t *image = image4096;

	x86_fpu_sync(cpu);
	tz_copy(image, cpu->fpu.area, X86_XSAVE_AREA);
	guest_store32(image + AREA_MXCSR_MASK, h->mxcsr_mask);
	if (h->xsave) {
		in_use = guest_load64(image + AREA_XSTATE_BV);
		guest_store64(image + h->comp[XSTATE_PKRU_BIT].offset, cpu->pkru);
		if (cpu->pkru)
			in_use |= XSTATE_PKRU;
	}
	guest_store64(image + AREA_XSTATE_BV, in_use);
}

/* A component that XSTATE_BV leaves out is in its initial state (SDM 1 13.8.1): make the bytes say so. */
static void area_init_components(const struct fpu_host *h, uint8_t *area, uint64_t absent)
{
	for (unsigned n = 0; n <= XSTATE_PKRU_BIT; n++)
		if (absent & BIT64(n))
			tz_clear(area + h->comp[n].offset + (n ? 0 : 32), h->comp[n].size - (n ? 0 : 32));
	if (absent & XSTATE_X87) {
		tz_clear(area, AREA_MXCSR);
		guest_store16(area + AREA_FCW, FCW_INIT);
	}
}

int x86_fpu_set_image(struct x86_cpu *cpu, const void *image4096)
{
	const struct fpu_host *h = fpu_host_get();
	const uint8_t *image = image4096;
	uint64_t in_use = guest_load64(image + AREA_XSTATE_BV);
	uint8_t *area = cpu->fpu.area;
	uint32_t pkru = 0;

	if (in_use & ~h->xcr0 || guest_load32(image + AREA_MXCSR) & ~h->mxcsr_mask)
		return -EINVAL;
	for (unsigned at = AREA_XCOMP_BV; at < AREA_HEADER_END; at += 8)
		if (guest_load64(image + at))
			return -EINVAL; /* compacted, or reserved bytes */
	x86_fpu_discard(cpu);
	tz_copy(area, image, X86_XSAVE_AREA);
	guest_store32(area + AREA_MXCSR_MASK, h->mxcsr_mask);
	if (!h->xsave)
		return 0;
	area_init_components(h, area, h->xcr0 & ~in_use);
	if (in_use & XSTATE_PKRU)
		pkru = guest_load32(area + h->comp[XSTATE_PKRU_BIT].offset);
	guest_store64(area + AREA_XSTATE_BV, in_use & ~XSTATE_PKRU);
	if (pkru != cpu->pkru) {
		cpu->pkru = pkru;
		if (cpu->tlb)
			x86_tlb_flush_all(cpu);
	}
	return 0;
}
