/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of forms: every opcode with every prefix and ModRM that selects an instruction goes through the decoder;
 * what comes out, told apart by mnemonic, opcode and operands, is a form. Nothing is listed by hand.
 */
#include "forms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct form_table forms;
static ZydisDecoder decoders[2];

/* ---- encoding ---- */

static unsigned put_legacy(uint8_t *p, const struct form *f, const struct fields *x)
{
	unsigned n = 0;

	if (f->lock)
		p[n++] = 0xf0;
	if (f->prefix66)
		p[n++] = 0x66;
	if (f->prefix67)
		p[n++] = 0x67;
	if (f->prefix_rep)
		p[n++] = f->prefix_rep;
	if (!f->mode32 && (f->w || x->r || x->x || x->b || x->force_rex))
		p[n++] = (uint8_t)(0x40 | f->w << 3 | x->r << 2 | x->x << 1 | x->b);
	if (f->map)
		p[n++] = 0x0f;
	if (f->map == 2)
		p[n++] = 0x38;
	if (f->map == 3)
		p[n++] = 0x3a;
	p[n++] = (uint8_t)(f->opcode | x->opcode_low);
	return n;
}

static unsigned put_vex(uint8_t *p, const struct form *f, const struct fields *x)
{
	unsigned n = 0;

	if (f->prefix67)
		p[n++] = 0x67;
	if (x->force_rex && f->map == 1 && !f->w && !x->x && !x->b) { /* the two-byte prefix, where it can be */
		p[n++] = 0xc5;
		p[n++] = (uint8_t)(!x->r << 7 | (~x->vvvv & 15) << 3 | f->length_bits << 2 | f->pp);
	} else {
		p[n++] = 0xc4;
		p[n++] = (uint8_t)(!x->r << 7 | !x->x << 6 | !x->b << 5 | f->map);
		p[n++] = (uint8_t)(f->w << 7 | (~x->vvvv & 15) << 3 | f->length_bits << 2 | f->pp);
	}
	p[n++] = f->opcode;
	return n;
}

static unsigned put_evex(uint8_t *p, const struct form *f, const struct fields *x)
{
	unsigned n = 0;

	if (f->prefix67)
		p[n++] = 0x67;
	p[n++] = 0x62;
	p[n++] = (uint8_t)(!x->r << 7 | !x->x << 6 | !x->b << 5 | !x->r2 << 4 | f->map);
	p[n++] = (uint8_t)(f->w << 7 | (~x->vvvv & 15) << 3 | 4 | f->pp);
	p[n++] = (uint8_t)(f->z << 7 | (x->length_bits & 3) << 5 | f->b << 4 | !x->v2 << 3 | x->aaa);
	p[n++] = f->opcode;
	return n;
}

unsigned forms_put(uint8_t *p, const struct form *f, const struct fields *x)
{
	unsigned n = f->encoding == ENC_LEGACY ? put_legacy(p, f, x)
		     : f->encoding == ENC_VEX  ? put_vex(p, f, x)
					       : put_evex(p, f, x);

	if (f->has_modrm)
		p[n++] = (uint8_t)(x->mod << 6 | x->reg << 3 | x->rm);
	return n;
}

/* ---- telling forms apart ---- */

bool forms_decode(bool mode32, const uint8_t *bytes, size_t n, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[mode32], bytes, n, zi, zo));
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
}

static bool opcode_has_register(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (zo[n].encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			return true;
	return false;
}

uint64_t forms_key(bool mode32, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	uint64_t h = mix(mode32 + 1, zi->mnemonic);

	h = mix(h, (uint64_t)zi->encoding << 24 | (uint64_t)zi->opcode_map << 16 |
			   (opcode_has_register(zi, zo) ? zi->opcode & 0xf8u : zi->opcode));
	h = mix(h, zi->attributes & (ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
				     ZYDIS_ATTRIB_HAS_REPNE));
	h = mix(h, zi->operand_width);
	h = mix(h, zi->avx.vector_length | (uint64_t)zi->avx.mask.mode << 12 |
			   (uint64_t)(zi->avx.broadcast.mode && !zi->avx.broadcast.is_static) << 20 |
			   (uint64_t)zi->avx.has_sae << 21 |
			   (uint64_t)(zi->avx.rounding.mode != 0 && zi->avx.has_sae) << 22);
	for (unsigned n = 0; n < zi->operand_count_visible; n++) {
		const ZydisDecodedOperand *o = &zo[n];

		h = mix(h, (uint64_t)o->type << 40 | (uint64_t)o->size << 8 | o->actions);
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			h = mix(h, ZydisRegisterGetClass(o->reg.value));
			if (o->visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT ||
			    ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
				h = mix(h, o->reg.value);
		}
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			h = mix(h, o->mem.type);
	}
	return h;
}

/* ---- collecting ---- */

/* Open addressing by key, doubled as needed: forms.form[] has the forms, index[] finds them. */
static unsigned *hash, hash_size;

static struct form *find(uint64_t key, bool *isnew)
{
	unsigned at = (unsigned)(key & (hash_size - 1));

	while (hash[at] != UINT32_MAX && forms.form[hash[at]].key != key)
		at = (at + 1) & (hash_size - 1);
	*isnew = hash[at] == UINT32_MAX;
	if (!*isnew)
		return &forms.form[hash[at]];
	if (forms.count == forms.room)
		die("more than %u forms", forms.room);
	hash[at] = forms.count;
	return &forms.form[forms.count++];
}

static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count_visible; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &zo[n];
	return NULL;
}

/* Not a prefix or an escape to another map taken for an opcode. */
static bool is_meant(const struct form *f, const ZydisDecodedInstruction *zi)
{
	static const ZydisInstructionEncoding encoding[] = { [ENC_LEGACY] = ZYDIS_INSTRUCTION_ENCODING_LEGACY,
							     [ENC_VEX] = ZYDIS_INSTRUCTION_ENCODING_VEX,
							     [ENC_EVEX] = ZYDIS_INSTRUCTION_ENCODING_EVEX };

	return zi->encoding == encoding[f->encoding] && zi->opcode_map == (ZydisOpcodeMap)f->map &&
	       zi->opcode == f->opcode;
}

/* Decode one combination. False: no instruction. *modrm tells whether it has that byte. */
static bool try(const struct form *f, const struct fields *x, bool *modrm, bool *lockable)
{
	ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	const ZydisDecodedOperand *mem;
	uint8_t bytes[40] = { 0 };
	unsigned n = forms_put(bytes, f, x);
	struct form *found;
	bool isnew;
	uint64_t key;

	if (x->mod != 3)
		bytes[n++] = 0x08; /* SIB: RAX + RCX */
	n += 12;
	if (!forms_decode(f->mode32, bytes, n > 15 ? 15 : n, &zi, zo) || !is_meant(f, &zi))
		return false;
	*modrm = zi.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	*lockable = zi.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK;
	/* A prefix that is part of no form is left to the generator. */
	if (f->prefix67 && zi.mnemonic != ZYDIS_MNEMONIC_JECXZ && zi.mnemonic != ZYDIS_MNEMONIC_JCXZ)
		return true;
	key = forms_key(f->mode32, &zi, zo);
	found = find(key, &isnew);
	mem = memory_operand(&zi, zo);
	if (isnew) {
		uint8_t opcode_set = 0;

		*found = *f;
		found->key = key;
		found->mnemonic = (uint16_t)zi.mnemonic;
		found->has_modrm = *modrm;
		found->memory = *modrm && x->mod != 3;
		found->vsib = mem && mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
		found->mask = x->aaa != 0;
		found->length_bits = x->length_bits;
		found->reg_set = found->rm_set = opcode_set;
		for (unsigned k = 0; k < zi.operand_count; k++)
			found->uses_vvvv |= zo[k].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD;
		if (opcode_has_register(&zi, zo))
			found->opcode &= 0xf8;
		found->standing = (uint8_t)features_standing(&zi, zo, &found->why);
	}
	found->reg_set |= (uint8_t)(1u << x->reg);
	found->rm_set |= (uint8_t)(1u << x->rm);
	if (opcode_has_register(&zi, zo))
		found->opcode_set |= (uint8_t)(1u << (f->opcode & 7));
	else
		found->opcode_set = 1;
	return true;
}

/* All values of ModRM: with memory, with registers. `all_rm`: ModRM.rm may be part of the opcode. */
static void each_modrm(struct form *f, struct fields x, bool all_rm)
{
	bool modrm = false, lockable = false;

	f->has_modrm = 1;
	for (unsigned reg = 0; reg < 8; reg++) {
		x.reg = (uint8_t)reg;
		x.mod = 0;
		x.rm = 4;
		f->lock = 0;
		if (try(f, &x, &modrm, &lockable) && lockable) {
			f->lock = 1;
			try(f, &x, &modrm, &lockable);
			f->lock = 0;
		}
		x.mod = 3;
		for (unsigned rm = 0; rm < (all_rm ? 8 : 1); rm++) {
			x.rm = (uint8_t)rm;
			try(f, &x, &modrm, &lockable);
		}
	}
}

static void each_operand(struct form *f, struct fields x, bool all_rm)
{
	bool modrm = true, lockable;

	/* Without ModRM the byte is an immediate's or none's. */
	f->has_modrm = 1;
	x.mod = 3;
	for (unsigned reg = 0; reg < 8; reg++) {
		struct form probe = *f;
		unsigned before = forms.count;
		ZydisDecodedInstruction zi;
		ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
		uint8_t bytes[32] = { 0 };

		x.reg = (uint8_t)reg;
		forms_put(bytes, &probe, &x);
		if (!forms_decode(f->mode32, bytes, 15, &zi, zo) || !is_meant(f, &zi))
			continue;
		modrm = zi.attributes & ZYDIS_ATTRIB_HAS_MODRM;
		forms.count = before;
		break;
	}
	if (modrm) {
		each_modrm(f, x, all_rm);
		return;
	}
	f->has_modrm = 0;
	x = (struct fields){ .mod = 3, .length_bits = x.length_bits };
	try(f, &x, &modrm, &lockable);
}

static void legacy_forms(bool mode32)
{
	static const uint8_t prefix[][2] = { { 0, 0 }, { 1, 0 }, { 0, 0xf3 }, { 0, 0xf2 }, { 1, 0xf3 }, { 1, 0xf2 } };

	for (unsigned map = 0; map < 4; map++)
		for (unsigned op = 0; op < 256; op++) {
			bool all_rm = map == 0 ? (op & 0xf8) == 0xd8 : map == 1;

			if (map == 1 && (op == 0x38 || op == 0x3a || op == 0x0f))
				continue;
			for (unsigned p = 0; p < ARRAY_SIZE(prefix) * 4; p++) {
				struct form f = { .mode32 = mode32,
						  .encoding = ENC_LEGACY,
						  .map = (uint8_t)map,
						  .opcode = (uint8_t)op,
						  .w = p & 1,
						  .prefix67 = p >> 1 & 1,
						  .prefix66 = prefix[p / 4][0],
						  .prefix_rep = prefix[p / 4][1] };

				if ((mode32 && f.w) || (f.prefix67 && (map || op != 0xe3)))
					continue;
				each_operand(&f, (struct fields){ 0 }, all_rm);
			}
		}
}

static void vex_forms(bool mode32)
{
	for (unsigned n = 0; n < 3 * 256 * 16; n++) {
		struct form f = { .mode32 = mode32,
				  .encoding = ENC_VEX,
				  .map = (uint8_t)(n / (256 * 16) + 1),
				  .opcode = (uint8_t)(n / 16 % 256),
				  .pp = n & 3,
				  .w = n >> 2 & 1,
				  .length_bits = n >> 3 & 1 };

		each_operand(&f, (struct fields){ .length_bits = f.length_bits }, false);
	}
}

static void evex_forms(bool mode32)
{
	for (unsigned n = 0; n < 3 * 256 * 64; n++) {
		struct form f = { .mode32 = mode32,
				  .encoding = ENC_EVEX,
				  .map = (uint8_t)(n / (256 * 64) + 1),
				  .opcode = (uint8_t)(n / 64 % 256),
				  .pp = n & 3,
				  .w = n >> 2 & 1,
				  .b = n >> 3 & 1 };

		for (unsigned k = 0; k < 3; k++) {
			struct fields x = { .length_bits = n >> 4 & 3, .aaa = k ? 1 : 0 };

			f.z = k == 2;
			each_operand(&f, x, false);
		}
	}
}

/* What a sequence must not contain: it leaves the sequence, or its outcome is not a function of what we control. */
static bool fit_for_sequence(const struct form *f)
{
	/* TOL_SHA_ALIGNMENT: what comes behind would run on one side only, and may reach other slots. */
	if (f->memory && f->mnemonic >= ZYDIS_MNEMONIC_SHA1MSG1 && f->mnemonic <= ZYDIS_MNEMONIC_SHA256RNDS2)
		return false;
	switch (f->mnemonic) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2: return false;
	default: return true;
	}
}

static bool writes_segment(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo)
{
	for (unsigned n = 0; n < zi->operand_count_visible; n++)
		if (zo[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(zo[n].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
	return false;
}

static bool is_integer(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_LZCNT: return zi->meta.category != ZYDIS_CATEGORY_WIDENOP;
	default: return false;
	}
}

static int by_mnemonic(const void *a, const void *b)
{
	const struct form *x = &forms.form[*(const unsigned *)a], *y = &forms.form[*(const unsigned *)b];

	if (x->mnemonic != y->mnemonic)
		return x->mnemonic < y->mnemonic ? -1 : 1;
	return x < y ? -1 : x > y;
}

static void sort_by_mnemonic(void)
{
	qsort(forms.run, forms.run_count, sizeof(unsigned), by_mnemonic);
	forms.first = calloc(forms.run_count + 1, sizeof(unsigned));
	if (!forms.first)
		die("no memory");
	for (unsigned n = 0; n < forms.run_count; n++)
		if (!n || forms.form[forms.run[n]].mnemonic != forms.form[forms.run[n - 1]].mnemonic)
			forms.first[forms.mnemonics++] = n;
	forms.first[forms.mnemonics] = forms.run_count;
}

static void build_lists(void)
{
	forms.run = calloc(forms.count, sizeof(unsigned));
	forms.sequence = calloc(forms.count, sizeof(unsigned));
	forms.integer = calloc(forms.count, sizeof(unsigned));
	if (!forms.run || !forms.sequence || !forms.integer)
		die("no memory");
	for (unsigned n = 0; n < forms.count; n++) {
		struct form *f = &forms.form[n];
		ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi;

		if (f->standing != STANDING_RUN)
			continue;
		forms.run[forms.run_count++] = n;
		if (f->mode32 || !forms_example(f, &zi, zo))
			continue;
		switch (zi.meta.category) {
		case ZYDIS_CATEGORY_SYSTEM:
		case ZYDIS_CATEGORY_SYSCALL:
		case ZYDIS_CATEGORY_SYSRET:
		case ZYDIS_CATEGORY_INTERRUPT:
		case ZYDIS_CATEGORY_IO:
		case ZYDIS_CATEGORY_IOSTRINGOP:
		case ZYDIS_CATEGORY_CALL:
		case ZYDIS_CATEGORY_RET:
		case ZYDIS_CATEGORY_UNCOND_BR:
		case ZYDIS_CATEGORY_COND_BR:
		case ZYDIS_CATEGORY_SEGOP: break;
		default:
			if (!fit_for_sequence(f) || writes_segment(&zi, zo) || f->vsib ||
			    (zi.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED))
				break;
			forms.sequence[forms.sequence_count++] = n;
			if (is_integer(&zi))
				forms.integer[forms.integer_count++] = n;
		}
	}
}

bool forms_example(const struct form *f, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo)
{
	struct fields x = { .mod = f->memory ? 0 : 3,
			    .rm = (uint8_t)(f->memory ? 4 : __builtin_ctz(f->rm_set | 256)),
			    .reg = (uint8_t)__builtin_ctz(f->reg_set | 256),
			    .opcode_low = (uint8_t)__builtin_ctz(f->opcode_set | 256),
			    .length_bits = f->length_bits,
			    .aaa = f->mask };
	uint8_t bytes[40] = { 0 };
	unsigned n = forms_put(bytes, f, &x);

	if (f->memory)
		bytes[n++] = 0x08;
	return forms_decode(f->mode32, bytes, 15, zi, zo);
}

void forms_init(void)
{
	static const ZydisMachineMode mode[2] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_MACHINE_MODE_LONG_COMPAT_32 };
	static const ZydisStackWidth width[2] = { ZYDIS_STACK_WIDTH_64, ZYDIS_STACK_WIDTH_32 };

	for (unsigned m = 0; m < 2; m++) {
		ZydisDecoderInit(&decoders[m], mode[m], width[m]);
		ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[m], ZYDIS_DECODER_MODE_AMD_BRANCHES, features_host_is_amd());
	}
	forms.room = 40000;
	hash_size = 1 << 17;
	forms.form = calloc(forms.room, sizeof(struct form));
	hash = malloc(hash_size * sizeof(unsigned));
	if (!forms.form || !hash)
		die("no memory");
	memset(hash, 0xff, hash_size * sizeof(unsigned));
	for (unsigned m = 0; m < 2; m++) {
		legacy_forms(m);
		vex_forms(m);
		evex_forms(m);
	}
	free(hash);
	build_lists();
	sort_by_mnemonic();
}
