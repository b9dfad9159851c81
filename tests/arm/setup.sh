#!/usr/bin/env bash
# Makes what test_arm.py runs artefacts with: an Arm Python with the engines' Arm wheels, for qemu-aarch64.
#
#     bash tests/arm/setup.sh [FOLDER]        by default build/arm of the repository
#
# It makes FOLDER/sysroot (Debian's arm64 Python), FOLDER/site (the wheels) and, at the end, FOLDER/ready.
# Only installing qemu-user needs root. PYTHON names a Python that has pip and the engines, by default that of
# .venv: the wheels are of the same versions as the engines there, which make the artefacts.
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$repository/build/arm}
python=${PYTHON:-$repository/.venv/bin/python}

if ! command -v qemu-aarch64 >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "no qemu-aarch64; install it with: apt-get install qemu-user" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends qemu-user >/dev/null
fi

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
sysroot=$folder/sysroot site=$folder/site apt=$folder/apt
rm -rf "$sysroot" "$site" "$apt" "$folder/ready"
mkdir -p "$sysroot" "$apt/lists/partial" "$apt/archives/partial"
touch "$apt/status"

# apt with a state of its own: the system's stays without a second architecture, and root is not needed.
arm_apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true -o Dir::State="$apt" \
        -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Cache::archives="$apt/archives" "$@"
}
arm_apt update
arm_apt install --yes --download-only python3 libstdc++6
for package in "$apt"/archives/*.deb; do
    dpkg -x "$package" "$sysroot"
done
glibc=$(dpkg-deb --field "$apt"/archives/libc6_*.deb Version | sed -E 's/^[0-9]+\.([0-9]+).*/\1/')
rm -rf "$apt"

# qemu shows files of the sysroot in place of the machine's. Without these ONNX Runtime crashes at import, on
# an x86 /proc/cpuinfo, and OpenVINO as it compiles, for want of an Arm processor's number: a Neoverse N1's.
cpu=$sysroot/sys/devices/system/cpu
mkdir -p "$sysroot/proc" "$cpu/cpu0/regs/identification"
cat >"$sysroot/proc/cpuinfo" <<'END'
processor	: 0
BogoMIPS	: 100.00
Features	: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1
END
echo 0x00000000413fd0c1 >"$cpu/cpu0/regs/identification/midr_el1"
echo 0 | tee "$cpu/possible" >"$cpu/present"

version=$(readlink "$sysroot/usr/bin/python3" | sed 's/^python//')
platforms=()
for minor in $(seq 17 "$glibc"); do
    platforms+=(--platform "manylinux_2_${minor}_aarch64")
done
wheels=$("$python" -c '
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("numpy", "onnxruntime", "openvino")))')
# shellcheck disable=SC2086  # one word each
"$python" -m pip install --quiet --no-deps --no-compile --only-binary=:all: --target "$site" \
    --python-version "$version" "${platforms[@]}" $wheels

echo "Python $version with $wheels" | tee "$folder/ready"
