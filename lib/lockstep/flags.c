/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic flags that have no defined value (SDM 1 appendix A): the host's are what `translate` has there. */
#include "lockstep/lockstep.h"
#include "x86/fpu.h"

/* OF behind a shift or rotation by more than one (SDM 2B SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD). */
static bool may_shift_far(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	const ZydisDecodedOperand *count = &zo[zi->operand_count_visible - 1];

	return (zi->meta.category == ZYDIS_CATEGORY_SHIFT || zi->meta.category == ZYDIS_CATEGORY_ROTATE) &&
	       !(count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && count->imm.value.u == 1);
}

/* Backwards to who wrote each last. At the start of the stretch both sides had the same. */
uint64_t lockstep_undefined_flags(struct x86_cpu *cpu, const struct lockstep *ls, uint64_t flags)
{
	uint64_t undefined = 0, done = ls->insns_done;
	uint64_t first = done > LOCKSTEP_RECENT ? done - LOCKSTEP_RECENT : 0;
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisDecoder decoder;

	x86_fpu_put(cpu);
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (uint64_t n = done; n > first && flags; n--) {
		const uint8_t *raw = ls->recent[(n - 1) % LOCKSTEP_RECENT].raw;
		const ZydisAccessedFlags *f;
		uint64_t unsure;

		if (!ZYAN_SUCCESS(
			    ZydisDecoderDecodeFull(&decoder, raw, ls->recent[(n - 1) % LOCKSTEP_RECENT].len, &zi, zo)))
			continue;
		f = zi.cpu_flags;
		if (!f)
			continue;
		unsure = f->undefined | (may_shift_far(&zi, zo) ? X86_OF : 0);
		undefined |= flags & unsure;
		flags &= ~(unsure | f->modified | f->set_0 | f->set_1);
	}
	return undefined;
}
