#!/usr/bin/env bash
# Builds MicroPython for the Raspberry Pi Pico from Debian's source packages: build.sh FOLDER makes FOLDER/firmware.uf2.
#
# The sources are those of the first Debian release that has MicroPython 1.25 or newer, or of this machine's own if
# that is newer still; they come through apt, which checks their signatures, into a private apt state, so that the
# machine's own package lists stay as they are. As root it installs the compiler where it is missing.
# What the emulated board has instead of a radio and of wires to sensors is frozen into the image, where a real board has
# drivers in C. An image made from the same inputs (this script, those modules, the release) is left as it is.
set -euo pipefail

FIRST_RELEASE=13 # trixie: MicroPython 1.25, pico-sdk 2.1
FIRST_CODENAME=trixie
TOOLS=(cmake gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib dpkg-dev build-essential python3)

fail() { echo "pico: $*" >&2; exit 2; }

[ $# = 1 ] || fail "usage: build.sh FOLDER"
[ -f /etc/debian_version ] || fail "needs Debian: the image is built from its source packages"
. /etc/os-release
release=${VERSION_ID:-99} # testing and unstable have no number
if [ "${ID:-}" = debian ] && [ "${release%%.*}" -ge "$FIRST_RELEASE" ]; then suite=$VERSION_CODENAME; else suite=$FIRST_CODENAME; fi

mkdir -p "$1"
out=$(cd "$1" && pwd)
frozen=$(cd "$(dirname "$0")/../micropython" && pwd)
inputs="$(cat "$0" "$frozen"/*.py | sha256sum | cut -d' ' -f1) $suite"
if [ -s "$out/firmware.uf2" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then
  echo "pico: $out/firmware.uf2 is there already"
  exit 0
fi

missing=()
for package in "${TOOLS[@]}"; do
  dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || fail "needs the packages ${missing[*]}: sudo apt-get install ${missing[*]}"
  echo "pico: installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$out/work
log=$out/build.log
rm -rf "$work"
mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial" "$work/sources"
: >"$log"
trap 'status=$?; [ $status = 0 ] || { tail -n 30 "$log" >&2; echo "pico: the build failed; see $log" >&2; }' EXIT

# The archive that this machine is set up to take Debian from; apt knows it only once it has read its lists.
archive() { apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' | awk -v c="${VERSION_CODENAME:-}" '$1 == "Debian" && $2 == c {print $3; exit}'; }
uri=$(archive)
[ -n "$uri" ] || { apt-get update -qq >>"$log" 2>&1 && uri=$(archive); }
[ -n "$uri" ] || fail "apt has no Debian archive to take the sources from; see /etc/apt/sources.list.d"

echo "pico: fetching the sources of Debian $suite"
cat >"$work/apt/debian.sources" <<SOURCES
Types: deb deb-src
URIs: $uri
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
cat >"$work/apt/apt.conf" <<CONFIGURATION
Dir::State "$work/apt/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::sourcelist "$work/apt/debian.sources";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "";
CONFIGURATION
(
  export APT_CONFIG=$work/apt/apt.conf
  cd "$work/sources"
  apt-get update -qq
  apt-get source -qq --download-only "micropython/$suite" "mbedtls/$suite"
  apt-get download -qq "pico-sdk-source/$suite" "tinyusb-source/$suite"
) >>"$log" 2>&1

cd "$work/sources"
for archive in micropython_*.orig.tar.* mbedtls_*.orig.tar.*; do case $archive in *.asc) ;; *) tar -xf "$archive" ;; esac; done
for package in *.deb; do dpkg-deb --extract "$package" root; done
micropython=$(echo "$PWD"/micropython-*/)
# Debian's source leaves out the libraries that it packages by themselves.
rm -rf "${micropython}lib/mbedtls" "${micropython}lib/pico-sdk" "${micropython}lib/tinyusb"
mv mbedtls-*/ "${micropython}lib/mbedtls"
mv root/usr/src/pico-sdk root/usr/src/tinyusb "${micropython}lib/"
mkdir -p "${micropython}lib/micropython-lib"
touch "${micropython}lib/micropython-lib/README.md" # what the port's makefile looks for
cat >"$work/manifest.py" <<MANIFEST
freeze("\$(PORT_DIR)/modules")
include("\$(MPY_DIR)/extmod/asyncio")
freeze("$frozen", ("rig_wire.py", "ble_wire.py", "bluetooth.py"))
MANIFEST
# Modules in this part of the flash run where they are; anywhere else they would have to be copied to RAM, which is too
# small for a whole model. Two firmware slots of 192 KiB and 8 KiB for the selector (firmware/rom_slots.py) lie between
# MicroPython (334 KiB of 376) and the file system, which gives 128 KiB for it.
board=${micropython}ports/rp2/boards/RPI_PICO/mpconfigboard.h
grep -q "MICROPY_HW_FLASH_STORAGE_BYTES.*(1408 \* 1024)" "$board" || fail "the board's flash is not laid out as expected: $board"
sed -i '/MICROPY_HW_FLASH_STORAGE_BYTES/d' "$board"
cat >>"$board" <<LAYOUT
#define MICROPY_HW_FLASH_STORAGE_BYTES (1280 * 1024)
#define MICROPY_HW_ROMFS_BYTES (392 * 1024)
LAYOUT

# The version is the sources' own, not that of a repository around them.
export GIT_CEILING_DIRECTORIES=$out
echo "pico: compiling ($(basename "$micropython"))"
{
  make -C "${micropython}mpy-cross" -j"$(nproc)"
  cmake -S "${micropython}ports/rp2" -B "$work/build" -DPICO_NO_PICOTOOL=1 -DMICROPY_BOARD=RPI_PICO \
    -DMICROPY_FROZEN_MANIFEST="$work/manifest.py"
  make -C "$work/build" -j"$(nproc)"
  [ "$(stat --format %s "$work/build/firmware.bin")" -le $((376 * 1024)) ] || fail "MicroPython runs into the firmware slots"
  # 0xe48bff56 is the RP2040's family in the UF2 format; its flash begins at 0x10000000.
  python3 "${micropython}tools/uf2conv.py" -c -b 0x10000000 -f 0xe48bff56 -o "$work/firmware.uf2" "$work/build/firmware.bin"
} >>"$log" 2>&1
mv "$work/firmware.uf2" "$out/firmware.uf2"
printf '%s' "$inputs" >"$out/inputs"
rm -rf "$work"
echo "pico: $out/firmware.uf2"
