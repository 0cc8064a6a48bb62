/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libtrapeze: the KVM API (Linux Documentation/virt/kvm/api.rst, <linux/kvm.h>) in user space.
 *
 *	int sys  = tz_open(NULL);
 *	int vm   = tz_ioctl(sys, KVM_CREATE_VM, 0);
 *	int vcpu = tz_ioctl(vm, KVM_CREATE_VCPU, 0);
 *	struct kvm_run *run = mmap(NULL, tz_ioctl(sys, KVM_GET_VCPU_MMAP_SIZE, 0),
 *				   PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
 *	tz_ioctl(vcpu, KVM_RUN, 0);
 *
 * Handles are real file descriptors of this process (a vCPU's can be mmap'ed); they
 * mean something only to the tz_* calls of the process that made them. After fork()
 * the child may only close them (with close(2); its copies hold no machine). A copy made
 * by dup(2) can be mmap'ed but is no handle.
 *
 * Threads: as the kernel's KVM: system and VM requests from any thread, vCPU requests
 * from the thread that runs that vCPU; a second one waits. Not from signal handlers:
 * unlike ioctl(2), these calls take locks.
 *
 * KVM_RUN returns EINTR for signals as the kernel's does, including KVM_SET_SIGNAL_MASK:
 * handlers run after it. kvm_run->immediate_exit is also noticed, within a millisecond or
 * two, when another thread sets it while guest code runs; a vCPU that sleeps in HLT needs a
 * signal, as in the kernel.
 */
#ifndef TRAPEZE_TRAPEZE_H
#define TRAPEZE_TRAPEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TZ_ABI_VERSION 1
#if defined(__GNUC__)
#define TZ_PUBLIC __attribute__((visibility("default")))
#else
#define TZ_PUBLIC
#endif

/*
 * A system handle, as open("/dev/kvm") gives. engine: "translate", "interp", or NULL / "auto" for the
 * best one; or "lockstep", which runs both on VMs of one vCPU, compares what they do, and ends KVM_RUN with
 * KVM_EXIT_INTERNAL_ERROR and a report on stderr where they differ. -1 with errno: ENOENT unknown engine, EMFILE, ENOMEM.
 */
TZ_PUBLIC int tz_open(const char *engine);

/*
 * Set what is not the KVM API's, for VMs that this system handle creates from now on:
 *	"code_cache_size"	bytes of each vCPU's code cache, 1 MiB to 1 GiB; without effect on an engine that
 *				translates no code
 *	"count_instructions"	1: the counter "instructions" of tz_vcpu_stats() is exact, which costs translated code time.
 *				0 (the start value): an engine may count only some
 * 0, or -1 with errno: EBADF no system handle of ours, EINVAL unknown name or value out of range.
 */
TZ_PUBLIC int tz_set_option(int system_fd, const char *name, uint64_t value);

/*
 * ioctl(2) on any libtrapeze handle: same requests, structs, results; -1 with errno. EBADF: not one of ours;
 * ENOTTY: a request that is not there. Of bad pointers only NULL gives EFAULT.
 */
TZ_PUBLIC int tz_ioctl(int fd, unsigned long request, ...);

/* close(2). A VM lives until its handle and all its vCPUs' handles are closed, as in the kernel. */
TZ_PUBLIC int tz_close(int fd);

/* Is fd a handle of this library? */
TZ_PUBLIC bool tz_owns(int fd);

/* Counters of a vCPU since its creation. */
struct tz_stat {
	const char *name; /* lasts until the VM does not */
	const char *unit; /* "count" or "ns" */
	uint64_t value;
};
/*
 * Fills up to n, returns how many there are, or -1 with errno EBADF. Besides fixed ones there are the engine's own,
 * whose number and order change as the vCPU runs. Thread: any.
 */
TZ_PUBLIC int tz_vcpu_stats(int vcpu_fd, struct tz_stat *stats, size_t n);

/*
 * Why the last KVM_RUN of this vCPU ended with KVM_EXIT_INTERNAL_ERROR; "" if it did not. Owned by the vCPU, valid
 * until it runs again. Thread: the vCPU's, or any while it does not run.
 */
TZ_PUBLIC const char *tz_vcpu_error(int vcpu_fd);

/* "0.1.0" and the names of the engines, NULL-terminated. */
TZ_PUBLIC const char *tz_version(void);
TZ_PUBLIC const char *const *tz_engine_names(void);

#ifdef __cplusplus
}
#endif
#endif
