# SPDX-License-Identifier: Apache-2.0
# Checks of the source itself, part of `make test`.

ALL_HEADERS := $(shell find include lib vmm -name '*.h')
ALL_C := $(shell find lib vmm tests examples bench -name '*.c' -o -name '*.h')

.PHONY: check check-headers check-format check-isolation check-layout format

check: check-layout check-format check-headers check-isolation

# Every header compiles alone.
check-headers:
	@for h in $(ALL_HEADERS); do \
		$(CC) $(filter-out -MMD -MP,$(VMM_CFLAGS)) -fsyntax-only -x c $$h || { echo "$$h: does not compile alone" >&2; exit 1; }; \
	done

check-format:
	@clang-format --dry-run -Werror $(ALL_C)

format:
	@clang-format -i $(ALL_C)

# What runs with live guest vector state may call only what is known not to touch vector registers.
check-isolation: $(LIB_GUEST_SRC:%.c=$(BUILD)/obj/%.o)
	@scripts/check-isolation $^

# Arrows point downwards (docs/architecture.md); files carry a licence line; sizes are looked at.
check-layout:
	@scripts/check-layout
