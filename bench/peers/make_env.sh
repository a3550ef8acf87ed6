#!/bin/bash
# An environment for the peers, in one folder; nothing outside it is changed.
#
#   bench/peers/make_env.sh DIR        then: python bench/peer_table.py MODEL ... --peers DIR/bin/python
#
# About 2 GB and a minute of work, without the one package that PyPI has as source only: stable-diffusion.cpp is compiled
# for this machine's CPU and needs cmake and a C++ compiler (without them the environment lacks that program and its row
# says so). Set SDCPP_AVX2=1 to build it without AVX-512, for comparisons held to AVX2.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
python3 -m venv "$1"
PIP=("$1/bin/python" -m pip install -q)
"${PIP[@]}" torch==2.13.0
"${PIP[@]}" "diffusers>=0.37" "transformers>=5" accelerate safetensors
"${PIP[@]}" openvino nncf
"${PIP[@]}" onnx onnxscript onnxruntime
if [ "${SDCPP_AVX2:-0}" = 1 ]; then
  export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF"
fi
"${PIP[@]}" --no-binary stable-diffusion-cpp-python stable-diffusion-cpp-python \
  || echo "stable-diffusion.cpp could not be built" >&2
"$1/bin/python" -m pip list 2>/dev/null | grep -Ei '^(torch|diffusers|openvino|nncf|onnx|onnxruntime|stable.diffusion.cpp.python) '
