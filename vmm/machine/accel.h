/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accelerator: who answers the KVM API. Either the kernel (/dev/kvm) or libtrapeze; the rest
 * of the monitor does not know which.
 */
#ifndef VMM_MACHINE_ACCEL_H
#define VMM_MACHINE_ACCEL_H

#include <stdbool.h>
#include <stdint.h>

struct accel {
	const char *name; /* "kvm", or libtrapeze's engine */
	bool software;    /* libtrapeze */
	int system_fd;
	int (*ioctl)(int fd, unsigned long request, uintptr_t arg); /* -1 and errno, like ioctl(2) */
	int (*close)(int fd);
};

/*
 * choice: "auto", "kvm" or an engine of libtrapeze. `auto` takes the kernel's KVM only when
 * kvm_intel or kvm_amd backs it: another kind cannot run unmodified kernels well.
 * 0, or -errno with a message on stderr.
 */
int accel_open(const char *choice, struct accel *accel);
/* libtrapeze's check of its engines: both on one vCPU, what they do compared. */
int accel_open_lockstep(struct accel *accel);
void accel_close(struct accel *accel);

/* The names that choice may take, NULL-terminated, for --help and messages. */
const char *const *accel_names(void);

/* An option of libtrapeze (tz_set_option()) for the VMs to come; nothing where the kernel is the accelerator. 0 or
 * -errno. */
int accel_set_option(const struct accel *accel, const char *name, uint64_t value);

/* A KVM_CHECK_EXTENSION of the system handle. */
int accel_capability(const struct accel *accel, int cap);

#endif
