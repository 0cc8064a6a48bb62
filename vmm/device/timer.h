/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time for devices: two clocks and one-shot timers. One service per machine, with a thread of its own;
 * or stepped by hand, for tests that drive a device without waiting.
 *
 * Locks: a device's lock may be held when calling timer_arm and timer_disarm; the service calls back with
 * the device's lock held and its own released. A callback may come once after timer_disarm or too early
 * after a later timer_arm: devices look at the clock, not at the fact that they were called.
 */
#ifndef VMM_DEVICE_TIMER_H
#define VMM_DEVICE_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"

#define NS_PER_SEC UINT64_C(1000000000)

struct timer_service;

struct device_timer {
	struct timer_service *service;
	struct device *dev;
	void (*expired)(struct device *dev); /* dev locked */
	uint64_t deadline;                   /* service lock; 0: not armed */
	struct device_timer *next;           /* service lock: all timers of the service */
};

struct timer_service *timer_service_create(void);         /* NULL with errno */
struct timer_service *timer_service_create_stepped(void); /* starts at 1 s of uptime, 2000-01-01 00:00:00 UTC */
/* Joins the thread: no callback afterwards. Before the devices are destroyed. */
void timer_service_destroy(struct timer_service *service);
/* Stepped services only: move both clocks and run what expires on the way, in order. No device lock held. */
void timer_service_step(struct timer_service *service, uint64_t ns);

/* Stop the monotonic clock, and with it the timers, or let it go on from where it was. Thread: main. */
void timer_service_hold(struct timer_service *service, bool on);

uint64_t timer_now(const struct timer_service *service);  /* monotonic, ns */
uint64_t timer_wall(const struct timer_service *service); /* UTC since 1970, ns */

/* Once per timer, at creation of its device, before any other thread knows the device. */
void timer_init(struct device_timer *timer, struct timer_service *service, struct device *dev,
		void (*expired)(struct device *dev));
void timer_arm(struct device_timer *timer, uint64_t deadline); /* at timer_now() >= deadline */
void timer_disarm(struct device_timer *timer);

#endif
