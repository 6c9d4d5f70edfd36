"""One cell's proof as text, and names that lead nowhere or to many."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from golden_files import golden
from record_samples import (
    ceilings,
    check,
    compiled_in,
    old_probe,
    proof,
    record,
    samples,
    save_run,
    shared_cache,
    small_run,
    workload,
)

from orchestrator.analysis.evidence import evidence
from orchestrator.base.errors import UsageError
from orchestrator.records.checks import check_list
from orchestrator.records.store import Run, stem_of
from orchestrator.report.explain import explain


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path, small_run())


def test_golden(run: Path) -> None:
    text = explain(run, "forward inductor@cuda") + "\n"
    golden("explain.txt", text.replace(f"--run {run.name} --results {run.parent}", "--run RUN --results FOLDER"))


@pytest.mark.parametrize(
    "name",
    ["forward eager@cuda", "  forward  eager@cuda ", "forward eager", "00000", f"forward-eager@cuda-{'0' * 16}-r0"],
)
def test_names_of_a_cell(run: Path, name: str) -> None:
    text = explain(run, name)
    assert text.startswith("forward eager@cuda\ncell 0000000000000000")
    assert "of the ceiling: 56.2 % (compute bound, ceilings of this device, by cuda)" in text


def test_one_rounds_file_explains_the_whole_cell(run: Path) -> None:
    text = explain(run, f"forward-inductor@cuda-{'1' * 16}-r2.json")
    assert all(f"Round {number}" in text for number in range(3))


def test_the_first_call_cold_and_warm_and_the_compiles_after_it(tmp_path: Path) -> None:
    run = save_run(tmp_path, shared_cache(39_600.0, 8593.0, 7336.0, 6182.0, 6870.0))
    assert "  first call: 39.60 s cold, 7.103 s warm\n" in explain(run, "forward inductor@cuda")
    taken = samples(62_000.0, 30_100.0, *[100.0] * 4)
    run = save_run(tmp_path / "more", [record(samples=taken, compiles=compiled_in(0, 1))])
    text = explain(run, "forward inductor@cuda")
    assert "  first call: 62.00 s cold\n  compiles in the warm-up: 30.00 s\n" in text


def test_wrong_row(run: Path) -> None:
    text = explain(run, "forward thunder@cuda")
    why = "forward: 3 of 10 | rows are <b>wrong</b> see the log"
    assert f"\n  No speed is shown because the row is incorrect: {why}.\n" in text
    assert "\nMeasured, but not shown as a speed\n  steady: 0.4504 s" in text
    assert f"reproduce {'2' * 16} --run {run.name} --results " in text


def test_a_row_that_is_wrong_on_its_probe_alone_says_so_at_once(tmp_path: Path) -> None:
    row = record(flags=["cold"], proof=proof(0.01), samples=samples(9e3, *[450.0] * 8))
    wrong = proof(0.3, check("logits", "failed", value=542.0, limit=2.0, what="error is 542 times eager's"))
    why = "forward: logits: error is 542 times eager's"
    tiny = {"cell_id": "b" * 16, "role": "probe", "workload": old_probe(workload()), "proof": wrong}
    of_row = record(**tiny, status="incorrect", reason=why)
    text = explain(save_run(tmp_path, [row, of_row]), "forward inductor@cuda")
    assert "Round 0\n  status: ok" in text
    assert f"\nFigures\n  No speed is shown because the row is incorrect: on the probe: {why}.\n" in text


def test_a_row_that_the_list_of_checks_refuses_is_explained_as_it_is_shown(tmp_path: Path) -> None:
    passed = {"status": "passed", "what": "row 1", "limit": 200.0, "value": 100.0}
    checks = [{"name": name, **passed} for name in check_list().of("forward")]
    run = save_run(
        tmp_path, [record(flags=["cold"], proof={"checks": checks, "checks_version": 1, "seen_again": 0.31})]
    )
    text = explain(run, "forward inductor@cuda")
    assert "is the laxest that the list of checks allows" in text
    assert "Round 0\n  status: incorrect" in text
    assert "On an input just seen a call took 0.310 of that on a new one." in text


@pytest.mark.parametrize("kind", ["dispatch", "telemetry", "references", "logs"])
def test_the_hash_that_is_printed_is_that_of_the_file_or_it_is_said(tmp_path: Path, kind: str) -> None:
    run = Run.open(save_run(tmp_path, small_run()))
    (one,) = [one for one in small_run() if one.method == "inductor" and one.round == 0 and one.dispatch]
    stem, sha256 = stem_of(one), hashlib.sha256(b"right").hexdigest()
    assert one.dispatch
    assert one.telemetry
    assert one.proof
    assert one.proof.reference
    name, changes = {
        "dispatch": (f"{stem}.json", {"dispatch": one.dispatch.model_copy(update={"listing_sha256": sha256})}),
        "telemetry": (f"{stem}.jsonl", {"telemetry": one.telemetry.model_copy(update={"series_sha256": sha256})}),
        "references": (
            f"{one.workload_id}.safetensors",
            {
                "proof": one.proof.model_copy(
                    update={"reference": one.proof.reference.model_copy(update={"sha256": sha256})}
                )
            },
        ),
        "logs": (f"{stem}.log", {"log_sha256": sha256}),
    }[kind]
    run.save(one.model_copy(update=changes))
    path = run.folder / kind / name
    path.parent.mkdir(exist_ok=True)
    for content in (b"right", b"wrong"):
        path.write_bytes(content)
        text = explain(run.folder, one.cell_id)
        assert f"{name}, SHA-256 {sha256}" in text
        said = "its SHA-256 is another" in text or f"{sha256} (the file here has another: " in text
        assert said == (content == b"wrong")


def test_ceilings(run: Path) -> None:
    text = explain(run, "ceilings torch@cuda")
    assert "best: bfloat16 matrix product 781 TFLOP/s (size 8192), device copy 3.02 TB/s (read + written)" in text
    assert "Figures" not in text


def test_ceilings_beside_which_other_work_ran_say_so(tmp_path: Path) -> None:
    load = {"cpus": 2, "seconds": 3.4, "own": 0.2, "others": 1.8, "stolen": 0.0}
    text = explain(save_run(tmp_path, [ceilings(host_load=load)]), "ceilings torch@cuda")
    said = "1 of 1 ceiling was measured beside other work (other processes took 1.8 of this host's 2 CPUs)"
    assert said in " ".join(text.split())


def test_sustained_ceilings_say_in_what_and_how_long(tmp_path: Path) -> None:
    product = {"kind": "matrix_product", "size": 16384, "work": 8 * 10**12, "durations_ns": [10**10] * 2}
    lasting = [{**product, "sustained": True}, {**product, "sustained": True, "precision": "tf32"}]
    text = explain(save_run(tmp_path, [ceilings(rates=[product, *lasting])]), "ceilings torch@cuda")
    assert "matrix product at 16384: median 10000 ms of 2 calls" in text
    assert "matrix product at 16384, sustained: 2 times 8.00 TFLOP in 20 s" in text
    assert "matrix product at 16384 in TF32, sustained: 2 times 8.00 TFLOP in 20 s" in text
    assert "(size 16384), sustained 800 GFLOP/s (size 16384), TF32 matrix product" in text


def test_unknown_names_list_what_there_is(run: Path) -> None:
    with pytest.raises(UsageError, match="no such cell") as caught:
        explain(run, "forward inducto@cuda")
    assert 'did you mean "forward inductor@cuda"' in str(caught.value)
    assert "generation thunder@cuda (5555555555555555)" in str(caught.value)
    with pytest.raises(UsageError, match="no such cell"):
        explain(run, "")
    with pytest.raises(UsageError, match="no such cell"):
        explain(run, "../run")


def test_ambiguous_names_list_the_cells(tmp_path: Path) -> None:
    run = save_run(tmp_path, [record(), record(cell_id="ab" * 8, workload=workload(batch=3)), ceilings()])
    for name in ("forward inductor@cuda", "a"):
        with pytest.raises(UsageError, match="2 cells have that name") as caught:
            explain(run, name)
        one = "aaaaaaaaaaaaaaaa (forward inductor@cuda: open_llama_7b, batch 10, sequence 2048, bfloat16)"
        other = "abababababababab (forward inductor@cuda: open_llama_7b, batch 3, sequence 2048, bfloat16)"
        assert f"{one}; {other}" in str(caught.value)
    assert explain(run, "aa")


def test_a_name_without_a_stack_is_of_the_only_one_or_lists_them(tmp_path: Path) -> None:
    run = save_run(
        tmp_path, [record(), record(cell_id="ab" * 8, stack="other-cuda"), record(cell_id="cd" * 8, role="probe")]
    )
    with pytest.raises(UsageError, match="2 cells have that name") as caught:
        explain(run, "forward inductor")
    assert "(forward inductor@cuda: " in str(caught.value)
    assert "(forward inductor@other-cuda: " in str(caught.value)
    assert explain(run, "forward inductor@other-cuda").startswith("forward inductor@other-cuda\n")
    assert explain(run, "probe of forward inductor").startswith("probe of forward inductor@cuda\n")


def test_a_stack_with_dashes(tmp_path: Path) -> None:
    run = save_run(tmp_path, [record(stack="my-cuda-12", samples=samples(9.0, *[5.0] * 9))])
    assert explain(run, "forward inductor@my-cuda-12").startswith("forward inductor@my-cuda-12\n")


def test_a_container_cannot_steer_the_terminal(tmp_path: Path) -> None:
    nasty = "bad\x1b[2J\nRound 7\n  status: ok"
    text = explain(
        save_run(tmp_path, [record(status="crashed", reason=nasty, environment=None)]), "forward inductor@cuda"
    )
    assert "\x1b" not in text
    assert "\nRound 7" not in text


def test_an_empty_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known: none yet"):
        explain(save_run(tmp_path, []), "forward eager@cpu")


def test_what_an_earlier_round_has_is_not_repeated(run: Path) -> None:
    text = explain(run, "forward inductor@cuda")
    assert text.count("  Compiles: as in round 0") == 2
    assert text.count("  Samples\n") == 3, "each round has its own"


def test_the_end_of_a_log_is_marked_as_such(tmp_path: Path) -> None:
    folder = save_run(tmp_path, [ceilings()])
    (tmp_path / "log").write_text("Round 7\n  status: ok\n")
    Run.open(folder).save(record(status="crashed", reason="exit code 1"), tmp_path / "log")
    text = explain(folder, "forward inductor@cuda")
    assert "\n    | Round 7\n    |   status: ok" in text


def test_one_rule_says_whether_samples_drift(tmp_path: Path) -> None:
    steady, drifting = ([400.0 + n % 2 for n in range(20)], [400.0 + 2 * n for n in range(20)])
    for walls, said in ((steady, False), (drifting, True)):
        one = record(samples=samples(9e3, *walls))
        assert (evidence(one).drift is not None) is said
        run = save_run(tmp_path / str(said), [one])
        assert ("The later half of the samples is " in explain(run, "forward inductor@cuda")) is said
