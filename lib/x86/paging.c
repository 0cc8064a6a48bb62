/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/paging.h"

#include "mem/memslot.h"
#include "x86/cpuid.h"

/* Paging-structure entries (SDM 3A 4.3-4.5). */
#define PTE_P BIT64(0)
#define PTE_W BIT64(1)
#define PTE_U BIT64(2)
#define PTE_A BIT64(5)
#define PTE_D BIT64(6)
#define PTE_PS BIT64(7)
#define PTE_G BIT64(8)
#define PTE_XD BIT64(63)
#define PTE_ADDR UINT64_C(0x000ffffffffff000)
#define PTE_KEY_SHIFT 59
#define PAE_HIGH_RSVD UINT64_C(0x7ff0000000000000) /* PAE paging has no ignored bits 62:52 (SDM 3A table 4-9) */

#define LEVELS_MAX 5

enum walk_result { WALK_OK, WALK_FAULT, WALK_RETRY };

/* An entry the walk went through. */
struct entry {
	void *host; /* NULL where A and D can not be set: no memory, or read-only */
	const struct mem_slot *slot;
	uint64_t gpa;
	uint64_t value;
};

struct walker {
	struct x86_cpu *cpu;
	uint64_t gva;
	unsigned kind;
	enum x86_mmu_index mmu;
	unsigned entry_size; /* 4 or 8 */
	unsigned count;
	struct entry entry[LEVELS_MAX];
	uint64_t and_bits; /* W and U of all levels */
	uint64_t or_bits;  /* XD of any level */
	uint64_t frame;    /* GPA of the page, once the leaf is found */
	unsigned shift;
};

/* What the page allows in one context. */
struct rights {
	bool read, write, exec;
	bool key_read, key_write; /* the protection key lets it */
};

static uint64_t entry_read(struct walker *w, uint64_t gpa)
{
	struct entry *e = &w->entry[w->count];
	const struct mem_slot *slot = w->count ? e[-1].slot : NULL;
	struct mem_hit hit;
	uint8_t *host;

	w->count++;
	e->gpa = gpa;
	/* Tables mostly lie in one slot. */
	if (slot && gpa - slot->base.v < slot->size) {
		host = slot->hva + (gpa - slot->base.v);
	} else if (likely(mem_lookup(w->cpu->mem, GPA(gpa), &hit))) {
		host = hit.hva;
		slot = hit.slot;
	} else {
		e->host = NULL;
		e->slot = NULL;
		return e->value = w->entry_size == 8 ? UINT64_MAX : UINT32_MAX;
	}
	if (unlikely(w->cpu->tlb->overlay))
		host = w->cpu->tlb->overlay->table(w->cpu, gpa, host);
	e->host = slot->flags & MEM_SLOT_READONLY ? NULL : host;
	e->slot = slot;
	return e->value = w->entry_size == 8 ? guest_load64(host) : guest_load32(host);
}

/* The error code bits that say what kind of access it was (SDM 3A 4.7). */
static uint32_t access_error(const struct walker *w)
{
	const struct x86_cpu *cpu = w->cpu;
	uint32_t error = 0;

	if (w->kind == X86_ACCESS_WRITE)
		error |= X86_PFEC_W;
	if (w->mmu == X86_MMU_USER)
		error |= X86_PFEC_U;
	if (w->kind == X86_ACCESS_EXEC &&
	    ((cpu->cr4 & X86_CR4_SMEP) || ((cpu->cr4 & X86_CR4_PAE) && (cpu->efer & X86_EFER_NXE))))
		error |= X86_PFEC_I;
	return error;
}

static enum walk_result fault(const struct walker *w, struct x86_walk *out, uint32_t bits)
{
	out->error = access_error(w) | bits;
	return WALK_FAULT;
}

/* Reserved bits of a 64-bit entry at `shift` (SDM 3A tables 4-8 to 4-20), but for those of a large page's address. */
static uint64_t reserved_bits(const struct x86_cpu *cpu, unsigned shift)
{
	uint64_t rsvd = cpu->cpuid.rsvd_gpa_bits;

	if (!(cpu->efer & X86_EFER_NXE))
		rsvd |= PTE_XD;
	if (!cpu->long_mode)
		rsvd |= PAE_HIGH_RSVD;
	if (shift >= 39 || (shift == 30 && !x86_has(cpu, X86_FEAT_PDPE1GB)))
		rsvd |= PTE_PS;
	return rsvd;
}

/* PAE, 4-level and 5-level paging (SDM 3A 4.4, 4.5). */
static enum walk_result walk64(struct walker *w, struct x86_walk *out)
{
	const struct x86_cpu *cpu = w->cpu;
	uint64_t table, v;
	unsigned shift;

	w->entry_size = 8;
	if (cpu->long_mode) {
		shift = cpu->cr4 & X86_CR4_LA57 ? 48 : 39;
		table = cpu->cr3 & PTE_ADDR;
	} else {
		/* The PDPTEs are registers, and give no rights. */
		table = cpu->pdpte[(w->gva >> 30) & 3];
		if (!(table & PTE_P))
			return fault(w, out, 0);
		table &= PTE_ADDR;
		shift = 21;
	}
	for (;; shift -= 9) {
		v = entry_read(w, table + ((w->gva >> shift) & 511) * 8);
		if (!(v & PTE_P))
			return fault(w, out, 0);
		if (unlikely(v & reserved_bits(cpu, shift)))
			return fault(w, out, X86_PFEC_P | X86_PFEC_RSVD);
		w->and_bits &= v;
		w->or_bits |= v;
		table = v & PTE_ADDR;
		if (shift == TZ_PAGE_SHIFT)
			break;
		if (shift <= 30 && (v & PTE_PS)) {
			/* Bit 12 is PAT; the rest below the frame is reserved. */
			if (table & (BIT64(shift) - 1) & ~BIT64(12))
				return fault(w, out, X86_PFEC_P | X86_PFEC_RSVD);
			break;
		}
	}
	w->shift = shift;
	w->frame = table & ~(BIT64(shift) - 1);
	return WALK_OK;
}

/* Reserved bits of a 4-MiB PDE: what of 21:13 does not hold address bits 39:32 (SDM 3A 4.3, table 4-4). */
static uint64_t pse_reserved_bits(const struct x86_cpu *cpu)
{
	unsigned width = cpu->cpuid.maxphyaddr < 40 ? cpu->cpuid.maxphyaddr : 40;

	if (!x86_has(cpu, X86_FEAT_PSE36) || width < 32)
		width = 32;
	return BIT64(22) - BIT64(13 + width - 32);
}

/* 32-bit paging (SDM 3A 4.3). */
static enum walk_result walk32(struct walker *w, struct x86_walk *out)
{
	const struct x86_cpu *cpu = w->cpu;
	uint64_t v;

	w->entry_size = 4;
	v = entry_read(w, (cpu->cr3 & 0xfffff000) + ((w->gva >> 22) & 1023) * 4);
	if (!(v & PTE_P))
		return fault(w, out, 0);
	w->and_bits &= v;
	if ((v & PTE_PS) && (cpu->cr4 & X86_CR4_PSE)) {
		if (v & pse_reserved_bits(cpu))
			return fault(w, out, X86_PFEC_P | X86_PFEC_RSVD);
		w->shift = 22;
		w->frame = (v & 0xffc00000) | ((v >> 13) & 0xff) << 32;
		return WALK_OK;
	}
	v = entry_read(w, (v & 0xfffff000) + ((w->gva >> 12) & 1023) * 4);
	if (!(v & PTE_P))
		return fault(w, out, 0);
	w->and_bits &= v;
	w->shift = TZ_PAGE_SHIFT;
	w->frame = v & 0xfffff000;
	return WALK_OK;
}

/* SDM 3A 4.6: what the accumulated bits allow in this context. */
static struct rights compute_rights(const struct walker *w)
{
	const struct x86_cpu *cpu = w->cpu;
	bool user = w->mmu == X86_MMU_USER;
	bool user_page = w->and_bits & PTE_U;
	bool wp = cpu->cr0 & X86_CR0_WP;
	bool data_ok, exec_ok;
	struct rights r = { .key_read = true, .key_write = true };

	if (user) {
		data_ok = exec_ok = user_page;
	} else {
		data_ok = !(user_page && w->mmu == X86_MMU_KERNEL_SMAP && (cpu->cr4 & X86_CR4_SMAP));
		exec_ok = !(user_page && (cpu->cr4 & X86_CR4_SMEP));
	}
	/* Protection keys (SDM 3A 4.6.2): data accesses to pages of users or of supervisors, whoever makes them. */
	if (cpu->long_mode && unlikely(cpu->cr4 & (user_page ? X86_CR4_PKE : X86_CR4_PKS))) {
		unsigned key = (w->entry[w->count - 1].value >> PTE_KEY_SHIFT) & 15;
		uint32_t bits = (user_page ? cpu->pkru : (uint32_t)cpu->msr.pkrs) >> (2 * key);

		r.key_read = !(bits & 1);
		r.key_write = r.key_read && !((bits & 2) && (user || wp));
	}
	r.read = data_ok && r.key_read;
	r.write = data_ok && r.key_write && ((w->and_bits & PTE_W) || (!user && !wp));
	/* Without EFER.NXE bit 63 is reserved, so it can not be set here; 32-bit entries have none. */
	r.exec = exec_ok && !(w->or_bits & PTE_XD);
	return r;
}

/* Set `bits` in an entry unless somebody changed it since it was read (SDM 3A 4.8: a locked update). */
static bool entry_set(struct walker *w, struct entry *e, uint64_t bits)
{
	struct x86_cpu *cpu = w->cpu;
	gpa_t gpa = GPA(e->gpa);
	bool ok;

	if (w->entry_size == 8) {
		uint64_t was = e->value;

		ok = __atomic_compare_exchange_n((uint64_t *)e->host, &was, was | bits, false, __ATOMIC_SEQ_CST,
						 __ATOMIC_SEQ_CST);
	} else {
		uint32_t was = (uint32_t)e->value;

		ok = __atomic_compare_exchange_n((uint32_t *)e->host, &was, was | (uint32_t)bits, false,
						 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	if (!ok)
		return false;
	e->value |= bits;
	mem_mark_dirty(e->slot, gpa, w->entry_size);
	if (x86_tlb_is_code(cpu, gpa) && cpu->tlb->code_written)
		cpu->tlb->code_written(cpu, gpa, w->entry_size);
	if (unlikely(cpu->tlb->overlay))
		cpu->tlb->overlay->table_written(cpu, gpa.v, e->host, w->entry_size);
	return true;
}

/* A in every entry used, D in the leaf for a write. A table in read-only memory keeps its bits (as in KVM). */
static enum walk_result set_accessed_dirty(struct walker *w)
{
	for (unsigned i = 0; i < w->count; i++) {
		struct entry *e = &w->entry[i];
		uint64_t want = PTE_A;

		if (i == w->count - 1 && w->kind == X86_ACCESS_WRITE)
			want |= PTE_D;
		if (likely((e->value & want) == want) || !e->host)
			continue;
		if (!entry_set(w, e, want))
			return WALK_RETRY;
	}
	return WALK_OK;
}

static enum walk_result walk_once(struct walker *w, bool probe, struct x86_walk *out)
{
	enum walk_result result;
	struct rights r;
	uint64_t leaf;

	w->count = 0;
	w->and_bits = PTE_W | PTE_U;
	w->or_bits = 0;
	result = w->cpu->cr4 & X86_CR4_PAE ? walk64(w, out) : walk32(w, out);
	if (unlikely(result != WALK_OK))
		return result;

	r = compute_rights(w);
	if (unlikely(!(w->kind == X86_ACCESS_READ ? r.read : w->kind == X86_ACCESS_WRITE ? r.write : r.exec))) {
		bool key_ok = w->kind == X86_ACCESS_READ ? r.key_read : w->kind != X86_ACCESS_WRITE || r.key_write;

		return fault(w, out, X86_PFEC_P | (key_ok ? 0 : X86_PFEC_PK));
	}
	if (!probe) {
		result = set_accessed_dirty(w);
		if (result != WALK_OK)
			return result;
	}
	leaf = w->entry[w->count - 1].value;
	out->gpa = GPA(w->frame | (w->gva & (BIT64(w->shift) - 1)));
	out->page_shift = (uint8_t)w->shift;
	out->readable = r.read;
	out->writable = r.write && (leaf & PTE_D);
	out->executable = r.exec;
	out->global = (leaf & PTE_G) && (w->cpu->cr4 & X86_CR4_PGE);
	out->error = 0;
	return WALK_OK;
}

bool x86_walk(struct x86_cpu *cpu, gva_t gva, unsigned kind, enum x86_mmu_index mmu, bool probe, struct x86_walk *out)
{
	struct walker w;
	enum walk_result result;

	if (!x86_paging(cpu)) {
		out->gpa = GPA(gva.v);
		out->page_shift = TZ_PAGE_SHIFT;
		out->readable = out->writable = out->executable = true;
		out->global = false;
		out->error = 0;
		return true;
	}
	w.cpu = cpu;
	w.gva = gva.v;
	w.kind = kind;
	w.mmu = mmu;
	do {
		result = walk_once(&w, probe, out);
	} while (unlikely(result == WALK_RETRY));
	return result == WALK_OK;
}

bool x86_load_pdptes(struct x86_cpu *cpu, uint64_t cr3)
{
	/* SDM 3A table 4-8: bits 2:1, 8:5 and everything from MAXPHYADDR up. */
	uint64_t rsvd = UINT64_C(0x1e6) | cpu->cpuid.rsvd_gpa_bits | ~UINT64_C(0) << 52;
	uint64_t pdpte[4];

	mem_read(cpu->mem, GPA(cr3 & 0xffffffe0), pdpte, sizeof(pdpte));
	for (unsigned i = 0; i < 4; i++)
		if ((pdpte[i] & PTE_P) && (pdpte[i] & rsvd))
			return false;
	for (unsigned i = 0; i < 4; i++)
		cpu->pdpte[i] = pdpte[i];
	return true;
}
