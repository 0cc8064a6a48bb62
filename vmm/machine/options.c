/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/message.h"
#include "machine/nearest.h"

int options_parse(struct options *options, const char *text)
{
	char *rest, *word;

	memset(options, 0, sizeof(*options));
	if (strlen(text) >= sizeof(options->text)) {
		msg_error("--device %.32s…: the text is too long", text);
		return -EINVAL;
	}
	strcpy(options->text, text);
	rest = options->text;
	options->name = strsep(&rest, ",");
	while ((word = strsep(&rest, ","))) {
		char *equals = strchr(word, '=');

		if (!equals || equals == word) {
			msg_error("--device %s: \"%s\" is not of the form key=value", options->name, word);
			return -EINVAL;
		}
		if (options->count == OPTIONS_MAX) {
			msg_error("--device %s: too many options", options->name);
			return -EINVAL;
		}
		*equals = '\0';
		options->pair[options->count].key = word;
		options->pair[options->count].value = equals + 1;
		options->count++;
	}
	return 0;
}

void options_copy(struct options *to, const struct options *from)
{
	*to = *from;
	to->name = to->text + (from->name - from->text);
	for (unsigned i = 0; i < from->count; i++) {
		to->pair[i].key = to->text + (from->pair[i].key - from->text);
		to->pair[i].value = to->text + (from->pair[i].value - from->text);
	}
}

static int check_key(const struct options *options, unsigned i, const char *const *keys)
{
	const char *key = options->pair[i].key;
	const char *hint;

	for (unsigned j = 0; j < i; j++)
		if (!strcmp(options->pair[j].key, key)) {
			msg_error("--device %s: option \"%s\" is given twice", options->name, key);
			return -EINVAL;
		}
	for (unsigned j = 0; keys[j]; j++)
		if (!strcmp(keys[j], key))
			return 0;
	hint = nearest_name(key, keys);
	if (hint)
		msg_error("--device %s: unknown option \"%s\"; did you mean \"%s\"?", options->name, key, hint);
	else
		msg_error("--device %s: unknown option \"%s\"; this device has none", options->name, key);
	return -EINVAL;
}

int options_check(const struct options *options, const char *const *keys)
{
	int err = 0;

	for (unsigned i = 0; i < options->count && !err; i++)
		err = check_key(options, i, keys);
	return err;
}

const char *options_text(const struct options *options, const char *key)
{
	for (unsigned i = 0; i < options->count; i++)
		if (!strcmp(options->pair[i].key, key))
			return options->pair[i].value;
	return NULL;
}

int options_switch(const struct options *options, const char *key, bool fallback, bool *value)
{
	static const char *const words[] = { "off", "on", "false", "true", "no", "yes", "n", "y" };
	const char *text = options_text(options, key);

	*value = fallback;
	if (!text)
		return 0;
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(words[i], text)) {
			*value = i & 1;
			return 0;
		}
	msg_error("--device %s: %s=%s is neither on nor off", options->name, key, text);
	return -EINVAL;
}

int options_number(const struct options *options, const char *key, uint64_t fallback, uint64_t min, uint64_t max,
		   uint64_t *value)
{
	const char *text = options_text(options, key);
	char *end;

	*value = fallback;
	if (!text)
		return 0;
	errno = 0;
	*value = strtoull(text, &end, 0);
	if (!isdigit((unsigned char)*text) || *end || errno || *value < min || *value > max) {
		msg_error("--device %s: %s=%s is not a number from %#llx to %#llx", options->name, key, text,
			  (unsigned long long)min, (unsigned long long)max);
		return -EINVAL;
	}
	return 0;
}

char *options_split_path(char *text)
{
	char *to = text, *from = text;

	for (; *from; from++) {
		if (*from == ',' && from[1] != ',') {
			*to = '\0';
			return from + 1;
		}
		if (*from == ',')
			from++;
		*to++ = *from;
	}
	*to = '\0';
	return NULL;
}
