include $(sort $(wildcard $(BR2_EXTERNAL_FFS_PATH)/package/*/*.mk))

# What the images consist of, in CycloneDX: Buildroot's packages, and the crates
# that are linked into the daemons.
.PHONY: ffs-sbom
ffs-sbom: ffs-firmware-configure
	$(Q)mkdir -p $(BINARIES_DIR)
	$(Q)cd $(FFS_FIRMWARE_DIR) && \
		$(TARGET_MAKE_ENV) $(PKG_COMMON_CARGO_ENV) \
		cargo tree --offline --locked --target $(RUSTC_TARGET_NAME) \
			--edges normal --prefix none --format '{p}|{l}' \
			$(addprefix --package ,$(FFS_FIRMWARE_CRATES)) \
			> $(BUILD_DIR)/ffs-crates
	$(Q)$(MAKE1) -s --no-print-directory show-info \
		> $(BUILD_DIR)/ffs-packages.json
	$(Q)utils/generate-cyclonedx -i $(BUILD_DIR)/ffs-packages.json \
		-o $(BUILD_DIR)/ffs-packages.cdx.json
	$(Q)$(BR2_EXTERNAL_FFS_PATH)/board/ffs/sbom.py \
		$(BUILD_DIR)/ffs-packages.cdx.json $(BUILD_DIR)/ffs-crates \
		> $(BINARIES_DIR)/sbom.cdx.json
