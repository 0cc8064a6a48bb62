/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hardware oracle: cases are made from a seed, run natively in a confined child and in guests of the engines, and
 * compared. What crosses the borders between its parts.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <Zydis/Zydis.h>

#include "base/compiler.h"
#include "layout.h"

#define ARITH_FLAGS UINT64_C(0x8d5) /* CF PF AF ZF SF OF */
#define FLAG_CF UINT64_C(0x1)
#define FLAG_PF UINT64_C(0x4)
#define FLAG_AF UINT64_C(0x10)
#define FLAG_ZF UINT64_C(0x40)
#define FLAG_SF UINT64_C(0x80)
#define FLAG_TF UINT64_C(0x100)
#define FLAG_IF UINT64_C(0x200)
#define FLAG_DF UINT64_C(0x400)
#define FLAG_OF UINT64_C(0x800)
#define FLAG_NT UINT64_C(0x4000)
#define FLAG_RF UINT64_C(0x10000)
#define FLAG_AC UINT64_C(0x40000)
#define FLAG_ID UINT64_C(0x200000)

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { ES, CS, SS, DS, FS, GS };

/* Exceptions by vector; how a case that has none ends. */
enum {
	V_DE = 0,
	V_DB = 1,
	V_BP = 3,
	V_OF = 4,
	V_UD = 6,
	V_SS = 12,
	V_GP = 13,
	V_PF = 14,
	V_MF = 16,
	V_AC = 17,
	V_XM = 19
};
#define V_NONE 0x100u /* reached EXIT */
#define V_LOST 0x101u /* the executor died or hung in it */

/* A machine's state before or behind a case. */
struct state {
	_Alignas(64) uint8_t area[STATE_GPR]; /* standard XSAVE format (SDM 1 13.4) */
	uint64_t gpr[16];
	uint64_t rip, rflags, fs_base, gs_base;
	uint64_t vector, error, cr2; /* of a result */
	uint16_t sel[6];
	uint8_t pad[4096 - STATE_SEL - 12];
};
_Static_assert(sizeof(struct state) == 1 << STATE_SHIFT, "assembly counts on it");
_Static_assert(offsetof(struct state, gpr) == STATE_GPR && offsetof(struct state, rip) == STATE_RIP &&
		       offsetof(struct state, vector) == STATE_VECTOR && offsetof(struct state, cr2) == STATE_CR2 &&
		       offsetof(struct state, sel) == STATE_SEL,
	       "assembly counts on it");

/* The mapped pages of a slot, in the order of their addresses. */
struct slot_pages {
	uint8_t code[SLOT_CODE_SIZE];
	uint8_t data[SLOT_DATA_SIZE];
	uint8_t ro[4096];
	uint8_t stack[4096];
};
_Static_assert(sizeof(struct slot_pages) == SLOT_PAGES * 4096, "pages");

static inline uint64_t slot_address(unsigned slot)
{
	return SLOT_BASE + (uint64_t)slot * SLOT_STRIDE;
}

/* The page at index n of struct slot_pages, as an offset in the slot. */
static inline uint64_t slot_page_offset(unsigned n)
{
	static const uint32_t at[SLOT_PAGES] = { SLOT_CODE, SLOT_CODE + 0x1000, SLOT_DATA, SLOT_DATA + 0x1000,
						 SLOT_RO,   SLOT_STACK };

	return at[n];
}

/* ---- features (features.c) ---- */

enum standing {
	STANDING_RUN,       /* our CPUID reports it, this host executes it */
	STANDING_NO_HOST,   /* this host lacks it */
	STANDING_NO_GUEST,  /* our CPUID does not report it */
	STANDING_EXCLUDED,  /* see exclusion_of() */
	STANDING_OTHER_MODE /* not in this mode */
};

void features_init(void);
bool features_host_is_amd(void);
bool features_host_has_la57(void);
/* An instruction of this decoding: may it run, and if not, which feature or reason. */
enum standing features_standing(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const char **why);
uint64_t features_xcr0(void);
/* The XSAVE component's place in the standard format. False: the host has none. */
bool features_component(unsigned n, uint32_t *offset, uint32_t *size);

/* ---- forms (forms.c) ---- */

enum encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };

/* One way to encode one instruction, found by decoding all opcodes. */
struct form {
	uint64_t key;
	uint16_t mnemonic;
	uint8_t mode32; /* compatibility mode */
	uint8_t encoding, map, opcode;
	uint8_t prefix66, prefix_rep;                           /* 0, 0xf2, 0xf3 */
	uint8_t prefix67, lock, w, length_bits, pp, b, z, mask; /* mask: aaa is not 0 */
	uint8_t has_modrm, memory, vsib;
	uint8_t reg_set, rm_set; /* values of ModRM.reg, and of ModRM.rm with a register, that give it */
	uint8_t opcode_set;      /* likewise of the opcode's low three bits */
	uint8_t uses_vvvv;
	uint8_t excluded; /* from sequences */
	uint8_t standing;
	const char *why;
	/* How often it ran natively: to its end, to another exception, to #UD. */
	uint64_t completed, faulted, undefined;
};

struct form_table {
	struct form *form;
	unsigned count, room;
	unsigned *run; /* those that run here, indices */
	unsigned run_count;
	/* The same by mnemonic: mnemonic n has run[first[n]] to run[first[n + 1] - 1]. */
	unsigned *first, mnemonics;
	unsigned *sequence; /* those that may be part of a sequence, 64-bit */
	unsigned sequence_count;
	unsigned *integer; /* those of them that work on general registers */
	unsigned integer_count;
};
extern struct form_table forms;

void forms_init(void);
bool forms_decode(bool mode32, const uint8_t *bytes, size_t n, ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo);
uint64_t forms_key(bool mode32, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo);
/* coverage.c: prints it; false if a mnemonic that should have run did not, though `cases` were enough. */
bool forms_coverage(bool list, uint64_t cases);

/* ---- cases ---- */

#define CASE_INSNS 28

struct insn {
	uint16_t at; /* from the first byte of the case's code */
	uint8_t len;
	uint32_t form;    /* index, or UINT32_MAX: scaffolding */
	uint64_t unknown; /* flags that are undefined before it */
};

struct test_case {
	uint64_t number;
	unsigned slot;
	bool mode32;
	bool sequence;
	uint16_t start; /* of the code in the slot's code pages */
	uint16_t len;   /* without the jump to EXIT */
	uint8_t code[320];
	struct insn insn[CASE_INSNS];
	unsigned insns;
	uint64_t unknown; /* flags that are undefined behind it */
	struct state in;
	struct slot_pages pages;
};

/* generate.c. The same seed, number and host give the same case. */
void generate_init(uint64_t seed);
void generate_case(struct test_case *c, uint64_t seed, uint64_t number);

/* undefined.c: flags that the manual leaves undefined behind an instruction, given the state before it (NULL: any). */
uint64_t undefined_flags(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const struct state *before);
/* A result that the manual leaves undefined as well: the case says nothing. */
bool undefined_result(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo, const struct state *before);

/* ---- executors ---- */

/* native.c */
void native_start(void);
void native_stop(void);
/* Lay a case into its slot; post a batch; wait for its results. */
void native_put(const struct test_case *c);
void native_post(unsigned first, unsigned count);
void native_wait(void);
const struct state *native_result_of(unsigned slot);
const struct slot_pages *native_pages_of(unsigned slot);
const uint8_t *native_exit_page(size_t *size);

/* engine.c */
struct engine;
struct engine *engine_create(const char *name);
void engine_destroy(struct engine *e);
const char *engine_name(const struct engine *e);
void engine_put(struct engine *e, const struct test_case *c);
void engine_run(struct engine *e, unsigned first, unsigned count);
/* The engine that runs now and the slot it is in; NULL: none. Of use to a signal handler. */
const struct engine *engine_running(unsigned *slot);
const struct state *engine_result_of(const struct engine *e, unsigned slot);
const struct slot_pages *engine_pages_of(const struct engine *e, unsigned slot);
/* Why the last run of the slot was lost; "" if it was not. */
const char *engine_error(const struct engine *e);

/* ---- compare.c ---- */

/* Does the engine's outcome agree with the hardware's? Counts what it lets pass, by reason. */
bool compare_case(const struct test_case *c, const struct engine *e, const char *program, uint64_t seed, bool report);
void compare_print_tolerances(void);

/* The host lacks what the oracle cannot do without: exit status 77, which the test runner counts as a skip. */
tz_noreturn void leave_out(const char *what);
tz_noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
