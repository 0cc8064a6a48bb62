/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/nearest.h"

#include <limits.h>
#include <string.h>

#define NAME_MAX_LEN 64 /* what lies beyond does not help to tell names apart */

static unsigned min2(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

/* Edit distance with neighbours' swaps (optimal string alignment), row by row. */
static unsigned distance(const char *a, const char *b)
{
	unsigned rows[3][NAME_MAX_LEN + 1];
	unsigned *before = rows[0], *last = rows[1], *row = rows[2];
	size_t m = strnlen(a, NAME_MAX_LEN), n = strnlen(b, NAME_MAX_LEN);

	for (size_t j = 0; j <= n; j++)
		last[j] = (unsigned)j;
	for (size_t i = 1; i <= m; i++) {
		unsigned *spare = before;

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= n; j++) {
			row[j] = min2(min2(last[j] + 1, row[j - 1] + 1), last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = min2(row[j], before[j - 2] + 1);
		}
		before = last;
		last = row;
		row = spare;
	}
	return last[n];
}

const char *nearest_name(const char *word, const char *const *names)
{
	const char *best = NULL;
	unsigned best_distance = UINT_MAX;

	for (; *names; names++) {
		unsigned d = distance(word, *names);

		if (d < best_distance) {
			best = *names;
			best_distance = d;
		}
	}
	return best;
}
