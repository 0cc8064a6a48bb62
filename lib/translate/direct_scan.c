/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of code the host's processor may execute as they are.
 *
 * Some instructions do for a user program what they are asked without a fault, with the host's answer: CPUID (but
 * where the host can make it fault), SGDT and its like where the host has no UMIP, LAR, LSL, VERR, VERW, RDPID, XGETBV,
 * VMCALL and others behind 0F 01; INT 80h loses half of RAX. Their opcodes are two bytes that often occur inside other
 * instructions (an immediate of 15 is 0F 00 00 00), so where the bytes are found, it is decoded: from many starting
 * points in front of them, as x86 code read from a wrong start falls into step within a few instructions. If more than
 * a few of these find such an instruction there, the page is not executed.
 *
 * A program that jumps into the middle of an instruction to execute such bytes is not recognized: it gets the host's
 * answer (docs/caveats.md). Nothing else depends on it: what could do harm faults.
 */
#include <Zydis/Zydis.h>

#include "base/nh.h"
#include "translate/direct.h"

#define WINDOW (DIRECT_SCAN_BEFORE - 16) /* so far in front of the bytes reading starts, in each of 16 places */
#define TOTAL DIRECT_SCAN_BYTES

struct scan {
	ZydisDecoder decoder;
	unsigned avoid;
	uint32_t first, end; /* of the bytes there are */
	uint8_t bytes[TOTAL];
	/* The instruction that starts there: its length, 1 if there is none, | SENSITIVE. 0: not looked at yet. */
	uint8_t insn[TOTAL];
};
#define SENSITIVE 0x80u

static bool is_sensitive(const struct scan *s, const ZydisDecodedInstruction *i)
{
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_RDPRU:
	case ZYDIS_MNEMONIC_RDPKRU:
	case ZYDIS_MNEMONIC_WRPKRU:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
	case ZYDIS_MNEMONIC_VMFUNC:
	case ZYDIS_MNEMONIC_ENCLU:
	case ZYDIS_MNEMONIC_MONITORX:
	case ZYDIS_MNEMONIC_MWAITX:
	case ZYDIS_MNEMONIC_SYSENTER: return true;
	case ZYDIS_MNEMONIC_INT: return i->raw.imm[0].value.u == 0x80;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64: return s->avoid & DIRECT_AVOID_XSAVE;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: return s->avoid & DIRECT_AVOID_FSGSBASE;
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ: return s->avoid & DIRECT_AVOID_SELECTORS;
	case ZYDIS_MNEMONIC_MOV:
		return (s->avoid & DIRECT_AVOID_SELECTORS) && i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
		       (i->opcode == 0x8c || i->opcode == 0x8e);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP: return (s->avoid & DIRECT_AVOID_SELECTORS) && i->opcode_map == ZYDIS_OPCODE_MAP_0F;
	default: return (s->avoid & DIRECT_AVOID_SELECTORS) && i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	}
}

/* Could an instruction of those above have its opcode at n? */
static bool is_suspect(const struct scan *s, uint32_t n)
{
	const uint8_t *p = s->bytes + n;
	const bool selectors = s->avoid & DIRECT_AVOID_SELECTORS, more = n + 2 < s->end;

	if (unlikely(selectors) &&
	    (p[0] == 0x8c || p[0] == 0x8e || p[0] == 0xca || p[0] == 0xcb || p[0] == 0xcf ||
	     (p[0] == 0xff && n + 1 < s->end && ((p[1] & 0x38) == 0x18 || (p[1] & 0x38) == 0x28))))
		return true;
	if (n + 1 == s->end)
		return false;
	if (p[0] != 0x0f)
		return p[0] == 0xcd && p[1] == 0x80;
	switch (p[1]) {
	case 0x00:
	case 0x01:
	case 0x02:
	case 0x03:
	case 0x33:
	case 0x34:
	case 0xa2: return true;
	case 0xae: return s->avoid & (DIRECT_AVOID_XSAVE | DIRECT_AVOID_FSGSBASE);
	case 0xc7: return (more && (p[2] & 0xf8) == 0xf8) || (s->avoid & DIRECT_AVOID_XSAVE);
	case 0xa0:
	case 0xa1:
	case 0xa8:
	case 0xa9:
	case 0xb2:
	case 0xb4:
	case 0xb5: return selectors;
	default: return false;
	}
}

static unsigned insn_at(struct scan *s, uint32_t at)
{
	ZydisDecodedInstruction i;

	if (s->insn[at])
		return s->insn[at];
	if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&s->decoder, NULL, s->bytes + at, s->end - at, &i)))
		s->insn[at] = (uint8_t)(i.length | (is_sensitive(s, &i) ? SENSITIVE : 0));
	else
		s->insn[at] = 1;
	return s->insn[at];
}

#define UNKNOWN 0
#define NO 1
#define YES 2

/*
 * Read on from `at`: does such an instruction lie over `suspect`? What it comes by is noted in seen[] (from `from` on):
 * other starts fall into the same step.
 */
static bool found_from(struct scan *s, uint32_t at, uint32_t suspect, uint32_t from, uint8_t *seen)
{
	uint32_t start = at;
	uint8_t verdict = UNKNOWN;

	while (verdict == UNKNOWN && at <= suspect) {
		unsigned i = insn_at(s, at), length = i & ~SENSITIVE;

		verdict = seen[at - from];
		if (verdict == UNKNOWN && at + length > suspect)
			verdict = i & SENSITIVE ? YES : NO;
		at += length;
	}
	for (at = start; at <= suspect && seen[at - from] == UNKNOWN; at += insn_at(s, at) & ~SENSITIVE)
		seen[at - from] = verdict;
	return verdict == YES;
}

/* Reading from a wrong start may see anything, but few of so many still do after so many bytes. */
#define VOTES 4
#define SETTLED 32

static bool found(struct scan *s, uint32_t suspect)
{
	uint32_t from = suspect >= s->first + WINDOW + 16 ? suspect - WINDOW - 16 : s->first;
	uint8_t seen[WINDOW + 32] = { UNKNOWN };
	unsigned votes = 0;

	for (uint32_t at = from; at < from + 16 && at <= suspect; at++)
		votes += found_from(s, at, suspect, from, seen);
	/* Functions start at such places, behind what need not be code. */
	for (uint32_t at = (from + 31) & ~15u; at + 16 < suspect; at += 16)
		votes += found_from(s, at, suspect, from, seen);
	return votes >= (suspect - from < SETTLED ? 1 : VOTES);
}

static void load(struct scan *s, const uint8_t *page, const uint8_t *before, const uint8_t *after, unsigned avoid)
{
	s->avoid = avoid;
	s->first = before ? 0 : DIRECT_SCAN_BEFORE;
	s->end = TOTAL - (after ? 0 : DIRECT_SCAN_AFTER);
	for (unsigned n = 0; n < DIRECT_SCAN_BEFORE; n += 8)
		guest_store64(s->bytes + n, before ? guest_load64(before + n) : 0);
	for (unsigned n = 0; n < TZ_PAGE_SIZE; n += 8)
		guest_store64(s->bytes + DIRECT_SCAN_BEFORE + n, guest_load64(page + n));
	for (unsigned n = 0; n < DIRECT_SCAN_AFTER; n += 8)
		guest_store64(s->bytes + DIRECT_SCAN_BEFORE + TZ_PAGE_SIZE + n, after ? guest_load64(after + n) : 0);
}

static bool scan(struct scan *s)
{
	tz_clear(s->insn, sizeof(s->insn));
	ZydisDecoderInit(&s->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	/* One that starts in the page before, too; and not one that ends in the page behind, if that is not there: it
	 * takes that page to execute it. */
	for (uint32_t n = DIRECT_SCAN_BEFORE - (s->first ? 0 : 2); n < DIRECT_SCAN_BEFORE + TZ_PAGE_SIZE; n++)
		if (is_suspect(s, n) && found(s, n))
			return false;
	return true;
}

bool direct_scan_page(const uint8_t *page, const uint8_t *before, const uint8_t *after, unsigned avoid)
{
	struct scan s;

	load(&s, page, before, after, avoid);
	return scan(&s);
}

bool direct_scan_known(struct direct_scans *known, const uint8_t *page, const uint8_t *before, const uint8_t *after,
		       unsigned avoid)
{
	struct direct_scan_result *r;
	unsigned __int128 sum;
	struct scan s;

	_Static_assert(TOTAL % 16 == 0, "pairs of words");
	load(&s, page, before, after, avoid);
	sum = tz_nh_pair(known->key + TOTAL / 8, s.first, (uint64_t)s.end << 8 | avoid);
	for (unsigned k = 0; k < TOTAL / 8; k += 2)
		sum += tz_nh_pair(known->key + k, guest_load64(s.bytes + 8 * k), guest_load64(s.bytes + 8 * k + 8));
	r = &known->result[(uint64_t)(sum >> 32) % ARRAY_SIZE(known->result)];
	if (!r->valid || r->sum[0] != (uint64_t)sum || r->sum[1] != (uint64_t)(sum >> 64)) {
		r->sum[0] = (uint64_t)sum;
		r->sum[1] = (uint64_t)(sum >> 64);
		r->good = scan(&s);
		r->valid = true;
	}
	return r->good;
}
