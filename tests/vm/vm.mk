# SPDX-License-Identifier: Apache-2.0
# Guests with a real kernel: tests/vm/README.md.

.PHONY: vm-test vm-shell
vm-test: ## Scenarios on a real kernel in QEMU guests, with nbd, device-mapper, systemd (root); ONLY=expression LONG=1|only
	@scripts/install-deps build test vm
	@BUILD=$(BUILD) ONLY='$(ONLY)' WEFT_LONG=$(LONG) tests/run vm

vm-shell: ## A guest to play in, with Weft's programs on its PATH; MEMORY=MiB, DISKS=n; `exit` ends it (root)
	@scripts/install-deps build vm
	@$(SUBMAKE) all
	@BUILD=$(BUILD) tests/vm/shell.py --memory $(or $(MEMORY),1024) --disks $(or $(DISKS),2)

$(BUILD)/dm-tool: $(BUILD)/tests/vm/dm_tool.o $(DM) $(call archive,nbd-backend/base)
	@echo "  LINK  $@"
	@$(CXX) $(LDFLAGS) $^ $(BOOST) -ldevmapper -lfmt -luuid -o $@
