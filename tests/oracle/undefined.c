/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags (and a few results) that the manual leaves undefined: SDM 2A to 2C, section "Flags Affected" of each
 * instruction. Everything that is not here is compared.
 */
#include "generate.h"

#define CNT (UINT64_C(1) << 32) /* by the count: see by_count() */

static const struct row {
	ZydisMnemonic mnemonic;
	uint64_t flags;
	const char *section;
} rows[] = {
#define ROW(m, flags, section)                                                                                         \
	{                                                                                                              \
		ZYDIS_MNEMONIC_##m, flags, section                                                                     \
	}
	ROW(AND, FLAG_AF, "SDM 2A AND"),
	ROW(OR, FLAG_AF, "SDM 2B OR"),
	ROW(XOR, FLAG_AF, "SDM 2D XOR"),
	ROW(TEST, FLAG_AF, "SDM 2B TEST"),
	ROW(MUL, FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF, "SDM 2B MUL"),
	ROW(IMUL, FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF, "SDM 2A IMUL"),
	ROW(DIV, ARITH_FLAGS, "SDM 2A DIV"),
	ROW(IDIV, ARITH_FLAGS, "SDM 2A IDIV"),
	ROW(SHL, CNT, "SDM 2B SAL/SAR/SHL/SHR"),
	ROW(SHR, CNT, "SDM 2B SAL/SAR/SHL/SHR"),
	ROW(SAR, CNT, "SDM 2B SAL/SAR/SHL/SHR"),
	ROW(SALC, 0, "undocumented, no flags"),
	ROW(ROL, CNT, "SDM 2B RCL/RCR/ROL/ROR"),
	ROW(ROR, CNT, "SDM 2B RCL/RCR/ROL/ROR"),
	ROW(RCL, CNT, "SDM 2B RCL/RCR/ROL/ROR"),
	ROW(RCR, CNT, "SDM 2B RCL/RCR/ROL/ROR"),
	ROW(SHLD, CNT, "SDM 2B SHLD"),
	ROW(SHRD, CNT, "SDM 2B SHRD"),
	ROW(BT, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2A BT"),
	ROW(BTS, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2A BTS"),
	ROW(BTR, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2A BTR"),
	ROW(BTC, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2A BTC"),
	ROW(BSF, ARITH_FLAGS & ~FLAG_ZF, "SDM 2A BSF"),
	ROW(BSR, ARITH_FLAGS & ~FLAG_ZF, "SDM 2A BSR"),
	ROW(TZCNT, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2B TZCNT"),
	ROW(LZCNT, FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2A LZCNT"),
	ROW(ANDN, FLAG_AF | FLAG_PF, "SDM 2A ANDN"),
	ROW(BLSI, FLAG_AF | FLAG_PF, "SDM 2A BLSI"),
	ROW(BLSMSK, FLAG_AF | FLAG_PF, "SDM 2A BLSMSK"),
	ROW(BLSR, FLAG_AF | FLAG_PF, "SDM 2A BLSR"),
	ROW(BZHI, FLAG_AF | FLAG_PF, "SDM 2A BZHI"),
	ROW(BEXTR, FLAG_SF | FLAG_AF | FLAG_PF, "SDM 2A BEXTR"),
	ROW(AAA, FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF, "SDM 2A AAA"),
	ROW(AAS, FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_PF, "SDM 2A AAS"),
	ROW(AAD, FLAG_OF | FLAG_AF | FLAG_CF, "SDM 2A AAD"),
	ROW(AAM, FLAG_OF | FLAG_AF | FLAG_CF, "SDM 2A AAM"),
	ROW(DAA, FLAG_OF, "SDM 2A DAA"),
	ROW(DAS, FLAG_OF, "SDM 2A DAS"),
#undef ROW
};

/* The count of a shift or rotate, masked. False: not known. */
static bool count_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const struct state *before,
		     unsigned *count)
{
	const ZydisDecodedOperand *o = NULL;

	for (unsigned n = 0; n < zi->operand_count; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		    (zo[n].type == ZYDIS_OPERAND_TYPE_REGISTER && zo[n].reg.value == ZYDIS_REGISTER_CL && n == 2) ||
		    (zo[n].type == ZYDIS_OPERAND_TYPE_REGISTER && zo[n].reg.value == ZYDIS_REGISTER_CL && n == 1 &&
		     zi->mnemonic != ZYDIS_MNEMONIC_SHLD && zi->mnemonic != ZYDIS_MNEMONIC_SHRD))
			o = &zo[n];
	if (!o)
		return false;
	if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !before)
		return false;
	*count = (unsigned)(o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? o->imm.value.u : before->gpr[RCX]);
	*count &= zo[0].size == 64 ? 63 : 31;
	return true;
}

static uint64_t by_count(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const struct state *before)
{
	bool rotate = zi->meta.category == ZYDIS_CATEGORY_ROTATE;
	bool doubled = zi->mnemonic == ZYDIS_MNEMONIC_SHLD || zi->mnemonic == ZYDIS_MNEMONIC_SHRD;
	uint64_t flags = rotate ? FLAG_OF : FLAG_OF | FLAG_AF;
	unsigned count;

	if (!count_of(zi, zo, before, &count))
		return doubled ? ARITH_FLAGS : rotate ? flags : flags | FLAG_CF;
	if (!count)
		return 0;
	if (count == 1)
		flags &= ~FLAG_OF;
	if (count >= zo[0].size && !rotate && zi->mnemonic != ZYDIS_MNEMONIC_SAR)
		flags |= FLAG_CF;
	if (count > zo[0].size && doubled)
		flags = ARITH_FLAGS;
	return flags;
}

uint64_t undefined_flags(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const struct state *before)
{
	for (unsigned n = 0; n < ARRAY_SIZE(rows); n++)
		if (rows[n].mnemonic == zi->mnemonic)
			return rows[n].flags == CNT ? by_count(zi, zo, before) : rows[n].flags;
	return 0;
}

bool undefined_result(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const struct state *before)
{
	unsigned count;

	/* A count beyond the operand (SDM 2B SHLD, SHRD). */
	return (zi->mnemonic == ZYDIS_MNEMONIC_SHLD || zi->mnemonic == ZYDIS_MNEMONIC_SHRD) &&
	       count_of(zi, zo, before, &count) && count > zo[0].size;
}
