/* SPDX-License-Identifier: Apache-2.0 */
/* The console back end: escape keys, input held back until the device takes it, output that fails. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/console.h"

/* A device that takes `room` bytes. */
static uint8_t taken[8192];
static unsigned taken_count, room, woken, broken;

static unsigned can_receive(void *ctx)
{
	(void)ctx;
	return room;
}

static void receive(void *ctx, const uint8_t *data, unsigned len)
{
	(void)ctx;
	assert_true(len <= room);
	memcpy(taken + taken_count, data, len);
	taken_count += len;
	room -= len;
}

static void wake(void *ctx)
{
	(void)ctx;
	woken++;
}

static void failed(void *ctx)
{
	(void)ctx;
	broken++;
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
