/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/io.h"

#include "base/stats.h"
#include "x86/exception.h"
#include "x86/fpu.h"
#include "x86/watch.h"

/*
 * Was this access made before the instruction was restarted? Then give its outcome again. A restarted
 * instruction repeats itself; if it does not (the client changed the state under it), the rest of the
 * log is of no use.
 */
static bool io_replay(struct x86_cpu *cpu, struct x86_io_access *a)
{
	struct x86_io *io = &cpu->io;
	const struct x86_io_access *l;

	if (likely(!io->logged))
		return false;
	if (io->rip != cpu->rip)
		x86_io_finish(cpu);
	if (io->cursor >= io->logged)
		return false;
	l = &io->log[io->cursor];
	if (l->addr != a->addr || l->len != a->len || l->write != a->write || l->pio != a->pio) {
		io->logged = io->cursor;
		return false;
	}
	if (!a->write)
		tz_copy(a->data, l->data, a->len);
	io->cursor++;
	return true;
}

/* Offer it to the library's own devices. */
static bool io_in_library(struct x86_cpu *cpu, struct x86_io_access *a)
{
	const struct x86_platform_ops *ops = cpu->ops;

	if (a->pio)
		return a->write ? ops->pio_write(cpu, (uint16_t)a->addr, a->data, a->len)
				: ops->pio_read(cpu, (uint16_t)a->addr, a->data, a->len);
	return a->write ? ops->mmio_write(cpu, GPA(a->addr), a->data, a->len)
			: ops->mmio_read(cpu, GPA(a->addr), a->data, a->len);
}

static void io_access(struct x86_cpu *cpu, struct x86_io_access *a)
{
	struct x86_io *io = &cpu->io;

	if (io_replay(cpu, a))
		return;
	x86_fpu_put(cpu);
	if (io->logged >= X86_IO_LOG_MAX)
		x86_internal_error(cpu, "instruction at %#llx makes more than %d I/O accesses (last: %s %#llx)",
				   (unsigned long long)cpu->rip, X86_IO_LOG_MAX, a->pio ? "port" : "MMIO",
				   (unsigned long long)a->addr);
	io->rip = cpu->rip;
	if (!io_in_library(cpu, a)) {
		io->pending = *a;
		io->pending_valid = true;
		x86_exit_unwind(cpu, a->pio ? X86_EXIT_PIO : X86_EXIT_MMIO);
	}
	STAT_INC(cpu, IO_IN_LIBRARY);
	io->log[io->logged++] = *a;
	io->cursor = io->logged;
}

static uint64_t io_read(struct x86_cpu *cpu, uint64_t addr, unsigned len, bool pio)
{
	struct x86_io_access a = { .addr = addr, .len = (uint8_t)len, .pio = pio };

	io_access(cpu, &a);
	/* data[] was zero beyond len. */
	return guest_load64(a.data);
}

static void io_write(struct x86_cpu *cpu, uint64_t addr, uint64_t value, unsigned len, bool pio)
{
	struct x86_io_access a = { .addr = addr, .len = (uint8_t)len, .pio = pio, .write = true };

	tz_copy(a.data, &value, len);
	io_access(cpu, &a);
}

uint64_t x86_mmio_read(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
	return io_read(cpu, gpa.v, len, false);
}

void x86_mmio_write(struct x86_cpu *cpu, gpa_t gpa, uint64_t value, unsigned len)
{
	io_write(cpu, gpa.v, value, len, false);
}

uint64_t x86_pio_read(struct x86_cpu *cpu, uint16_t port, unsigned len)
{
	uint64_t v = io_read(cpu, port, len, true);

	if (unlikely(cpu->dr_watch))
		x86_watch_access(cpu, port, len, X86_WATCH_IO);
	return v;
}

void x86_pio_write(struct x86_cpu *cpu, uint16_t port, uint64_t value, unsigned len)
{
	io_write(cpu, port, value, len, true);
	if (unlikely(cpu->dr_watch))
		x86_watch_access(cpu, port, len, X86_WATCH_IO);
}

void x86_io_complete(struct x86_cpu *cpu, const void *data)
{
	struct x86_io *io = &cpu->io;

	if (!io->pending_valid)
		return;
	if (!io->pending.write)
		tz_copy(io->pending.data, data, io->pending.len);
	io->pending_valid = false;
	io->log[io->logged++] = io->pending;
}
