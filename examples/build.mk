# SPDX-License-Identifier: Apache-2.0
# The embedder's examples: built as an embedder builds them, against the public header and the shared library.

EXAMPLE_SRC := $(wildcard examples/*.c)
EXAMPLE_BIN := $(EXAMPLE_SRC:examples/%.c=$(BUILD)/examples/%)

.PHONY: examples
examples: $(EXAMPLE_BIN)

# The library's soname, so that the example finds it beside itself without being installed.
$(BUILD)/examples/libtrapeze.so.1: $(BUILD)/libtrapeze.so
	@mkdir -p $(@D)
	@ln -sf ../libtrapeze.so $@

$(BUILD)/examples/%: examples/%.c include/trapeze/trapeze.h $(BUILD)/examples/libtrapeze.so.1
	@echo '  CC      $@'
	$(Q)$(CC) $(CSTD) $(OPT) $(WARN) $(SAN) -Iinclude -o $@ $< -L$(BUILD) -ltrapeze '-Wl,-rpath,$$ORIGIN'
