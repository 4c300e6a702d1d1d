# A stand-in for Buildroot, as far as external.mk and the packages below it ask for it: shows what they would do.
# Set by the caller: BR2_EXTERNAL_FFS_PATH, and each symbol of the tree to y or to nothing.
BR2_ENABLE_DEBUG =
BASE_DIR = /output
BINARIES_DIR = /output/images
BUILD_DIR = /output/build
DL_DIR = /output/dl
TARGET_DIR = /output/target
FFS_FIRMWARE_DIR = /output/build/ffs-firmware
INSTALL = install
MAKE1 = make
PKG_COMMON_CARGO_ENV = CARGO_HOME=/output/dl/br-cargo-home
Q = @
RUSTC_TARGET_NAME = x86_64-unknown-linux-gnu
TARGET_MAKE_ENV = PATH=/output/host/bin
define sep


endef

# The infrastructure is asked for once, with all that it needs.
define cargo-package
SHOWN = yes
endef

.PHONY: show
show:

include $(BR2_EXTERNAL_FFS_PATH)/external.mk

show: @D = /output/build/ffs-firmware
show:
	@:
	$(info infrastructure $(SHOWN))
	$(info version $(FFS_FIRMWARE_VERSION))
	$(info method $(FFS_FIRMWARE_SITE_METHOD))
	$(info site $(FFS_FIRMWARE_SITE))
	$(info licence $(FFS_FIRMWARE_SITE)/$(FFS_FIRMWARE_LICENSE_FILES))
	$(info exclusions $(FFS_FIRMWARE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS))
	$(info environment $(FFS_FIRMWARE_CARGO_ENV))
	$(info options $(FFS_FIRMWARE_CARGO_BUILD_OPTS))
	$(foreach hook,$(FFS_FIRMWARE_PRE_CONFIGURE_HOOKS),$(info hook $(subst $(sep), ,$($(hook)))))
	$(info $(FFS_FIRMWARE_INSTALL_TARGET_CMDS))

.PHONY: ffs-firmware-configure
ffs-firmware-configure:
