"""Rows beside others: verdict, break-even and losses against eager on the same stack; the probe of the method."""

from __future__ import annotations

import math
from typing import Any

import pytest
from record_samples import check, compiled_in, old_probe, proof, record, samples, shared_cache, workload

from orchestrator.analysis.beside import across_stacks
from orchestrator.analysis.reduce import rows
from orchestrator.analysis.rows import Row
from orchestrator.plan.proof_cells import probe_workload
from orchestrator.plan.workload import Workload, digest
from orchestrator.records.record import Record
from orchestrator.report.columns import against_eager, break_even

NOISE = (1.0, 1.001, 0.999, 1.0005, 0.9995)


def rounds(method: str, milliseconds: float, *, first: float = 2000.0, count: int = 5, **changes: Any) -> list[Record]:
    benchmark = changes.pop("benchmark", "forward")
    cell_id = changes.pop("cell_id", f"{method[0]}{changes.get('stack', 'cuda')[0]}".encode().hex() * 4)
    return [
        record(
            benchmark,
            cell_id=cell_id,
            round=number,
            method=method,
            samples=samples(first, milliseconds, *[milliseconds * NOISE[number % 5]] * 4),
            **changes,
        )
        for number in range(count)
    ]


def row_of(records: list[Record], method: str = "inductor", protocol: str = "steady") -> Row:
    (found,) = [row for row in rows(records, protocol) if row.method == method and row.stack == "cuda"]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("milliseconds", "outcome", "shown"),
    [
        (300.0, "faster", "1.50× [1.50, 1.50] faster"),  # noqa: RUF001
        (450.5, "same", "0.999× [0.997, 1.00] same"),  # noqa: RUF001
        (600.0, "slower", "0.750× [0.749, 0.751] slower"),  # noqa: RUF001
    ],
)
def test_against_eager_on_the_same_stack(milliseconds: float, outcome: str, shown: str) -> None:
    elsewhere = rounds("eager", 1.0, stack="other")
    row = row_of([*rounds("inductor", milliseconds), *rounds("eager", 450.0), *elsewhere])
    assert row.versus is not None
    assert (row.versus.against, row.versus.verdict.outcome) == ("eager@cuda", outcome)
    assert against_eager(row).line() == shown
    assert row_of([*rounds("inductor", milliseconds), *elsewhere]).versus is None
    assert row_of(rounds("eager", 450.0), "eager").versus is None


def test_fewer_than_five_rounds_are_inconclusive() -> None:
    row = row_of([*rounds("inductor", 100.0, count=4), *rounds("eager", 450.0)])
    assert row.versus is not None
    assert (row.versus.verdict.outcome, row.versus.verdict.reason) == ("inconclusive", "4 of at least 5 rounds")
    row = row_of([*rounds("inductor", 100.0, count=1), *rounds("eager", 450.0, count=1)])
    assert against_eager(row).line() == "4.50× inconclusive"  # noqa: RUF001


def test_a_wrong_row_is_compared_with_nothing() -> None:
    wrong = rounds("inductor", 100.0, status="incorrect", reason="NaN")
    assert row_of([*wrong, *rounds("eager", 450.0)]).versus is None
    wrong = rounds("eager", 450.0, status="incorrect", reason="NaN")
    row = row_of([*rounds("inductor", 100.0), *wrong])
    assert row.versus is None
    assert row.break_even is not None
    assert (row.break_even.count, row.break_even.reason) == (None, "eager is incorrect")


def test_break_even() -> None:
    eager = rounds("eager", 400.0, first=2000.0)
    # 62 s - 2 s over 0.4 s - 0.1 s.
    row = row_of([*rounds("inductor", 100.0, first=62_000.0), *eager])
    assert row.break_even is not None
    assert (row.break_even.count, row.break_even.of) == (200, "pass")
    assert break_even(row) == "200 passes"
    row = row_of([*rounds("inductor", 400.0, first=62_000.0), *eager])
    assert row.break_even is not None
    assert (row.break_even.count, row.break_even.reason) == (None, "it is not faster than eager")
    assert break_even(row) == "never"
    row = row_of([*rounds("inductor", 100.0, first=500.0), *eager])
    assert row.break_even is not None
    assert row.break_even.count == 0
    assert break_even(row) == "at once"
    # A start that is quicker than eager's is soon lost again by a row that is slower.
    row = row_of([*rounds("inductor", 500.0, first=500.0), *eager])
    assert row.break_even is not None
    assert (row.break_even.count, row.break_even.reason) == (None, "it is not faster than eager")


def test_break_even_counts_every_compile_that_is_not_in_the_speed() -> None:
    def count(*compiled: int) -> int | None:
        taken = samples(62_000.0, 30_100.0, *[100.0] * 4)
        mine = record("train_dynamic", cell_id="d" * 16, samples=taken, compiles=compiled_in(*compiled))
        row = row_of([mine, *rounds("eager", 400.0, first=2000.0, count=1, benchmark="train_dynamic")])
        assert row.break_even is not None
        return row.break_even.count

    assert count(0) == 200
    assert count(0, 1) == 300, "30 s more at 0.3 s a step"
    assert count(0, 1, 3) == 300, "a timed step is in the speed already"


def test_break_even_is_of_the_cold_rounds_where_there_are_any() -> None:
    eager = rounds("eager", 750.0, first=2000.0)
    row = row_of([*shared_cache(62_000.0, 7000.0, 7000.0), *eager])
    assert row.break_even is not None
    assert row.figure.seconds == pytest.approx(0.451)
    assert row.break_even.count == math.ceil(60.0 / (row_of(eager, "eager").figure.seconds - row.figure.seconds))
    warm = row_of([*shared_cache(7000.0, 7000.0, 7000.0, cold=0), *eager]).break_even
    assert warm is not None
    assert warm.count == math.ceil(5.0 / (row_of(eager, "eager").figure.seconds - row.figure.seconds))


def test_break_even_counts_tokens_and_steps() -> None:
    both = [rounds(m, t, first=f, benchmark="generation") for m, t, f in (("inductor", 1e3, 62e3), ("eager", 4e3, 2e3))]
    row = row_of([record for side in both for record in side])
    assert row.break_even is not None
    assert (row.break_even.count, row.break_even.of) == (pytest.approx(4000, abs=1), "token")
    both = [
        rounds(m, t, first=f, benchmark="train_dynamic") for m, t, f in (("inductor", 100, 62e3), ("eager", 400, 2e3))
    ]
    row = row_of([record for side in both for record in side])
    assert row.break_even is not None
    assert (row.break_even.count, row.break_even.of) == (200, "step")


def test_the_losses_distance_is_advice_and_changes_no_status() -> None:
    def losses(method: str, shift: float) -> list[Record]:
        made = rounds(method, 100.0, benchmark="train_static", count=1)
        taken = [s.model_copy(update={"loss": 5.0 - 0.1 * s.index + shift * s.index}) for s in made[0].samples]
        return [made[0].model_copy(update={"samples": tuple(taken)})]

    row = row_of([*losses("inductor", 0.01), *losses("eager", 0.0)])
    assert row.loss_distance == pytest.approx(0.05)
    assert row.status == "ok"
    assert row_of([*rounds("inductor", 100.0), *rounds("eager", 100.0)]).loss_distance is None


def probe(method: str = "inductor", **changes: Any) -> Record:
    tiny = old_probe(workload())
    fields: dict[str, Any] = {"samples": samples(9.0, 1.0, 1.0), "proof": proof(), "flags": [], "cell_id": "b" * 16}
    return record(**{**fields, "role": "probe", "workload": tiny, "method": method, **changes})


def checked(*probes: Record) -> Row:
    return row_of([*rounds("inductor", 100.0, proof=proof(), flags=[]), *probes])


def test_a_row_whose_probe_passed_is_checked() -> None:
    row = checked(probe())
    assert (row.status, row.flags) == ("ok", ())
    assert row.probe is not None
    assert row.probe.passed


@pytest.mark.parametrize(
    ("probes", "status", "reason"),
    [
        ([], None, "no probe was run"),
        ([probe(method="eager")], None, "no probe was run"),
        ([probe(status="crashed", reason="signal 11", proof=None)], "crashed", "signal 11"),
        ([probe(status="unsupported", reason="bfloat16 only", proof=None)], "unsupported", "bfloat16 only"),
        ([probe(flags=["unchecked"], proof=None)], "ok", "its output was not checked"),
        ([probe(proof=proof(0.1, check("sampler", "unchecked", what="none")))], "ok", "sampler: none"),
    ],
)
def test_a_row_whose_probe_did_not_pass_is_unchecked(probes: list[Record], status: str | None, reason: str) -> None:
    row = checked(*probes)
    assert (row.status, row.flags) == ("ok", ("unchecked",))
    assert row.headline is not None
    assert row.probe is not None
    assert (row.probe.status, row.probe.passed, row.probe.reason) == (status, False, reason)


def own_probe(of: Workload | None = None, **changes: Any) -> Record:
    """The probe of a row's own model, in both precisions."""
    mine = probe_workload(of or workload())
    return probe(cell_id=mine.workload_id, workload=mine, **changes)


def test_the_probe_of_a_row_s_own_model_counts() -> None:
    assert checked(own_probe()).flags == ()
    reason = "forward: float32: rows: row 3"
    assert checked(own_probe(status="incorrect", reason=reason)).reason == f"on the probe: {reason}"
    assert checked(own_probe(status="crashed", reason="signal 11", proof=None)).flags == ("unchecked",)


def test_probes_of_one_precision_each_must_all_have_passed() -> None:
    def made(*changes: dict[str, Any]) -> list[Record]:
        parts = zip(probe_workload(workload()).parts, changes, strict=False)
        return [probe(cell_id=part.workload_id, workload=part, **more) for part, more in parts]

    assert checked(*made({}, {})).flags == ()
    assert checked(*made({})).flags == ("unchecked",)
    wrong = checked(*made({}, {"status": "incorrect", "reason": "forward: rows: row 3"}))
    assert (wrong.status, wrong.reason) == ("incorrect", "on the probe: forward: rows: row 3")


def test_the_probe_of_another_model_says_nothing_of_a_row() -> None:
    mine = workload()
    assert mine.model is not None
    other = mine.model_copy(update={"model": mine.model.model_copy(update={"norm_eps": 3e-5})})
    bad = {"status": "incorrect", "reason": "rows"}
    assert checked(own_probe(), own_probe(other, **bad)).status == "ok"
    alone = checked(own_probe(other))
    assert alone.flags == ("unchecked",)
    assert alone.probe is not None
    assert alone.probe.reason == "no probe was run"


def test_a_wrong_probe_makes_the_row_incorrect() -> None:
    row = checked(probe(status="incorrect", reason="forward: rows: row 3"))
    assert (row.status, row.reason, row.headline) == ("incorrect", "on the probe: forward: rows: row 3", None)
    assert row.versus is None
    broken = row_of([*rounds("inductor", 1.0, status="crashed", reason="x"), probe(status="incorrect", reason="y")])
    assert (broken.status, broken.reason) == ("crashed", "x")


def test_a_row_on_sharp_weights_in_float32_is_its_own_probe() -> None:
    own = rounds("inductor", 100.0, proof=proof(), flags=[], workload=old_probe(workload()))
    row = row_of(own)
    assert (row.status, row.flags, row.probe) == ("ok", (), None)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(
            [("tinyllama", 400.0, "other", 5), ("eager", 450.0, "other", 5), ("tinyllama_full", 440.0, "other", 5)],
            [("tinyllama@other", "faster"), ("eager@other", "faster")],
            id="the best of another stack, and its eager",
        ),
        pytest.param(
            [("tinyllama", 300.5, "other", 5), ("eager", 450.0, "other", 5), ("eager", 460.0, "cuda", 5)],
            [("tinyllama@other", "same")],
            id="eager stands on its own stack",
        ),
        pytest.param([("tinyllama", 400.0, "other", 4), ("eager", 450.0, "cuda", 5)], [], id="too few rounds"),
        pytest.param([("eager", 450.0, "cuda", 5)], [], id="one stack"),
    ],
)
def test_the_best_row_against_other_stacks(
    made: list[tuple[str, float, str, int]], expected: list[tuple[str, str]]
) -> None:
    records = rounds("inductor", 300.0)
    for method, milliseconds, stack, count in made:
        records += rounds(method, milliseconds, stack=stack, count=count, cell_id=digest([method, stack]))
    found = across_stacks(rows(records, "steady"))
    assert [(one.against, one.verdict.outcome) for one in found] == expected
    assert across_stacks([row for row in rows(records, "steady") if row.method == "none"]) == []
