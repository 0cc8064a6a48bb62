/* SPDX-License-Identifier: Apache-2.0 */
/* Writes of the paravirtual MSRs, between msr.c and the files that know what they mean. Private to lib/x86/pv. */
#ifndef TZ_X86_PV_MSR_H
#define TZ_X86_PV_MSR_H

#include "x86/cpu.h"

void pv_write_wall_clock(struct x86_cpu *cpu, uint64_t gpa);
void pv_write_system_time(struct x86_cpu *cpu, uint64_t value, bool host);
bool pv_write_steal_time(struct x86_cpu *cpu, uint64_t value); /* false: reserved bits */

#endif
