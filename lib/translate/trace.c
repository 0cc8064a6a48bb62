/* SPDX-License-Identifier: Apache-2.0 */
/* TRAPEZE_TRACE=LO[-HI]: blocks that start at these linear addresses (hex) are written to stderr as they are
 * translated, the guest's code and the host's. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "translate/translate.h"
#include "x86/fpu.h"

static uint64_t trace_lo = 1, trace_hi; /* nothing */

static void read_wish(void)
{
	const char *wish = getenv("TRAPEZE_TRACE");
	char *end;

	if (!wish || !*wish)
		return;
	trace_lo = strtoull(wish, &end, 16);
	trace_hi = *end == '-' && end > wish ? strtoull(end + 1, &end, 16) : trace_lo;
	if (*end || trace_hi < trace_lo) {
		tz_log(TZ_LOG_ERROR, "TRAPEZE_TRACE=%s: not LO or LO-HI, hexadecimal addresses", wish);
		trace_lo = 1;
		trace_hi = 0;
	}
}

void translate_trace_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, read_wish);
}

static void disassemble(FILE *out, const char *title, bool wide, const uint8_t *code, size_t len, uint64_t at)
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisFormatter formatter;
	ZydisDecoder decoder;
	char text[128];

	ZydisDecoderInit(&decoder, wide ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
			 wide ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	fprintf(out, "%s\n", title);
	for (size_t n = 0; n < len; n += zi.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + n, len - n, &zi, zo)) ||
		    !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &zi, zo, zi.operand_count_visible, text,
								  sizeof(text), at + n, NULL))) {
			fprintf(out, "  %16llx  .byte 0x%02x\n", (unsigned long long)(at + n), code[n]);
			zi.length = 1;
			continue;
		}
		fprintf(out, "  %16llx  %s\n", (unsigned long long)(at + n), text);
	}
}

void translate_trace(struct translate *t, const struct translate_block *b, uint64_t rip)
{
	const uint8_t *code = b->code;

	if (likely(rip < trace_lo || rip > trace_hi))
		return;
	x86_fpu_put(t->cpu); /* libc may use vector registers */
	flockfile(stderr);
	fprintf(stderr, "block: RIP %llx, GPA %llx, mode %#llx\n", (unsigned long long)rip,
		(unsigned long long)(b->key & (BIT64(TRANSLATE_MODE_SHIFT) - 1)),
		(unsigned long long)(b->key >> TRANSLATE_MODE_SHIFT));
	disassemble(stderr, " guest:", !(b->key >> TRANSLATE_MODE_SHIFT & TRANSLATE_MODE_32), b->range[0].source,
		    (size_t)b->range[0].len + b->cross, rip);
	/* Behind each call are the four bytes that name its record. */
	disassemble(stderr, " host:", true, code, (size_t)(t->rx + t->used - code), (uint64_t)(uintptr_t)code);
	funlockfile(stderr);
}
