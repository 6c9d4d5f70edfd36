"""Evidence of dispatch: what a profiled call shows, and that a method which ran something else is flagged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from places import GOLDEN

torch = pytest.importorskip("torch")

from bench_specs import run_bench, write_spec  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402

from bench import cell  # noqa: E402
from bench.methods import eager, inductor  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.observe.kernels import group_of  # noqa: E402
from bench.operators import Operators, norm  # noqa: E402
from bench.spec import read_spec  # noqa: E402

# As NVIDIA's, torch's and others' kernels are called in real traces.
KERNELS = {
    "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false>>": "attention flash",
    "void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<flash::Flash_bwd_kernel_traits<128>>": "attention flash",
    "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<128>>>": "attention flash",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1": "attention cuDNN",
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel)": "attention efficient",
    "triton_poi_fused__scaled_dot_product_flash_attention_add_mul_permute_4": "Triton",
    "triton__0d1d2d3de": "Triton",
    "nvfuser_pointwise_f0_c1_r0_g0(__nv_bfloat16)": "nvFuser",
    "CudaCodeGen::kernel1(CudaCodeGen::Tensor<float, 1, 1>)": "nvFuser",
    "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_TNN": "matrix product",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1": "matrix product",
    "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn": "matrix product",
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_tn_align8>": "matrix product",
    "void gemv2T_kernel_val<int, int, __nv_bfloat16, float, 128, 16, 4, 4, false>": "matrix product",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>": "matrix product",
    "void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel(at::TensorIterator&)>": "elementwise",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>": "reduction",
    "void (anonymous namespace)::softmax_warp_forward<float, float, float, 11, false, false>": "reduction",
    "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda()>": "copy",
    "Memcpy DtoD (Device -> Device)": "copy",
    "Memset (Device)": "copy",
    # FSDP2's, around its collectives.
    "at::native::detail::split_with_sizes_copy_out_contiguous_no_cast_kernel(char**, char**, long*)": "copy",
    "void at::native::detail::chunk_cat_cuda_kernel<char, char>(char**, char*, long*, long*, long*)": "copy",
    "rotary_kernel": "hand-written",
    "void layer_norm::ln_fwd_kernel<layer_norm::Kernel_traits<float>>": "hand-written",
    "_rms_norm_forward_kernel": "hand-written",
    "_triton_rope": "hand-written",
    "void cunn_SoftMaxXEntropyForward<4, c10::BFloat16, float, long>": "hand-written",
    "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>": "reduction",
    "void at::native::(anonymous namespace)::compute_grad_weight<c10::BFloat16, long>": "elementwise",
    "void at::native::_assert_async_cuda_kernel<bool>(bool const*, at::native::Msg)": "elementwise",
    # NCCL 2.8, 2.18, 2.19, 2.27, and 2.29 and later.
    "ncclAllReduceRingLLKernel_sum_f32(ncclColl)": "communication",
    "ncclKernel_AllReduce_RING_LL_Sum_half(ncclDevComm*, unsigned long, ncclWork*)": "communication",
    "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)": "communication",
    "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevComm*, unsigned long, ncclWork*)": "communication",
    "ncclSymDevKernel_AllReduce_RSxLD_AGxST_sum_bf16(ncclSymDevArgs)": "communication",
    "ncclSymkDevKernel_AllGather_RailRing_LsaSTMC(ncclSymkDevWorkArgs4K)": "communication",
    "ncclDevKernelGinResetSignalsAndCounters(ncclDevComm)": "communication",
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "communication",
    "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(c10::BFloat16*)": "communication",
    "void (anonymous namespace)::multimem_all_gather_kernel<16>(char*, char*, unsigned long)": "communication",
    "void (anonymous namespace)::multimem_one_shot_reduce_kernel<float, 16>(float*, float*)": "communication",
    "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 2>(c10::BFloat16**)": "communication",
    "void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<float, 16, 8>(float**)": "communication",
    "c10d::symmetric_memory::barrier_kernel(unsigned int**, int, int, int, unsigned long)": "communication",
    "c10d::nccl_extension::nccl_wait_for_signal_kernel(void**, int, unsigned long)": "communication",
    "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*, vllm::RankSignals)": "communication",
    "triton_poi_fused_add_all_gather_into_tensor_all_reduce_wait_tensor_0": "Triton",
    "void at::native::(anonymous namespace)::indexSelectLargeIndex<c10::BFloat16, long, unsigned int>": "elementwise",
    "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int, long, long)": "elementwise",
    "void at::native::_scatter_gather_elementwise_kernel<128, 8>": "elementwise",
    "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel>": "elementwise",
    "void cub::DeviceReduceKernel<cub::DeviceReducePolicy<float, int, cub::Sum>::Policy600>": "reduction",
    "void at::native::aminmax_allreduce_kernel_impl(at::Tensor const&, at::Tensor&)": "reduction",
    "something_new": "other",
}
OPERATORS = {
    "aten::addmm": "matrix product",
    "mkldnn::_linear_pointwise": "matrix product",
    "aten::linear": "bookkeeping",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention flash",
    "aten::_scaled_dot_product_attention_math": "attention math",
    "## Call CompiledFxGraph fabc ##": "compiled",
    "Torch-Compiled Region: 0/0": "bookkeeping",
    "TorchDynamo Cache Lookup": "bookkeeping",
    "autograd::engine::evaluate_function: MulBackward0": "bookkeeping",
    "flash_attn::_flash_attn_forward": "hand-written",
    "_C::rms_norm": "hand-written",
    "aten::silu": "elementwise",
    "aten::_softmax": "reduction",
    "aten::copy_": "copy",
    "aten::view": "bookkeeping",
    "c10d::_allgather_base_": "communication",
    "c10d::allreduce_": "communication",
    "_c10d_functional::wait_tensor": "communication",
    "symm_mem::one_shot_all_reduce": "communication",
    "gloo:all_reduce": "communication",
    "nccl:_all_gather_base": "communication",
    "record_param_comms": "communication",
    "FSDP::all_gather (blocks.0)": "communication",
    "FSDP::post_backward_reduce": "communication",
    "FSDP::post_backward_rs_wait ()": "communication",
    "FSDP::post_backward_reshard (blocks.0)": "bookkeeping",
    "FSDP::pre_forward (blocks.0)": "bookkeeping",
    "FSDP::backward_prefetch for blocks.0": "bookkeeping",
    "fsdp::all_gather_copy_in": "copy",
    "aten::gather": "elementwise",
    "aten::scatter_reduce_": "elementwise",
}


@pytest.mark.parametrize(("name", "group"), KERNELS.items())
def test_kernels_are_known_by_name(name, group):
    assert group_of(name, "kernels") == group


def test_every_kernel_of_a_real_run_is_of_a_known_kind():
    names = (GOLDEN / "kernels.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) > 100
    assert [name for name in names if group_of(name, "kernels") == "other"] == []


@pytest.mark.parametrize(("name", "group"), OPERATORS.items())
def test_operators_are_known_by_name(name, group):
    assert group_of(name, "operators") == group


def event(name, device=DeviceType.CUDA, us=10, scope=0, **more):
    told = {"name": name, "device_type": device, "scope": scope, "duration_ns": us * 1000, **more}
    return SimpleNamespace(**{key: lambda value=value: value for key, value in told.items()})


def test_on_a_gpu_kernels_count_and_the_spans_around_them_do_not():
    host = DeviceType.CPU
    events = [
        event("cudaGraphLaunch", host), event("cudaGraphLaunch", host), event("aten::mm", host),
        event("Optimizer.step#SGD.step", host, scope=7), event("Optimizer.step#SGD.step", us=900),
        event("triton_poi_fused_add_0", host, scope=7), event("triton_poi_fused_add_0"), event("nvjet_x", us=30),
        event("a person's own range", is_user_annotation=True),
    ]  # fmt: skip
    seen = dispatch.read_kernels(events)
    assert {name: (count.launches, count.ns) for name, count in seen.names.items()} == {
        "triton_poi_fused_add_0": (1, 10_000),
        "nvjet_x": (1, 30_000),
    }
    assert seen.replays == 2
    assert seen.operators == {"aten::mm"}
    groups = dispatch.by_group(seen)
    for wanted, there in (
        ("Triton", True), ("graph replay", True), ("nvFuser", False), ("nvFuser or Triton", True),
        ("kernel:^nvjet", True), ("kernel:^mm", False), ("operator:aten::mm", True), ("operator:aten::bmm", False),
    ):  # fmt: skip
        assert dispatch.found(wanted, seen, groups) is there, wanted
    seen.replays = 0
    assert not dispatch.found("graph replay", seen, groups)


@pytest.mark.parametrize(
    ("kind", "passed", "own"),
    [
        ("kernels", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "rotary_kernel"),
        ("operators", "FSDP::all_gather (blocks.0)", "_C::rms_norm"),
        ("operators", "FSDP::pre_forward (blocks.0)", "_C::rms_norm"),
        ("operators", "fsdp::all_gather_copy_in", "_C::rms_norm"),
    ],
)
def test_what_is_said_between_devices_is_no_hand_written_kernel(kind, passed, own):
    seen = dispatch.Profile(kind, {passed: dispatch.Count(1, 10)})
    assert not dispatch.found("hand-written", seen, dispatch.by_group(seen))
    seen.names[own] = dispatch.Count(1, 10)
    assert dispatch.found("hand-written", seen, dispatch.by_group(seen))


def run(folder, benchmark="forward", method="eager", **changes):
    cell.run(read_spec(write_spec(folder, benchmark, method, **changes)))
    text = (folder / "record.json").read_text(encoding="utf-8")
    assert len(text) < 50_000
    record = json.loads(text)
    with contextlib.suppress(ImportError):  # the oldest torch's environment has no jsonschema
        import jsonschema

        from orchestrator.cli.schema import schema_text

        jsonschema.validate(record, json.loads(schema_text("record")))
    return record


@pytest.mark.parametrize("benchmark", ["forward", "generation", "model_inference", "train_static", "train_dynamic"])
def test_eager_shows_its_operators_and_keeps_the_whole_listing(tmp_path, benchmark):
    record = run(tmp_path, benchmark)
    found = record["dispatch"]
    assert "not_fused" not in record["flags"]
    assert (found["kind"], found["expected"], found["missing"], found["graph_replays"]) == (
        *("operators", ["matrix product"], []),
        None,
    )
    content = (tmp_path / "dispatch.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == found["listing_sha256"]
    names = json.loads(content)["names"]
    assert sum(name["launches"] for name in names) == found["launches"]
    assert abs(sum(group["share"] for group in found["groups"]) - 1) < 1e-6
    # Two layers of five matrices (the MLP's three, the attention's two) and the head; backward twice as many.
    products = sum(name["launches"] for name in names if name["name"] in ("aten::mm", "aten::addmm"))
    assert products == 11 * {"forward": 1, "generation": 5, "model_inference": 5}.get(benchmark, 3)
    assert "5 of 6 tokens" in found["what"] or benchmark not in ("generation", "model_inference")


def method(monkeypatch, **parts):
    """A method's module, made of eager's functions and `parts`."""
    made = ModuleType("bench.methods.planted")
    names = ("refuse", "operators", "settings", "compile_model", "compile_step", "expects")
    for name in names:
        setattr(made, name, parts.get(name, getattr(eager, name)))
    monkeypatch.setitem(sys.modules, "bench.methods.planted", made)


@pytest.fixture(scope="module")
def fused_norm():
    library = torch.library.Library("stackbench_test", "DEF")
    library.define("norm(Tensor x, Tensor weight, float eps) -> Tensor")
    library.impl("norm", norm, "CompositeExplicitAutograd")
    yield torch.ops.stackbench_test.norm
    del library


def test_a_fused_operator_that_runs_is_believed(tmp_path, monkeypatch, fused_norm):
    method(
        monkeypatch,
        operators=lambda: Operators(norm=fused_norm),
        expects=lambda *_: ("operator:^stackbench_test::norm$",),
    )
    record = run(tmp_path, method="planted")
    assert "not_fused" not in record["flags"]
    assert record["dispatch"]["missing"] == []
    assert {g["name"]: g["launches"] for g in record["dispatch"]["groups"]}["hand-written"] == 5


def test_planted_a_fused_operator_replaced_by_eager_in_silence(tmp_path, monkeypatch, fused_norm):
    def falls_back(x, weight, eps):
        try:
            return torch.ops.stackbench_test.norm_of_another_gpu(x, weight, eps)
        except AttributeError:
            return norm(x, weight, eps)

    method(
        monkeypatch,
        operators=lambda: Operators(norm=falls_back),
        expects=lambda *_: ("matrix product", "operator:^stackbench_test::norm$"),
    )
    record = run(tmp_path, method="planted")
    assert record["status"] == "ok"
    assert "not_fused" in record["flags"]
    assert record["dispatch"]["missing"] == ["operator:^stackbench_test::norm$"]
    assert "elementwise" in record["dispatch"]["instead"]
    assert "aten::m" in record["dispatch"]["instead"]


def test_planted_a_compiler_that_gives_up_in_silence(tmp_path, monkeypatch):
    torch._dynamo.reset()

    def broken(graph, inputs):
        raise RuntimeError("this backend cannot")

    method(
        monkeypatch,
        compile_model=lambda model, workload: torch.compile(model, backend=broken),
        expects=inductor.expects,
        settings=inductor.settings,
    )
    with torch._dynamo.config.patch(suppress_errors=True):
        record = run(tmp_path, method="planted")
    assert record["status"] == "ok"
    assert "not_fused" in record["flags"]
    assert record["dispatch"]["missing"] == ["compiled"]
    assert "matrix product" in record["dispatch"]["instead"]
    torch._dynamo.reset()


def test_inductor_that_runs_is_believed_and_one_switched_off_is_not(tmp_path, inductor_cell):
    honest = inductor_cell[1]
    assert honest["dispatch"]["missing"] == []
    assert "not_fused" not in honest["flags"]
    assert "compiled" in {group["name"] for group in honest["dispatch"]["groups"]}
    write_spec(tmp_path, "forward", "inductor", iterations=3, warmup=1)
    done = run_bench(tmp_path, "spec.json", TORCHDYNAMO_DISABLE="1")
    assert done.returncode == 0, done.stderr
    off = json.loads((tmp_path / "record.json").read_text())
    assert off["status"] == "ok"
    assert "not_fused" in off["flags"]
    assert off["compiles"] is None


def test_without_a_profiler_the_row_says_so_and_is_not_lost(tmp_path, monkeypatch):
    def broken(*_args, **_more):
        raise RuntimeError("CUPTI is not there")

    monkeypatch.setattr(dispatch, "profile", broken)
    record = run(tmp_path)
    assert record["status"] == "ok"
    assert record.get("dispatch") is None
    assert "CUPTI is not there" in record["detail"]["dispatch"]
    assert "unchecked" in record["flags"]


@pytest.mark.parametrize(
    ("benchmark", "dtype", "wanted"),
    [
        ("forward", "bfloat16", ["Triton", "attention"]),
        ("generation", "bfloat16", ["Triton", "attention", "graph replay"]),
        ("train_static", "float64", ["Triton", "graph replay"]),
        ("train_dynamic", "bfloat16", ["Triton", "attention"]),
    ],
)
def test_what_inductor_is_expected_to_show_on_a_gpu(tmp_path, benchmark, dtype, wanted):
    workload = read_spec(write_spec(tmp_path, benchmark, "inductor", dtype=dtype)).workload
    expected = inductor.expects(workload, "cuda")
    assert len(expected) == len(wanted)
    assert all(one.startswith(start) for one, start in zip(expected, wanted, strict=True))
