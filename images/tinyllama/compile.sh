#!/bin/sh
# Compiles flash-attn and its operators into wheels in the folder $1, or writes there what is left out and why.
# Variables: BUILD_EXTENSIONS (1: yes), TORCH_CUDA_ARCH_LIST, MAX_JOBS, ATTENTION_HEAD_SIZES (operators.py), and pip's.
set -eu
out=$1
build=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

leave_out() {
  for module in flash_attn rotary_emb dropout_layer_norm xentropy_cuda_lib; do
    echo "$module: not compiled, for $1"
  done | tee "$out/left-out.txt"
  exit 0
}

[ "${BUILD_EXTENSIONS:-1}" = 1 ] || leave_out "the image was built with BUILD_EXTENSIONS=$BUILD_EXTENSIONS"
nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
[ -x "$nvcc" ] || nvcc=$(command -v nvcc) || leave_out "the image that compiles (BUILDER_IMAGE) has no nvcc"
"$nvcc" --version

export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-8.0;9.0}"
export MAX_JOBS="${MAX_JOBS:-4}"

# flash-attn's setup asks git for submodules that its source has already, and stops without git.
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git g++ python3-dev python3-venv >/dev/null

python3 -m venv /tmp/build
/tmp/build/bin/pip install --quiet --require-hashes --no-deps -r "$build/requirements.lock"
/tmp/build/bin/pip install --quiet --require-hashes --no-deps -r "$build/builder.lock"
PATH="/tmp/build/bin:$PATH"

# To be unpacked its setup is run once, without compiling.
FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE pip download --quiet --require-hashes --no-deps --no-build-isolation \
  --no-binary flash-attn --dest /tmp/source -r "$build/flash-attn.lock"
tar -xzf /tmp/source/flash_attn-*.tar.gz -C /tmp/source
cd /tmp/source/flash_attn-*/
# Else it would first try to download a wheel that somebody compiled; and each nvcc would be four.
# Where head sizes are named, operators.py compiles those, and this is Python alone.
[ -z "${ATTENTION_HEAD_SIZES:-}" ] || export FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE ATTENTION_HEAD_SIZES
FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTENTION_FORCE_SINGLE_THREAD=TRUE python setup.py --quiet bdist_wheel --dist-dir "$out"
# Else what lies there already would be packed once more.
rm -rf build
python "$build/operators.py" --quiet bdist_wheel --dist-dir "$out"
cd /
rm -rf /tmp/source /tmp/build
ls -l "$out"
