"""A batch of different prompts: each row is proved, and a fault of single rows is found and named."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import methods  # noqa: E402
from bench.benchmarks.batched_generation import JUDGED, rows_of  # noqa: E402

BATCH = 12
UNJUDGED = next(row for row in range(BATCH) if row not in rows_of(BATCH))


def of_step(change):
    """A method whose step's (token, logits) go through `change`, with the tokens' last position."""

    def step(target):
        def call(tokens, positions, temperature):
            token, logits = target(tokens, positions, temperature)
            return change(token.clone(), logits.clone(), int(positions[-1]))

        return call

    return planted.method(step=step)


def swapped():
    """Rows 0 and 1 have each other's logits."""

    def change(token, logits, _):
        logits[[0, 1]] = logits[[1, 0]]
        return token, logits

    return of_step(change)


def leaking(row, into):
    """Of each new token the keys of one row go into another one's cache too."""

    def change(gpt):
        cache = gpt.blocks[0].cache
        update = cache.update

        def leak(positions, k, v):
            if positions.shape[0] == 1:
                k = k.clone()
                k[into] = k[row]
            return update(positions, k, v)

        cache.update = leak

    return planted.method(gpt=change)


def ended_early(row):
    """From its eighth new token on, a row gets token 0, whatever its logits say."""

    def change(token, logits, last):
        if last >= 4 + 7 - 1:
            token[row] = 0
        return token, logits

    return of_step(change)


def wrong(row):
    """A row's logits are those of a somewhat other temperature."""

    def change(token, logits, _):
        logits[row] *= 1.001
        return token, logits

    return of_step(change)


FAULTS = [
    (swapped, "rows", "row 1 of 12 is", "; 2 rows are beyond the limit: it has those of row 0"),
    (
        lambda: leaking(2, UNJUDGED),
        "rows",
        f"row {UNJUDGED} of 12 is",
        "from its token 1 on; no other row is beyond the limit",
    ),
    (lambda: ended_early(UNJUDGED), "whole rows", f"row {UNJUDGED} has token 0 from its token", "it ended early"),
    (
        lambda: wrong(BATCH - 1),
        "rows",
        "row 11, the last one, of 12 is",
        "from its token 0 on; no other row is beyond the limit",
    ),
]


@pytest.mark.parametrize("case", FAULTS, ids=["swapped", "leaking", "ended early", "last row"])
def test_a_fault_of_single_rows_is_found_and_named(tmp_path, monkeypatch, case):
    fault, check, begins, says = case
    monkeypatch.setattr(methods, "load", lambda _: fault())
    record = run(tmp_path, "batched_generation", **PROBE, **TEXT, batch=BATCH)
    assert record["status"] == "incorrect"
    assert record["reason"].startswith(f"batched_generation: {check}: {begins}"), record["reason"]
    assert says in record["reason"]


def test_a_row_that_changes_with_another_ones_prompt_is_named_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "load", lambda _: leaking(2, 5))
    record = run(tmp_path, "batched_generation", **PROBE, **TEXT, batch=BATCH)
    found = {check["name"]: check for check in record["proof"]["checks"]}["other rows"]
    assert found["status"] == "failed"
    assert found["what"].startswith("row 5 is ")
    assert found["what"].endswith("times eager's error from before, with another prompt in row 2")


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {**PROBE, "batch": 1}, {**PROBE, **TEXT, "batch": BATCH}])
def test_a_right_batch_passes_every_check(tmp_path, changes):
    record = run(tmp_path, "batched_generation", **changes)
    assert (record["status"], record["flags"]) == ("ok", ["cold"]), record["reason"]
    batch, new = record["workload"]["batch"], record["workload"]["new_tokens"]
    assert record["work"]["tokens"] == batch * new
    assert all(sample["shape"] == [batch, 4 + new] for sample in record["samples"])
    assert all(0 < sample["first_token_ns"] < sample["end_ns"] - sample["begin_ns"] for sample in record["samples"])


def test_a_batch_beyond_the_block_size_is_refused(tmp_path):
    record = run(tmp_path, "batched_generation", prompt_tokens=300)
    assert record["status"] == "unsupported"
    assert record["reason"] == "prompt_tokens: 306 with the new ones: beyond 256 of tiny"


def test_the_judged_rows_are_few_and_hold_both_ends():
    assert rows_of(1) == [0]
    assert rows_of(JUDGED) == list(range(JUDGED))
    assert rows_of(128) == [0, 18, 36, 54, 73, 91, 109, 127]
