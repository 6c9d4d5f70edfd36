#!/bin/sh
# Compiles flash-attn and its operators into wheels in the folder $1, or writes there what is left out and why.
# nvcc 12.1 crashes on flash-attn with torch 2.1, so 12.2 compiles what then runs on 12.1.
#
# Variables, all optional, and pip's: BUILD_EXTENSIONS=0 leaves all of it out; TORCH_CUDA_ARCH_LIST says for which GPUs
# (flash-attn itself is compiled for A100 and H100 in any case; torch 2.1 knows none newer); MAX_JOBS how many compilers run
# at once (each takes several GB). ATTENTION_HEAD_SIZES=128 compiles flash-attn for bfloat16 and that head size alone, which
# serves the note's models: minutes in place of hours (operators.py).
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
