#!/bin/bash
# An environment for each peer, all in one folder; nothing outside it is changed.
#
#   bench/peers/make_env.sh DIR [NAME...]        then: python bench/peer_table.py MODEL ... --peers DIR
#
# torch         torch and diffusers; also what writes OpenVINO's and ONNX models from torch's (export.py)
# openvino      OpenVINO, and NNCF, which quantises its models
# onnxruntime   ONNX Runtime, and onnx, with which it quantises its models
# sdcpp         stable-diffusion.cpp, compiled for this machine's CPU
# sdcpp-avx2    the same without AVX-512, for comparisons held to AVX2
#
# Without names: all. One that is complete is left alone, so a second call goes on where the first ended; one that cannot
# be made is said, and its rows of the table say that it is missing. The last two are source only on PyPI: each needs
# cmake, a C++ compiler and minutes.
set -uo pipefail
[ $# -ge 1 ] || { echo "usage: $0 DIR [NAME...]" >&2; exit 2; }
DIR=$1
shift
NAMES=(torch openvino onnxruntime sdcpp sdcpp-avx2)
declare -A PACKAGES=(
  [torch]="torch==2.13.0 diffusers>=0.37 transformers>=5 accelerate safetensors openvino onnx onnxscript"
  [openvino]="openvino nncf"
  [onnxruntime]="onnxruntime onnx"
  [sdcpp]="numpy stable-diffusion-cpp-python"
  [sdcpp-avx2]="numpy stable-diffusion-cpp-python"
)
AVX2="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF"

install() {
  local pip=("$DIR/$1/bin/python" -m pip install -q)
  case $1 in # pip would keep a wheel compiled for one of these and give it to the other
    sdcpp) pip+=(--no-cache-dir) ;;
    sdcpp-avx2) pip+=(--no-cache-dir) && export CMAKE_ARGS="$AVX2" ;;
  esac
  # shellcheck disable=SC2086  # several words
  "${pip[@]}" ${PACKAGES[$1]}
}

failed=0
for name in "${@:-${NAMES[@]}}"; do
  [ -n "${PACKAGES[$name]:-}" ] || { echo "unknown: $name; known: ${NAMES[*]}" >&2; exit 2; }
  complete="$DIR/$name/versions.txt"
  [ -s "$complete" ] && continue
  if python3 -m venv "$DIR/$name" && (install "$name"); then
    "$DIR/$name/bin/python" -m pip freeze > "$complete"
  else
    echo "$DIR/$name could not be made" >&2
    failed=1
  fi
done
grep -HiE '^(torch|diffusers|openvino|nncf|onnxruntime|stable.diffusion.cpp.python)==' "$DIR"/*/versions.txt
exit $failed
