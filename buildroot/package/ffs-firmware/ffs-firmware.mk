################################################################################
#
# ffs-firmware
#
################################################################################

FFS_FIRMWARE_SITE = $(realpath $(BR2_EXTERNAL_FFS_PATH)/..)
FFS_FIRMWARE_SITE_METHOD = local
# The version of the workspace is the only one in its Cargo.toml.
FFS_FIRMWARE_VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' $(FFS_FIRMWARE_SITE)/Cargo.toml)
FFS_FIRMWARE_LICENSE = Apache-2.0
FFS_FIRMWARE_LICENSE_FILES = LICENSE

# What cargo made here is for this host, and the output directory may be within
# the checkout.
FFS_FIRMWARE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--exclude=/target \
	$(patsubst $(FFS_FIRMWARE_SITE)/%,--exclude=/%,\
		$(filter $(FFS_FIRMWARE_SITE)/%,$(abspath $(BASE_DIR) $(DL_DIR))))

# Crates and the daemon of each, as firmware/xtask/src/image.rs has them.
FFS_FIRMWARE_CRATES = admin commlink
FFS_FIRMWARE_DAEMONS = admind commlinkd

ifeq ($(BR2_PACKAGE_FFS_FIRMWARE_DOWNLOAD),y)
FFS_FIRMWARE_CRATES += ftpd stager
FFS_FIRMWARE_DAEMONS += ftpd stagerd
else ifeq ($(BR2_PACKAGE_FFS_FIRMWARE_WEB),y)
FFS_FIRMWARE_CRATES += portal
FFS_FIRMWARE_DAEMONS += portald
else ifeq ($(BR2_PACKAGE_FFS_FIRMWARE_DATABASE),y)
FFS_FIRMWARE_CRATES += masterdb
FFS_FIRMWARE_DAEMONS += masterd
endif

FFS_FIRMWARE_CARGO_BUILD_OPTS = \
	$(addprefix --package=,$(FFS_FIRMWARE_CRATES)) \
	$(addprefix --bin=,$(FFS_FIRMWARE_DAEMONS))

# The profile of the workspace holds, not Buildroot's: it is what was measured.
FFS_FIRMWARE_CARGO_ENV = env \
	-u CARGO_PROFILE_RELEASE_CODEGEN_UNITS \
	-u CARGO_PROFILE_RELEASE_LTO \
	-u CARGO_PROFILE_RELEASE_OPT_LEVEL

# Crates of local packages are not vendored at download; Cargo.lock has their
# hashes. The build itself is offline.
define FFS_FIRMWARE_FETCH_CRATES
	cd $(@D) && \
		$(TARGET_MAKE_ENV) \
		$(PKG_COMMON_CARGO_ENV) \
		cargo fetch --locked
endef
FFS_FIRMWARE_PRE_CONFIGURE_HOOKS += FFS_FIRMWARE_FETCH_CRATES

# Whose updates the appliance accepts.
FFS_FIRMWARE_RELEASE_KEYS = $(wildcard $(FFS_FIRMWARE_SITE)/keys/release/*.pub)

# cargo install refuses a workspace.
define FFS_FIRMWARE_INSTALL_TARGET_CMDS
	$(foreach daemon,$(FFS_FIRMWARE_DAEMONS),\
		$(INSTALL) -D -m 0755 \
			$(@D)/target/$(RUSTC_TARGET_NAME)/$(if $(BR2_ENABLE_DEBUG),debug,release)/$(daemon) \
			$(TARGET_DIR)/usr/bin/$(daemon)$(sep))
	$(foreach key,$(FFS_FIRMWARE_RELEASE_KEYS),\
		$(INSTALL) -D -m 0644 $(key) \
			$(TARGET_DIR)/usr/share/ffs/release-keys/$(notdir $(key))$(sep))
endef

$(eval $(cargo-package))
