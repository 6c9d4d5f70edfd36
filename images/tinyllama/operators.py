"""Compile flash-attn's own operators beside it: its source has them, and no setup for them.

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
    ],
    cmdclass={"build_ext": BuildExtension},
)
