/* SPDX-License-Identifier: Apache-2.0 */
#include "core/clock.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_SEC UINT64_C(1000000000)

static struct {
	pthread_once_t once;
	bool use_tsc;
	uint32_t khz;
	uint64_t ns_ratio; /* nanoseconds a cycle, CLOCK_RATIO_BITS fraction bits */
} host = { .once = PTHREAD_ONCE_INIT };

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* LFENCE orders RDTSC after earlier loads (SDM 2B RDTSC): a vCPU never sees time before what it read. */
static inline uint64_t rdtsc_ordered(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

/*
 * Is RDTSC a clock here? The invariant bit says so (SDM 3B 17.17.1); a hypervisor may hide it and still
 * give a good one, then the kernel's own choice of clock source tells.
 */
static bool tsc_is_reliable(void)
{
	static const char *const good[] = { "tsc", "kvm-clock", "hyperv_clocksource_tsc_page" };
	unsigned eax, ebx, ecx, edx;
	char name[64] = "";
	FILE *f;

	if (__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) && (edx & BIT32(8)))
		return true;
	f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
	if (!f)
		return false;
	if (!fgets(name, sizeof(name), f))
		name[0] = 0;
	fclose(f);
	name[strcspn(name, "\n")] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (!strcmp(name, good[i]))
			return true;
	return false;
}

static uint64_t host_cycles(void)
{
	return host.use_tsc ? rdtsc_ordered() : clock_ns(CLOCK_MONOTONIC);
}

/* The tightest of a few (counter, time, counter) triples: a preemption between the reads would spoil one. */
static struct clock_sample sample_host(clockid_t id)
{
	struct clock_sample best = { .width = UINT64_MAX };

	for (int i = 0; i < 8; i++) {
		uint64_t before = host_cycles();
		uint64_t ns = clock_ns(id);
		uint64_t after = host_cycles();

		if (after - before < best.width)
			best = (struct clock_sample){ before + (after - before) / 2, ns, after - before };
	}
	return best;
}

static uint32_t measure_khz(long ms)
{
	struct timespec pause = { .tv_nsec = ms * 1000000 };
	struct clock_sample a = sample_host(CLOCK_MONOTONIC_RAW), b;

	do
		b = sample_host(CLOCK_MONOTONIC_RAW);
	while (b.ns - a.ns < (uint64_t)ms * 500000 && !nanosleep(&pause, NULL));
	while (b.ns - a.ns < (uint64_t)ms * 1000000)
		b = sample_host(CLOCK_MONOTONIC_RAW);
	return (uint32_t)((unsigned __int128)(b.cycles - a.cycles) * 1000000 / (b.ns - a.ns));
}

/* What CPUID says exactly: leaf 0x15 (SDM 2A CPUID), or the hypervisors' 0x40000010. 0: nothing. */
static uint32_t cpuid_khz(void)
{
	unsigned eax, ebx, ecx, edx;

	if (__get_cpuid(0x15, &eax, &ebx, &ecx, &edx) && eax && ebx && ecx)
		return (uint32_t)((uint64_t)ecx * ebx / eax / 1000);
	__cpuid(1, eax, ebx, ecx, edx);
	if (!(ecx & BIT32(31)))
		return 0;
	__cpuid(0x40000000, eax, ebx, ecx, edx);
	if (eax < 0x40000010 || eax > 0x400000ff)
		return 0;
	__cpuid(0x40000010, eax, ebx, ecx, edx);
	return eax;
}

static void host_init(void)
{
	uint32_t said, seen;

	host.khz = 1000000;
	host.use_tsc = tsc_is_reliable();
	if (host.use_tsc) {
		said = cpuid_khz();
		seen = measure_khz(said ? 1 : 20);
		/* Take CPUID's word only where a glance at the clock agrees within 1%. */
		host.khz = said && llabs((int64_t)said - seen) < seen / 100 ? said : seen;
	}
	host.ns_ratio = (uint64_t)(((unsigned __int128)1000000 << CLOCK_RATIO_BITS) / host.khz);
}

uint64_t clock_host_cycles(void)
{
	pthread_once(&host.once, host_init);
	return host_cycles();
}

bool clock_host_is_tsc(void)
{
	pthread_once(&host.once, host_init);
	return host.use_tsc;
}

struct clock_sample clock_sample(clockid_t id)
{
	pthread_once(&host.once, host_init);
	return sample_host(id);
}

uint32_t clock_host_khz(void)
{
	pthread_once(&host.once, host_init);
	return host.khz;
}

uint64_t clock_cycles_to_ns(uint64_t cycles)
{
	pthread_once(&host.once, host_init);
	return clock_scale(cycles, host.ns_ratio);
}

uint64_t clock_ratio(uint32_t guest_khz, uint32_t host_khz)
{
	return (uint64_t)(((unsigned __int128)guest_khz << CLOCK_RATIO_BITS) / host_khz);
}

void vm_clock_init(struct vm_clock *clock)
{
	memset(clock, 0, sizeof(*clock));
	pthread_mutex_init(&clock->lock, NULL);
	clock->base_ns = clock_monotonic_ns();
}

void vm_clock_fini(struct vm_clock *clock)
{
	pthread_mutex_destroy(&clock->lock);
}

uint64_t vm_clock_ns(const struct vm_clock *clock)
{
	return clock_monotonic_ns() - clock->base_ns;
}

uint64_t vcpu_tsc_at(const struct vcpu_tsc *tsc, uint64_t host_cycles)
{
	return clock_scale(host_cycles, atomic_load_explicit(&tsc->host.ratio, memory_order_relaxed)) +
	       atomic_load_explicit(&tsc->host.offset, memory_order_relaxed);
}

static void tsc_set_value(struct vcpu_tsc *tsc, uint64_t host_cycles, uint64_t value)
{
	atomic_store(&tsc->host.offset, value - clock_scale(host_cycles, atomic_load(&tsc->host.ratio)));
}

/* Called with clock->lock held. */
static void remember_write(struct vm_clock *clock, const struct vcpu_tsc *tsc, uint64_t host_cycles, uint64_t value)
{
	clock->tsc_written = true;
	clock->tsc_write_value = value;
	clock->tsc_write_host = host_cycles;
	clock->tsc_write_offset = atomic_load(&tsc->host.offset);
	clock->tsc_write_khz = atomic_load(&tsc->khz);
}

void vcpu_tsc_init(struct vcpu_tsc *tsc, struct vm_clock *clock, uint32_t khz)
{
	uint64_t now = clock_host_cycles();

	atomic_store(&tsc->khz, khz);
	atomic_store(&tsc->host.ratio, clock_ratio(khz, clock_host_khz()));
	pthread_mutex_lock(&clock->lock);
	if (clock->tsc_written && clock->tsc_write_khz == khz) {
		atomic_store(&tsc->host.offset, clock->tsc_write_offset);
	} else {
		tsc_set_value(tsc, now, 0);
		remember_write(clock, tsc, now, 0);
	}
	pthread_mutex_unlock(&clock->lock);
}

void vcpu_tsc_write(struct vcpu_tsc *tsc, struct vm_clock *clock, uint64_t value)
{
	uint64_t now, elapsed, distance;
	uint32_t khz = atomic_load(&tsc->khz);

	pthread_mutex_lock(&clock->lock);
	now = clock_host_cycles();
	elapsed = clock_scale(now - clock->tsc_write_host, atomic_load(&tsc->host.ratio));
	distance = value - (clock->tsc_write_value + elapsed);
	if ((int64_t)distance < 0)
		distance = -distance;
	if (clock->tsc_written && clock->tsc_write_khz == khz && distance < khz * UINT64_C(1000)) {
		atomic_store(&tsc->host.offset, clock->tsc_write_offset);
	} else {
		tsc_set_value(tsc, now, value);
		remember_write(clock, tsc, now, value);
	}
	pthread_mutex_unlock(&clock->lock);
}

void vcpu_tsc_set_khz(struct vcpu_tsc *tsc, uint32_t khz)
{
	uint64_t now, value;

	if (khz == atomic_load(&tsc->khz))
		return; /* and stay in step with the others, to the cycle */
	now = clock_host_cycles();
	value = vcpu_tsc_at(tsc, now);
	atomic_store(&tsc->khz, khz);
	atomic_store(&tsc->host.ratio, clock_ratio(khz, clock_host_khz()));
	tsc_set_value(tsc, now, value);
}
