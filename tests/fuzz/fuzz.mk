# SPDX-License-Identifier: Apache-2.0
# The fuzzers: each tests/fuzz/*_fuzz.cpp is one program, and with its planted bug (-DWEFT_FUZZ_CANARY) a second one.
# Only sensible with BUILD, SANITIZE and CXX as `make fuzz` and tests/run set them: clang brings libFuzzer.

FUZZERS := $(patsubst tests/fuzz/%_fuzz.cpp,%,$(wildcard tests/fuzz/*_fuzz.cpp))
FUZZ_HELPERS := $(BUILD)/tests/fuzz/fuzz.o $(BUILD)/tests/fuzz/text_mutator.o $(BUILD)/tests/unit/fake_service.o \
                $(filter-out %/main.o,$(call objects,orchestrator/cli))
fuzzers: $(FUZZERS:%=$(BUILD)/fuzz/%) $(FUZZERS:%=$(BUILD)/fuzz/%-canary)

# fake_service.cpp includes its header by a name relative to its own folder.
$(BUILD)/tests/fuzz/%.o: EXTRA_CXXFLAGS += -Itests/unit

$(BUILD)/tests/fuzz/%_fuzz-canary.o: tests/fuzz/%_fuzz.cpp
	@mkdir -p $(@D)
	@echo "  CXX   $< (canary)"
	@$(CCACHE) $(CXX) $(CXXFLAGS) $(EXTRA_CXXFLAGS) -DWEFT_FUZZ_CANARY -MMD -MP -c $< -o $@

define fuzzer
$(BUILD)/fuzz/$(1)$(2): $(BUILD)/tests/fuzz/$(1)_fuzz$(2).o $(FUZZ_HELPERS) $(DM) $(ORCHESTRATOR)
	@mkdir -p $$(@D)
	@echo "  LINK  $$@"
	@$(CXX) $(LDFLAGS) -fsanitize=fuzzer $$^ $(BOOST) \
	    -lboost_program_options $(HOST) -lfmt -luuid -o $$@
endef
$(foreach f,$(FUZZERS),$(eval $(call fuzzer,$(f),)) $(eval $(call fuzzer,$(f),-canary)))

# libFuzzer counts edges in everything that is linked, so the libraries are built for it too, in a folder of their own.
FUZZ_MAKE = $(MAKE) --no-print-directory BUILD=$(BUILD)-fuzz SANITIZE='fuzzer-no-link address undefined' CXX=clang++ \
            OPTIMIZE='-O1 -gline-tables-only -fno-sanitize-recover=undefined'
TARGET ?= $(FUZZERS)
.PHONY: fuzz fuzz-build fuzzers
fuzz-build:
	+@$(FUZZ_MAKE) fuzzers

fuzz: ## Look for inputs that break a decoder: TARGET=name (default all, in turn), SECONDS=60 each; see tests/fuzz
	+@$(FUZZ_MAKE) $(TARGET:%=$(BUILD)-fuzz/fuzz/%)
	@tests/fuzz/fuzz.py hunt $(BUILD)-fuzz $(or $(SECONDS),60) $(TARGET)
