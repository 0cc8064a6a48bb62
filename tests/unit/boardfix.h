/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of devices and board: recorded lines and requests, little-endian access through the bus. */
#ifndef TESTS_UNIT_BOARDFIX_H
#define TESTS_UNIT_BOARDFIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/compiler.h"
#include "device/models.h"
#include "machine/board.h"
#include "machine/bus.h"

struct recorder {
	bool level[24];
	unsigned rises[24];
	/* A timer's thread may write them while a test looks. */
	_Atomic unsigned requests;
	_Atomic enum machine_request last;
	_Atomic int status;
};

static inline void record_line(void *ctx, unsigned n, bool level)
{
	struct recorder *r = ctx;

	if (level && !r->level[n])
		r->rises[n]++;
	r->level[n] = level;
}

static inline void record_request(void *ctx, enum machine_request what, int status)
{
	struct recorder *r = ctx;

	r->last = what;
	r->status = status;
	r->requests++;
}

static inline struct irq_line fix_line(struct recorder *r, unsigned n)
{
	return (struct irq_line){ .set = record_line, .ctx = r, .n = n };
}

static inline struct machine_control fix_control(struct recorder *r)
{
	return (struct machine_control){ .request = record_request, .ctx = r };
}

static inline uint64_t fix_in(struct bus *bus, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	bus_read(bus, BUS_PIO, addr, &value, size);
	return value;
}

static inline void fix_out(struct bus *bus, uint64_t addr, uint64_t value, unsigned size)
{
	bus_write(bus, BUS_PIO, addr, &value, size);
}

#endif
