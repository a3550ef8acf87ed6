#!/bin/bash
# What the regression gate counts with, beside the emulated Python of tests/neon, on x86-64 Debian or Ubuntu.
#
#   tests/neon/setup_arm.sh DIR; bench/gate/setup.sh DIR          (about 70 MB down, 200 MB on disk, all in DIR/gate)
#   TINYDIFF_ARM=DIR python -m bench.gate
#
# DIR/gate/bin/qemu-aarch64, qemu-x86_64   of Debian 12, which takes plugins (tests/neon's own is static and does not)
# DIR/gate/count.so                        the plugin that counts
# DIR/gate/bin/llvm-mca                    of LLVM 22, as llvmlite's: Debian 13's, with its own C library
#
# Needs: apt-get, dpkg, cc.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
[ -e "$1/ready" ] || { echo "$0: $1 was not made by tests/neon/setup_arm.sh" >&2; exit 1; }
HERE=$(cd "$(dirname "$0")" && pwd)
DIR=$(cd "$1" && pwd)/gate
if [ -e "$DIR/ready" ]; then echo "$DIR is ready"; exit 0; fi
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
LIBRARIES=usr/lib/x86_64-linux-gnu
mkdir -p "$DIR/bin"

# the Debian mirror that this machine already uses
mirror() { apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v security | head -n1; }
MIRROR=$(mirror)
[ -n "$MIRROR" ] || { apt-get -qq update; MIRROR=$(mirror); }
[ -n "$MIRROR" ] || { echo "$0: apt-get knows no Debian mirror" >&2; exit 1; }

# release, packages: unpacks them into DIR/RELEASE
unpack() {
  local home=$DIR/apt-$1
  mkdir -p "$home/lists/partial" "$home/cache/archives/partial" "$home/debs" "$DIR/$1"
  : > "$home/status"
  echo "deb [signed-by=$KEYRING] $MIRROR $1 main" > "$home/sources.list"
  cat > "$home/apt.conf" <<CONF
APT::Architecture "amd64"; APT::Architectures { "amd64"; }; APT::Sandbox::User "root";
Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
Dir::Etc::sourcelist "$home/sources.list"; Dir::Etc::sourceparts "-";
Dir::State::lists "$home/lists"; Dir::State::status "$home/status"; Dir::Cache "$home/cache";
CONF
  APT_CONFIG=$home/apt.conf apt-get -qq update
  (cd "$home/debs" && APT_CONFIG=$home/apt.conf apt-get -qq download "${@:2}")
  for deb in "$home"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$DIR/$1" --wildcards \
      './usr/bin/qemu-aarch64' './usr/bin/qemu-x86_64' './usr/lib/llvm-22/bin/llvm-mca' './lib*/*' './usr/lib*.so*' 2>/dev/null || true
  done
  rm -rf "$home"
}

echo "1/3 emulators"
unpack bookworm qemu-user libcapstone4 liburing2 libnuma1 libglib2.0-0 libgnutls30 libpcre2-8-0 libp11-kit0 libidn2-0 \
  libunistring2 libtasn1-6 libnettle8 libhogweed6 libgmp10 libffi8
for arch in aarch64 x86_64; do
  cat > "$DIR/bin/qemu-$arch" <<WRAPPER
#!/bin/bash
LD_LIBRARY_PATH=$DIR/bookworm/$LIBRARIES exec $DIR/bookworm/usr/bin/qemu-$arch "\$@"
WRAPPER
done

echo "2/3 plugin"
cc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$DIR/count.so" "$HERE/count.c"

echo "3/3 llvm-mca"
unpack trixie llvm-22 libllvm22 libc6 libstdc++6 libgcc-s1 libedit2 libz3-4 libxml2 libffi8 libzstd1 zlib1g libtinfo6 \
  libbsd0 libmd0 liblzma5
cat > "$DIR/bin/llvm-mca" <<WRAPPER
#!/bin/bash
ROOT=$DIR/trixie
exec \$ROOT/$LIBRARIES/ld-linux-x86-64.so.2 --library-path \$ROOT/usr/lib/llvm-22/lib:\$ROOT/$LIBRARIES \$ROOT/usr/lib/llvm-22/bin/llvm-mca "\$@"
WRAPPER
chmod +x "$DIR"/bin/*
"$DIR/bin/qemu-aarch64" --version | head -n1
"$DIR/bin/llvm-mca" --version | grep version
touch "$DIR/ready"
