"""The list of checks that bench and the orchestrator share: arithmetic done again, limits, and what is missing."""

from __future__ import annotations

import pytest
from record_samples import record, workload

from orchestrator.analysis.reduce import rows
from orchestrator.records.checks import check_list, held_to_list
from orchestrator.records.record import Check, Record

FORWARD = tuple(check_list().of("forward"))
GOOD = {"logits": (1.1, 1.51), "rows": (1.9, 4.05), "repeat": (0.0, 4.0), "samples": (0.9, 3.375)}


def made(
    changes: dict[str, tuple[float | None, float | None]], names: tuple[str, ...] = FORWARD, **of: object
) -> Record:
    numbers = {**GOOD, **changes}
    checks = [
        {"name": name, "status": "passed", "value": numbers.get(name, (None, None))[0],
         "limit": numbers.get(name, (None, None))[1], "what": "all of it"}
        for name in names
    ]  # fmt: skip
    return record(flags=["cold"], proof={"checks": checks, "checks_version": 1}, **of)


def test_a_whole_proof_stays_as_it_is() -> None:
    right = made({})
    assert held_to_list(right) is right
    assert rows([right], "steady")[0].status == "ok"


@pytest.mark.parametrize(
    ("check", "numbers", "words"),
    [
        ("logits", (2.5, 1.51), "it passed with 2.5, and must be at most 1.51"),
        ("logits", (2.5, 2.6), "its limit is 2.6, and 1.53144 is the laxest"),
        ("rows", (1.9, 1e300), "its limit is 1e+300, and 4.08385 is the laxest"),
        ("repeat", (7.0, 4.0), "it passed with 7, and must be at most 4"),
        ("samples", (0.9, 6.0), "its limit is 6, and 4.5667 is the laxest"),
        ("top-1", (800.0, 700.0), "it passed with 800, and must be at most 700"),
    ],
)
def test_a_check_whose_numbers_do_not_let_it_pass_is_failed(
    check: str, numbers: tuple[float, float], words: str
) -> None:
    found = held_to_list(made({check: numbers}, workload=workload(batch=10, sequence=2048)))
    failed = [one for one in found.proof.checks if one.status == "failed"] if found.proof else []
    assert [one.name for one in failed] == [check]
    assert (found.status, found.reason) == ("incorrect", f"forward: {check}: {failed[0].what}")
    assert words in str(found.reason)
    assert rows([made({check: numbers})], "steady")[0].headline is None


@pytest.mark.parametrize(("error", "stays"), [(1.45, True), (27_500.0, False)])
def test_logits_that_failed_are_not_coarser_too(error: float, stays: bool) -> None:
    """Nor are those that failed in a record of an older bench, which says both."""
    whole = made({"logits": (error, 1.51)})
    assert whole.proof is not None
    checks = [
        {**vars(one), "status": "passed" if stays or one.name != "logits" else "failed"} for one in whole.proof.checks
    ]
    for proof in (whole.proof, whole.proof.model_copy(update={"checks": tuple(map(Check.model_validate, checks))})):
        said = whole.model_copy(update={"flags": ("cold", "coarser"), "proof": proof})
        found = held_to_list(said)
        assert found.flags == (("cold", "coarser") if stays else ("cold",))
        assert (found is said) == stays
        (row,) = rows([said], "steady")
        assert ("coarser" in row.flags) == stays


@pytest.mark.parametrize(
    ("value", "limit", "status"), [(0.5, 1e-6, "ok"), (1e-9, 1e-6, "incorrect"), (1e-9, 1e-12, "incorrect")]
)
def test_a_chance_must_be_at_least_its_limit(value: float, limit: float, status: str) -> None:
    names = tuple(check_list().of("generation"))
    chance = {"sampler": (value, limit), "logits": (None, None), "rows": (None, None), "samples": (None, None)}
    assert held_to_list(made(chance, names, workload=workload("generation"), benchmark="generation")).status == status


@pytest.mark.parametrize(
    ("source", "dtype", "status"),
    [("probe", "bfloat16", "ok"), ("probe", "float32", "ok"), ("hash", "bfloat16", "incorrect")],
)
def test_single_positions_have_more_room_on_sharp_weights(source: str, dtype: str, status: str) -> None:
    on = workload(batch=10, sequence=2048, dtype=dtype, weights={"source": source})
    assert held_to_list(made({"rows": (5.0, 6.05)}, workload=on)).status == status


@pytest.mark.parametrize("missing", FORWARD)
def test_a_check_that_is_missing_leaves_the_row_unchecked(missing: str) -> None:
    found = held_to_list(made({}, tuple(name for name in FORWARD if name != missing)))
    assert (found.status, found.flags) == ("ok", ("unchecked", "cold"))
    assert found.proof is not None
    assert found.proof.checks[-1].what == "the record has no such check"
    assert "unchecked" in rows([made({}, FORWARD[1:])], "steady")[0].flags


def test_a_check_of_probes_is_not_asked_of_rows() -> None:
    names = tuple(name for name in check_list().of("train_static") if name != "samples")
    nothing = dict.fromkeys(GOOD, (None, None))
    for role, dtype, there in (("row", "float32", True), ("probe", "bfloat16", True), ("probe", "float32", False)):
        what = workload("train_static", dtype=dtype)
        found = held_to_list(made(nothing, names, workload=what, benchmark="train_static", role=role))
        assert ("unchecked" not in found.flags) == there


def test_older_records_are_not_asked_for_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    old = record(proof={"checks": [{"name": "logits", "status": "passed", "value": 5.0, "limit": 9.0, "what": ""}]})
    assert held_to_list(old) is old
    # But what it says itself must hold.
    wrong = record(proof={"checks": [{"name": "logits", "status": "passed", "value": 9.5, "limit": 9.0, "what": ""}]})
    assert held_to_list(wrong).status == "incorrect"
    listed = check_list()
    later = {**listed.checks["forward"], "new": listed.checks["forward"]["finite"].model_copy(update={"since": 2})}
    newer = listed.model_copy(update={"version": 2, "checks": {**listed.checks, "forward": later}})
    monkeypatch.setattr("orchestrator.records.checks.check_list", lambda: newer)
    right = made({})
    assert held_to_list(right) is right
