/* SPDX-License-Identifier: Apache-2.0 */
/* "KIND[,key=value…]" as --net takes it; a key may come several times where it makes sense. */
#ifndef VMM_NET_OPTIONS_H
#define VMM_NET_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define NET_OPTIONS_MAX 64

struct net_options {
	char *text; /* holds the strings below */
	const char *kind;
	struct {
		const char *key, *value;
	} pair[NET_OPTIONS_MAX];
	unsigned count;
};

/* All return 0, or -errno with one line on stderr. */
int net_options_parse(struct net_options *options, const char *text);
void net_options_free(struct net_options *options);
/* Keys must be among keys (NULL-terminated), each once but `repeatable` (may be NULL). */
int net_options_check(const struct net_options *options, const char *const *keys, const char *repeatable);
/* NULL: not given. */
const char *net_options_get(const struct net_options *options, const char *key);
int net_options_bool(const struct net_options *options, const char *key, bool fallback, bool *value);
int net_options_number(const struct net_options *options, const char *key, unsigned fallback, unsigned min,
		       unsigned max, unsigned *value);
/* mac= or the default for this index. */
int net_options_mac(const struct net_options *options, unsigned index, uint8_t mac[6]);

#endif
