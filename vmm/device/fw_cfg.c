/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fw_cfg (QEMU docs/specs/fw_cfg): items under 16-bit keys, read byte by byte through a port or by DMA, and a
 * directory of named files. All items are read-only. Unknown keys and reads beyond an item give zeros.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "device/models.h"
#include "machine/ram.h"

enum { REGION_PORTS, REGION_DMA };

#define KEY_SIGNATURE 0x0000
#define KEY_ID 0x0001
#define KEY_FILE_DIR 0x0019
#define KEY_FILE_FIRST 0x0020
#define KEY_FILE_END 0x4000
#define KEY_MASK 0xbfff /* bit 14 once selected the write channel */

#define ID_TRADITIONAL 0x01
#define ID_DMA 0x02
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */

#define DMA_ERROR 0x01
#define DMA_READ 0x02
#define DMA_SKIP 0x04
#define DMA_SELECT 0x08
#define DMA_WRITE 0x10

struct item {
	uint16_t key;
	uint32_t size;
	const uint8_t *data;
	uint8_t *owned; /* to be freed, or NULL */
};

struct file_entry { /* of the directory; big endian */
	uint32_t size;
	uint16_t key;
	uint16_t reserved;
	char name[56];
};

struct dma_request { /* in guest memory; big endian */
	uint32_t control;
	uint32_t length;
	uint64_t address;
};

struct fw_cfg {
	struct device dev;
	const struct guest_ram *ram;
	struct item *items;
	size_t count;
	struct {
		uint32_t count;
		struct file_entry entry[];
	} * directory;
	uint32_t files;
	const struct item *selected; /* NULL: unknown key */
	uint32_t position;
	uint64_t dma_address;
};

static struct item *find(struct fw_cfg *f, uint16_t key)
{
	for (size_t i = 0; i < f->count; i++)
		if (f->items[i].key == key)
			return &f->items[i];
	return NULL;
}

static void select_key(struct fw_cfg *f, uint16_t key)
{
	f->selected = find(f, key & KEY_MASK);
	f->position = 0;
}

/* The next bytes of the selected item; dst NULL: skip. */
static void take(struct fw_cfg *f, uint8_t *dst, uint32_t len)
{
	uint32_t left = f->selected ? f->selected->size - f->position : 0;
	uint32_t n = len < left ? len : left;

	if (dst) {
		if (n)
			memcpy(dst, f->selected->data + f->position, n);
		memset(dst + n, 0, len - n);
	}
	f->position += n;
}

static uint32_t dma_run(struct fw_cfg *f, const struct dma_request *req)
{
	uint32_t control = be32toh(req->control), length = be32toh(req->length);
	uint8_t *dst;

	if (control & DMA_SELECT)
		select_key(f, (uint16_t)(control >> 16));
	if (control & DMA_READ) {
		dst = length ? ram_ptr(f->ram, be64toh(req->address), length) : NULL;
		if (length && !dst)
			return DMA_ERROR;
		take(f, dst, length);
	} else if (control & DMA_WRITE) {
		return DMA_ERROR; /* no item is writable */
	} else if (control & DMA_SKIP) {
		take(f, NULL, length);
	}
	return 0;
}

static void dma_start(struct fw_cfg *f)
{
	uint64_t address = f->dma_address;
	struct dma_request req;
	uint32_t result;

	f->dma_address = 0;
	if (!ram_read(f->ram, address, &req, sizeof(req)))
		return; /* there is nowhere to report it */
	result = htobe32(dma_run(f, &req));
	ram_write(f->ram, address, &result, sizeof(result));
}

static uint64_t fw_cfg_read(struct device *dev, unsigned region, uint64_t offset, unsigned size)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);
	uint64_t signature = htobe64(DMA_SIGNATURE);
	uint8_t byte = 0;

	(void)size;
	if (region == REGION_DMA)
		return signature >> (8 * offset);
	if (offset == 1)
		take(f, &byte, 1);
	return byte;
}

static void fw_cfg_write(struct device *dev, unsigned region, uint64_t offset, uint64_t value, unsigned size)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);

	if (region == REGION_PORTS) {
		if (offset == 0 && size == 2)
			select_key(f, (uint16_t)value);
		return;
	}
	if (offset == 0 && size == 8) {
		f->dma_address = be64toh(value);
		dma_start(f);
	} else if (offset == 0 && size == 4) {
		f->dma_address = (uint64_t)be32toh((uint32_t)value) << 32;
	} else if (offset == 4 && size == 4) {
		f->dma_address |= be32toh((uint32_t)value);
		dma_start(f);
	}
}

static void fw_cfg_reset(struct device *dev)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);

	select_key(f, KEY_SIGNATURE);
	f->dma_address = 0;
}

static void fw_cfg_destroy(struct device *dev)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);

	for (size_t i = 0; i < f->count; i++)
		free(f->items[i].owned);
	free(f->items);
	free(f->directory);
	device_fini(dev);
	free(f);
}

static const struct device_ops fw_cfg_ops = {
	.name = "fw_cfg",
	.min_size = 1,
	.max_size = 8,
	.reset = fw_cfg_reset,
	.read = fw_cfg_read,
	.write = fw_cfg_write,
	.destroy = fw_cfg_destroy,
};

static int add_item(struct fw_cfg *f, struct item item)
{
	struct item *items;

	if (find(f, item.key))
		return -EEXIST;
	items = realloc(f->items, (f->count + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	f->items = items;
	items[f->count++] = item;
	select_key(f, KEY_SIGNATURE); /* the array may have moved */
	return 0;
}

int fw_cfg_add(struct device *dev, uint16_t key, const void *data, uint32_t size)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);

	return add_item(f, (struct item){ .key = key, .size = size, .data = data });
}

int fw_cfg_add_copy(struct device *dev, uint16_t key, const void *data, uint32_t size)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);
	uint8_t *copy = malloc(size);
	int err;

	if (!copy)
		return -ENOMEM;
	memcpy(copy, data, size);
	err = add_item(f, (struct item){ .key = key, .size = size, .data = copy, .owned = copy });
	if (err)
		free(copy);
	return err;
}

int fw_cfg_add_value(struct device *dev, uint16_t key, uint64_t value, unsigned size)
{
	uint64_t le = htole64(value);

	return fw_cfg_add_copy(dev, key, &le, size);
}

int fw_cfg_add_file(struct device *dev, const char *name, const void *data, uint32_t size)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);
	size_t bytes = sizeof(*f->directory) + (f->files + 1) * sizeof(struct file_entry);
	uint16_t key = (uint16_t)(KEY_FILE_FIRST + f->files);
	struct item *listing = find(f, KEY_FILE_DIR);
	void *directory;
	struct file_entry *entry;
	int err;

	if (key >= KEY_FILE_END || strlen(name) >= sizeof(entry->name))
		return -EINVAL;
	directory = realloc(f->directory, bytes);
	if (!directory)
		return -ENOMEM;
	f->directory = directory;
	listing->data = directory;
	err = fw_cfg_add_copy(dev, key, data, size);
	if (err)
		return err;
	entry = &f->directory->entry[f->files++];
	*entry = (struct file_entry){ .size = htobe32(size), .key = htobe16(key) };
	strcpy(entry->name, name);
	f->directory->count = htobe32(f->files);
	find(f, KEY_FILE_DIR)->size = (uint32_t)bytes;
	return 0;
}

struct device *fw_cfg_create(const struct guest_ram *ram)
{
	struct fw_cfg *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	device_init(&f->dev, &fw_cfg_ops);
	f->ram = ram;
	f->directory = calloc(1, sizeof(*f->directory));
	if (!f->directory || fw_cfg_add(&f->dev, KEY_SIGNATURE, "QEMU", 4) ||
	    fw_cfg_add_value(&f->dev, KEY_ID, ID_TRADITIONAL | ID_DMA, 4) ||
	    fw_cfg_add(&f->dev, KEY_FILE_DIR, f->directory, sizeof(*f->directory))) {
		fw_cfg_destroy(&f->dev);
		errno = ENOMEM;
		return NULL;
	}
	fw_cfg_reset(&f->dev);
	return &f->dev;
}
