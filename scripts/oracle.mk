# SPDX-License-Identifier: Apache-2.0
# The hardware oracle (tests/oracle): one program, linked with the library as an embedder links it.

ORACLE_SRC := $(wildcard tests/oracle/*.c)
ORACLE_ASM := $(wildcard tests/oracle/*.S)
ORACLE_OBJ := $(ORACLE_SRC:%.c=$(BUILD)/obj/%.o) $(ORACLE_ASM:%.S=$(BUILD)/obj/%.o)

.PHONY: oracle
oracle: $(BUILD)/oracle

$(BUILD)/oracle: $(ORACLE_OBJ) $(BUILD)/libtrapeze.a
	@echo '  LD      $@'
	$(Q)$(CC) $(SAN) -o $@ $^ $(LDLIBS)

$(ORACLE_SRC:%.c=$(BUILD)/obj/%.o): $(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(ORACLE_CFLAGS) -c $< -o $@

# The confined child runs with the case's FS base and vector state: nothing of the C library's or a sanitizer's.
ORACLE_CFLAGS = $(BASE_CFLAGS)
$(BUILD)/obj/tests/oracle/native_child.o: ORACLE_CFLAGS = $(filter-out $(SAN),$(GUEST_CFLAGS)) -ffreestanding

$(ORACLE_ASM:%.S=$(BUILD)/obj/%.o): $(BUILD)/obj/%.o: %.S tests/oracle/layout.h
	@mkdir -p $(@D)
	@echo '  AS      $@'
	$(Q)$(CC) -c $< -o $@

-include $(ORACLE_OBJ:.o=.d)
