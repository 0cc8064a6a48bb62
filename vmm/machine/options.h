/* SPDX-License-Identifier: Apache-2.0 */
/* "NAME[,key=value…]" as --device takes it; "PATH[,…]" as --disk and --share do. */
#ifndef VMM_MACHINE_OPTIONS_H
#define VMM_MACHINE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_MAX 16
#define OPTIONS_TEXT_MAX 1024

struct options {
	char text[OPTIONS_TEXT_MAX]; /* holds the strings below */
	const char *name;
	struct {
		const char *key, *value;
	} pair[OPTIONS_MAX];
	unsigned count;
};

/* 0; or -EINVAL with one line on stderr. */
int options_parse(struct options *options, const char *text);
/* A copy that does not depend on the original. */
void options_copy(struct options *to, const struct options *from);
/* Every key must be one of keys (NULL-terminated) and given once; else -EINVAL with a line that names the nearest. */
int options_check(const struct options *options, const char *const *keys);
/* The text given for key, or NULL. */
const char *options_text(const struct options *options, const char *key);
/* on/off (true/false, yes/no, y/n), or fallback; else -EINVAL with a line. */
int options_switch(const struct options *options, const char *key, bool fallback, bool *value);
/* The number given for key (decimal, 0x…), or fallback. min <= *value <= max, else -EINVAL with a line. */
int options_number(const struct options *options, const char *key, uint64_t fallback, uint64_t min, uint64_t max,
		   uint64_t *value);

/* "PATH[,…]": ends the path at the first single comma (two stand for one of its own), in place. The rest, or NULL. */
char *options_split_path(char *text);

#endif
