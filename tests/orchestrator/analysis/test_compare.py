"""Two sides compared: matching, verdicts, what is refused, what gates, and that records steer nothing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from record_samples import ENVIRONMENT, GPU, TELEMETRY, old_probe, proof, record, samples, save_run, workload

from orchestrator.analysis.compare import Comparison, compare, parse_side, read_sides
from orchestrator.base.errors import UsageError
from orchestrator.cli import run
from orchestrator.plan.workload import digest
from orchestrator.records.record import Record
from orchestrator.report.tables.comparison import render

NASTY = "<script>x</script> | [a](http://b.c) `code` \x1b[31mred\u202eright"


def rounds(
    method: str = "eager", milliseconds: float = 450.0, count: int = 5, seed: int = 1, **changes: Any
) -> list[Record]:
    """`count` rounds with a noise of 0.1 %."""
    source = random.Random(f"{method}{milliseconds}{seed}")  # noqa: S311
    fields = {"cell_id": digest([method, seed]), "method": method, "flags": [], **changes}
    return [
        record(
            round=number, samples=samples(9e3, 460.0, *[milliseconds * math.exp(source.gauss(0, 1e-3))] * 4), **fields
        )
        for number in range(count)
    ]


def two(tmp_path: Path, a: list[Record], b: list[Record], *more: str, **options: Any) -> Comparison:
    one, other = save_run(tmp_path / "a", a), save_run(tmp_path / "b", b)
    return compare(*read_sides(str(one), str(other), tmp_path, *more), **options)


def results(comparison: Comparison) -> list[str]:
    return [cell.result for cell in comparison.cells]


def environment(**changes: Any) -> dict[str, Any]:
    return {**ENVIRONMENT, **changes}


@pytest.mark.parametrize(
    ("milliseconds", "result", "code"), [(450.0, "same", 0), (400.0, "faster", 0), (470.0, "slower", 1)]
)
def test_verdicts_are_of_b_against_a_and_gate(tmp_path: Path, milliseconds: float, result: str, code: int) -> None:
    told = two(tmp_path, rounds(), rounds(milliseconds=milliseconds, seed=2))
    (cell,) = told.cells
    assert (cell.result, told.exit_code) == (result, code)
    assert cell.verdict is not None
    assert cell.verdict.ratio == pytest.approx(milliseconds / 450, rel=2e-3)
    assert cell.differences == ()


def test_few_rounds_are_inconclusive(tmp_path: Path) -> None:
    told = two(tmp_path, rounds(), rounds(milliseconds=300.0, count=4))
    assert (results(told), told.exit_code) == (["inconclusive"], 2)
    assert told.cells[0].verdict is not None


@pytest.mark.parametrize(
    ("a", "b", "result", "code"),
    [
        ("ok", "incorrect", "bad", 1),
        ("ok", "crashed", "bad", 1),
        ("ok", "out_of_memory", "bad", 1),
        ("ok", "unsupported", "bad", 1),
        ("ok", "skipped", "refused", 2),
        ("incorrect", "ok", "unmeasured", 3),
        ("incorrect", "incorrect", "bad", 1),
        ("unsupported", "unsupported", "unmeasured", 3),
        ("crashed", "ok", "unmeasured", 3),
    ],
)
def test_rows_that_are_not_ok_have_no_ratio(tmp_path: Path, a: str, b: str, result: str, code: int) -> None:
    told = two(tmp_path, rounds(status=a), rounds(status=b, seed=2))
    assert (results(told), told.exit_code) == ([result], code)
    assert told.cells[0].verdict is None
    assert told.mean is None


def test_each_side_is_reduced_with_its_probes(tmp_path: Path) -> None:
    def side(seed: int, **changes: Any) -> list[Record]:
        fields: dict[str, Any] = {"proof": proof(), "flags": [], "samples": samples(9.0, 1.0, 1.0), **changes}
        of = record(cell_id="b" * 16, role="probe", method="eager", workload=old_probe(workload()), **fields)
        return [*rounds(seed=seed, proof=proof()), of]

    told = two(tmp_path / "right", side(1), side(2))
    (cell,) = told.cells
    assert (cell.result, told.exit_code) == ("same", 0)
    assert "unchecked" not in render(told, "text")
    told = two(tmp_path / "wrong", side(1), side(2, status="incorrect", reason="rows: row 3"))
    assert (results(told), told.exit_code) == (["bad"], 1)
    assert "B is incorrect: on the probe: rows: row 3" in render(told, "text")
    assert "B unchecked" in render(two(tmp_path / "none", side(1), side(2)[:-1]), "text")


def test_unmeasured_rows_beside_good_ones_do_not_gate(tmp_path: Path) -> None:
    refused = rounds("tinyllama", status="unsupported")
    told = two(tmp_path, [*rounds(), *refused], [*rounds(seed=2), *refused])
    assert sorted(results(told)) == ["same", "unmeasured"]
    assert told.exit_code == 0


def test_rows_of_one_side_alone(tmp_path: Path) -> None:
    told = two(tmp_path, [*rounds(), *rounds("inductor")], [*rounds(seed=2), *rounds("thunder")])
    assert sorted(results(told)) == ["only in A", "only in B", "same"]
    assert told.exit_code == 2
    nothing = two(tmp_path, rounds("inductor"), rounds("thunder"))
    assert nothing.exit_code == 3
    assert "1 only in A, 1 only in B" in render(nothing, "text")


def test_stacks_of_other_names_are_pointed_to(tmp_path: Path) -> None:
    hint = "compare A:@cuda B:@h100"
    apart = two(tmp_path, rounds(), rounds(seed=2, stack="h100"))
    assert sorted(results(apart)) == ["only in A", "only in B"]
    assert hint in render(apart, "text")
    assert hint not in render(two(tmp_path, rounds(), rounds("thunder", stack="h100")), "text")
    both = [*rounds(seed=2), *rounds("inductor", seed=2, stack="h100")]
    assert hint not in render(two(tmp_path, [*rounds(), *rounds("inductor")], both), "text")


def test_another_gpu_gets_no_verdict_unless_asked_for(tmp_path: Path) -> None:
    other = environment(gpu={**GPU, "name": "NVIDIA A100-SXM4-40GB", "driver": "550.1"})
    sides = rounds(), rounds(milliseconds=600.0, environment=other)
    told = two(tmp_path, *sides)
    assert (results(told), told.exit_code, told.mean) == (["refused"], 2, None)
    assert told.cells[0].verdict is not None
    assert [d.what for d in told.cells[0].differences] == ["device", "driver"]
    assert "another device: NVIDIA H100 80GB HBM3 / NVIDIA A100-SXM4-40GB" in render(told, "text")
    assert results(two(tmp_path, *sides, across_devices=True)) == ["slower"]


def test_another_specimen_of_the_same_model_is_named(tmp_path: Path) -> None:
    other = environment(gpu={**GPU, "uuid": "GPU-27c61449"})
    told = two(tmp_path, rounds(), rounds(seed=2, environment=other))
    assert [(d.what, d.a, d.b) for d in told.cells[0].differences] == [("the GPU's UUID", GPU["uuid"], "GPU-27c61449")]
    assert results(told) == ["same"]


def test_another_power_limit_and_ecc_mode_are_named_where_both_sides_know_theirs(tmp_path: Path) -> None:
    full, capped = (
        environment(gpu={**GPU, "power_limit_watts": limit, "power_default_watts": 700.0, "ecc": ecc})
        for limit, ecc in ((700.0, True), (350.0, False))
    )
    told = two(tmp_path / "known", rounds(environment=full), rounds(seed=2, environment=capped))
    found = {d.what: (d.a, d.b) for d in told.cells[0].differences}
    assert found == {"power limit": ("700 W", "350 W"), "ECC": ("on", "off")}
    assert two(tmp_path / "old", rounds(), rounds(seed=2, environment=capped)).cells[0].differences == ()


def test_a_mean_of_sustained_samples_beside_a_median_of_timed_ones_is_named(tmp_path: Path) -> None:
    def lasting(one: Record) -> Record:
        timed = next(sample for sample in one.samples if sample.phase == "timed")
        more = [timed.model_copy(update={"phase": "sustained"})] * 40
        return one.model_copy(update={"samples": (*one.samples, *more)})

    told = two(tmp_path, rounds(), [lasting(one) for one in rounds(seed=2)])
    assert [(d.what, d.a, d.b) for d in told.cells[0].differences] == [("samples of the figure", "timed", "sustained")]


def test_rounds_on_several_gpus_and_their_clocks_are_all_named(tmp_path: Path) -> None:
    clocks = [{**TELEMETRY, "sm_clock_mhz": {"low": 1200.0, "median": mhz, "high": 1900.0}} for mhz in (1410.0, 1500.0)]
    other = environment(gpu={**GPU, "uuid": "GPU-27c61449"})
    one, more = rounds(seed=2, telemetry=clocks[0]), rounds(seed=2, telemetry=clocks[1], environment=other)
    told = two(tmp_path, rounds(telemetry=TELEMETRY), [*one[:4], more[4]])
    found = {d.what: (d.a, d.b) for d in told.cells[0].differences}
    assert found == {"the GPU's UUID": ("GPU-0", "GPU-0 and GPU-27c61449"), "clock": ("1755 MHz", "1410 MHz")}
    assert "GPU-0 / GPU-0 and GPU-27c61449" in render(told, "text")


def test_a_round_that_died_early_hides_nothing_of_the_others(tmp_path: Path) -> None:
    dead = rounds(seed=2)[-1].model_copy(update={"environment": None, "status": "crashed", "samples": ()})
    told = two(tmp_path, rounds(), [*rounds(seed=2)[:-1], dead])
    assert told.cells[0].differences == ()
    assert results(told) != ["refused"]


def test_what_differs_is_named(tmp_path: Path) -> None:
    packages = {**ENVIRONMENT["packages"], "triton": "3.6.0", "xformers": "0.0.31"}
    other = environment(packages=packages, fingerprint="e" * 16, python="3.12.1", gpu={**GPU, "driver": "590.1"})
    clock = {**TELEMETRY, "sm_clock_mhz": {"low": 1200.0, "median": 1410.0, "high": 1500.0}}
    told = two(
        tmp_path, rounds(telemetry=TELEMETRY), rounds(seed=2, environment=other, telemetry=clock, bench_source="c" * 16)
    )
    found = {d.what: (d.a, d.b) for d in told.cells[0].differences}
    assert found == {
        "driver": ("580.159.04", "590.1"),
        "bench source": ("b" * 16, "c" * 16),
        "Python": ("3.11.7", "3.12.1"),
        "clock": ("1755 MHz", "1410 MHz"),
        "triton": ("3.5.0", "3.6.0"),
        "xformers": (None, "0.0.31"),
    }
    assert results(told) == ["same"]
    assert "differ in the cell: driver 580.159.04 / 590.1" in render(told, "text")
    assert "xformers none / 0.0.31" in render(told, "text")


def test_methods_and_stacks_within_a_run(tmp_path: Path) -> None:
    place = save_run(
        tmp_path,
        [*rounds(), *rounds("inductor", 300.0), *rounds("inductor", 330.0, stack="nightly", seed=3)],
    )
    name = place.name

    def told(a: str, b: str) -> dict[str, str]:
        found = compare(*read_sides(a, b, tmp_path))
        return {f"{c.a.name if c.a else ''} {c.b.name if c.b else ''}": c.result for c in found.cells}

    assert told(f"{name}:eager@cuda", ":inductor@cuda") == {"eager@cuda inductor@cuda": "faster"}
    assert told(":inductor@nightly", f"{name}:inductor@cuda") == {"inductor@nightly inductor@cuda": "faster"}
    assert told(f"{place}:@nightly", f"{name}:@cuda") == {
        "inductor@nightly inductor@cuda": "faster",
        " eager@cuda": "only in B",
    }
    assert told(":eager", ":inductor") == {
        "eager@cuda inductor@cuda": "faster",
        " inductor@nightly": "only in B",
    }


def test_the_geometric_mean(tmp_path: Path) -> None:
    wide = workload(batch=20)
    a = [*rounds(), *rounds(milliseconds=800.0, workload=wide, seed=2)]
    b = [*rounds(milliseconds=225.0, seed=3), *rounds(milliseconds=400.0, workload=wide, seed=4)]
    told = two(tmp_path, a, b)
    assert results(told) == ["faster", "faster"]
    assert told.mean is not None
    assert told.mean.cells == 2
    assert told.mean.verdict.outcome == "faster"
    assert told.mean.verdict.speedup == pytest.approx(2.0, rel=5e-3)
    low, high = told.mean.verdict.speedup_interval or (0, 0)
    assert low < told.mean.verdict.speedup < high


def test_published_figures_are_compared_as_the_note_reckoned(tmp_path: Path) -> None:
    place = save_run(tmp_path, rounds("eager"))
    told = compare(*read_sides("published", place.name, tmp_path))
    (cell,) = told.cells
    assert told.protocol == "note"
    assert (cell.result, told.exit_code) == ("refused", 2)
    assert cell.verdict is not None
    assert cell.verdict.speedup == pytest.approx(1.48 / 0.45, rel=0.01)
    back = compare(*read_sides(place.name, "published", tmp_path), across_devices=True)
    assert results(back) == ["inconclusive"]
    with pytest.raises(UsageError, match="both sides are the published"):
        read_sides("published", "published", tmp_path)


def test_two_rows_of_one_name_the_matching_one_is_taken_and_said_so(tmp_path: Path) -> None:
    other = environment(gpu={**GPU, "name": "NVIDIA A100"})
    told = two(tmp_path, rounds(), [*rounds(seed=2), *rounds(milliseconds=700.0, seed=3, environment=other)])
    assert results(told) == ["same"]
    assert told.cells[0].remark == "2 rows have that name: the best matching two are compared"


def test_a_row_is_not_compared_with_itself(tmp_path: Path) -> None:
    name = save_run(tmp_path, rounds()).name
    for a, b in ((name, name), (f"{name}:eager", ""), (f"{name}:eager", ":@cuda")):
        with pytest.raises(UsageError, match="the very same rows"):
            compare(*read_sides(a, b, tmp_path))


def test_names_of_sides(tmp_path: Path) -> None:
    def parts(text: str) -> tuple[Any, ...]:
        found = parse_side(text, tmp_path)
        return found.run, found.method, found.stack

    assert parts("a/b") == ("a/b", None, None)
    assert parts("a/b:eager") == ("a/b", "eager", None)
    assert parts("a:eager@h-2") == ("a", "eager", "h-2")
    assert parts(":@h-2") == (None, None, "h-2")
    assert parts(":") == (":", None, None)
    odd = save_run(tmp_path, rounds())
    odd.rename(tmp_path / "x:eager")
    assert parts("x:eager") == ("x:eager", None, None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "other"), 'no run "nowhere"'),
        (("RUN:egaer", ":eager"), 'no row of this run has the method "egaer"; known: eager'),
        (("RUN:@cpu", ":eager"), 'the stack "cpu"; known: cuda'),
        (("RUN", "RUN", "--benchmark", "x"), 'unknown benchmark "x"'),
        (("RUN",), "Missing argument 'B'"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: Any, arguments: tuple[str, ...], says: str) -> None:
    name = save_run(tmp_path, rounds()).name
    words = [word.replace("RUN", name) for word in arguments]
    assert run(["compare", *words, "--results", str(tmp_path)]) == 4
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_the_command_and_its_forms(tmp_path: Path, capsys: Any) -> None:
    one, other = save_run(tmp_path / "a", rounds()), save_run(tmp_path / "b", rounds(milliseconds=500.0))
    words = ["compare", str(one), str(other), "--results", str(tmp_path)]
    assert run(words) == 1
    assert "slower" in capsys.readouterr().out
    assert run([*words, "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 1
    (cell,) = told["cells"]
    assert cell["result"] == "slower"
    assert cell["time_ratio"] == pytest.approx(500 / 450, rel=3e-3)
    assert cell["speedup_interval"][0] < cell["speedup"] < cell["speedup_interval"][1]
    assert len(cell["a"]["round_seconds"]) == 5
    assert run([*words, "--format", "markdown"]) == 1
    html = MarkdownIt("commonmark").enable("table").render(capsys.readouterr().out)
    assert "<strong>slower</strong>" in html


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_what_came_from_a_record_stays_text(tmp_path: Path, form: str) -> None:
    packages = {"torch": NASTY, NASTY: "1"}
    a = [*rounds(), *rounds("thunder")]
    b = [*rounds(environment=environment(packages=packages)), *rounds("thunder", status="crashed", reason=NASTY)]
    text = render(two(tmp_path, a, b), form)
    if form == "json":
        json.loads(text)
        return
    assert "\x1b" not in text
    assert "\u202e" not in text
    if form == "markdown":
        html = MarkdownIt("commonmark").enable("table").render(text)
        assert "<script" not in html
        assert "<a " not in html


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    one, other = save_run(tmp_path / "a", rounds()), save_run(tmp_path / "b", rounds(seed=2))
    (other / "records" / "forward-x@cuda-0123456789abcdef-r0.json").write_text("{")
    told = compare(*read_sides(str(one), str(other), tmp_path))
    assert "could not be read, and is not compared" in render(told, "text")
