/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock of KVM_GET/SET_CLOCK and kvmclock: nanoseconds as a straight line over the host's counter, so that a
 * guest can compute it from its TSC. The line follows CLOCK_MONOTONIC, which the host's NTP steers: now and then it
 * is compared, and where it has gone astray it continues, without a step back, at a slope that leads to the truth.
 *
 * Each vCPU must see the same line at any time: a new one is made only by pv_clock_set() and pv_clock_correct(), and
 * whoever calls them has it published to all. Threads: any.
 */
#ifndef TZ_CORE_PV_CLOCK_H
#define TZ_CORE_PV_CLOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/clock.h"

struct pv_line {
	uint64_t cycles, ns; /* one point of it; cycles: the host's counter */
	double ns_per_cycle;
	uint32_t mul; /* the same as factors, see struct x86_pv_time */
	int8_t shift;
};

struct pv_clock {
	pthread_mutex_t lock;
	uint64_t zero; /* CLOCK_MONOTONIC when this clock is 0, modulo 2^64 */
	struct pv_line line;
	bool steering;               /* the slope is not the host's */
	struct clock_sample mark[2]; /* older ones, to measure the host's slope by */
	_Atomic uint64_t check_at;   /* host's counter */
};

/* Zero at CLOCK_MONOTONIC `zero`. */
void pv_clock_init(struct pv_clock *clock, uint64_t zero);
void pv_clock_fini(struct pv_clock *clock);

struct pv_line pv_clock_line(struct pv_clock *clock);
uint64_t pv_line_at(const struct pv_line *line, uint64_t cycles);
/* For a counter of this speed. */
void pv_line_factors(double ns_per_cycle, uint32_t *mul, int8_t *shift);

/* It reads `ns` now. */
void pv_clock_set(struct pv_clock *clock, uint64_t ns);

/* Is a look at the host's clock due? True once a second, to one caller. */
bool pv_clock_check_due(struct pv_clock *clock, uint64_t cycles);
/* Given such a look (CLOCK_MONOTONIC): does the line need a correction? */
bool pv_clock_astray(struct pv_clock *clock, const struct clock_sample *now);
/* Go on from `now` with a corrected slope. Nobody may read the line meanwhile, and all must be told. */
void pv_clock_correct(struct pv_clock *clock, const struct clock_sample *now);

#endif
