"""Kernels by name in groups that a reader knows; on a CPU operators, of which torch's own have telling names.

The first pattern that fits decides. A name that none fits is `other`: the listing has it in full.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

KERNELS = {
    "copy": (
        r"^Mem(cpy|set)\b|direct_copy_kernel|CatArrayBatchedCopy|\bsplit_with_sizes_copy_out|\bchunk_cat_cuda_kernel"
    ),
    # Inductor's kernels carry the names of what they fuse, attention too: they come before all that follows.
    "Triton": r"^triton_",
    "nvFuser": r"nvfuser|CudaCodeGen::|^kernel\d+$",
    # NCCL's of all versions, torch's own over symmetric memory, and engines' all-reduce: what moves data between GPUs.
    "communication": (
        r"\bnccl\w*Kernel|\bc10d::(symmetric_memory|nccl_extension|nvshmem_extension|intra_node_comm|cuda::detail)::"
        r"|\b(multimem|one_shot|two_shot)_(\w+_)?(reduce|gather)_kernel|\bnvshmem|\bcross_device_reduce_"
    ),
    "attention cuDNN": r"cudnn\w*(sdpa|fmha|mha|attention)",
    "attention flash": r"flash_(fwd|bwd)|(pytorch_)?flash::|FlashAttn|FlashAttention|flash_attn",
    "attention efficient": r"fmha_cutlass|PyTorchMemEffAttention|AttentionKernel<|AttentionBackwardKernel|\bfmha::",
    "hand-written": (
        r"rotary_kernel|apply_rotary|fused_rope|_triton_rope|SoftMaxXEntropy"
        r"|(layer|rms)_norm_(fwd|bwd|forward|backward)|\bln_(fwd|bwd)|cuApplyRMS"
        r"|cuCompute\w*Norm|swiglu|silu_and_mul|silu_bw_fused|dual_gemm|DualGemm|liger|xformers|transformer_engine"
        r"|flashinfer|vllm::|apex|cross_entropy_(fwd|bwd|forward|backward)|element_mul_kernel"
    ),
    "matrix product": (
        r"gemm|gemv|cutlass|xmma|nvjet|cublas|split_?k|wgmma|hopper_|ampere_|turing_|volta_|\bKernel2\b|dot_kernel"
    ),
    "reduction": (
        r"reduce|[sS]oft[mM]ax|layer_norm|LayerNorm|RowwiseMoments|nll_loss|argm(ax|in)|cub::|sort|scan|cumsum"
    ),
    "elementwise": (
        r"elementwise|unrolled|vectorized|index|gather|scatter|embedding|distribution|multi_tensor|fill|arange"
        r"|triu_tril|fused_dropout|multinomial|assert_async|compute_grad_weight|krn_partial|partial_segments"
    ),
}
"""Of a GPU."""

OPERATORS = {
    "compiled": r"CompiledFxGraph|^graph_\d+_|\bcpp_fused_",
    # Of FSDP2's ranges those in which it waits for other ranks: the time is the range's own, and none of gloo's.
    "communication": (
        r"^(_?c10d\w*|symm_mem|_dtensor)::|^(gloo|nccl|ucc|mpi):\w|^record_param_comms$"
        r"|^FSDP::(all_gather|post_backward_r(educe|s_wait))"
    ),
    "attention flash": r"_(scaled_dot_product_)?flash_attention",
    "attention cuDNN": r"_(scaled_dot_product_)?cudnn_attention",
    "attention efficient": r"_(scaled_dot_product_)?efficient_attention",
    "attention math": r"_scaled_dot_product_attention_math",
    "matrix product": r"^\w+::(_?(int_|scaled_)?(mm|addmm|bmm|baddbmm|mv|addmv|dot)|_linear_pointwise|_mkl_linear)$",
    "hand-written": (
        r"^(?!(aten|prims?|inductor|mkldnn|mkl|quantized|torch\w*|autograd|profiler|_?c10d?\w*|fsdp|FSDP)::)\w+::\w"
    ),
    "copy": (
        r"^aten::(copy_|clone|cat|stack|contiguous|repeat|repeat_interleave|index_select|index_copy_?|fill_|zero_"
        r"|constant_pad_nd)$|^fsdp::"
    ),
    "reduction": (
        r"^aten::(sum|mean|amax|amin|max|min|argmax|argmin|var|std|norm|linalg_vector_norm|prod|all|any|cumsum|sort"
        r"|topk|_?(log_)?softmax\w*|_log_softmax\w*|_softmax\w*|nll_loss\w*|cross_entropy_loss|logsumexp|item"
        r"|_local_scalar_dense|_?fused_rms_norm\w*|rms_norm|native_layer_norm\w*)$"
    ),
    "bookkeeping": (
        r"^aten::(view|_unsafe_view|_reshape_alias|reshape|as_strided\w*|t|transpose\w*|permute|expand\w*|slice\w*"
        r"|select\w*|narrow|split\w*|chunk|unbind|unsqueeze|squeeze|detach\w*|alias|empty\w*|new_\w+|zeros\w*|ones\w*"
        r"|full\w*|resize_\w*|set_|resolve_\w+|to|_to_copy|type_as|linear|matmul|dropout|embedding_\w+backward"
        r"|scaled_dot_product_attention|arange|lift_fresh|result_type|is_\w+|float|size)$|^(?!\w+::)|^autograd::"
        r"|^torch\w*::|^inductor::|^profiler::|^FSDP::"
    ),
    "elementwise": r"^(aten|prims?)::\w+$",
}
"""Of a CPU. `bookkeeping` computes nothing: views, allocations, what only calls others, the compiler's own checks."""

PRECISIONS = {
    "int8": r"imma|igemm|_int_mm|(^|[^a-z])u?int8(?!_t)|(^|[^a-zA-Z])[si]8(?![0-9])",
    "fp8": r"e4m3|e5m2|float8|fp8|qgmma|_scaled_mm",
    "TF32": r"tf32|tensorop_s1688",
}
"""Of products that round more than their operands' dtype says, on either device, by their kernels' names."""


def precisions_of(names: Iterable[str]) -> dict[str, str]:
    """The lower precisions that names of kernels or operators tell, each with the first name that does."""
    found: dict[str, str] = {}
    for name in names:
        for precision, pattern in PRECISIONS.items():
            if precision not in found and re.search(pattern, name):
                found[precision] = name
    return found


def group_of(name: str, kind: str) -> str:
    """The group of a kernel (`kind` kernels) or of an operator (`kind` operators) by its name."""
    patterns = KERNELS if kind == "kernels" else OPERATORS
    return next((group for group, pattern in patterns.items() if re.search(pattern, name)), "other")
