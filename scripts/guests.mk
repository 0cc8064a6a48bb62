# SPDX-License-Identifier: Apache-2.0
# The guest programs of tests/cpu: Multiboot images that judge themselves (tests/system/test_guests.py runs them).

GUEST64_SRC := $(wildcard tests/cpu/*64.c)
GUEST32_SRC := $(wildcard tests/cpu/*32.c)
GUESTS := $(GUEST64_SRC:tests/cpu/%.c=$(BUILD)/guests/%.flat) $(GUEST32_SRC:tests/cpu/%.c=$(BUILD)/guests/%.flat)
GUEST_FLAGS := -std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -mno-red-zone -mgeneral-regs-only -fcf-protection=none -Itests/cpu/lib
GUEST_LINK := -nostdlib -static -no-pie -Wl,-T,tests/cpu/lib/guest.lds -Wl,--build-id=none -Wl,-z,noexecstack \
	-Wl,-z,max-page-size=4096 -Wl,--no-warn-rwx-segments

# What every 64-bit program is linked with.
GUEST64_LIB := tests/cpu/lib/start64.S tests/cpu/lib/guest.c tests/cpu/lib/paging.c tests/cpu/lib/smp.c
GUEST64_DEPS := $(GUEST64_LIB) tests/cpu/lib/guest.h tests/cpu/lib/paging.h tests/cpu/lib/flush.h tests/cpu/lib/smp.h tests/cpu/lib/snippet.h tests/cpu/lib/native.h tests/cpu/lib/vectors.h tests/cpu/lib/codegen.h tests/cpu/lib/guest.lds

.PHONY: guests
guests: $(GUESTS)

$(BUILD)/guests/%64.flat: tests/cpu/%64.c $(GUEST64_DEPS)
	@mkdir -p $(@D)
	@$(CC) -m64 $(GUEST_FLAGS) $(GUEST_LINK) -o $(@:.flat=.elf) $(GUEST64_LIB) $<
	@objcopy -O elf32-i386 $(@:.flat=.elf) $@

$(BUILD)/guests/%32.flat: tests/cpu/%32.c tests/cpu/lib/guest32.h tests/cpu/lib/guest.lds
	@mkdir -p $(@D)
	@$(CC) -m32 $(GUEST_FLAGS) $(GUEST_LINK) -o $@ $<

.PHONY: bench-programs
bench-programs: $(BUILD)/guests/loop64.flat $(BUILD)/bench/work

# As anybody would build it.
$(BUILD)/bench/work: bench/work.c
	@mkdir -p $(@D)
	@$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -static -o $@ $<

$(BUILD)/guests/loop64.flat: bench/loop64.c $(GUEST64_DEPS)
	@mkdir -p $(@D)
	@$(CC) -m64 $(GUEST_FLAGS) $(GUEST_LINK) -o $(@:.flat=.elf) $(GUEST64_LIB) $<
	@objcopy -O elf32-i386 $(@:.flat=.elf) $@
