/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/boot.h"

#include <string.h>

#include "base/compiler.h"
#include "boot/loader.h"

static const struct format {
	bool (*match)(const struct loader *ld);
	int (*load)(struct loader *ld);
} formats[] = {
	{ bzimage_match, bzimage_load },
	{ multiboot_match, multiboot_load }, /* before ELF: an image may be both, and Multiboot says more */
	{ pvh_match, pvh_load },
};

int boot_load(const struct boot_request *req, struct boot_entry *entry, char *error, size_t error_size)
{
	struct loader ld = { .req = req, .entry = entry, .error = error, .error_size = error_size };

	memset(entry, 0, sizeof(*entry));
	if (!req->kernel || !req->kernel_size)
		return loader_fail(&ld, "the file is empty");
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (formats[i].match(&ld))
			return formats[i].load(&ld);
	return loader_fail(&ld, "not a kernel (neither a bzImage, nor an ELF file, nor a Multiboot image)");
}
