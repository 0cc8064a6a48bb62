/* SPDX-License-Identifier: Apache-2.0 */
/* Memory slots: the errors and rules of KVM_SET_USER_MEMORY_REGION, look-up, dirty log, physical copies. */
#include <errno.h>

#include "fakecpu.h"

#define PAGE TZ_PAGE_SIZE
#define POOL_PAGES 64

struct state {
	struct mem mem;
	uint8_t *pool;
};

static int setup(void **state)
{
	struct state *s = calloc(1, sizeof(*s));

	s->pool = aligned_alloc(PAGE, POOL_PAGES * PAGE);
	memset(s->pool, 0, POOL_PAGES * PAGE);
	assert_int_equal(mem_init(&s->mem), 0);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct state *s = *state;

	mem_fini(&s->mem);
	free(s->pool);
	free(s);
	return 0;
}

static int set(struct state *s, uint32_t id, uint32_t flags, uint64_t base, uint64_t size, uint8_t *hva)
{
	struct mem_map *old = (void *)1;
	int err;

	pthread_mutex_lock(&s->mem.lock);
	err = mem_set_slot(&s->mem, id, flags, GPA(base), size, hva, &old);
	pthread_mutex_unlock(&s->mem.lock);
	if (err)
		assert_null(old);
	mem_map_destroy(old);
	return err;
}

static uint8_t *look(struct state *s, uint64_t gpa, uint64_t *left)
{
	struct mem_hit hit;

	if (!mem_lookup(&s->mem, GPA(gpa), &hit))
		return NULL;
	if (left)
		*left = hit.left;
	return hit.hva;
}

static void test_lookup(void **state)
{
	struct state *s = *state;
	uint64_t left;

	assert_null(look(s, 0, NULL));
	assert_int_equal(set(s, 2, 0, 0x100000, 4 * PAGE, s->pool + 8 * PAGE), 0);
	assert_int_equal(set(s, 0, 0, 0, 2 * PAGE, s->pool), 0);
	assert_int_equal(set(s, 1, 0, 0x104000, PAGE, s->pool + 20 * PAGE), 0);
	assert_ptr_equal(look(s, 0, &left), s->pool);
	assert_int_equal(left, 2 * PAGE);
	assert_ptr_equal(look(s, 0x1fff, &left), s->pool + 0x1fff);
	assert_int_equal(left, 1);
	assert_null(look(s, 0x2000, NULL));
	assert_null(look(s, 0xfffff, NULL));
	assert_ptr_equal(look(s, 0x103abc, &left), s->pool + 11 * PAGE + 0xabc);
	assert_int_equal(left, PAGE - 0xabc);
	assert_ptr_equal(look(s, 0x104000, NULL), s->pool + 20 * PAGE);
	assert_null(look(s, 0x105000, NULL));
	assert_null(look(s, UINT64_MAX, NULL));
}

static void test_errors(void **state)
{
	struct state *s = *state;
	uint8_t *p = s->pool;

	assert_int_equal(set(s, 0, 0, 0, 0, p), -EINVAL); /* delete nothing */
	assert_int_equal(set(s, MEM_SLOTS_MAX, 0, 0, PAGE, p), -EINVAL);
	assert_int_equal(set(s, 0, 4, 0, PAGE, p), -EINVAL);
	assert_int_equal(set(s, 0, 0, 0x800, PAGE, p), -EINVAL);
	assert_int_equal(set(s, 0, 0, 0, 0x800, p), -EINVAL);
	assert_int_equal(set(s, 0, 0, 0, PAGE, p + 8), -EINVAL);
	assert_int_equal(set(s, 0, 0, -PAGE, 2 * PAGE, p), -EINVAL); /* wraps */
	assert_int_equal(set(s, 0, 0, 0, UINT64_C(1) << 43, p), -EINVAL);
	assert_null(look(s, 0, NULL));

	assert_int_equal(set(s, 0, 0, 0x10000, 4 * PAGE, p), 0);
	assert_int_equal(set(s, 1, 0, 0x13000, PAGE, p), -EEXIST);
	assert_int_equal(set(s, 1, 0, 0xf000, 2 * PAGE, p), -EEXIST);
	assert_int_equal(set(s, 1, 0, 0, 64 * PAGE, p), -EEXIST);
	assert_int_equal(set(s, 1, 0, 0x14000, PAGE, p + 8 * PAGE), 0); /* neighbours */
	assert_int_equal(set(s, 2, 0, 0xf000, PAGE, p + 9 * PAGE), 0);

	/* What may not change while the slot exists. */
	assert_int_equal(set(s, 0, 0, 0x10000, 3 * PAGE, p), -EINVAL);
	assert_int_equal(set(s, 0, 0, 0x10000, 4 * PAGE, p + PAGE), -EINVAL);
	assert_int_equal(set(s, 0, MEM_SLOT_READONLY, 0x10000, 4 * PAGE, p), -EINVAL);
	/* The same again is fine; a move onto a neighbour is not. */
	assert_int_equal(set(s, 0, 0, 0x10000, 4 * PAGE, p), 0);
	assert_int_equal(set(s, 0, 0, 0x11000, 4 * PAGE, p), -EEXIST);
}

static void test_move_and_delete(void **state)
{
	struct state *s = *state;

	assert_int_equal(set(s, 0, 0, 0, 4 * PAGE, s->pool), 0);
	assert_int_equal(set(s, 1, 0, 0x10000, PAGE, s->pool + 4 * PAGE), 0);
	assert_int_equal(set(s, 0, 0, 0x1000, 4 * PAGE, s->pool), 0); /* overlaps itself only */
	assert_null(look(s, 0, NULL));
	assert_ptr_equal(look(s, 0x1000, NULL), s->pool);
	assert_int_equal(set(s, 0, 0, 0x20000, 4 * PAGE, s->pool), 0); /* past the other one */
	assert_ptr_equal(look(s, 0x10000, NULL), s->pool + 4 * PAGE);
	assert_ptr_equal(look(s, 0x23000, NULL), s->pool + 3 * PAGE);
	assert_int_equal(set(s, 1, 0, 0, 0, NULL), 0);
	assert_null(look(s, 0x10000, NULL));
	assert_int_equal(set(s, 1, 0, 0, 0, NULL), -EINVAL);
	assert_int_equal(atomic_load(&s->mem.map)->count, 1);
}

static void test_many(void **state)
{
	struct state *s = *state;

	/* In an order that is neither up nor down: 101 and 509 have no common divisor. */
	for (unsigned i = 0; i < MEM_SLOTS_MAX; i++) {
		unsigned n = i * 101 % MEM_SLOTS_MAX;

		assert_int_equal(set(s, i, 0, n * 2 * PAGE, PAGE, s->pool + n % POOL_PAGES * PAGE), 0);
	}
	for (unsigned n = 0; n < MEM_SLOTS_MAX; n++) {
		assert_ptr_equal(look(s, n * 2 * PAGE + 5, NULL), s->pool + n % POOL_PAGES * PAGE + 5);
		assert_null(look(s, (n * 2 + 1) * PAGE, NULL));
	}
}

static void test_dirty_log(void **state)
{
	struct state *s = *state;
	struct mem_hit hit;
	_Atomic uint64_t *log;

	assert_int_equal(set(s, 0, 0, 0x10000, POOL_PAGES * PAGE, s->pool), 0);
	assert_true(mem_lookup(&s->mem, GPA(0x10000), &hit));
	assert_null(hit.slot->dirty);
	mem_mark_dirty(hit.slot, GPA(0x10000), 1); /* no log: nothing happens */

	assert_int_equal(set(s, 0, MEM_SLOT_LOG_DIRTY, 0x10000, POOL_PAGES * PAGE, s->pool), 0);
	assert_true(mem_lookup(&s->mem, GPA(0x10000), &hit));
	log = hit.slot->dirty;
	assert_non_null(log);
	assert_int_equal(log[0], 0);
	mem_mark_dirty(hit.slot, GPA(0x10fff), 2);
	assert_int_equal(log[0], 3);
	mem_mark_dirty(hit.slot, GPA(0x10000 + 63 * PAGE), PAGE);
	assert_int_equal(log[0], 3 | BIT64(63));
	mem_mark_dirty(hit.slot, GPA(0x12000), 0);
	assert_int_equal(log[0], 3 | BIT64(63));
	assert_true(mem_write(&s->mem, GPA(0x14ff8), "0123456789abcdef", 16));
	assert_int_equal(log[0], 3 | BIT64(4) | BIT64(5) | BIT64(63));

	/* The log outlives other slots' changes and a move, not the flag. */
	assert_int_equal(set(s, 1, 0, 0, PAGE, s->pool), 0);
	assert_int_equal(set(s, 0, MEM_SLOT_LOG_DIRTY, 0x20000, POOL_PAGES * PAGE, s->pool), 0);
	assert_true(mem_lookup(&s->mem, GPA(0x20000), &hit));
	assert_ptr_equal(hit.slot->dirty, log);
	assert_int_equal(set(s, 0, 0, 0x20000, POOL_PAGES * PAGE, s->pool), 0);
	assert_true(mem_lookup(&s->mem, GPA(0x20000), &hit));
	assert_null(hit.slot->dirty);
}

static void test_copies(void **state)
{
	struct state *s = *state;
	uint8_t buf[16];

	assert_int_equal(set(s, 0, 0, 0, PAGE, s->pool), 0);
	assert_int_equal(set(s, 1, 0, PAGE, PAGE, s->pool + 8 * PAGE), 0);
	assert_int_equal(set(s, 2, MEM_SLOT_READONLY, 0x10000, PAGE, s->pool + 16 * PAGE), 0);

	assert_true(mem_write(&s->mem, GPA(PAGE - 4), "abcdefgh", 8));
	assert_memory_equal(s->pool + PAGE - 4, "abcd", 4);
	assert_memory_equal(s->pool + 8 * PAGE, "efgh", 4);
	assert_true(mem_read(&s->mem, GPA(PAGE - 4), buf, 8));
	assert_memory_equal(buf, "abcdefgh", 8);

	memcpy(s->pool + 9 * PAGE - 4, "wxyz", 4);
	assert_false(mem_read(&s->mem, GPA(2 * PAGE - 4), buf, 8));
	assert_memory_equal(buf, "wxyz\xff\xff\xff\xff", 8);
	assert_false(mem_write(&s->mem, GPA(2 * PAGE - 4), "12345678", 8));
	assert_memory_equal(s->pool + 9 * PAGE - 4, "1234", 4);

	assert_false(mem_write(&s->mem, GPA(0x10000), "x", 1));
	assert_int_equal(s->pool[16 * PAGE], 0);
	assert_true(mem_read(&s->mem, GPA(0x10000), buf, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_lookup, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_move_and_delete, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_log, setup, teardown),
		cmocka_unit_test_setup_teardown(test_copies, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
