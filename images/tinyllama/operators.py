"""Compile flash-attn's own operators beside it: its source has them, and no setup for them.

With ATTENTION_HEAD_SIZES also its attention, for those head sizes and ATTENTION_DTYPES alone: flash-attn's own setup
compiles 48 files for eight head sizes, which takes hours on few cores. A head is rounded up to one of those eight: 128
serves the 3B model's 100 and the 7B model's 128. What is left out raises when it is called.

A setup script, run in flash-attn's source folder: `python operators.py bdist_wheel`. Needs torch and nvcc, and follows
TORCH_CUDA_ARCH_LIST and MAX_JOBS. LAYER_NORM_SIZES names the widths to compile the fused norm for. A width is rounded
up to one of flash-attn's own (to a multiple of 256 up to 1536, of 512 up to 3072, of 1024 above): 4096 serves the
3B model's 3200 and the 7B model's 4096, and 256 serves the tests' tiny ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import setuptools
from torch.utils.cpp_extension import BuildExtension, CUDAExtension

SOURCE = Path("csrc")
SIZES = os.environ.get("LAYER_NORM_SIZES", "256 4096").split()
# Nothing here may depend on the machine that compiles: no -march=native, as upstream's setup of rotary has it.
HOST = ["-O3"]
HEAD_SIZES = os.environ.get("ATTENTION_HEAD_SIZES", "").split()
ALL_HEAD_SIZES = ("32", "64", "96", "128", "160", "192", "224", "256")
DTYPES = os.environ.get("ATTENTION_DTYPES", "bf16").split()
ELEMENTS = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t"}
HALF = [
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
]


def extension(name: str, folder: str, files: list[str], device: list[str]) -> CUDAExtension:
    """Return the module `name` of the sources in one of flash-attn's folders."""
    place = SOURCE / folder
    return CUDAExtension(
        name,
        [str(place / file) for file in files],
        include_dirs=[str(place.resolve())],
        extra_compile_args={"cxx": HOST, "nvcc": ["-O3", *device]},
    )


def attention() -> CUDAExtension:
    """Return flash-attn's module of the head sizes and dtypes asked for, with a refusal in place of each other one."""
    folder = SOURCE / "flash_attn"
    wanted = [(size, dtype) for size in HEAD_SIZES for dtype in DTYPES]
    refusals = folder / "left_out.cpp"
    headers = ("<limits>", "<c10/util/Exception.h>", "<cuda_runtime.h>", "<cutlass/numeric_types.h>", '"flash.h"')
    others = [(size, dtype) for size in ALL_HEAD_SIZES for dtype in ELEMENTS if (size, dtype) not in wanted]
    refusals.write_text(
        "".join(f"#include {header}\n" for header in headers) + "".join(refusal(size, dtype) for size, dtype in others)
    )
    kernels = [
        str(folder / "src" / f"flash_{way}_hdim{size}_{dtype}_sm80.cu")
        for way in ("fwd", "fwd_split", "bwd")
        for size, dtype in wanted
    ]
    return CUDAExtension(
        "flash_attn_2_cuda",
        [str(folder / "flash_api.cpp"), str(refusals), *kernels],
        include_dirs=[str(place.resolve()) for place in (folder, folder / "src", SOURCE / "cutlass" / "include")],
        extra_compile_args={"cxx": HOST, "nvcc": ["-O3", *HALF, "-U__CUDA_NO_HALF2_OPERATORS__", "--use_fast_math"]},
    )


def refusal(size: str, dtype: str) -> str:
    """Return C++ that raises where the kernels of one head size and dtype would be."""
    what = f'TORCH_CHECK(false, "flash-attn was compiled without head size {size} in {dtype}");'
    arguments = {
        "fwd_": "Flash_fwd_params &, cudaStream_t",
        "fwd_splitkv_dispatch": "Flash_fwd_params &, cudaStream_t",
        "bwd_": "Flash_bwd_params &, cudaStream_t, const bool",
    }
    return "".join(
        f"template <> void run_mha_{name}<{ELEMENTS[dtype]}, {size}>({takes}) {{ {what} }}\n"
        for name, takes in arguments.items()
    )


# The API comes first: its tables have to be there when the sizes put themselves into them.
layer_norm = ["ln_api.cpp", *(f"ln_{way}_{size}.cu" for size in SIZES for way in ("fwd", "bwd"))]

setuptools.setup(
    name="flash-attn-operators",
    version="2.2.2",
    description="rotary, layer_norm and cross entropy of flash-attn 2.2.2",
    packages=[],
    py_modules=[],
    ext_modules=[
        extension("rotary_emb", "rotary", ["rotary.cpp", "rotary_cuda.cu"], HALF),
        extension("dropout_layer_norm", "layer_norm", layer_norm, [*HALF, "--use_fast_math"]),
        extension("xentropy_cuda_lib", "xentropy", ["interface.cpp", "xentropy_kernel.cu"], []),
        *([attention()] if HEAD_SIZES else []),
    ],
    cmdclass={"build_ext": BuildExtension},
)
