/* SPDX-License-Identifier: Apache-2.0 */
/* The console back end: escape keys, input held back until the device takes it, output that fails. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/console.h"

/* A device that takes `room` bytes. */
static uint8_t taken[8192];
static unsigned taken_count, room, woken, broken;
static bool device_busy;

static unsigned can_receive(void *ctx)
{
	(void)ctx;
	return device_busy ? CHARDEV_BUSY : room;
}

static bool receive(void *ctx, const uint8_t *data, unsigned len)
{
	(void)ctx;
	assert_true(len <= room);
	memcpy(taken + taken_count, data, len);
	taken_count += len;
	room -= len;
	return true;
}

static void wake(void *ctx)
{
	(void)ctx;
	woken++;
}

static bool failed(void *ctx)
{
	(void)ctx;
	broken++;
	return true;
}

struct fixture {
	struct console console;
	int keyboard; /* write end */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fds[2];

	if (pipe(fds) < 0 || console_open(&f->console, SERIAL_NONE, NULL, wake, failed, NULL) < 0)
		return -1;
	f->console.in_fd = fds[0];
	f->keyboard = fds[1];
	f->console.dev.can_receive = can_receive;
	f->console.dev.receive = receive;
	taken_count = woken = broken = 0;
	room = sizeof(taken);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->keyboard);
	console_close(&f->console);
	free(f);
	return 0;
}

static enum console_key type(struct fixture *f, const char *keys)
{
	assert_int_equal(write(f->keyboard, keys, strlen(keys)), strlen(keys));
	return console_read(&f->console);
}

static void test_input_goes_to_the_guest(void **state)
{
	assert_int_equal(type(*state, "uname\n"), CONSOLE_NONE);
	assert_int_equal(taken_count, 6);
	assert_memory_equal(taken, "uname\n", 6);
}

static void test_ctrl_a_x_quits(void **state)
{
	assert_int_equal(type(*state, "a\x01"), CONSOLE_NONE);
	assert_int_equal(type(*state, "m"), CONSOLE_MEMORY);
	assert_int_equal(type(*state, "\001"), CONSOLE_NONE);
	assert_int_equal(type(*state, "x"), CONSOLE_QUIT);
	assert_int_equal(taken_count, 1);
}

static void test_ctrl_a_twice_sends_it(void **state)
{
	assert_int_equal(type(*state, "\x01\x01"
				      "x"),
			 CONSOLE_NONE);
	assert_int_equal(taken_count, 2);
	assert_memory_equal(taken,
			    "\x01"
			    "x",
			    2);
}

static void test_unknown_key_behind_ctrl_a_is_swallowed(void **state)
{
	assert_int_equal(type(*state, "\x01"
				      "qz"),
			 CONSOLE_NONE);
	assert_int_equal(taken_count, 1);
	assert_int_equal(taken[0], 'z');
}

static void test_input_waits_for_room(void **state)
{
	struct fixture *f = *state;

	room = 3;
	type(f, "abcdef");
	assert_int_equal(taken_count, 3);
	room = 1;
	console_push(&f->console);
	assert_int_equal(taken_count, 4);
	room = 100;
	console_push(&f->console);
	assert_memory_equal(taken, "abcdef", 6);
	assert_int_equal(taken_count, 6);
}

static void test_a_pipe_is_not_read_beyond_the_queue(void **state)
{
	struct fixture *f = *state;
	char block[256];

	room = 0;
	memset(block, 'b', sizeof(block));
	for (unsigned i = 0; i < CONSOLE_QUEUE / sizeof(block); i++) {
		assert_true(console_wants_input(&f->console));
		assert_int_equal(write(f->keyboard, block, sizeof(block)), sizeof(block));
		console_read(&f->console);
	}
	assert_false(console_wants_input(&f->console));
	room = 1;
	console_push(&f->console);
	assert_true(console_wants_input(&f->console));
}

static void test_end_of_input(void **state)
{
	struct fixture *f = *state;

	close(f->keyboard);
	f->keyboard = -1;
	assert_int_equal(console_read(&f->console), CONSOLE_NONE);
	assert_false(console_wants_input(&f->console));
}

static void test_output_that_fails_is_told_once(void **state)
{
	struct fixture *f = *state;
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);

	f->console.out_fd = open("/dev/full", O_WRONLY);
	f->console.out_name = "/dev/full";
	dup2(null, STDERR_FILENO);
	f->console.dev.write(&f->console.dev, (const uint8_t *)"x", 1);
	f->console.dev.write(&f->console.dev, (const uint8_t *)"y", 1);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
	assert_int_equal(broken, 1);
}

static void test_room_wakes_the_main_loop(void **state)
{
	struct fixture *f = *state;

	f->console.dev.room(&f->console.dev);
	assert_int_equal(woken, 1);
}

static void test_a_busy_device_is_asked_again(void **state)
{
	struct fixture *f = *state;

	device_busy = true;
	type(f, "ab");
	device_busy = false;
	assert_int_equal(taken_count, 0);
	assert_true(f->console.busy);
	console_push(&f->console);
	assert_int_equal(taken_count, 2);
	assert_false(f->console.busy);
}

static void ignore(int signal)
{
	(void)signal;
}

static void *write_line(void *arg)
{
	struct console *console = arg;

	console->dev.write(&console->dev, (const uint8_t *)"line\n", 5);
	return NULL;
}

/* Standard output is a pipe that nobody reads: the end of the machine must not wait for it. */
static void test_stop_ends_a_write_that_blocks(void **state)
{
	struct sigaction action = { .sa_handler = ignore };
	struct fixture *f = *state;
	struct timespec soon;
	pthread_t thread;
	int fds[2];

	sigaction(SIGUSR1, &action, NULL);
	assert_int_equal(pipe(fds), 0);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	while (write(fds[1], taken, sizeof(taken)) > 0)
		;
	while (write(fds[1], taken, 1) > 0)
		;
	fcntl(fds[1], F_SETFL, 0);
	f->console.out_fd = fds[1];
	assert_int_equal(pthread_create(&thread, NULL, write_line, &f->console), 0);
	clock_gettime(CLOCK_MONOTONIC, &soon);
	soon.tv_sec++;
	console_stop(&f->console);
	for (unsigned i = 0; i < 50; i++) { /* until one comes while it is in write() */
		pthread_kill(thread, SIGUSR1);
		usleep(1000);
	}
	assert_int_equal(pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &soon), 0);
	f->console.out_fd = -1;
	assert_int_equal(broken, 0);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_input_goes_to_the_guest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ctrl_a_x_quits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ctrl_a_twice_sends_it, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_key_behind_ctrl_a_is_swallowed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_input_waits_for_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_pipe_is_not_read_beyond_the_queue, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end_of_input, setup, teardown),
		cmocka_unit_test_setup_teardown(test_output_that_fails_is_told_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_room_wakes_the_main_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_busy_device_is_asked_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_ends_a_write_that_blocks, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
