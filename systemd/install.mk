# SPDX-License-Identifier: Apache-2.0
# make install DESTDIR= PREFIX=/usr: every file of the product at its place; make deb: the same as a Debian package.
# Nothing is enabled, started or reloaded here: that is the administrator's or the package's business.

DESTDIR ?=
PREFIX  ?= /usr
SBIN    := $(DESTDIR)$(PREFIX)/sbin
BIN     := $(DESTDIR)$(PREFIX)/bin
LIBEXEC := $(DESTDIR)$(PREFIX)/libexec/weft
UNITS   := $(DESTDIR)$(PREFIX)/lib/systemd/system
SHARE   := $(DESTDIR)$(PREFIX)/share

ADMIN_SCRIPTS := scripts/weft-nbd-attach scripts/weft-report scripts/weft-evacuate
# The units name /usr; another prefix is written into them.
install_text = sed 's,/usr/,$(PREFIX)/,g' $(1) | install -D -m 644 /dev/stdin $(2)

.PHONY: install deb
install: all ## Put everything below DESTDIR (default /), programs below PREFIX (default /usr); enables nothing
	@echo "  INSTALL $(DESTDIR)$(PREFIX)"
	@install -D -m 755 -t $(SBIN) $(BUILD)/weftd $(ADMIN_SCRIPTS)
	@install -D -m 755 -t $(BIN) $(BUILD)/weft
	@install -D -m 644 -t $(LIBEXEC) $(PLUGINS)
	@install -D -m 644 -t $(LIBEXEC) scripts/lib.sh
	@install -D -m 755 -t $(LIBEXEC) systemd/weft-node-down
	@$(foreach unit,$(wildcard systemd/*.service systemd/*.socket systemd/*.slice), \
	    $(call install_text,$(unit),$(UNITS)/$(notdir $(unit))) &&) true
	@$(foreach mounts,var-lib-weft-mounts- var-lib-weft-drives- run-weft-volumes-, \
	    install -D -m 644 -t $(UNITS)/$(mounts).mount.d systemd/10-weft-mounts.conf &&) true
	@install -D -m 644 systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/weft.conf
	@install -D -m 644 systemd/tmpfiles.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/weft.conf
	@install -D -m 644 systemd/modules-load.conf $(DESTDIR)$(PREFIX)/lib/modules-load.d/weft.conf
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/udev/rules.d udev-rules/56-weft.rules udev-rules/60-weft.rules
	@install -D -m 644 systemd/weftd.conf $(SHARE)/doc/weft/examples/weftd.conf
	@install -D -m 644 -t $(SHARE)/doc/weft README.md
	@install -d -m 755 $(DESTDIR)/etc/weft
	@install -d -m 700 $(DESTDIR)/etc/weft/keys

deb: all ## Build the Debian package weft in BUILD (dpkg-deb, no network)
	@BUILD=$(BUILD) VERSION=$(VERSION) scripts/build-deb
