#!/bin/sh
# post-fakeroot.sh TARGET-DIR ROLE: what becomes the first file system, a copy
# of target/, holds afterwards what image/ says and nothing else: the files of
# image/whitelist, those of the overlays, the daemons of the role, release keys,
# libraries, kernel modules and firmware.
set -eu

target=$(realpath "$1")
role=$2
image=$BR2_EXTERNAL_FFS_PATH/../image

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
	echo "post-fakeroot.sh: $1:" >&2
	cat "$2" >&2
	exit 1
}

# Libraries all stay; what only images with a shell have does not.
grep -vE '^(#|$|(debug|dir|file|lib|link|node) )' "$image/whitelist" \
	> "$work/unknown" && fail "image/whitelist has lines of another kind" "$work/unknown"
grep -E '^(dir|file|link|node) ' "$image/whitelist" > "$work/whitelist"
grep '^/' "$BR2_EXTERNAL_FFS_PATH/board/ffs/absent" | sort > "$work/absent"

# In Buildroot, /usr/sbin is /usr/bin.
sed -n 's,^file ,,p' "$work/whitelist" | sed 's,^/usr/sbin/,/usr/bin/,' |
	sort | comm -23 - "$work/absent" > "$work/packaged"
{
	cat "$work/packaged"
	echo /usr/lib/os-release
	for overlay in common "$role"; do
		(cd "$image/rootfs/$overlay" && find . ! -type d) | sed 's,^\.,,'
	done
	# Daemons are what units of ours start.
	grep -rhoE '^Exec[A-Za-z]+=[^ ]+' "$image/rootfs/common" \
		"$image/rootfs/$role" | sed -e 's,^[^=]*=[-+!@:]*,,' \
		-e 's,^/usr/sbin/,/usr/bin/,'
} | sort -u > "$work/keep"

# What is asked for must be there.
while IFS= read -r path; do
	[ -e "$target$path" ] || [ -L "$target$path" ] || echo "$path"
done < "$work/keep" > "$work/missing"
[ ! -s "$work/missing" ] || fail "target/ does not have" "$work/missing"

# What is behind a link to another folder, as time zones are, is put aside until
# that is gone.
mkdir "$work/aside"
sed 's,/[^/]*$,,' "$work/keep" | sort -u | while IFS= read -r folder; do
	[ "$(realpath "$target$folder")" != "$target$folder" ] || continue
	mkdir -p "$work/aside$folder"
	grep "^$folder/[^/]*$" "$work/keep" | while IFS= read -r path; do
		cp -a "$target$path" "$work/aside$path"
	done
done

# What is there must have been asked for.
(cd "$target" && find . ! -type d) | sed 's,^\.,,' | grep -vE \
	-e '^/usr/lib/((ld-|lib)[^/]*\.so[^/]*|systemd/libsystemd-[^/]*\.so)$' \
	-e '^/usr/(lib/firmware|lib/modules|share/ffs)/' -e '^/usr/(lib64|sbin)$' |
	sort > "$work/found"
find "$target/usr/lib" -maxdepth 1 -name '*.py' -delete
comm -23 "$work/found" "$work/keep" | sed "s,^,$target," |
	tr '\n' '\0' | xargs -0 -r rm -f
find "$target" -mindepth 1 -depth -type d -empty -delete
cp -a "$work/aside/." "$target/"

# What the whitelist makes by itself. The infrastructure of the cpio makes
# /dev/console.
while read -r kind first second third path; do
	case $kind in
	dir)
		mkdir -p "$target$second"
		chmod "$first" "$target$second"
		;;
	link)
		mkdir -p "$(dirname "$target$first")"
		ln -snf "$second" "$target$first"
		;;
	node)
		mkdir -p "$(dirname "$target$path")"
		[ "$path" = /dev/console ] ||
			mknod -m "$first" "$target$path" c "$second" "$third"
		;;
	esac
done < "$work/whitelist"

# A link must not have lost what it leads to.
while IFS= read -r path; do
	[ -e "$target$path" ] || echo "$path"
done < "$work/packaged" > "$work/nowhere"
[ ! -s "$work/nowhere" ] || fail "a link leads to what is not named" "$work/nowhere"

# Users are those of image/, without those of packages of which nothing is left.
cp "$image/rootfs/common/etc/passwd" "$image/rootfs/common/etc/group" \
	"$target/etc/"
find "$target" -type f -perm /6000 -exec chmod ug-s {} +
