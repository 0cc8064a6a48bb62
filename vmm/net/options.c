/* SPDX-License-Identifier: Apache-2.0 */
#include "net/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/message.h"
#include "machine/nearest.h"

int net_options_parse(struct net_options *options, const char *text)
{
	char *rest, *word;

	memset(options, 0, sizeof(*options));
	options->text = rest = strdup(text);
	if (!rest) {
		msg_error("--net: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	options->kind = strsep(&rest, ",");
	while ((word = strsep(&rest, ","))) {
		char *equals = strchr(word, '=');

		if (!equals || equals == word) {
			msg_error("--net %s: \"%s\" is not of the form key=value", options->kind, word);
			return -EINVAL;
		}
		if (options->count == NET_OPTIONS_MAX) {
			msg_error("--net %s: more than %d options", options->kind, NET_OPTIONS_MAX);
			return -EINVAL;
		}
		*equals = '\0';
		options->pair[options->count].key = word;
		options->pair[options->count++].value = equals + 1;
	}
	return 0;
}

void net_options_free(struct net_options *options)
{
	free(options->text);
	options->text = NULL;
}

static bool is_among(const char *word, const char *const *names)
{
	for (; *names; names++)
		if (!strcmp(word, *names))
			return true;
	return false;
}

int net_options_check(const struct net_options *options, const char *const *keys, const char *repeatable)
{
	for (unsigned i = 0; i < options->count; i++) {
		const char *key = options->pair[i].key;

		if (!is_among(key, keys)) {
			msg_error("--net %s: unknown option \"%s\"; did you mean \"%s\"?", options->kind, key,
				  nearest_name(key, keys));
			return -EINVAL;
		}
		if (repeatable && !strcmp(key, repeatable))
			continue;
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(key, options->pair[j].key)) {
				msg_error("--net %s: option \"%s\" is given twice", options->kind, key);
				return -EINVAL;
			}
	}
	return 0;
}

const char *net_options_get(const struct net_options *options, const char *key)
{
	for (unsigned i = 0; i < options->count; i++)
		if (!strcmp(options->pair[i].key, key))
			return options->pair[i].value;
	return NULL;
}

int net_options_bool(const struct net_options *options, const char *key, bool fallback, bool *value)
{
	const char *text = net_options_get(options, key);

	*value = fallback;
	if (!text)
		return 0;
	if (!strcmp(text, "on") || !strcmp(text, "yes")) {
		*value = true;
	} else if (!strcmp(text, "off") || !strcmp(text, "no")) {
		*value = false;
	} else {
		msg_error("--net %s: %s=%s: expected on or off", options->kind, key, text);
		return -EINVAL;
	}
	return 0;
}

int net_options_number(const struct net_options *options, const char *key, unsigned fallback, unsigned min,
		       unsigned max, unsigned *value)
{
	const char *text = net_options_get(options, key);
	unsigned long n;
	char *end;

	*value = fallback;
	if (!text)
		return 0;
	errno = 0;
	n = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno || n < min || n > max) {
		msg_error("--net %s: %s=%s is not a number from %u to %u", options->kind, key, text, min, max);
		return -EINVAL;
	}
	*value = (unsigned)n;
	return 0;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
	if (strlen(text) != 17)
		return false;
	for (unsigned i = 0; i < 6; i++, text += 3) {
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) || (i < 5 && text[2] != ':'))
			return false;
		mac[i] = (uint8_t)strtoul((const char[3]){ text[0], text[1], 0 }, NULL, 16);
	}
	return true;
}

/* QEMU's range, which its users know; locally administered. */
#define MAC_DEFAULT_LOW 0x123456u

int net_options_mac(const struct net_options *options, unsigned index, uint8_t mac[6])
{
	static const uint8_t none[6];
	const char *text = net_options_get(options, "mac");
	uint32_t low = MAC_DEFAULT_LOW + index;

	if (!text) {
		memcpy(mac,
		       (const uint8_t[6]){ 0x52, 0x54, 0x00, (uint8_t)(low >> 16), (uint8_t)(low >> 8), (uint8_t)low },
		       6);
		return 0;
	}
	if (!parse_mac(text, mac)) {
		msg_error("--net %s: mac=%s is not of the form 52:54:00:12:34:56", options->kind, text);
		return -EINVAL;
	}
	if (mac[0] & 1 || !memcmp(mac, none, 6)) {
		msg_error("--net %s: mac=%s: a card's address is neither zero nor a group address (first byte odd)",
			  options->kind, text);
		return -EINVAL;
	}
	return 0;
}
