/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/accel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "machine/message.h"
#include "machine/nearest.h"
#include "trapeze/trapeze.h"

#define ACCEL_NAMES_MAX 8

static int kernel_ioctl(int fd, unsigned long request, uintptr_t arg)
{
	return ioctl(fd, request, arg);
}

static int library_ioctl(int fd, unsigned long request, uintptr_t arg)
{
	return tz_ioctl(fd, request, arg);
}

static bool kernel_kvm_has_hardware(void)
{
	return access("/sys/module/kvm_intel", F_OK) == 0 || access("/sys/module/kvm_amd", F_OK) == 0;
}

/* The kernel's KVM; `report` says whether a failure deserves a message (auto falls back silently). */
static int open_kernel(struct accel *accel, bool report)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0) {
		int err = errno;

		if (report)
			msg_error("--accel kvm: cannot open /dev/kvm: %s", strerror(err));
		return -err;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		if (report)
			msg_error("--accel kvm: /dev/kvm speaks API version %d, not %d", version, KVM_API_VERSION);
		close(fd);
		return -EINVAL;
	}
	*accel = (struct accel){ "kvm", false, fd, kernel_ioctl, close };
	return 0;
}

static int open_library(struct accel *accel, const char *engine)
{
	int fd = tz_open(engine);

	if (fd < 0) {
		int err = errno;

		msg_error("--accel %s: cannot start the engine: %s", engine ? engine : "auto", strerror(err));
		return -err;
	}
	*accel = (struct accel){ engine ? engine : tz_engine_names()[0], true, fd, library_ioctl, tz_close };
	return 0;
}

const char *const *accel_names(void)
{
	static const char *names[ACCEL_NAMES_MAX] = { "auto", "kvm" };
	const char *const *engines = tz_engine_names();

	for (unsigned i = 0; engines[i] && i + 3 < ACCEL_NAMES_MAX; i++)
		names[i + 2] = engines[i];
	return names;
}

int accel_open(const char *choice, struct accel *accel)
{
	const char *const *engines = tz_engine_names();
	const char *hint;

	if (!strcmp(choice, "kvm"))
		return open_kernel(accel, true);
	if (!strcmp(choice, "auto")) {
		if (kernel_kvm_has_hardware() && open_kernel(accel, false) == 0)
			return 0;
		return open_library(accel, NULL);
	}
	for (; *engines; engines++)
		if (!strcmp(choice, *engines))
			return open_library(accel, *engines);

	hint = nearest_name(choice, accel_names());
	msg_error("--accel %s: unknown accelerator%s%s%s", choice, hint ? "; did you mean \"" : "", hint ? hint : "",
		  hint ? "\"?" : "");
	return -EINVAL;
}

int accel_open_lockstep(struct accel *accel)
{
	return open_library(accel, "lockstep");
}

void accel_close(struct accel *accel)
{
	if (accel->system_fd >= 0)
		accel->close(accel->system_fd);
	accel->system_fd = -1;
}

int accel_set_option(const struct accel *accel, const char *name, uint64_t value)
{
	if (accel->software && tz_set_option(accel->system_fd, name, value))
		return -errno;
	return 0;
}

int accel_capability(const struct accel *accel, int cap)
{
	int value = accel->ioctl(accel->system_fd, KVM_CHECK_EXTENSION, (uintptr_t)cap);

	return value < 0 ? 0 : value;
}
