# SPDX-License-Identifier: Apache-2.0
# How sources become objects and objects become programs. Sources are found by folder:
# a new .c file needs no line here.

# V=1 shows the commands.
Q := $(if $(V),,@)

WARN := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wpointer-arith -Wvla -Wwrite-strings \
	-Wno-clobbered
CSTD := -std=gnu11
OPT ?= -O2 -g
BASE_CFLAGS := $(CSTD) $(OPT) $(WARN) -fno-strict-aliasing -fno-common -fvisibility=hidden -fPIC -pthread \
	-Ilib -Iinclude -D_GNU_SOURCE -DTRAPEZE_VERSION='"$(VERSION)"' -MMD -MP $(SAN)
# The CPU model and the interpreter run with the guest's vector state live in the host's
# registers (lib/x86/fpu.h): they are compiled to use general registers only.
GUEST_CFLAGS := $(BASE_CFLAGS) -mgeneral-regs-only -fno-stack-protector -mno-red-zone
VMM_CFLAGS := $(BASE_CFLAGS) -Ivmm
LDLIBS := -lZydis -lpthread
# Libraries of the monitor alone.
VMM_LDLIBS := -lslirp -lncursesw -ltinfo -luring -lnbd -lz -lzstd

LIB_PLAIN_SRC := $(wildcard lib/base/*.c lib/core/*.c lib/api/*.c)
LIB_GUEST_SRC := $(wildcard lib/mem/*.c lib/x86/*.c lib/x86/*/*.c lib/interp/*.c lib/translate/*.c lib/lockstep/*.c)
VMM_SRC := $(wildcard vmm/*.c vmm/*/*.c vmm/*/*/*.c)
LIB_OBJ := $(LIB_PLAIN_SRC:%.c=$(BUILD)/obj/%.o) $(LIB_GUEST_SRC:%.c=$(BUILD)/obj/%.o)
VMM_OBJ := $(VMM_SRC:%.c=$(BUILD)/obj/%.o)
VMM_LIB_OBJ := $(filter-out $(BUILD)/obj/vmm/cli/main.o,$(VMM_OBJ))
UNIT_SRC := $(wildcard tests/unit/*.c)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)

.PHONY: all unit clean
.DEFAULT_GOAL := all
all: $(BUILD)/trapeze $(BUILD)/libtrapeze.so $(BUILD)/libtrapeze.a

$(LIB_PLAIN_SRC:%.c=$(BUILD)/obj/%.o): $(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(BASE_CFLAGS) -c $< -o $@

$(LIB_GUEST_SRC:%.c=$(BUILD)/obj/%.o): $(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(GUEST_CFLAGS) -c $< -o $@

$(VMM_OBJ): $(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(VMM_CFLAGS) -c $< -o $@

# Archives, so that a unit test links only what it uses.
$(BUILD)/libtrapeze.a: $(LIB_OBJ)
	@rm -f $@
	@echo '  AR      $@'
	$(Q)ar rcs $@ $^

$(BUILD)/libvmm.a: $(VMM_LIB_OBJ)
	@rm -f $@
	@echo '  AR      $@'
	$(Q)ar rcs $@ $^

$(BUILD)/libtrapeze.so: $(LIB_OBJ)
	@echo '  LD      $@'
	$(Q)$(CC) $(SAN) -shared -Wl,-soname,libtrapeze.so.1 -Wl,--no-undefined -o $@ $^ $(LDLIBS)

$(BUILD)/trapeze: $(BUILD)/obj/vmm/cli/main.o $(BUILD)/libvmm.a $(BUILD)/libtrapeze.a
	@echo '  LD      $@'
	$(Q)$(CC) $(SAN) -o $@ $^ $(LDLIBS) $(VMM_LDLIBS)

# A unit test may use the internals of both.
$(BUILD)/unit/%: tests/unit/%.c $(BUILD)/libvmm.a $(BUILD)/libtrapeze.a
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(VMM_CFLAGS) -Itests/unit -o $@ $< $(BUILD)/libvmm.a $(BUILD)/libtrapeze.a $(LDLIBS) $(VMM_LDLIBS) -lcmocka

unit: $(UNIT_BIN)

clean:
	rm -rf $(BUILD)

-include $(LIB_OBJ:.o=.d) $(VMM_OBJ:.o=.d) $(UNIT_BIN:=.d)
