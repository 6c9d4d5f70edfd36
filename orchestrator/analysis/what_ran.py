"""What a record says it ran on, and in which software, as far as a row shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.analysis.rows import Hardware, Versions

if TYPE_CHECKING:
    from orchestrator.records.record import Environment, Record

KERNEL_PACKAGES = (
    "apex",
    "flash-attn",
    "flash-attn-3",
    "flashinfer-python",
    "liger-kernel",
    "lightning-thunder",
    "nvfuser",
    "sglang",
    "tensorrt",
    "torchao",
    "transformer-engine",
    "transformers",
    "triton",
    "vllm",
    "xformers",
)
KERNEL_PREFIXES = ("nvfuser-", "nvidia-cublas", "nvidia-cudnn", "pytorch-triton")


def hardware_of(record: Record) -> Hardware:
    """Return what the record says it ran on."""
    environment = record.environment
    if record.device == "cpu":
        threads = environment.threads if environment else None
        return Hardware(device="cpu", name=environment.cpu if environment else None, threads=threads)
    gpu = environment.gpu if environment else None
    if gpu is None:
        return Hardware(device="cuda")
    return Hardware(device="cuda", name=gpu.name, uuid=gpu.uuid, driver=gpu.driver, memory_bytes=gpu.memory_bytes)


def versions_of(environment: Environment | None, image_id: str | None) -> Versions:
    """Return the versions that decide most; of the packages those that bring kernels or compilers."""
    if environment is None:
        return Versions(image_id=image_id)
    return Versions(
        python=environment.python,
        torch=environment.torch,
        torch_git=environment.torch_git,
        cuda=environment.cuda,
        cudnn=environment.cudnn,
        triton=environment.triton,
        compiler=environment.compiler,
        fingerprint=environment.fingerprint,
        image_id=image_id,
        packages={
            name: version
            for name, version in sorted(environment.packages.items())
            if name in KERNEL_PACKAGES or name.startswith(KERNEL_PREFIXES)
        },
    )
