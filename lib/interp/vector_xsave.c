/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FXSAVE, FXRSTOR and the XSAVE family (SDM 1 10.5, 13.7 to 13.12), between fpu.area and guest memory.
 * The guest's standard format is the host's, so components are where they are in the area.
 */
#include "interp/vector.h"

#define IMAGE_FXSAVE 512u
#define IMAGE_X87_END 160u /* ST registers end, XMM registers begin */
#define IMAGE_ST 32u
#define IMAGE_FOP 6u
#define IMAGE_FIP 8u
#define IMAGE_FDP 16u
#define IMAGE_MXCSR 24u
#define IMAGE_XMM_END 416u
#define IMAGE_XSTATE_BV 512u
#define IMAGE_XCOMP_BV 520u
#define IMAGE_HEADER_END 576u

#define COMP_X87 BIT64(0)
#define COMP_SSE BIT64(1)
#define COMP_AVX BIT64(2)
#define COMP_PKRU_BIT 9u
#define COMP_PKRU BIT64(COMP_PKRU_BIT)
#define COMP_LAST COMP_PKRU_BIT
#define COMPACTED BIT64(63)
#define MXCSR_INIT 0x1f80u
#define FCW_INIT 0x37fu

/* Bytes of a component that exist in this mode: outside 64-bit mode only eight vector registers (SDM 1 13.5). */
static unsigned comp_size(const struct x86_cpu *cpu, unsigned n, unsigned full)
{
	if (x86_long64(cpu))
		return full;
	switch (n) {
	case 1:
	case 2:
	case 6: return full / 2; /* XMM, YMM_Hi128, ZMM_Hi256 */
	case 7: return 0;        /* Hi16_ZMM */
	default: return full;
	}
}

/* Where component n is in a compacted image. None of those offered wants 64-byte alignment (CPUID 0xD, ECX[1]). */
static unsigned compact_offset(uint64_t xcomp, unsigned n)
{
	unsigned at = IMAGE_HEADER_END;
	uint32_t offset, size;

	for (unsigned k = 2; k < n; k++)
		if ((xcomp & BIT64(k)) && x86_fpu_component(k, &offset, &size))
			at += size;
	return at;
}

static uint64_t requested(const struct x86_cpu *cpu)
{
	return cpu->xcr0 & ((uint64_t)(uint32_t)cpu->gpr[X86_RDX] << 32 | (uint32_t)cpu->gpr[X86_RAX]);
}

static bool has_rex_w(const struct interp_insn *i)
{
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XRSTOR64: return true;
	default: return false;
	}
}

/* Without REX.W the pointers are 32 bits and a selector, which is 0 here: deprecated, and not kept. */
/* FOP has 11 bits (SDM 1 8.1.9). */
static void mask_fop(uint8_t *area)
{
	guest_store16(area + IMAGE_FOP, guest_load16(area + IMAGE_FOP) & 0x7ff);
}

static void narrow_pointers(uint8_t *image)
{
	guest_store32(image + IMAGE_FIP + 4, 0);
	guest_store32(image + IMAGE_FDP + 4, 0);
}

/* What was put into the area goes through the registers, which normalize it: reserved bits, FSW.ES. */
static void reload(struct x86_cpu *cpu)
{
	if (cpu->fpu.live)
		x86_fpu_changed(cpu);
	else
		x86_fpu_load(cpu);
}

static uint64_t image_linear(struct x86_cpu *cpu, const struct interp_insn *i, unsigned size, unsigned align,
			     bool write)
{
	uint64_t a = x86_linear(cpu, i->seg, interp_ea(cpu, i), size, write);

	if (a & (align - 1))
		x86_raise_gp0(cpu);
	return a;
}

static void store_state_bv(struct x86_cpu *cpu, uint64_t bv)
{
	guest_store64(cpu->fpu.area + IMAGE_XSTATE_BV, bv);
}

static uint64_t load_state_bv(const struct x86_cpu *cpu)
{
	return guest_load64(cpu->fpu.area + IMAGE_XSTATE_BV);
}

/* ---- FXSAVE, FXRSTOR ---- */

static void check_fxsave(struct x86_cpu *cpu)
{
	if (cpu->cr0 & (X86_CR0_EM | X86_CR0_TS))
		x86_raise(cpu, X86_NM);
}

/* AMD's fast FXSAVE (APM 2 11.4.4): at CPL 0 in 64-bit mode without XMM registers. */
static unsigned fxsave_end(const struct x86_cpu *cpu)
{
	if ((cpu->efer & X86_EFER_FFXSR) && cpu->cpl == 0 && x86_long64(cpu))
		return IMAGE_X87_END;
	return IMAGE_X87_END + comp_size(cpu, 1, IMAGE_XMM_END - IMAGE_X87_END);
}

void vector_exec_fxsave(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch;
	uint64_t a;

	check_fxsave(cpu);
	a = image_linear(cpu, i, IMAGE_FXSAVE, 16, true);
	x86_probe_write(cpu, a, IMAGE_FXSAVE, cpu->mmu_index);
	x86_fpu_sync(cpu);
	tz_copy(image, cpu->fpu.area, IMAGE_XMM_END);
	guest_store32(image + IMAGE_MXCSR + 4, x86_fpu_mxcsr_mask());
	if (!has_rex_w(i))
		narrow_pointers(image);
	x86_write_bytes(cpu, a, image, fxsave_end(cpu), cpu->mmu_index);
	vector_end(cpu, i);
}

void vector_exec_fxrstor(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch, *area = cpu->fpu.area;

	check_fxsave(cpu);
	x86_read_bytes(cpu, image_linear(cpu, i, IMAGE_FXSAVE, 16, false), image, IMAGE_FXSAVE, cpu->mmu_index);
	if (guest_load32(image + IMAGE_MXCSR) & ~x86_fpu_mxcsr_mask())
		x86_raise_gp0(cpu);
	if (!has_rex_w(i))
		narrow_pointers(image);
	guest_store32(image + IMAGE_MXCSR + 4, x86_fpu_mxcsr_mask());
	x86_fpu_sync(cpu);
	tz_copy(area, image, fxsave_end(cpu));
	mask_fop(area);
	store_state_bv(cpu, load_state_bv(cpu) | COMP_X87 | COMP_SSE);
	reload(cpu);
	vector_end(cpu, i);
}

/* ---- XSAVE, XSAVEC, XSAVEOPT ---- */

static void check_xsave(struct x86_cpu *cpu)
{
	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		x86_raise_ud(cpu);
	if (cpu->cr0 & X86_CR0_TS)
		x86_raise(cpu, X86_NM);
}

/* Collects adjacent pieces, so that the usual image takes few writes. */
struct image_writer {
	struct x86_cpu *cpu;
	const uint8_t *from; /* image in standard format */
	uint64_t a;
	unsigned at, source, len; /* pending piece */
};

static void writer_flush(struct image_writer *w)
{
	if (w->len)
		x86_write_bytes(w->cpu, w->a + w->at, w->from + w->source, w->len, w->cpu->mmu_index);
	w->len = 0;
}

static void writer_add(struct image_writer *w, unsigned at, unsigned source, unsigned len)
{
	if (w->len && w->at + w->len == at && w->source + w->len == source) {
		w->len += len;
		return;
	}
	writer_flush(w);
	w->at = at;
	w->source = source;
	w->len = len;
}

static void write_components(struct image_writer *w, uint64_t saved, bool mxcsr, uint64_t xcomp)
{
	uint32_t offset, size;

	if (saved & COMP_X87)
		writer_add(w, 0, 0, IMAGE_MXCSR);
	if (mxcsr)
		writer_add(w, IMAGE_MXCSR, IMAGE_MXCSR, 8);
	if (saved & COMP_X87)
		writer_add(w, IMAGE_ST, IMAGE_ST, IMAGE_X87_END - IMAGE_ST);
	for (unsigned n = 1; n <= COMP_LAST; n++) {
		if (!(saved & BIT64(n)) || !x86_fpu_component(n, &offset, &size))
			continue;
		size = comp_size(w->cpu, n, size);
		if (size)
			writer_add(w, n > 1 && xcomp ? compact_offset(xcomp, n) : offset, offset, size);
	}
	writer_flush(w);
}

static bool is_xsavec(const struct interp_insn *i)
{
	return i->mnemonic == ZYDIS_MNEMONIC_XSAVEC || i->mnemonic == ZYDIS_MNEMONIC_XSAVEC64;
}

/* The area as the guest would see it in standard format: FIP's width, PKRU. Returns XINUSE. */
static uint64_t prepare_image(struct x86_cpu *cpu, const struct interp_insn *i, uint8_t *image, uint64_t rfbm)
{
	uint64_t in_use = x86_fpu_xinuse(cpu); /* brings the area up to date */
	uint32_t offset, size;

	tz_copy(image, cpu->fpu.area, x86_fpu_area_size(rfbm));
	guest_store32(image + IMAGE_MXCSR + 4, x86_fpu_mxcsr_mask());
	if (!has_rex_w(i))
		narrow_pointers(image);
	if ((rfbm & COMP_PKRU) && x86_fpu_component(COMP_PKRU_BIT, &offset, &size))
		guest_store64(image + offset, cpu->pkru);
	return in_use;
}

void vector_exec_xsave(struct x86_cpu *cpu, const struct interp_insn *i)
{
	bool compact = is_xsavec(i);
	bool every = i->mnemonic == ZYDIS_MNEMONIC_XSAVE || i->mnemonic == ZYDIS_MNEMONIC_XSAVE64;
	uint8_t *image = vector_of(cpu)->scratch;
	uint64_t rfbm = requested(cpu), in_use, saved, xcomp = 0, old, header[2];
	unsigned size;
	struct image_writer w;

	check_xsave(cpu);
	if (compact)
		xcomp = rfbm | COMPACTED;
	size = compact ? compact_offset(rfbm, COMP_LAST + 1) : x86_fpu_area_size(rfbm);
	w = (struct image_writer){ .cpu = cpu, .from = image };
	w.a = image_linear(cpu, i, size, 64, true);
	x86_probe_write(cpu, w.a, size, cpu->mmu_index);
	old = x86_read64(cpu, w.a + IMAGE_XSTATE_BV);
	in_use = prepare_image(cpu, i, image, rfbm);
	/* SDM 1 13.10: XSAVEC counts SSE as in use when MXCSR is not at its default. */
	if (compact && guest_load32(image + IMAGE_MXCSR) != MXCSR_INIT)
		in_use |= COMP_SSE;
	saved = every ? rfbm : rfbm & in_use;
	write_components(&w, saved, compact ? saved & COMP_SSE : rfbm & (COMP_SSE | COMP_AVX), xcomp);
	header[0] = compact ? saved : (old & ~rfbm) | (in_use & rfbm);
	header[1] = xcomp;
	x86_write_bytes(cpu, w.a + IMAGE_XSTATE_BV, header, compact ? 16 : 8, cpu->mmu_index);
	vector_end(cpu, i);
}

/* ---- XRSTOR ---- */

struct restore {
	uint64_t a;
	uint64_t xcomp;   /* 0: standard format */
	uint64_t present; /* components to load */
	uint64_t absent;  /* components to put into their initial state */
	bool mxcsr;       /* load it */
};

/* SDM 1 13.8.1, 13.8.2: which headers are #GP(0). */
static void read_header(struct x86_cpu *cpu, struct restore *r, uint64_t rfbm)
{
	uint64_t header[8], bv;

	x86_read_bytes(cpu, r->a + IMAGE_XSTATE_BV, header, sizeof(header), cpu->mmu_index);
	bv = header[0];
	r->xcomp = header[1];
	/* Standard: bytes 23:8 must be 0; compacted: 63:16. */
	for (unsigned n = 2; n < 8; n++)
		if (header[n] && (n == 2 || r->xcomp))
			x86_raise_gp0(cpu);
	if (r->xcomp & COMPACTED) {
		uint64_t format = r->xcomp & ~COMPACTED;

		if (!x86_has(cpu, X86_FEAT_XSAVEC) || (format & ~cpu->xcr0) || (bv & ~format))
			x86_raise_gp0(cpu);
	} else if (r->xcomp || (bv & ~cpu->xcr0)) {
		x86_raise_gp0(cpu);
	}
	r->present = rfbm & bv;
	r->absent = rfbm & ~bv;
	r->mxcsr = r->xcomp ? r->present & COMP_SSE : rfbm & (COMP_SSE | COMP_AVX);
}

/* Everything that may fault; the parts end up in `image` in standard format. */
static void read_components(struct x86_cpu *cpu, const struct restore *r, uint8_t *image)
{
	uint32_t offset, size;

	if (r->mxcsr || (r->present & (COMP_X87 | COMP_SSE)))
		x86_read_bytes(cpu, r->a, image, IMAGE_XMM_END, cpu->mmu_index);
	if (r->mxcsr && (guest_load32(image + IMAGE_MXCSR) & ~x86_fpu_mxcsr_mask()))
		x86_raise_gp0(cpu);
	for (unsigned n = 2; n <= COMP_LAST; n++) {
		if (!(r->present & BIT64(n)) || !x86_fpu_component(n, &offset, &size))
			continue;
		size = comp_size(cpu, n, size);
		if (size)
			x86_read_bytes(cpu, r->a + (r->xcomp ? compact_offset(r->xcomp, n) : offset), image + offset,
				       size, cpu->mmu_index);
	}
}

static void restore_x87(uint8_t *area, const uint8_t *image, bool present)
{
	if (present) {
		tz_copy(area, image, IMAGE_MXCSR);
		mask_fop(area);
		tz_copy(area + IMAGE_ST, image + IMAGE_ST, IMAGE_X87_END - IMAGE_ST);
	} else {
		tz_clear(area, IMAGE_MXCSR);
		tz_clear(area + IMAGE_ST, IMAGE_X87_END - IMAGE_ST);
		guest_store16(area, FCW_INIT);
	}
}

static void restore_pkru(struct x86_cpu *cpu, uint32_t value)
{
	if (cpu->pkru == value)
		return;
	cpu->pkru = value;
	x86_tlb_flush_all(cpu);
}

static void commit_components(struct x86_cpu *cpu, const struct restore *r, const uint8_t *image)
{
	uint64_t touched = r->present | r->absent, bv;
	uint8_t *area = cpu->fpu.area;
	uint32_t offset, size;

	x86_fpu_sync(cpu);
	bv = load_state_bv(cpu) | (r->present & ~COMP_PKRU);
	if (x86_long64(cpu))
		bv &= ~r->absent; /* else the upper registers keep what they have */
	if (touched & COMP_X87)
		restore_x87(area, image, r->present & COMP_X87);
	if (r->mxcsr)
		guest_store32(area + IMAGE_MXCSR, guest_load32(image + IMAGE_MXCSR));
	else if (r->xcomp && (r->absent & COMP_SSE))
		guest_store32(area + IMAGE_MXCSR, MXCSR_INIT);
	for (unsigned n = 1; n <= COMP_LAST; n++) {
		if (!(touched & BIT64(n)) || !x86_fpu_component(n, &offset, &size))
			continue;
		if (n == COMP_PKRU_BIT) {
			restore_pkru(cpu, r->present & COMP_PKRU ? guest_load32(image + offset) : 0);
			continue;
		}
		size = comp_size(cpu, n, size);
		if (r->present & BIT64(n))
			tz_copy(area + offset, image + offset, size);
		else
			tz_clear(area + offset, size);
	}
	store_state_bv(cpu, bv);
	reload(cpu);
}

void vector_exec_xrstor(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch;
	struct restore r;

	check_xsave(cpu);
	r.a = image_linear(cpu, i, IMAGE_HEADER_END, 64, false);
	read_header(cpu, &r, requested(cpu));
	read_components(cpu, &r, image);
	if (!has_rex_w(i))
		narrow_pointers(image);
	commit_components(cpu, &r, image);
	vector_end(cpu, i);
}
