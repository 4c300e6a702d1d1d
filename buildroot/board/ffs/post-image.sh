#!/bin/sh
# post-image.sh BINARIES-DIR ROLE: makes ROLE.efi, one UEFI file of systemd's
# stub, kernel, first file system and command line, and ROLE.img, the disk with
# it, as `cargo xtask image` does.
set -eu

binaries=$1
role=$2
board=$BR2_EXTERNAL_FFS_PATH/board/ffs
image=$BR2_EXTERNAL_FFS_PATH/../image
esp=$binaries/efi-part
release=$TARGET_DIR/usr/lib/os-release

"$HOST_DIR/bin/ukify" build \
	--linux="$binaries/bzImage" \
	--initrd="$binaries/rootfs.cpio.zst" \
	--cmdline="$(cat "$image/cmdline")" \
	--os-release="@$release" \
	--stub="$TARGET_DIR/usr/lib/systemd/boot/efi/linuxx64.efi.stub" \
	--output="$binaries/$role.efi"

# Without tries to count in its name, the entry is one that works.
version=$(sed -n 's/^IMAGE_VERSION=//p' "$release")
rm -rf "$esp/EFI/Linux" "$esp/loader"
mkdir -p "$esp/EFI/Linux" "$esp/EFI/systemd" "$esp/loader/entries"
cp "$binaries/$role.efi" "$esp/EFI/Linux/${role}_$version.efi"
cp "$esp/EFI/BOOT/bootx64.efi" "$esp/EFI/systemd/systemd-bootx64.efi"
cp "$image/loader.conf" "$esp/loader/loader.conf"

sed "s/@ROLE@/$role/" "$board/genimage.cfg" > "$binaries/genimage.cfg"
support/scripts/genimage.sh -c "$binaries/genimage.cfg"
