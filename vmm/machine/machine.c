/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/machine.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "boot/boot.h"
#include "device/pflash.h"
#include "device/vga.h"
#include "machine/accel.h"
#include "machine/board.h"
#include "machine/console.h"
#include "machine/cpu_model.h"
#include "machine/disks.h"
#include "machine/display.h"
#include "machine/firmware.h"
#include "machine/firmware_vars.h"
#include "machine/image.h"
#include "machine/legacy.h"
#include "machine/memory_report.h"
#include "machine/message.h"
#include "machine/pause.h"
#include "machine/ram.h"
#include "machine/shares.h"
#include "machine/terminal.h"
#include "machine/vcpu.h"
#include "net/net.h"

/* Intel wants three pages for a real-mode TSS and one for an identity map, outside RAM (KVM API 4.36, 4.56), and below
 * any firmware. */
#define KVM_IDENTITY_MAP_GPA UINT64_C(0xfeffc000)
#define KVM_TSS_GPA UINT64_C(0xfeffd000)

/*
 * UEFI firmware makes page tables for all that the CPU can address: those for 48 bits, of 2 MiB pages, need 512 MiB and
 * a minute. So many QEMU's CPU models have, and RAM always fits.
 */
#define FIRMWARE_PHYS_BITS 40

#define CONSOLE_RETRY_MS 10
#define REAL_MODE_END 0x100000u

/* How a run of the machine ended. */
enum machine_end {
	END_NONE,
	END_POWEROFF,
	END_RESET,
	END_SLEEP,  /* ACPI S3 */
	END_WAKE,   /* from it */
	END_STATUS, /* isa-debug-exit */
	END_PANICKED,
	END_FAILED, /* said on stderr already */
	END_QUIT,
	END_SIGNAL,
};

struct machine {
	const struct machine_config *config;
	struct accel accel;
	struct cpu_model cpu_model;
	struct image kernel, initrd;
	struct firmware firmware;
	struct console console;
	struct display *display; /* NULL: none */
	struct net *nets[MACHINE_NETS_MAX];
	unsigned net_count;
	struct disks disks;
	struct shares shares;
	int event_fd;  /* wakes the main loop */
	int signal_fd; /* SIGINT, SIGTERM … */

	/* What a reset leaves there, as on a PC: RAM keeps its contents, the RTC its time. */
	struct guest_ram ram;
	struct board *board;
	struct kvm_clock_data clock; /* what kvm-clock counts: time since power-on, S3 included */

	/* From one reset to the next; made anew, so that no state of the CPUs or the irqchip is forgotten. */
	struct vcpu_host host;
	struct vcpu *vcpu;
	unsigned vcpu_count; /* created */
	bool woken;          /* the next start comes out of S3 */
	struct pause pause;
	struct memory_report memory_report;

	pthread_mutex_t lock; /* end, status */
	enum machine_end end;
	int status;
};

/* --- requests to end; thread: any --- */

static void wake_main(void *ctx)
{
	struct machine *m = ctx;
	uint64_t one = 1;
	ssize_t n = write(m->event_fd, &one, sizeof(one));

	(void)n; /* a full counter wakes as well */
}

/* The machine starts again after it. */
static bool goes_on(const struct machine *m, enum machine_end end)
{
	return end == END_SLEEP || end == END_WAKE || (end == END_RESET && !m->config->no_reboot);
}

/*
 * The first request wins, and no vCPU enters the guest again. Only the user's wish to end is stronger than the guest's
 * to start over: a guest that resets at once, again and again, must not swallow it.
 */
static bool end_machine(struct machine *m, enum machine_end end, int status)
{
	bool by_user = end == END_QUIT || end == END_SIGNAL, first;

	pthread_mutex_lock(&m->lock);
	first = m->end == END_NONE || (goes_on(m, m->end) && by_user);
	if (first) {
		m->end = end;
		m->status = status;
	}
	pthread_mutex_unlock(&m->lock);
	atomic_store(&m->host.stop, true);
	wake_main(m);
	return first;
}

/* May the machine start again, or (after: END_SLEEP) sleep? Then requests count again. */
static bool begin_again(struct machine *m, enum machine_end after)
{
	bool begin;

	pthread_mutex_lock(&m->lock);
	begin = goes_on(m, m->end) && (!after || m->end == after);
	if (begin) {
		m->woken = m->end == END_WAKE;
		m->end = END_NONE;
		atomic_store(&m->host.stop, false);
	}
	pthread_mutex_unlock(&m->lock);
	if (begin)
		console_resume(&m->console);
	return begin;
}

static void control_request(void *ctx, enum machine_request what, int status)
{
	static const enum machine_end ends[] = {
		[MACHINE_POWEROFF] = END_POWEROFF, [MACHINE_RESET] = END_RESET, [MACHINE_EXIT] = END_STATUS,
		[MACHINE_PANICKED] = END_PANICKED, [MACHINE_SLEEP] = END_SLEEP, [MACHINE_WAKE] = END_WAKE,
	};

	end_machine(ctx, ends[what], status);
}

static void vcpu_failed(void *ctx)
{
	end_machine(ctx, END_FAILED, EXIT_FAILURE);
}

static bool console_failed(void *ctx)
{
	return end_machine(ctx, END_FAILED, EXIT_FAILURE);
}

/* --- building --- */

static int vm_ioctl(struct machine *m, unsigned long request, uintptr_t arg, const char *what)
{
	if (m->accel.ioctl(m->host.vm_fd, request, arg) >= 0)
		return 0;
	msg_error("the accelerator %s cannot %s: %s", m->accel.name, what, strerror(errno));
	return -EIO;
}

static void set_gsi(void *ctx, unsigned gsi, bool level)
{
	struct machine *m = ctx;
	struct kvm_irq_level line = { .irq = gsi, .level = level };

	m->accel.ioctl(m->host.vm_fd, KVM_IRQ_LINE, (uintptr_t)&line);
}

static void send_msi(void *ctx, uint64_t address, uint32_t data)
{
	struct machine *m = ctx;
	struct kvm_msi msi = { .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data };

	m->accel.ioctl(m->host.vm_fd, KVM_SIGNAL_MSI, (uintptr_t)&msi);
}

static bool set_notifier(void *ctx, bool io, uint64_t address, int64_t match, int fd, bool on)
{
	struct machine *m = ctx;
	struct kvm_ioeventfd request = { .addr = address, .fd = fd };

	if (io)
		request.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (match >= 0) {
		request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
		request.datamatch = (uint64_t)match;
		request.len = 4;
	}
	if (!on)
		request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return m->accel.ioctl(m->host.vm_fd, KVM_IOEVENTFD, (uintptr_t)&request) == 0;
}

/* Thread: a vCPU's, in an access to the HPET, or main. */
static void set_pit_irq(void *ctx, bool on)
{
	struct machine *m = ctx;
	struct kvm_pit_state2 pit;

	if (m->accel.ioctl(m->host.vm_fd, KVM_GET_PIT2, (uintptr_t)&pit) < 0)
		return;
	if (on)
		pit.flags &= ~(uint32_t)KVM_PIT_FLAGS_HPET_LEGACY;
	else
		pit.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	m->accel.ioctl(m->host.vm_fd, KVM_SET_PIT2, (uintptr_t)&pit);
}

/* The slots of guest memory. */
enum { SLOT_RAM_LOW, SLOT_RAM_ABOVE_4G, SLOT_RAM_HIGH, SLOT_FIRMWARE, SLOT_FLASH };

static int set_slot(struct machine *m, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, uint8_t *hva)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	return vm_ioctl(m, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region, "map guest memory");
}

static int add_slot(struct machine *m, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, uint8_t *hva)
{
	return size ? set_slot(m, slot, flags, gpa, size, hva) : 0;
}

/* The firmware's variables: memory to read, whose writes are the flash's; or no memory. */
static int map_flash(struct machine *m, bool on)
{
	const struct pflash_array *array = firmware_vars_array(m->firmware.vars);

	return set_slot(m, SLOT_FLASH, KVM_MEM_READONLY, firmware_vars_gpa(&m->firmware), on ? array->size : 0,
			array->data);
}

/* Thread: a vCPU's, in a write to the flash, or main. */
static void show_flash(void *ctx, bool on)
{
	struct machine *m = ctx;

	if (map_flash(m, on))
		end_machine(m, END_FAILED, EXIT_FAILURE);
}

/*
 * A PC wires the timer's IRQ 0 to pin 2 of the IOAPIC, as the ACPI tables say. KVM's default is pin 0 (KVM API 4.52).
 */
static int set_routing(struct machine *m)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[16 + 24];
	} table = { 0 };
	struct kvm_irq_routing_entry *e = table.entry;

	for (uint32_t gsi = 0; gsi < 16; gsi++) {
		if (gsi == 2)
			continue;
		e->gsi = gsi;
		e->type = KVM_IRQ_ROUTING_IRQCHIP;
		e->u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e->u.irqchip.pin = gsi % 8;
		e++;
	}
	for (uint32_t gsi = 0; gsi < 24; gsi++) {
		if (gsi == 2)
			continue;
		e->gsi = gsi;
		e->type = KVM_IRQ_ROUTING_IRQCHIP;
		e->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e->u.irqchip.pin = gsi ? gsi : 2;
		e++;
	}
	table.head.nr = (uint32_t)(e - table.entry);
	return vm_ioctl(m, KVM_SET_GSI_ROUTING, (uintptr_t)&table, "route the interrupt lines");
}

/* RAM, with a hole where the VGA's window is; the firmware. */
static int add_memory(struct machine *m)
{
	const struct guest_ram *r = &m->ram;
	uint64_t low = m->config->display ? VGA_WINDOW_BASE : r->below_size;
	uint64_t after = m->config->display ? VGA_WINDOW_BASE + VGA_WINDOW_SIZE : r->below_size;
	int err = add_slot(m, SLOT_RAM_LOW, 0, 0, low, r->base);

	if (!err)
		err = add_slot(m, SLOT_RAM_ABOVE_4G, 0, RAM_ABOVE_4G, r->above_size, r->base + r->below_size);
	if (!err)
		err = add_slot(m, SLOT_RAM_HIGH, 0, after, r->below_size - after, r->base + after);
	if (!err && m->firmware.rom)
		err = add_slot(m, SLOT_FIRMWARE, KVM_MEM_READONLY, firmware_gpa(&m->firmware), m->firmware.size,
			       m->firmware.rom);
	if (!err && m->firmware.vars)
		err = map_flash(m, true);
	return err;
}

static int create_vm(struct machine *m)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity = KVM_IDENTITY_MAP_GPA;
	int err;

	m->host.vm_fd = m->accel.ioctl(m->accel.system_fd, KVM_CREATE_VM, 0);
	if (m->host.vm_fd < 0) {
		err = errno;
		msg_error("the accelerator %s cannot create a VM: %s", m->accel.name, strerror(err));
		return -err;
	}
	err = vm_ioctl(m, KVM_SET_IDENTITY_MAP_ADDR, (uintptr_t)&identity, "place its identity map");
	if (!err)
		err = vm_ioctl(m, KVM_SET_TSS_ADDR, KVM_TSS_GPA, "place its TSS");
	if (!err)
		err = vm_ioctl(m, KVM_CREATE_IRQCHIP, 0, "create the interrupt controllers");
	if (!err)
		err = set_routing(m);
	if (!err)
		err = vm_ioctl(m, KVM_CREATE_PIT2, (uintptr_t)&pit, "create the timer");
	if (!err)
		err = add_memory(m);
	m->clock.flags = 0; /* no correction for what passed since: it may not be known */
	if (!err && m->clock.clock)
		err = vm_ioctl(m, KVM_SET_CLOCK, (uintptr_t)&m->clock, "set its clock");
	return err;
}

static int create_board(struct machine *m)
{
	const struct machine_config *c = m->config;
	struct board_config board = {
		.kind = c->board,
		.accel = { .msi = send_msi,
			   .pit_irq = set_pit_irq,
			   .show_flash = show_flash,
			   .notifier = accel_capability(&m->accel, KVM_CAP_IOEVENTFD_ANY_LENGTH) ? set_notifier : NULL,
			   .ctx = m },
		.ram = &m->ram,
		.cpus = c->cpus,
		.gsi = { .set = set_gsi, .ctx = m },
		.control = { .request = control_request, .ctx = m },
		.serial = c->serial == SERIAL_NONE ? NULL : &m->console.dev,
		.disks = m->disks.disk,
		.disk_count = m->disks.count,
		.shares = m->shares.share,
		.share_count = m->shares.count,
		.nets = m->nets,
		.net_count = m->net_count,
		.vga = c->display != DISPLAY_NONE,
		.firmware = m->firmware.rom ? &m->firmware : NULL,
		.devices = c->devices,
	};
	int err = board_create(&board, &m->board);

	if (!err)
		m->host.bus = board_bus(m->board);
	if (!err && m->display)
		display_attach(m->display, board_vga(m->board), board_keyboard(m->board));
	return err;
}

static void close_images(struct machine *m)
{
	image_close(&m->kernel);
	image_close(&m->initrd);
}

/* Kernel and initrd, in memory until they are loaded: a reset reads the files again. */
static int open_images(struct machine *m)
{
	const struct machine_config *c = m->config;
	int err = m->kernel.data ? 0 : image_open(&m->kernel, "kernel", c->kernel);

	if (!err && c->initrd && !m->initrd.data)
		err = image_open(&m->initrd, "initrd", c->initrd);
	return err;
}

static int load_image(struct machine *m, struct boot_entry *entry)
{
	int err = open_images(m);
	struct boot_request request = {
		.kernel_name = m->config->kernel,
		.kernel = m->kernel.data,
		.kernel_size = m->kernel.size,
		.initrd = m->initrd.data,
		.initrd_size = m->initrd.size,
		.append = m->config->append,
		.ram = &m->ram,
		.rsdp = board_rsdp(m->board),
		.vga = m->config->display != DISPLAY_NONE,
	};
	char error[256] = "";

	if (err)
		return err;
	request.e820_count = board_e820(m->board, request.e820);
	err = boot_load(&request, entry, error, sizeof(error));
	if (err)
		msg_error("%s", error);
	close_images(m);
	return err;
}

static int create_vcpus(struct machine *m)
{
	int err = 0;

	m->vcpu = calloc(m->config->cpus, sizeof(*m->vcpu));
	if (!m->vcpu)
		return -ENOMEM;
	for (unsigned i = 0; i < m->config->cpus && !err; i++) {
		err = vmm_vcpu_create(&m->host, &m->vcpu[i], i, m->config->cpus, &m->cpu_model);
		if (!err)
			m->vcpu_count++;
	}
	return err;
}

static int start_at(struct machine *m, const struct boot_entry *entry)
{
	int err = create_vcpus(m);

	return err ? err : vmm_vcpu_set_entry(&m->vcpu[0], entry);
}

/* What firmware would do, and the image in its place. */
static int start_directly(struct machine *m)
{
	struct boot_entry entry;
	int err = legacy_setup(&m->accel, m->host.vm_fd, &m->ram);

	if (!err)
		err = load_image(m, &entry);
	return err ? err : start_at(m, &entry);
}

/*
 * Out of S3 (ACPI 6.4, 16.3.3): memory is as it was. Firmware sees by the CMOS where it comes from; without firmware
 * the guest continues at its waking vector, in real mode.
 */
static int start_woken(struct machine *m, uint32_t vector)
{
	const struct boot_entry entry = { .mode = BOOT_REAL16, .rip = vector };
	int err;

	if (m->firmware.rom)
		return create_vcpus(m);
	err = legacy_setup(&m->accel, m->host.vm_fd, NULL);
	return err ? err : start_at(m, &entry);
}

/* From power-on to the point where vCPUs may start. 0, or -errno with a message given. */
static int power_on(struct machine *m)
{
	uint32_t vector = board_waking_vector(m->board);
	int err = create_vm(m);

	if (err)
		return err;
	if (m->woken) {
		board_wake(m->board);
		if (m->firmware.rom || (vector && vector < REAL_MODE_END))
			return start_woken(m, vector);
	}
	board_reset(m->board);
	if (!m->firmware.rom)
		return start_directly(m);
	firmware_shadow(&m->firmware, &m->ram);
	return create_vcpus(m); /* they start at the reset vector */
}

static void stop_vcpus(struct machine *m)
{
	atomic_store(&m->host.stop, true);
	console_stop(&m->console);
	pause_cancel(&m->pause, m->board);
	for (unsigned i = 0; i < m->vcpu_count; i++)
		vmm_vcpu_join(&m->vcpu[i]);
}

/* Undo power_on(), however far it got. vCPU threads have ended. */
static void power_off(struct machine *m)
{
	for (unsigned i = m->vcpu_count; i-- > 0;)
		vmm_vcpu_destroy(&m->vcpu[i]);
	free(m->vcpu);
	m->vcpu = NULL;
	m->vcpu_count = 0;
	board_reset_devices(m->board);
	if (m->host.vm_fd >= 0) {
		m->accel.ioctl(m->host.vm_fd, KVM_GET_CLOCK, (uintptr_t)&m->clock);
		m->accel.close(m->host.vm_fd);
	}
	m->host.vm_fd = -1;
}

/* --- running --- */

static void take_signal(struct machine *m)
{
	struct signalfd_siginfo info;

	if (read(m->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGTSTP) {
		terminal_suspend();
		return;
	}
	/* One cause is told: a terminal that goes away fails the console and hangs up. */
	if (end_machine(m, END_SIGNAL, 128 + (int)info.ssi_signo))
		msg_error("ended by %s", strsignal((int)info.ssi_signo));
}

static void take_input(struct machine *m)
{
	switch (console_read(&m->console)) {
	case CONSOLE_NONE: break;
	case CONSOLE_QUIT: end_machine(m, END_QUIT, EXIT_SUCCESS); break;
	case CONSOLE_MEMORY: memory_report_ask(&m->memory_report, m->board); break;
	}
}

/* Of two times to sleep, -1 being for ever. */
static int sooner(int a, int b)
{
	return a < 0 || (b >= 0 && b < a) ? b : a;
}

static void main_loop(struct machine *m)
{
	/* At least once: the guest may be at its end already, and the user wait to be heard. */
	do {
		struct pollfd fds[3] = {
			{ .fd = m->event_fd, .events = POLLIN },
			{ .fd = m->signal_fd, .events = POLLIN },
			{ .fd = console_wants_input(&m->console) ? m->console.in_fd : -1, .events = POLLIN },
		};
		int wait = sooner(pause_update(&m->pause, m->board, m->vcpu, m->vcpu_count),
				  memory_report_update(&m->memory_report, m->board));
		uint64_t count;

		display_note(m->display, pause_note(&m->pause));
		if (poll(fds, 3, sooner(wait, m->console.busy ? CONSOLE_RETRY_MS : -1)) < 0)
			continue; /* EINTR */
		if ((fds[0].revents & POLLIN && read(m->event_fd, &count, sizeof(count)) > 0) || m->console.busy)
			console_push(&m->console);
		if (fds[1].revents & POLLIN)
			take_signal(m);
		if (fds[2].revents)
			take_input(m);
	} while (!atomic_load(&m->host.stop));
}

/* One power-on to its end. */
static void run_once(struct machine *m)
{
	int err = power_on(m);

	for (unsigned i = 0; i < m->vcpu_count && !err; i++)
		err = vmm_vcpu_start(&m->vcpu[i]);
	if (err)
		end_machine(m, END_FAILED, EXIT_FAILURE);
	else
		main_loop(m);
	stop_vcpus(m);
	if (begin_again(m, END_SLEEP)) { /* until a device or the user ends it */
		board_sleep(m->board);
		main_loop(m);
		pause_cancel(&m->pause, m->board);
	}
	if (m->config->stats)
		for (unsigned i = 0; i < m->vcpu_count; i++)
			vmm_vcpu_print_stats(&m->vcpu[i]);
	power_off(m);
}

/* The program's exit status. */
static int end_status(struct machine *m)
{
	switch (m->end) {
	case END_PANICKED: msg_error("the guest reported a panic"); return EXIT_FAILURE;
	case END_RESET:
	case END_POWEROFF:
	case END_QUIT: return EXIT_SUCCESS;
	default: return m->status;
	}
}

static int setup_events(struct machine *m)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
	sigset_t set;
	int err;

	sigemptyset(&set);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(&set, signals[i]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of write() */
	vmm_vcpu_setup_signals();
	m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->signal_fd >= 0 && m->event_fd >= 0)
		return 0;
	err = errno;
	msg_error("cannot set up events: %s", strerror(err));
	return -err;
}

/* They stay open over resets: the guest's, not the user's, end of the world. */
static int open_nets(struct machine *m)
{
	int err = 0;

	for (unsigned i = 0; m->config->nets[i] && !err; i++) {
		err = net_open(m->config->nets[i], i, &m->nets[m->net_count]);
		if (!err && m->nets[m->net_count])
			m->net_count++;
	}
	return err;
}

static void display_quit(void *ctx)
{
	end_machine(ctx, END_QUIT, EXIT_SUCCESS);
}

static int open_display(struct machine *m)
{
	if (m->config->display == DISPLAY_NONE)
		return 0;
	if (m->config->board != BOARD_PC) {
		msg_error("--display curses: this board has no VGA; use --machine pc");
		return -EINVAL;
	}
	return display_open(display_quit, m, &m->display);
}

/* Firmware, or kernel and initrd. */
static int open_contents(struct machine *m)
{
	const struct machine_config *c = m->config;

	if (c->firmware && c->board != BOARD_PC) {
		msg_error("--firmware: only --machine pc has what firmware expects");
		return -EINVAL;
	}
	if (c->firmware)
		return firmware_open(&m->firmware, c->firmware, c->display != DISPLAY_NONE);
	return open_images(m);
}

static int create_ram(struct machine *m)
{
	int err = ram_create(&m->ram, m->config->memory);

	if (err)
		msg_error("--memory: cannot get %llu MiB: %s", (unsigned long long)m->config->memory >> 20,
			  strerror(-err));
	return err;
}

static int machine_open(struct machine *m)
{
	const struct machine_config *c = m->config;
	int err = open_contents(m);

	if (!err)
		err = c->lockstep ? accel_open_lockstep(&m->accel) : accel_open(c->accel, &m->accel);
	if (!err && c->code_cache) {
		err = accel_set_option(&m->accel, "code_cache_size", c->code_cache);
		if (err)
			msg_error("--code-cache: the accelerator %s does not take it: %s", m->accel.name,
				  strerror(-err));
	}
	if (!err)
		err = accel_set_option(&m->accel, "count_instructions", c->stats);
	if (!err)
		err = cpu_model_create(&m->accel, c->cpu_model, &m->cpu_model);
	if (!err && m->firmware.rom)
		cpu_model_limit_phys_bits(&m->cpu_model, FIRMWARE_PHYS_BITS);
	if (!err)
		err = setup_events(m);
	if (!err)
		err = open_nets(m);
	if (!err)
		err = disks_open(&m->disks, c->disks);
	if (!err)
		err = shares_open(&m->shares, c->shares);
	if (!err)
		disks_watch(&m->disks, wake_main, m);
	if (!err)
		err = console_open(&m->console, c->serial, c->serial_path, wake_main, console_failed, m);
	if (!err)
		err = create_ram(m);
	if (!err)
		err = open_display(m);
	if (!err)
		err = create_board(m);
	return err;
}

/* -errno: what the guest has written may be lost. */
static int machine_close(struct machine *m)
{
	int err;

	console_detach(&m->console);
	display_detach(m->display);
	board_destroy(m->board);
	ram_destroy(&m->ram);
	err = disks_close(&m->disks);
	shares_close(&m->shares);
	display_close(m->display);
	console_close(&m->console);
	while (m->net_count)
		net_close(m->nets[--m->net_count]);
	if (m->event_fd >= 0)
		close(m->event_fd);
	if (m->signal_fd >= 0)
		close(m->signal_fd);
	accel_close(&m->accel);
	close_images(m);
	firmware_close(&m->firmware);
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->host.park_lock);
	pthread_cond_destroy(&m->host.park_wake);
	return err;
}

int machine_run(const struct machine_config *config)
{
	struct machine m = { .config = config, .event_fd = -1, .signal_fd = -1, .ram.fd = -1 };
	int status;

	m.accel.system_fd = -1;
	m.host.vm_fd = -1;
	m.console.in_fd = m.console.out_fd = -1;
	pthread_mutex_init(&m.lock, NULL);
	pthread_mutex_init(&m.host.park_lock, NULL);
	pthread_cond_init(&m.host.park_wake, NULL);
	m.pause.host = &m.host;
	m.pause.disks = &m.disks;
	if (machine_open(&m) < 0) {
		machine_close(&m);
		return EXIT_FAILURE;
	}
	m.host.accel = &m.accel;
	m.host.failed = vcpu_failed;
	m.host.ctx = &m;
	if (config->serial == SERIAL_STDIO)
		terminal_raw();
	do
		run_once(&m);
	while (begin_again(&m, END_NONE));
	status = end_status(&m);
	terminal_restore();
	if (machine_close(&m) < 0 && status == EXIT_SUCCESS)
		status = EXIT_FAILURE;
	return status;
}
