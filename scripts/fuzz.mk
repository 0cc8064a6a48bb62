# SPDX-License-Identifier: Apache-2.0
# The fuzz targets of tests/fuzz (docs/testing.md). clang alone has libFuzzer; everything they link is built with it:
#   asan  with ASan and UBSan: every access of ours is checked. Guest vector state is never live then.
#   live  without, for guest code alone: vector state stays in the host's registers as in a real run. Of the coverage
#         only what is counted inline: the callbacks use vector registers.

FUZZ_CC ?= clang
FUZZ_COMMON := -fno-omit-frame-pointer -Wno-unknown-warning-option -Wno-gnu-variable-sized-type-not-at-end \
	-fsanitize=fuzzer-no-link
FUZZ_ASAN := $(FUZZ_COMMON) -fsanitize=address,undefined -fno-sanitize-recover=undefined -D__SANITIZE_ADDRESS__=1
FUZZ_LIVE := $(FUZZ_COMMON) -fno-sanitize-coverage=trace-cmp,indirect-calls

FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(FUZZ_SRC:tests/fuzz/fuzz_%.c=$(BUILD)/fuzz/%)
FUZZ_LINK_cli := -Wl,--wrap=machine_run -Wl,--wrap=msg_error
FUZZ_LINK_guest := -lcmocka

.PHONY: fuzz fuzz-asan fuzz-live
fuzz:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz-asan CC=$(FUZZ_CC) OPT="-O1 -g" SAN="$(FUZZ_ASAN)" fuzz-asan
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz-live CC=$(FUZZ_CC) OPT="-O2 -g" SAN="$(FUZZ_LIVE)" fuzz-live

fuzz-asan: $(FUZZ_BIN)
fuzz-live: $(BUILD)/fuzz/guest

$(BUILD)/fuzz/%: tests/fuzz/fuzz_%.c $(BUILD)/libvmm.a $(BUILD)/libtrapeze.a
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(VMM_CFLAGS) -Itests/fuzz -Itests/unit -fsanitize=fuzzer -o $@ $< $(FUZZ_LINK_$*) $(BUILD)/libvmm.a \
		$(BUILD)/libtrapeze.a $(LDLIBS) $(VMM_LDLIBS)



# ---- ThreadSanitizer (docs/testing.md) ----

# Its run-time uses vector registers and is called at each access: what makes guest vector state live is built without,
# and nothing leaves it live (vector_rest(), which __SANITIZE_ADDRESS__ switches).
TSAN := -fsanitize=thread -Wno-tsan -fno-omit-frame-pointer -D__SANITIZE_ADDRESS__=1
TSAN_EXCLUDED := $(filter lib/interp/vector%.c lib/x86/fpu.c,$(LIB_GUEST_SRC))

.PHONY: tsan
tsan:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan OPT="-O1 -g" SAN="$(TSAN)" TSAN_BUILD=1 all unit

ifdef TSAN_BUILD
LDLIBS += $(BUILD)/obj/tests/tsan/clockjoin.o
$(BUILD)/trapeze $(BUILD)/libtrapeze.so $(UNIT_BIN): | $(BUILD)/obj/tests/tsan/clockjoin.o
$(BUILD)/obj/tests/tsan/%.o: tests/tsan/%.c
	@mkdir -p $(@D)
	@echo '  CC      $@'
	$(Q)$(CC) $(VMM_CFLAGS) -c $< -o $@
$(TSAN_EXCLUDED:%.c=$(BUILD)/obj/%.o): GUEST_CFLAGS += -fno-sanitize=thread
endif
