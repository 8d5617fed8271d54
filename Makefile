# SPDX-License-Identifier: Apache-2.0
# Weft's front door. `make help` explains every target. Variables: BUILD=dir, CXX=, SANITIZE=address|undefined|thread.
# A folder is one static library; .deps below is the layer picture: base <- core <- io <- plugins, programs.

BUILD    ?= build
CXX      := $(if $(filter default,$(origin CXX)),g++,$(CXX))
SANITIZE ?=
VERSION  := 0.1.0
CCACHE   := $(shell command -v ccache 2>/dev/null)

OPTIMIZE ?= -O2 -g
WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wnon-virtual-dtor -Werror
CXXFLAGS := -std=c++20 $(OPTIMIZE) -fPIC -fvisibility=hidden -pthread $(WARNINGS) \
            -DBOOST_ALL_NO_LIB -DWEFT_VERSION='"$(VERSION)"' -I. \
            $(foreach s,$(SANITIZE),-fsanitize=$(s)) $(if $(SANITIZE),-fno-omit-frame-pointer)
# GCC 12 takes what a sanitizer inserts for a use of uninitialised values (GCC's manual, -Wmaybe-uninitialized).
CXXFLAGS += $(if $(SANITIZE),$(if $(findstring clang,$(CXX)),,-Wno-maybe-uninitialized))
# Named instants at which a process dies when a test asks for it (nbd-backend/base/crash_point.hpp).
CRASH_POINTS ?=
CXXFLAGS += $(if $(CRASH_POINTS),-DWEFT_CRASH_POINTS)
LDFLAGS  := -pthread $(foreach s,$(SANITIZE),-fsanitize=$(s))

# folder -> library; a rule per folder is made below
LIBS := nbd-backend/base nbd-backend/core nbd-backend/io orchestrator/core orchestrator/api orchestrator/io \
        dm-tables/core dm-tables/io
sources = $(wildcard $(1)/*.cpp)
objects = $(patsubst %.cpp,$(BUILD)/%.o,$(call sources,$(1)))
archive = $(BUILD)/lib/$(subst /,-,$(1)).a

BACKEND := $(call archive,nbd-backend/io) $(call archive,nbd-backend/core) $(call archive,nbd-backend/base)
DM := $(call archive,dm-tables/io) $(call archive,dm-tables/core)
ORCHESTRATOR := $(foreach l,api io core,$(call archive,orchestrator/$(l))) $(DM) $(BACKEND)
# What orchestrator/io and dm-tables/io stand on.
HOST := -lsqlite3 -lblkid -lmount -lnbd -ldevmapper -lcryptsetup -lnl-genl-3 -lnl-3 -lsystemd -ludev
BOOST := -lboost_json -lboost_system

PLUGINS  := $(BUILD)/nbdkit-weft-replica-plugin.so $(BUILD)/nbdkit-weft-volume-plugin.so
PROGRAMS := $(BUILD)/weftd $(BUILD)/weft
UNIT     := $(BUILD)/unit-tests

.PHONY: all sim check test demo clean help unit format tidy
all: $(PLUGINS) $(PROGRAMS) ## Build the two nbdkit plugins, weftd and weft

help: ## This text
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ccache, where it is installed, may serve one clone's objects to another.
export CCACHE_NOHASHDIR := 1
# The unit tests' own code runs for a second and compiles for minutes: the compiler's time is what counts there.
$(BUILD)/tests/unit/%.o: EXTRA_CXXFLAGS += -O0 -g1
# Apart, so that nothing else finds libnl's headers (or is compiled anew for them).
$(addprefix $(BUILD)/orchestrator/io/,nbd_netlink.o nbd_watch.o): EXTRA_CXXFLAGS += -isystem /usr/include/libnl3
.PRECIOUS: $(BUILD)/%.o
$(BUILD)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "  CXX   $<"
	@$(CCACHE) $(CXX) $(CXXFLAGS) $(EXTRA_CXXFLAGS) -MMD -MP -c $< -o $@

define library
$(call archive,$(1)): $(call objects,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	@ar rcs $$@ $$^
endef
$(foreach l,$(LIBS),$(eval $(call library,$(l))))

$(BUILD)/nbdkit-weft-%-plugin.so: $(BUILD)/nbd-backend/plugin/%_plugin.o $(BACKEND)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) -shared $^ $(BOOST) -lnbd -lfmt -luuid -o $@

$(BUILD)/weftd: $(call objects,orchestrator/daemon) $(ORCHESTRATOR)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) $(HOST) -lboost_program_options -lfmt -luuid -o $@

$(BUILD)/weft: $(call objects,orchestrator/cli) $(ORCHESTRATOR)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) -lboost_program_options -lfmt -luuid -o $@

$(UNIT): $(call objects,tests/unit) $(ORCHESTRATOR)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) $(HOST) -lboost_program_options -lfmt -luuid -o $@

SEED  ?= 1
COUNT ?= 1
STEPS ?= 300
$(BUILD)/sim: $(call objects,tests/sim) $(call archive,orchestrator/core) $(call archive,nbd-backend/core) \
              $(call archive,nbd-backend/base)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) -lfmt -luuid -o $@

sim: $(BUILD)/sim ## Run the engine's simulator: SEED=n replays one seed, COUNT=n runs n seeds from there
	@$(BUILD)/sim $(SEED) $(COUNT) $(STEPS)

$(BUILD)/host-io-test: $(BUILD)/tests/plugin/host_io_test.o $(ORCHESTRATOR)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) $(HOST) -lfmt -luuid -o $@

$(BUILD)/nbd-tool: $(BUILD)/tests/plugin/nbd_tool.o $(ORCHESTRATOR)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) $(HOST) -lfmt -luuid -o $@

include tests/fuzz/fuzz.mk
include systemd/install.mk

unit: $(UNIT) ## Build and run the unit tests
	@$(UNIT)

format: ## Format every source file in place
	@git ls-files '*.cpp' '*.hpp' | xargs clang-format -i

tidy: ## clang-tidy over every source file (advice; what .clang-tidy calls an error fails)
	@git ls-files '*.cpp' ':!tests/unit/cli_sources.cpp' | xargs -P $(shell nproc) -n 1 -I{} \
	    clang-tidy --quiet {} -- -std=c++20 -I. -isystem /usr/include/libnl3 -DWEFT_VERSION='"$(VERSION)"' 2>/dev/null

clean: ## Remove the build folder
	@rm -rf $(BUILD)

SUBMAKE = $(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc)) BUILD=$(BUILD)
.PHONY: deps
deps: ## Install what building, testing and the demo need (Debian 12, as root)
	@scripts/install-deps

check: ## Build, unit tests, simulator, style and layers: two minutes, no root
	@BUILD=$(BUILD) tests/run style unit sim

test: ## Everything: check, sanitizers, plugin and cluster tests with a private Docker Engine (root, under 40 minutes)
	@scripts/install-deps build test vm
	@BUILD=$(BUILD) tests/run

demo: ## A database under load survives a storage node's death (root; starts its own Docker Engine, leaves nothing)
	@scripts/install-deps build demo
	@$(SUBMAKE) all
	@BUILD=$(BUILD) tests/demo/demo.py

.PHONY: bench
bench: ## Beside QEMU's quorum driver and a plain file server: SECONDS=n of each run, ROUNDS=n; BENCH= more options
	@scripts/install-deps build bench
	@$(SUBMAKE) all
	@BUILD=$(BUILD) tests/bench/bench.py --seconds $(or $(SECONDS),1) --rounds $(or $(ROUNDS),7) $(BENCH)

# Who gives a seed wants to see these rounds again, and no guests.
GUESTS ?= $(if $(filter file,$(origin SEED)),yes,no)
.PHONY: torture
torture: ## Random faults, then guests' long repetitions: ROUNDS=n from SEED=s on (GUESTS=yes|no; no with a SEED) (root)
	@scripts/install-deps build test $(if $(filter yes,$(GUESTS)),vm)
	@$(SUBMAKE) all
	@BUILD=$(BUILD) tests/torture/torture.py --rounds $(or $(ROUNDS),200) --seed $(SEED)
	@$(if $(filter yes,$(GUESTS)),BUILD=$(BUILD) WEFT_LONG=only tests/run vm)

include tests/vm/vm.mk

# Files only, and none of a package's tree that is being built there.
-include $(shell find $(BUILD) -path '*/deb.*' -prune -o -type f -name '*.d' -print 2>/dev/null)
