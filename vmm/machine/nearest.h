/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean …?" */
#ifndef VMM_MACHINE_NEAREST_H
#define VMM_MACHINE_NEAREST_H

/* The name with the smallest edit distance to word, or NULL if names (NULL-terminated) is empty. Thread: any. */
const char *nearest_name(const char *word, const char *const *names);

#endif
