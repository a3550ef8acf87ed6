#!/bin/bash
# An emulated 64-bit ARM Python for tests/neon, in one folder, on x86-64 Debian or Ubuntu.
#
#   tests/neon/setup_arm.sh DIR          (about 200 MB down, 500 MB on disk; nothing outside DIR is changed)
#   TINYDIFF_ARM=DIR python -m pytest tests/neon
#
# DIR/bin/armpy      acts like python3.11 on aarch64, with numpy, pillow and tokenizers: no numba, no llvmlite, as on a phone
# DIR/bin/armpy-jit  the same with numba
# DIR/bin/aarch64-linux-gnu-ld, x86_64-linux-gnu-ld: linkers
# QCPU=cortex-a53|cortex-a76|cortex-a710|... picks the core
#
# Needs: apt-get, dpkg, pip. qemu-user comes from Debian 13 because the one in Debian 12 knows no Cortex-A710.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
DIR=$(cd "$1" && pwd)
if [ -e "$DIR/ready" ]; then echo "$DIR is ready"; exit 0; fi
ROOT=$DIR/root
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
PYTHON=${PYTHON:-python3}
mkdir -p "$ROOT" "$DIR/bin" "$DIR/tools" "$DIR/debs"

# the Debian mirror that this machine already uses
mirror() { apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v security | head -n1; }
MIRROR=$(mirror)
[ -n "$MIRROR" ] || { apt-get -qq update; MIRROR=$(mirror); }
[ -n "$MIRROR" ] || { echo "$0: apt-get knows no Debian mirror" >&2; exit 1; }

# a private package database: name, architecture, Debian release
private_apt() {
  local home=$DIR/apt-$1
  mkdir -p "$home/lists/partial" "$home/cache/archives/partial"
  : > "$home/status"
  echo "deb [signed-by=$KEYRING] $MIRROR $3 main" > "$home/sources.list"
  cat > "$home/apt.conf" <<CONF
APT::Architecture "$2"; APT::Architectures { "$2"; }; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
Dir::Etc::sourcelist "$home/sources.list"; Dir::Etc::sourceparts "-";
Dir::State::lists "$home/lists"; Dir::State::status "$home/status"; Dir::Cache "$home/cache";
CONF
  APT_CONFIG=$home/apt.conf apt-get -qq update
}

echo "1/4 emulator"
private_apt qemu amd64 trixie
(cd "$DIR/debs" && APT_CONFIG=$DIR/apt-qemu/apt.conf apt-get -qq download qemu-user)
dpkg-deb --fsys-tarfile "$DIR"/debs/qemu-user_*.deb | tar -x -C "$DIR/tools" ./usr/bin/qemu-aarch64

echo "2/4 linkers"
private_apt tools amd64 bookworm
(cd "$DIR/debs" && APT_CONFIG=$DIR/apt-tools/apt.conf apt-get -qq download \
  binutils-aarch64-linux-gnu binutils-x86-64-linux-gnu libbinutils libctf0 libjansson4)
for deb in "$DIR"/debs/binutils-*.deb "$DIR"/debs/lib*.deb; do dpkg -x "$deb" "$DIR/tools"; done

echo "3/4 ARM system and Python"
private_apt arm64 arm64 bookworm
APT_CONFIG=$DIR/apt-arm64/apt.conf apt-get -qq -y --download-only install python3.11 libstdc++6 libgomp1 >/dev/null
for deb in "$DIR"/apt-arm64/cache/archives/*.deb; do dpkg -x "$deb" "$ROOT"; done

echo "4/4 ARM wheels"
PLATFORMS=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_17 manylinux2014; do PLATFORMS+=(--platform "${tag}_aarch64"); done
# folder, packages
install() {
  "$PYTHON" -m pip install -q --root-user-action=ignore --no-deps --no-compile --target "$ROOT/$1" --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none "${PLATFORMS[@]}" "${@:2}"
}
install site numpy pillow tokenizers
install site-jit numba llvmlite

# wrapper, folders of packages. -0 makes sys.executable the wrapper, so that subprocesses are emulated too.
wrapper() {
  cat > "$DIR/bin/$1" <<WRAPPER
#!/bin/bash
PYTHONPATH=\${PYTHONPATH:+\$PYTHONPATH:}$2 exec $DIR/tools/usr/bin/qemu-aarch64 -0 "\$0" -cpu "\${QCPU:-cortex-a76}" \\
  -L $ROOT $ROOT/usr/bin/python3.11 "\$@"
WRAPPER
}
wrapper armpy "$ROOT/site"
wrapper armpy-jit "$ROOT/site:$ROOT/site-jit"
for arch in aarch64 x86_64; do
  cat > "$DIR/bin/$arch-linux-gnu-ld" <<WRAPPER
#!/bin/bash
LD_LIBRARY_PATH=$DIR/tools/usr/lib/x86_64-linux-gnu exec $DIR/tools/usr/bin/$arch-linux-gnu-ld.bfd "\$@"
WRAPPER
done
chmod +x "$DIR"/bin/*
rm -rf "$DIR/debs" "$DIR"/apt-*
QCPU=cortex-a710 "$DIR/bin/armpy" -c 'import platform, numpy; print(platform.machine(), "Python", platform.python_version(), "NumPy", numpy.__version__)'
touch "$DIR/ready"
