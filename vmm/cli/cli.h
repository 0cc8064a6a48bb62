/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the `trapeze` program, one file each. They get argv from their own name on. */
#ifndef VMM_CLI_CLI_H
#define VMM_CLI_CLI_H

int cmd_run(int argc, char **argv);
int cmd_image(int argc, char **argv);

/* `trapeze image debian`: becomes the script that makes the image; returns only when there is none. */
int image_debian(int argc, char **argv);

#endif
