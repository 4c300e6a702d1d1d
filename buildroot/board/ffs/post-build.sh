#!/bin/sh
# post-build.sh TARGET-DIR ROLE: says in os-release what this is, and looks
# whether the kernel has what image/modules asks for.
set -eu

target=$1
role=$2
checkout=$BR2_EXTERNAL_FFS_PATH/..

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$checkout/Cargo.toml")
cat > "$target/usr/lib/os-release" <<EOF
ID=ffs
ID_LIKE=buildroot
NAME=FFS
PRETTY_NAME="FFS $role $version"
VERSION_ID=$version
IMAGE_ID=ffs-$role
IMAGE_VERSION=$version
VARIANT_ID=$role
EOF

# Names of modules have dashes or underscores, as they like.
names() {
	sed -e 's,.*/,,' -e 's,\.ko.*,,' | tr - _ | sort -u
}

there=$(mktemp)
wanted=$(mktemp)
trap 'rm -f "$there" "$wanted"' EXIT
{
	find "$target/usr/lib/modules" -name '*.ko*'
	cat "$target"/usr/lib/modules/*/modules.builtin
} | names > "$there"
grep -v '^#' "$checkout/image/modules" | grep . | names > "$wanted"
missing=$(comm -13 "$there" "$wanted")
if [ -n "$missing" ]; then
	echo "post-build.sh: image/modules names what the kernel does not have:" >&2
	echo "$missing" >&2
	exit 1
fi
