/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/shares.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/message.h"
#include "machine/nearest.h"
#include "machine/options.h"
#include "share/share.h"

#define TAG_DEFAULT "share"

struct share_options {
	const char *path, *tag;
	bool readonly, tag_given, readonly_given;
};

static int refuse(const struct share_options *o, const char *word, const char *why)
{
	msg_error("--share %s: %s: %s", o->path, word, why);
	return -EINVAL;
}

static int set_tag(struct share_options *o, const char *tag)
{
	size_t len = strlen(tag);

	for (size_t i = 0; i < len; i++)
		if (!isgraph((unsigned char)tag[i]))
			len = 0;
	if (!len || len > SHARE_TAG_MAX) {
		msg_error("--share %s: tag=%s: expected 1 to %d printable characters", o->path, tag, SHARE_TAG_MAX);
		return -EINVAL;
	}
	if (o->tag_given)
		return refuse(o, "tag", "is given twice");
	o->tag = tag;
	o->tag_given = true;
	return 0;
}

static int apply(struct share_options *o, const char *word)
{
	static const char *const names[] = { "tag", "readonly", NULL };
	bool off = !strcmp(word, "readonly=off");

	if (!strncmp(word, "tag=", 4))
		return set_tag(o, word + 4);
	if (!off && strcmp(word, "readonly") != 0 && strcmp(word, "readonly=on") != 0) {
		msg_error("--share %s: unknown option \"%s\"; did you mean \"%s\"?", o->path, word,
			  nearest_name(word, names));
		return -EINVAL;
	}
	if (o->readonly_given)
		return refuse(o, "readonly", "is given twice");
	o->readonly = !off;
	o->readonly_given = true;
	return 0;
}

static int parse(struct share_options *o, char *text)
{
	char *rest = options_split_path(text), *word;
	int err = 0;

	*o = (struct share_options){ .path = text, .tag = TAG_DEFAULT };
	if (!*text) {
		msg_error("--share: no folder is given");
		return -EINVAL;
	}
	while (!err && (word = strsep(&rest, ",")))
		err = apply(o, word);
	return err;
}

static int open_one(struct shares *shares, const struct share_options *o)
{
	struct board_share *share = &shares->share[shares->count];
	char error[512];
	int err;

	for (unsigned i = 0; i < shares->count; i++)
		if (!strcmp(shares->tag[i], o->tag)) {
			msg_error("--share %s: another folder has the tag \"%s\"; give this one its own with tag=NAME",
				  o->path, o->tag);
			return -EINVAL;
		}
	err = share_open(o->path, o->readonly, &share->share, error, sizeof(error));
	if (err) {
		msg_error("--share %s", error);
		return err;
	}
	share->tag = strcpy(shares->tag[shares->count++], o->tag);
	return 0;
}

int shares_open(struct shares *shares, const char *const *texts)
{
	int err = 0;

	shares->count = 0;
	for (; *texts && !err; texts++) {
		char *text = strdup(*texts);
		struct share_options o;

		if (!text) {
			msg_error("--share %s: %s", *texts, strerror(ENOMEM));
			err = -ENOMEM;
		} else {
			err = parse(&o, text);
			if (!err)
				err = open_one(shares, &o);
		}
		free(text);
	}
	if (err)
		shares_close(shares);
	return err;
}

void shares_close(struct shares *shares)
{
	while (shares->count)
		share_close(shares->share[--shares->count].share);
}
