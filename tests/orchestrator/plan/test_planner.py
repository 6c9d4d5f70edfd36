from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_samples import OF_THE_NOTE, SUITE, stack, write_suite

from orchestrator.base.errors import UsageError
from orchestrator.plan.cell import Plan
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import Suite, load_suite

if TYPE_CHECKING:
    from pathlib import Path

STACKS = {"a": stack("a", ("inductor", "eager")), "b": stack("b", ("eager", "thunder"))}


@pytest.fixture(scope="module")
def smoke() -> Suite:
    return load_suite("smoke")


def titles(plan: Plan) -> list[str]:
    """Of the ceilings and the rows: what proves the rows has a test of its own."""
    return [cell.title for cell in plan.cells if cell.role in ("ceilings", "row")]


def test_ceilings_first_then_the_suites_order_eager_first(smoke: Suite) -> None:
    plan = make_plan(smoke, STACKS, device="cpu")
    assert titles(plan)[:2] == ["ceilings torch@a", "ceilings torch@b"]
    expected = [
        f"{benchmark} {run}" for benchmark in OF_THE_NOTE for run in ("eager@a", "eager@b", "inductor@a", "thunder@b")
    ]
    assert titles(plan)[2:] == expected
    assert {cell.device for cell in plan.cells} == {"cpu"}
    roles = [cell.role for cell in plan.cells]
    assert roles == sorted(roles, key=("ceilings", "reference", "probe", "row").index)


def test_selection_by_benchmark_and_method(smoke: Suite) -> None:
    plan = make_plan(smoke, STACKS, device="cuda", benchmarks=["generation", "forward"], methods=["eager"])
    assert titles(plan) == [
        "ceilings torch@a",
        "ceilings torch@b",
        "forward eager@a",
        "forward eager@b",
        "generation eager@a",
        "generation eager@b",
    ]
    plan = make_plan(smoke, STACKS, device="cpu", benchmarks=["forward"], methods=["eager@b", "inductor"])
    assert titles(plan)[-2:] == ["forward eager@b", "forward inductor@a"]
    assert titles(make_plan(smoke, STACKS, device="cpu", benchmarks=["ceilings"])) == [
        "ceilings torch@a",
        "ceilings torch@b",
    ]


@pytest.mark.parametrize(
    ("own", "rows", "measured"),
    [
        ("", '"float32"', ["float32"]),
        ("", '["float32", "bfloat16"]', ["float32", "bfloat16"]),
        ('dtype = "float32"', '"float32"', ["float32"]),
        ('dtype = "bfloat16"', '["float64", "float32"]', ["bfloat16", "float64", "float32"]),
    ],
)
def test_the_matrix_product_is_measured_in_the_types_of_the_rows(
    tmp_path: Path, own: str, rows: str, measured: list[str]
) -> None:
    text = SUITE.replace("[ceilings]\n", f"[ceilings]\n{own}\n").replace("batch = 2\n", f"batch = 2\ndtype = {rows}\n")
    plan = make_plan(load_suite(str(write_suite(tmp_path, text))), STACKS, device="cpu", benchmarks=["forward"])
    assert [cell.workload.dtype for cell in plan.cells if cell.title == "ceilings torch@b"] == measured
    assert {cell.workload.dtype for cell in plan.cells if cell.role == "row"} <= set(measured)


def test_rounds_deadline_and_cache_are_set_from_outside(smoke: Suite) -> None:
    plan = make_plan(smoke, STACKS, device="cpu", rounds=3, timeout_s=7.0, cache="shared")
    assert {(cell.role, cell.rounds) for cell in plan.cells if cell.role != "probe"} == {
        ("ceilings", 1), ("reference", 1), ("row", 3)
    }  # fmt: skip
    assert {cell.timeout_s for cell in plan.cells} == {7.0}
    assert {cell.cache for cell in plan.cells} == {"shared"}


def test_each_stack_has_its_device(smoke: Suite) -> None:
    plan = make_plan(smoke, STACKS, device={"a": "cpu", "b": "cuda"})
    assert {(cell.stack, cell.device) for cell in plan.cells} == {("a", "cpu"), ("b", "cuda")}


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"benchmarks": ["forwrd"]}, 'unknown benchmark "forwrd" (did you mean "forward"?); known: forward, '),
        ({"methods": ["eagr"]}, 'unknown method "eagr" (did you mean "eager"?); known: inductor, eager, thunder'),
        ({"methods": ["tinyllama"]}, 'unknown method "tinyllama"'),
        ({"methods": ["eager@c"]}, '--method: unknown stack "c"; known: a, b'),
        ({"methods": ["thunder@a"]}, '--method: unknown method of stack a "thunder"; known: '),
    ],
)
def test_unknown_names_are_refused(smoke: Suite, selection: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(smoke, STACKS, device="cpu", **selection)
    assert str(caught.value).startswith(says)


def test_a_method_of_a_stack_left_out_is_no_mistake_but_leaves_nothing(smoke: Suite) -> None:
    with pytest.raises(UsageError, match="nothing to run"):
        make_plan(smoke, {"b": STACKS["b"]}, device="cpu", methods=["inductor"], known_methods=["inductor"])


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("batch = 2", 'batch = 2\nmethods = ["eagre"]', "cells[0].methods"),
        ("[[cells]]", '[defaults]\nmethods = ["eagre"]\n[[cells]]', "defaults.methods"),
    ],
)
def test_a_suites_unknown_method_names_file_and_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    path = write_suite(tmp_path, SUITE.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        make_plan(load_suite(str(path)), STACKS, device="cpu")
    assert str(caught.value).startswith(f'{path}: {key}: unknown method "eagre"')


def test_a_suites_methods_are_taken_where_a_stack_offers_them(tmp_path: Path) -> None:
    path = write_suite(tmp_path, SUITE.replace("batch = 2", 'batch = 2\nmethods = ["thunder", "eager"]'))
    plan = make_plan(load_suite(str(path)), STACKS, device="cpu", benchmarks=["forward"])
    assert titles(plan)[2:] == ["forward eager@a", "forward eager@b", "forward thunder@b"]


def test_the_same_cell_twice_is_refused_and_split_methods_are_not(tmp_path: Path) -> None:
    cell = "\n[[cells]]\nbenchmark = 'forward'\nmodel = 'tiny'\nbatch = 2\nsequence = 64\n"
    twice = load_suite(str(write_suite(tmp_path, SUITE + cell)))
    with pytest.raises(UsageError, match=r"cells\[2\]: names forward eager@a of .*cells\[0\] again; remove one"):
        make_plan(twice, STACKS, device="cpu")
    split = (
        SUITE.replace("batch = 2", 'batch = 2\nmethods = ["eager"]') + cell + "methods = ['inductor']\ntimeout_s = 9\n"
    )
    plan = make_plan(load_suite(str(write_suite(tmp_path, split))), STACKS, device="cpu", benchmarks=["forward"])
    assert [(cell.title, cell.timeout_s) for cell in plan.cells if cell.role == "row"] == [
        ("forward eager@a", 600.0),
        ("forward eager@b", 600.0),
        ("forward inductor@a", 9.0),
    ]


NAMES = st.sampled_from(["eager", "inductor", "thunder", "tinyllama", "x1"])
OFFERS = st.dictionaries(
    st.sampled_from(["a", "b", "c-d", "e_f"]), st.lists(NAMES, min_size=1, max_size=4, unique=True), min_size=1
)


@settings(max_examples=40, deadline=None)
@given(offers=OFFERS, rounds=st.integers(1, 5))
def test_every_offered_cell_is_planned_once_and_plan_ids_are_stable(
    smoke: Suite, offers: dict[str, list[str]], rounds: int
) -> None:
    stacks = {name: stack(name, tuple(methods)) for name, methods in offers.items()}
    plan = make_plan(smoke, stacks, device="cpu", rounds=rounds)
    rows = [cell for cell in plan.cells if cell.role == "row"]
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    assert len(rows) == 5 * sum(map(len, offers.values()))
    for benchmark in OF_THE_NOTE:
        methods = [cell.method for cell in rows if cell.benchmark == benchmark]
        eager = methods.count("eager")
        assert methods[:eager] == ["eager"] * eager
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.plan_id == plan.plan_id
    assert make_plan(smoke, stacks, device="cpu", rounds=rounds + 1).plan_id != plan.plan_id


def test_ids_are_pinned(smoke: Suite) -> None:
    cell = next(cell for cell in make_plan(smoke, {"cpu": stack()}, device="cpu").cells if cell.role == "row")
    identity = cell.cell_id(environment="e", bench_source="s", gpu=None)
    assert (cell.key, identity) == ("1d9e566c22b42d9b", "5cda0ee4f007b74b")
    others = {
        cell.cell_id(environment=environment, bench_source=source, gpu=gpu)
        for environment, source, gpu in (("x", "s", None), ("e", "x", None), ("e", "s", "H100|580"))
    }
    assert len(others | {identity}) == 4
