/* SPDX-License-Identifier: Apache-2.0 */
#include "block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/internal.h"

int block_open(const struct block_options *options, struct block **out, char *text, size_t text_size)
{
	struct error_text error = { text, text_size };
	struct block *disk = calloc(1, sizeof(*disk));
	int err;

	*out = NULL;
	if (!disk)
		return error_set(&error, ENOMEM, "%s: %s", options->path, strerror(ENOMEM));
	disk->path = strdup(options->path);
	if (!disk->path) {
		free(disk);
		return error_set(&error, ENOMEM, "%s: %s", options->path, strerror(ENOMEM));
	}
	pthread_mutex_init(&disk->queue_lock, NULL);
	disk->on_read_error = options->on_read_error;
	disk->on_write_error = options->on_write_error;
	disk->cache = options->cache;
	disk->discard = options->discard && !options->readonly;
	disk->no_uring = options->no_uring;
	disk->info.readonly = options->readonly;
	disk->info.write_cache = options->cache != BLOCK_CACHE_WRITETHROUGH;
	if (nbd_is_uri(options->path))
		err = nbd_open(disk, options, &error);
	else
		err = layers_open(disk, options, &error);
	if (err) {
		pthread_mutex_destroy(&disk->queue_lock);
		free(disk->path);
		free(disk);
		return err;
	}
	*out = disk;
	return 0;
}

int block_close(struct block *disk)
{
	int err = disk->driver->close(disk);

	pthread_mutex_destroy(&disk->queue_lock);
	free(disk->path);
	free(disk);
	return err;
}

const struct block_info *block_info(const struct block *disk)
{
	return &disk->info;
}

int block_extent(struct block *disk, uint64_t offset, uint64_t *length, bool *zero)
{
	if (offset >= disk->info.size)
		return -EINVAL;
	if (*length > disk->info.size - offset)
		*length = disk->info.size - offset;
	return disk->driver->extent(disk, offset, length, zero);
}
