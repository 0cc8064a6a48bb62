/* SPDX-License-Identifier: Apache-2.0 */
/* The x87 environment and state in memory: FNSTENV, FLDENV, FNSAVE, FRSTOR (SDM 1 8.1.10, 8.1.11). */
#include "interp/vector.h"

#define AREA_FCW 0
#define AREA_FSW 2
#define AREA_FTW 4 /* abridged: a bit a register, set if not empty */
#define AREA_FOP 6
#define AREA_FIP 8
#define AREA_FDP 16
#define AREA_ST 32
#define AREA_ST_STRIDE 16
#define AREA_XSTATE_BV 512

#define FCW_MASKS 0x3fu
#define FSW_ES_B 0x8080u
#define FOP_BITS 0x7ffu

#define ENV16_SIZE 14u
#define ENV32_SIZE 28u
#define ST_SIZE 10u
#define TAG_VALID 0u
#define TAG_ZERO 1u
#define TAG_SPECIAL 2u
#define TAG_EMPTY 3u

struct x87_env {
	uint16_t fcw, fsw, ftw, fop;
	uint64_t fip, fdp;
};

/* SDM 1 8.1.7: the full tag is a property of the value, as in FXSAVE's description (table 3-46). */
static unsigned tag_of(const uint8_t *st)
{
	uint64_t fraction = guest_load64(st);
	unsigned exponent = guest_load16(st + 8) & 0x7fff;

	if (exponent == 0)
		return fraction ? TAG_SPECIAL : TAG_ZERO;
	if (exponent == 0x7fff || !(fraction >> 63))
		return TAG_SPECIAL;
	return TAG_VALID;
}

static void env_get(const struct x86_cpu *cpu, struct x87_env *env)
{
	const uint8_t *area = cpu->fpu.area;
	unsigned top;

	env->fcw = guest_load16(area + AREA_FCW);
	env->fsw = guest_load16(area + AREA_FSW);
	env->fop = guest_load16(area + AREA_FOP) & FOP_BITS;
	env->fip = guest_load64(area + AREA_FIP);
	env->fdp = guest_load64(area + AREA_FDP);
	env->ftw = 0;
	top = (env->fsw >> 11) & 7;
	for (unsigned r = 0; r < 8; r++) {
		unsigned tag = TAG_EMPTY;

		if (area[AREA_FTW] & BIT32(r))
			tag = tag_of(area + AREA_ST + ((r - top) & 7) * AREA_ST_STRIDE);
		env->ftw |= (uint16_t)(tag << 2 * r);
	}
}

/* ---- the four formats: figures 8-9 to 8-12. Selectors are 0: deprecated, and not kept. ---- */

static void env_write16(uint8_t *p, const struct x87_env *env, bool real)
{
	guest_store16(p, env->fcw);
	guest_store16(p + 2, env->fsw);
	guest_store16(p + 4, env->ftw);
	guest_store16(p + 6, (uint16_t)env->fip);
	guest_store16(p + 8, real ? (uint16_t)((env->fip >> 16 & 0xf) << 12 | env->fop) : 0);
	guest_store16(p + 10, (uint16_t)env->fdp);
	guest_store16(p + 12, real ? (uint16_t)((env->fdp >> 16 & 0xf) << 12) : 0);
}

static void env_write32(uint8_t *p, const struct x87_env *env, bool real)
{
	guest_store32(p, 0xffff0000u | env->fcw);
	guest_store32(p + 4, 0xffff0000u | env->fsw);
	guest_store32(p + 8, 0xffff0000u | env->ftw);
	if (real) {
		guest_store32(p + 12, 0xffff0000u | (uint16_t)env->fip);
		guest_store32(p + 16, (uint32_t)((env->fip >> 16 & 0xffff) << 12) | env->fop);
		guest_store32(p + 20, 0xffff0000u | (uint16_t)env->fdp);
		guest_store32(p + 24, (uint32_t)((env->fdp >> 16 & 0xffff) << 12));
	} else {
		guest_store32(p + 12, (uint32_t)env->fip);
		guest_store32(p + 16, (uint32_t)env->fop << 16);
		guest_store32(p + 20, (uint32_t)env->fdp);
		guest_store32(p + 24, 0xffff0000u);
	}
}

static void env_read16(const uint8_t *p, struct x87_env *env, bool real)
{
	env->fcw = guest_load16(p);
	env->fsw = guest_load16(p + 2);
	env->ftw = guest_load16(p + 4);
	env->fip = guest_load16(p + 6);
	env->fdp = guest_load16(p + 10);
	env->fop = 0;
	if (real) {
		env->fop = guest_load16(p + 8) & FOP_BITS;
		env->fip |= (uint64_t)(guest_load16(p + 8) >> 12) << 16;
		env->fdp |= (uint64_t)(guest_load16(p + 12) >> 12) << 16;
	}
}

static void env_read32(const uint8_t *p, struct x87_env *env, bool real)
{
	env->fcw = guest_load16(p);
	env->fsw = guest_load16(p + 4);
	env->ftw = guest_load16(p + 8);
	if (real) {
		env->fip = guest_load16(p + 12) | (uint64_t)(guest_load32(p + 16) >> 12 & 0xffff) << 16;
		env->fop = guest_load16(p + 16) & FOP_BITS;
		env->fdp = guest_load16(p + 20) | (uint64_t)(guest_load32(p + 24) >> 12 & 0xffff) << 16;
	} else {
		env->fip = guest_load32(p + 12);
		env->fop = guest_load16(p + 18) & FOP_BITS;
		env->fdp = guest_load32(p + 20);
	}
}

/* The operand's size says which: 14 or 28, 94 or 108 with the registers. */
static bool is_short(unsigned size)
{
	return size == ENV16_SIZE || size == ENV16_SIZE + 8 * ST_SIZE;
}

static unsigned env_write(const struct x86_cpu *cpu, uint8_t *p, unsigned size)
{
	struct x87_env env;

	env_get(cpu, &env);
	if (is_short(size)) {
		env_write16(p, &env, !x86_protected(cpu));
		return ENV16_SIZE;
	}
	env_write32(p, &env, !x86_protected(cpu));
	return ENV32_SIZE;
}

/*
 * The guest's image into the host's own 32-bit protected format, without pointers: those stay in the area.
 * Returns where the registers begin in the guest's.
 */
static unsigned env_convert(struct x86_cpu *cpu, const uint8_t *p, unsigned size, uint8_t *host)
{
	struct x87_env env, plain;
	uint8_t *area = cpu->fpu.area;

	if (is_short(size))
		env_read16(p, &env, !x86_protected(cpu));
	else
		env_read32(p, &env, !x86_protected(cpu));
	plain = (struct x87_env){ .fcw = env.fcw, .fsw = env.fsw, .ftw = env.ftw };
	env_write32(host, &plain, false);
	guest_store16(area + AREA_FOP, env.fop);
	guest_store64(area + AREA_FIP, env.fip);
	guest_store64(area + AREA_FDP, env.fdp);
	return is_short(size) ? ENV16_SIZE : ENV32_SIZE;
}

/* ---- instructions ---- */

/* SDM 3A table 6-7: the environment's alignment is that of its fields. */
static uint64_t image_linear(struct x86_cpu *cpu, const struct interp_insn *i, bool write)
{
	unsigned size = vector_info(i)->size;
	uint64_t a = x86_linear(cpu, i->seg, interp_ea(cpu, i), size, write);

	if (unlikely(cpu->cpl == 3 && (cpu->rflags & X86_AC)))
		x86_check_align(cpu, a, is_short(size) ? 2 : 4);
	return a;
}

void vector_exec_fnstenv(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch, *area = cpu->fpu.area;
	unsigned size = vector_info(i)->size;
	uint64_t a;

	vector_check_class(cpu, VECTOR_X87);
	a = image_linear(cpu, i, true);
	x86_fpu_sync(cpu);
	env_write(cpu, image, size);
	x86_write_bytes(cpu, a, image, size, cpu->mmu_index);
	/* "Then masks all floating-point exceptions": the area is still current, whoever put it away. */
	guest_store16(area + AREA_FCW, guest_load16(area + AREA_FCW) | FCW_MASKS);
	guest_store16(area + AREA_FSW, guest_load16(area + AREA_FSW) & (uint16_t)~FSW_ES_B);
	guest_store64(area + AREA_XSTATE_BV, guest_load64(area + AREA_XSTATE_BV) | 1);
	x86_fpu_changed(cpu);
	vector_end(cpu, i);
}

void vector_exec_fldenv(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch, host[ENV32_SIZE];
	unsigned size = vector_info(i)->size;

	vector_check_class(cpu, VECTOR_X87);
	vector_check_pending(cpu);
	x86_read_bytes(cpu, image_linear(cpu, i, false), image, size, cpu->mmu_index);
	x86_fpu_load(cpu);
	env_convert(cpu, image, size, host);
	__asm__ volatile("fldenv (%0)" : : "r"(host) : "memory");
	vector_end(cpu, i);
}

void vector_exec_fnsave(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch, *area = cpu->fpu.area;
	unsigned size = vector_info(i)->size, env;
	uint64_t a;

	vector_check_class(cpu, VECTOR_X87);
	a = image_linear(cpu, i, true);
	x86_fpu_sync(cpu);
	env = env_write(cpu, image, size);
	for (unsigned n = 0; n < 8; n++)
		tz_copy(image + env + n * ST_SIZE, area + AREA_ST + n * AREA_ST_STRIDE, ST_SIZE);
	x86_write_bytes(cpu, a, image, size, cpu->mmu_index);
	vector_exec_fninit(cpu, i);
}

void vector_exec_frstor(struct x86_cpu *cpu, const struct interp_insn *i)
{
	uint8_t *image = vector_of(cpu)->scratch, host[ENV32_SIZE + 8 * ST_SIZE];
	unsigned size = vector_info(i)->size, env;

	vector_check_class(cpu, VECTOR_X87);
	vector_check_pending(cpu);
	x86_read_bytes(cpu, image_linear(cpu, i, false), image, size, cpu->mmu_index);
	x86_fpu_load(cpu);
	env = env_convert(cpu, image, size, host);
	tz_copy(host + ENV32_SIZE, image + env, 8 * ST_SIZE);
	__asm__ volatile("frstor (%0)" : : "r"(host) : "memory");
	vector_end(cpu, i);
}
