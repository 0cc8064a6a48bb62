/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the `trapeze` program, one file each. They get argv from their own name on. */
#ifndef VMM_CLI_CLI_H
#define VMM_CLI_CLI_H

int cmd_run(int argc, char **argv);
int cmd_image(int argc, char **argv);

#endif
