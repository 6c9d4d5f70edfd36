"""Shares of the measured ceilings, against figures computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from record_samples import ceilings, record, sample, workload

from orchestrator.analysis.ceilings import Ceiling, Hardware, ceiling, hardware_of, joules_of_sample, share_of_ceiling
from orchestrator.records.record import HostLoad, Provenance, Work

H100 = Hardware(device="cuda", name="NVIDIA H100 80GB HBM3", uuid="GPU-0", driver="580.159.04")
FORWARD = Work(flops=281_600_000_000_000, bytes=None, tokens=20480)
DECODE = Work(flops=2_706_000_000_000, bytes=200 * 13_214_000_000, tokens=200)


def measured(**changes: object) -> Ceiling:
    return ceiling(ceilings()).model_copy(update=changes)


def test_compute_bound() -> None:
    share = share_of_ceiling(FORWARD, 0.448, H100, "bfloat16", [measured()])
    # 281.6 TFLOP at 781 TFLOP/s take 0.36056 s.
    assert share.share == pytest.approx(0.36056 / 0.448, rel=1e-4)
    assert (share.bound, share.ceiling_of, share.reason) == ("compute", "this device", None)


def test_memory_bound_of_decoding() -> None:
    share = share_of_ceiling(DECODE, 200 / 170, H100, "bfloat16", [measured()])
    # 13.214 GB at 3.02 TB/s allow 228.5 tokens/s.
    assert share.share == pytest.approx(170 / 228.5, rel=1e-3)
    assert share.bound == "memory"


def test_another_device_of_the_same_model_is_named() -> None:
    other = replace(H100, uuid="GPU-1")
    assert share_of_ceiling(FORWARD, 0.5, other, "bfloat16", [measured()]).ceiling_of == "this model of device"
    unknown = replace(H100, uuid=None)
    assert share_of_ceiling(FORWARD, 0.5, unknown, "bfloat16", [measured()]).ceiling_of == "this model of device"


def test_the_devices_own_ceilings_go_first_and_the_best_of_them_counts() -> None:
    slow, quick = measured(flops_per_second=600e12), measured(round=1, flops_per_second=700e12)
    elsewhere = measured(hardware=replace(H100, uuid="GPU-1"), flops_per_second=999e12)
    share = share_of_ceiling(FORWARD, 0.5, H100, "bfloat16", [slow, elsewhere, quick])
    assert share.share == pytest.approx(281.6 / 700 / 0.5)


def test_the_best_that_any_stack_shows_is_the_devices_ceiling_and_is_named() -> None:
    old = measured(stack="old", flops_per_second=710e12, bytes_per_second=3.02e12)
    new = measured(stack="new", flops_per_second=781e12, bytes_per_second=2.99e12)
    for found in ([old, new], [new, old]):
        products, copies = (share_of_ceiling(work, 1.0, H100, "bfloat16", found) for work in (FORWARD, DECODE))
        assert (products.share, products.stack) == (pytest.approx(0.2816 / 0.781), "new")
        assert (copies.share, copies.stack) == (pytest.approx(2.6428 / 3.02), "old")
    crashed = measured(stack="new", status="crashed", flops_per_second=999e12)
    assert share_of_ceiling(FORWARD, 1.0, H100, "bfloat16", [old, crashed]).stack == "old"


def test_which_gpu_it_was_says_the_orchestrator_where_torch_does_not() -> None:
    known = record().environment.model_dump(mode="json")
    gpu = {**known["gpu"], "name": H100.name, "uuid": None, "driver": H100.driver}
    environment = {**known, "gpu": gpu}
    untold = record(environment=environment)
    assert hardware_of(untold).uuid is None
    for told in (
        untold,
        record(environment={**environment, "gpu": {**gpu, "uuid": "GPU-other"}}),
        record(environment=None),
    ):
        given = told.model_copy(update={"provenance": Provenance(launcher="docker", gpu="GPU-0")})
        assert hardware_of(given).uuid == "GPU-0"
    given = untold.model_copy(update={"provenance": Provenance(launcher="docker", gpu="GPU-0")})
    assert share_of_ceiling(FORWARD, 0.5, hardware_of(given), "bfloat16", [measured()]).ceiling_of == "this device"


def test_a_gpu_is_named_with_its_ecc_mode_and_with_a_power_limit_that_is_not_its_own() -> None:
    assert H100.in_words == "NVIDIA H100 80GB HBM3, driver 580.159.04"
    assert replace(H100, power_limit_watts=350.0).in_words == H100.in_words
    assert replace(H100, power_default_watts=700.0).in_words == H100.in_words
    usual = replace(H100, power_limit_watts=700.0, power_default_watts=700.0, ecc=True)
    assert usual.in_words == f"{H100.in_words}, ECC on"
    capped = replace(usual, power_limit_watts=350.0, ecc=False)
    assert capped.in_words == f"{H100.in_words}, power limit 350 W (700 W by default), ECC off"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "crashed"}, "the run has no ceilings of this device"),
        ({"hardware": replace(H100, driver="1")}, "the run has no ceilings of this device"),
        ({"dtype": "float32"}, "no compute ceiling: the matrix product was measured in float32, not in bfloat16"),
        ({"flops_per_second": None}, "no compute ceiling: it was not measured"),
        ({"bytes_per_second": None}, "no memory ceiling: it was not measured"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, object], reason: str) -> None:
    share = share_of_ceiling(DECODE, 1.0, H100, "bfloat16", [measured(**changes)])
    assert share.share is None
    assert share.reason == reason


def test_no_figure_and_no_work() -> None:
    assert share_of_ceiling(FORWARD, None, H100, "bfloat16", [measured()]).reason == "no figure"
    assert share_of_ceiling(None, 1.0, H100, "bfloat16", [measured()]).reason == "the work of a sample is not known"


def test_a_cpu_is_the_same_with_as_many_threads() -> None:
    cpu = Hardware(device="cpu", name="A CPU", threads=2)
    assert cpu.model == replace(cpu, uuid="another").model
    assert len({cpu.model, replace(cpu, threads=4).model, H100.model, replace(H100, driver="1").model}) == 4
    assert Hardware(device="cpu").model is None, "two of which nothing is known are not alike"


CPU = Hardware(device="cpu", name="A CPU", threads=2)
ABOVE = [
    pytest.param(
        (H100, "bfloat16", FORWARD, 0.09, "compute", "part of the work was not done"), id="four times too fast"
    ),
    pytest.param((H100, "bfloat16", FORWARD, 1e-6, "compute", "part of the work was not done"), id="a lazy output"),
    pytest.param((H100, "float32", FORWARD, 0.2, "compute", "its products are in TF32"), id="another type"),
    pytest.param((H100, "bfloat16", DECODE, 0.5, "memory", "the model fits the device's cache"), id="in the cache"),
    pytest.param((CPU, "float32", FORWARD, 0.3, "compute", "other work loaded the CPU"), id="a loaded CPU"),
]


@pytest.mark.parametrize("case", ABOVE)
def test_a_share_above_one_is_none_and_says_why(case: tuple[Hardware, str, Work, float, str, str]) -> None:
    hardware, dtype, work, seconds, bound, words = case
    share = share_of_ceiling(work, seconds, hardware, dtype, [measured(hardware=hardware, dtype=dtype)])
    assert (share.share, share.bound) == (None, bound)
    assert share.reason is not None
    assert words in share.reason
    assert "times the" in share.reason


@pytest.mark.parametrize(("spread", "shown"), [(0.0, False), (0.03, False), (0.05, True)])
def test_a_share_within_the_ceilings_own_spread_is_shown(spread: float, shown: bool) -> None:
    seconds = 281.6 / 781 / 1.04
    share = share_of_ceiling(FORWARD, seconds, H100, "bfloat16", [measured(flops_spread=spread)])
    assert share.share == (pytest.approx(1.04) if shown else None)


@pytest.mark.parametrize(("times", "shown"), [(1.14, True), (1.16, False), (1.45, False)])
def test_however_far_the_ceilings_calls_scatter_a_share_is_at_most_the_margin_above_one(
    times: float, shown: bool
) -> None:
    share = share_of_ceiling(FORWARD, 281.6 / 781 / times, H100, "bfloat16", [measured(flops_spread=0.715)])
    assert share.share == (pytest.approx(times) if shown else None)
    if not shown:
        assert share.reason is not None
        assert "at most 1.71 times it: the ceiling is wrong, for its calls differ by more than 15 %" in share.reason


LOADED, QUIET = (HostLoad(cpus=2, seconds=3.4, own=0.2, others=others, stolen=0.0) for others in (1.8, 0.19))


@pytest.mark.parametrize(
    ("hardware", "load", "words"),
    [
        (
            CPU,
            LOADED,
            "the ceiling is wrong, for while it was measured, other processes took 1.8 of this host's 2 CPUs",
        ),
        (CPU, QUIET, "it is the row, not the ceiling: part of the work was not done"),
        (CPU, None, "the ceiling or the row is wrong: other work loaded the CPU while the ceiling was measured"),
        (H100, LOADED, "it is the row, not the ceiling: part of the work was not done"),
    ],
)
def test_where_a_share_is_above_one_it_is_said_which_of_ceiling_and_row_is_wrong(
    hardware: Hardware, load: HostLoad | None, words: str
) -> None:
    for found in (
        measured(hardware=hardware, host_load=load),
        lasting(products(781e12), hardware=hardware, host_load=load),
    ):
        share = share_of_ceiling(FORWARD, 281.6 / 781 / 1.447, hardware, "bfloat16", [found])
        assert share.share is None
        assert share.reason is not None
        assert f": {words}" in share.reason


def test_equal_copies_beside_other_work_and_without_have_a_share_too() -> None:
    same = [measured(host_load=load) for load in (LOADED, QUIET, None)]
    assert share_of_ceiling(DECODE, 1.0, H100, "bfloat16", same).bound == "memory"


def test_the_spread_is_of_the_size_whose_rate_is_taken() -> None:
    durations = {4096: [500, 1000, 1000], 8192: [900, 950, 1000]}
    rates = [{"kind": "matrix_product", "size": n, "work": n**3, "durations_ns": d} for n, d in durations.items()]
    found = ceiling(ceilings(rates=rates))
    assert (found.matrix_size, found.flops_spread) == (8192, pytest.approx(950 / 900 - 1))


@pytest.mark.parametrize(
    ("joules", "window_ns", "shown"),
    [
        (281.6, 3 * 10**9, True),
        (250.0, 3 * 10**9, True),
        (230.0, 3 * 10**9, False),
        (1.0, 3 * 10**9, False),
        (1.0, 10**9, True),
    ],
)
def test_work_that_took_too_little_energy_has_no_share(joules: float, window_ns: int, shown: bool) -> None:
    """The ceiling does 1 TFLOP a joule; of less than 2 s its counter says nothing."""
    product = {"kind": "matrix_product", "size": 8192, "work": 10**12, "durations_ns": [1_280_000] * 5}
    copy = {"kind": "device_copy", "size": 2**30, "work": 10**12, "durations_ns": [10**9]}
    window = {"begin_ns": 10**9, "end_ns": 10**9 + window_ns, "energy_joules": 5.0}
    share = share_of_ceiling(
        FORWARD, 0.5, H100, "bfloat16", [ceiling(ceilings(rates=[{**product, **window}, copy]))], joules=joules
    )
    assert (share.share is not None) == shown
    if not shown:
        assert share.reason is not None
        assert "by the device's energy counter, and the matrix product does 1.00 TFLOP/J" in share.reason


def test_the_energy_of_a_sample_needs_two_seconds_of_them() -> None:
    taken = [sample(index, 700.0) for index in range(4)]
    seen = {"readings": 9, "interval_ms": 20.0, "energy_joules": 800.0}
    assert joules_of_sample(record(samples=taken, telemetry=seen)) == 200.0
    assert joules_of_sample(record(samples=taken[:2], telemetry=seen)) is None
    assert joules_of_sample(record(samples=taken)) is None


SECOND = 10**9


def products(rate: float, **changes: object) -> dict[str, object]:
    """Five durations of 1 TFLOP each, at `rate`."""
    return {
        "kind": "matrix_product",
        "size": 16384,
        "work": 10**12,
        "durations_ns": [round(10**12 / rate * 1e9)] * 5,
        **changes,
    }


COPY = {"kind": "device_copy", "size": 2**30, "work": 10**12, "durations_ns": [331_125_828]}


def lasting(*rates: dict[str, object], dtype: str = "bfloat16", **changes: object) -> Ceiling:
    found = ceiling(ceilings(rates=[*rates, COPY], workload=workload("ceilings", dtype=dtype)))
    return found.model_copy(update=changes)


def test_the_sustained_rate_is_all_the_work_over_all_the_time() -> None:
    found = lasting(
        products(781e12, size=8192),
        products(750e12),
        products(1.0, durations_ns=[1_300_000, 1_300_000, 1_300_000, 1_700_000], sustained=True),
    )
    assert (found.flops_per_second, found.matrix_size) == (pytest.approx(781e12, rel=1e-5), 8192)
    # 4 TFLOP in 5.6 ms; the median would be 769. It counts as sustained alone, even above the burst.
    colder = lasting(products(700e12), products(781e12, sustained=True))
    assert (colder.flops_per_second, colder.matrix_size) == (pytest.approx(700e12, rel=1e-5), 16384)
    assert found.sustained_flops_per_second == pytest.approx(4e12 / 5.6e-3)
    assert found.sustained_spread == pytest.approx(1.4 / 1.3 - 1)
    assert found.in_words == (
        "bfloat16 matrix product 781 TFLOP/s (size 8192), sustained 714 TFLOP/s (size 16384), "
        "device copy 3.02 TB/s (read + written)"
    )


def test_an_old_record_has_no_sustained_rate_and_its_words_are_as_they_were() -> None:
    found = measured()
    assert (found.sustained_flops_per_second, found.sustained_size, found.lower) == (None, None, ())
    assert found.in_words == "bfloat16 matrix product 781 TFLOP/s (size 8192), device copy 3.02 TB/s (read + written)"


def test_samples_at_the_power_cap_are_divided_by_the_sustained_rate() -> None:
    both = lasting(products(781e12), products(700e12, sustained=True))
    capped = share_of_ceiling(FORWARD, 0.448, H100, "bfloat16", [both], sustained=True)
    assert (capped.share, capped.rate) == (pytest.approx(0.2816 / 0.7 / 0.448, rel=1e-5), "sustained")
    short = share_of_ceiling(FORWARD, 0.448, H100, "bfloat16", [both])
    assert (short.share, short.rate) == (pytest.approx(0.2816 / 0.781 / 0.448, rel=1e-5), "burst")
    old = share_of_ceiling(FORWARD, 0.448, H100, "bfloat16", [measured()], sustained=True)
    assert (old.share, old.rate) == (pytest.approx(0.2816 / 0.781 / 0.448, rel=1e-5), "burst")
    decoding = share_of_ceiling(DECODE, 1.2, H100, "bfloat16", [both], sustained=True)
    assert (decoding.bound, decoding.rate, decoding.is_plain) == ("memory", None, True)


def test_the_best_sustained_rate_of_any_stack_counts_before_any_burst() -> None:
    burst = lasting(products(900e12), stack="burst")
    low = lasting(products(781e12), products(690e12, sustained=True), stack="low")
    high = lasting(products(740e12), products(700e12, sustained=True), stack="high")
    share = share_of_ceiling(FORWARD, 1.0, H100, "bfloat16", [burst, low, high], sustained=True)
    assert (share.share, share.stack, share.rate) == (pytest.approx(0.2816 / 0.7, rel=1e-5), "high", "sustained")
    assert share_of_ceiling(FORWARD, 1.0, H100, "bfloat16", [burst, low, high]).stack == "burst"


def test_the_very_same_rates_of_two_rounds_or_precisions_have_a_share_too() -> None:
    same = [measured(), measured(round=1, flops_per_joule=1e12)]
    assert share_of_ceiling(FORWARD, 1.0, H100, "bfloat16", same).share == pytest.approx(0.2816 / 0.781, rel=1e-5)
    alike = lasting(products(400e12), products(400e12, precision="tf32"), dtype="float32")
    share = share_of_ceiling(FORWARD, 1.0, H100, "float32", [alike], lower=SEEN)
    assert share.share == pytest.approx(0.2816 / 0.4, rel=1e-5)


def test_a_share_above_the_sustained_rate_is_none_and_says_which_rate() -> None:
    both = lasting(products(781e12), products(700e12, sustained=True))
    seconds = 0.2816 / 0.74
    share = share_of_ceiling(FORWARD, seconds, H100, "bfloat16", [both], sustained=True)
    assert (share.share, share.bound, share.rate) == (None, "compute", "sustained")
    assert share.reason is not None
    assert "1.06 times the compute ceiling (sustained rate)" in share.reason
    assert share_of_ceiling(FORWARD, seconds, H100, "bfloat16", [both]).share == pytest.approx(0.74 / 0.781, rel=1e-4)


def test_the_energy_of_the_sustained_products_serves() -> None:
    window = {"begin_ns": SECOND, "end_ns": 21 * SECOND, "energy_joules": 5.0}
    short = {"begin_ns": SECOND, "end_ns": 2 * SECOND, "energy_joules": 1.0}
    both = lasting(products(781e12, **short), products(700e12, sustained=True, **window))
    assert both.flops_per_joule == 1e12
    enough, little = (share_of_ceiling(FORWARD, 0.5, H100, "bfloat16", [both], joules=j) for j in (281.6, 230.0))
    assert enough.share is not None
    assert little.reason is not None
    assert "by the device's energy counter" in little.reason


TF32 = lasting(
    *(products(rate, precision=None if rate < 60e12 else "tf32") for rate in (50e12, 400e12)),
    *(products(rate, precision=None if rate < 60e12 else "tf32", sustained=True) for rate in (45e12, 350e12)),
    dtype="float32",
)
SEEN = ("int8: igemm", "TF32: sm90_xmma_gemm_f32f32_tf32f32_f32")


def test_a_float32_ceiling_has_tf32_beside_it() -> None:
    assert (TF32.dtype, [one.dtype for one in TF32.lower]) == ("float32", ["tf32"])
    assert TF32.in_words == (
        "float32 matrix product 50.0 TFLOP/s (size 16384), sustained 45.0 TFLOP/s (size 16384), "
        "TF32 matrix product 400 TFLOP/s (size 16384), sustained 350 TFLOP/s (size 16384), "
        "device copy 3.02 TB/s (read + written)"
    )


@pytest.mark.parametrize(
    ("lower", "sustained", "rate", "words"),
    [
        ((), False, 50e12, "burst rate"),
        ((), True, 45e12, "sustained rate"),
        (("fp8: e4m3",), False, 50e12, "burst rate"),
        (SEEN, False, 400e12, "burst rate in TF32"),
        (SEEN, True, 350e12, "sustained rate in TF32"),
    ],
)
def test_a_row_whose_kernels_are_in_tf32_has_a_share_of_tf32s_ceiling(
    lower: tuple[str, ...], sustained: bool, rate: float, words: str
) -> None:
    share = share_of_ceiling(FORWARD, 9.0, H100, "float32", [TF32], lower=lower, sustained=sustained)
    assert share.share == pytest.approx(281.6e12 / rate / 9.0, rel=1e-5)
    assert share.rate_in_words == words
    assert share.precision == ("tf32" if lower is SEEN else None)


@pytest.mark.parametrize(
    ("found", "lower", "seconds", "points_at_tf32"),
    [(TF32, (), 1.0, True), (TF32, SEEN, 0.1, False), (TF32.model_copy(update={"lower": ()}), SEEN, 1.0, True)],
)
def test_tf32_is_named_as_the_cause_only_where_its_ceiling_was_not_taken(
    found: Ceiling, lower: tuple[str, ...], seconds: float, points_at_tf32: bool
) -> None:
    share = share_of_ceiling(FORWARD, seconds, H100, "float32", [found], lower=lower)
    assert share.share is None
    assert share.reason is not None
    assert ("its products are in TF32" in share.reason) == points_at_tf32


def test_tf32_is_no_ceiling_of_other_types() -> None:
    share = share_of_ceiling(FORWARD, 1.0, H100, "bfloat16", [TF32], lower=SEEN)
    assert share.reason == "no compute ceiling: the matrix product was measured in float32, not in bfloat16"
