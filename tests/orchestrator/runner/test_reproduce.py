"""A recorded row run again: by name or file, on this host's stacks alone, and what is said of the two figures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_stack, write_suite
from record_samples import ENVIRONMENT, GPU, check, old_probe, proof, record, samples, save_run, workload

from orchestrator.analysis.reproduction import Reproduction, reproduction
from orchestrator.base.errors import UsageError
from orchestrator.cli import run
from orchestrator.plan.choice import Choice, RunOptions
from orchestrator.plan.stack import Stack, find_stacks
from orchestrator.records.find import probes_of
from orchestrator.records.record import Record
from orchestrator.report.reproduction import as_text
from orchestrator.runner import reproduce

NASTY = "\x1b[31m<script>"


@pytest.fixture
def place(place: Path) -> Path:
    write_suite(place)
    write_stack(place, ["good"])
    assert go(place, "run-all", "--suite", str(place / "mine.toml"), "--stack", "fake") == 0
    return place


def go(place: Path, *words: str) -> int:
    where = ("--results", str(place / "results"), "--stacks", str(place / "stacks"), "--launcher", "local")
    return run([*words, *where])


def the_record(place: Path) -> Path:
    (folder,) = (place / "results").iterdir()
    return next((folder / "records").glob("forward-*"))


def rounds(*milliseconds: float, **changes: Any) -> list[Record]:
    return [
        record(
            round=number, samples=samples(9e3, 460.0, *[taken + step for step in (0.0, 0.5, 1.0, 1.5, 2.0)]), **changes
        )
        for number, taken in enumerate(milliseconds)
    ]


STEADY = (450.0, 450.2, 449.8, 450.1, 449.9)


@pytest.mark.parametrize(
    ("then", "now", "answer", "code"),
    [
        (rounds(450.0), rounds(450.5), "inside", 0),
        (rounds(450.0), rounds(470.0), "outside", 2),
        (rounds(*STEADY), rounds(450.1), "inside", 0),
        (rounds(450.0), rounds(*STEADY), "inside", 0),
        (rounds(*STEADY), rounds(*STEADY), "same", 0),
        (rounds(*STEADY), rounds(*(taken * 1.1 for taken in STEADY)), "slower", 1),
        (rounds(*STEADY), rounds(*(taken * 0.9 for taken in STEADY)), "faster", 1),
        (rounds(*STEADY), rounds(400.0, 420.0, 450.0, 470.0, 500.0), "inconclusive", 2),
        (rounds(450.0), rounds(450.0, status="incorrect"), "lost", 1),
        (rounds(450.0), rounds(450.0, status="skipped"), "none", 3),
        (rounds(450.0, status="out_of_memory"), rounds(450.0, status="out_of_memory"), "as then", 0),
        (rounds(450.0, status="crashed"), rounds(450.0), "inconclusive", 2),
        (rounds(450.0, status="crashed"), rounds(450.0, status="incorrect"), "lost", 1),
    ],
)
def test_answers(then: list[Record], now: list[Record], answer: str, code: int) -> None:
    found = reproduction(then, now)
    assert (found.answer, found.exit_code) == (answer, code), found.why
    assert f"{answer}: " in as_text(found)


def test_few_rounds_claim_no_more_than_inside_or_outside() -> None:
    text = as_text(reproduction(rounds(450.0), rounds(300.0, 301.0)))
    assert "the new figure lies outside the old interval (within-process)" in text
    assert "knows nothing of how processes differ; for a verdict both sides need 5 rounds" in text


def test_every_gpu_of_the_rounds_is_named() -> None:
    moved = rounds(*STEADY, environment={**ENVIRONMENT, "gpu": {**GPU, "uuid": "GPU-1"}})
    text = as_text(reproduction([*rounds(*STEADY)[:2], *moved[2:]], rounds(*STEADY)))
    assert "differs, then / now: the GPU's UUID GPU-0 and GPU-1 / GPU-0" in text


def test_what_differs_is_named_and_another_device_refused() -> None:
    other = {**ENVIRONMENT, "packages": {**ENVIRONMENT["packages"], "triton": "3.6.0"}, "gpu": {**GPU, "driver": "590"}}
    text = as_text(reproduction(rounds(450.0), rounds(450.5, environment=other)))
    assert "differs, then / now: driver 580.159.04 / 590, triton 3.5.0 / 3.6.0" in text
    elsewhere: Reproduction = reproduction(
        rounds(*STEADY), rounds(*STEADY, environment={**ENVIRONMENT, "gpu": {**GPU, "name": "NVIDIA A100"}})
    )
    assert (elsewhere.answer, elsewhere.exit_code) == ("refused", 2)
    assert "nothing differs" in as_text(reproduction(rounds(450.0), rounds(450.0)))


def test_nothing_in_a_record_steers_a_terminal() -> None:
    bad = rounds(450.0, status="crashed", reason=NASTY, environment={**ENVIRONMENT, "packages": {NASTY: NASTY}})
    assert "\x1b" not in as_text(reproduction(bad, rounds(450.0)))


def probe(**changes: Any) -> Record:
    fields: dict[str, Any] = {"samples": samples(9.0, 1.0, 1.0), "proof": proof(), "flags": [], **changes}
    return record(cell_id="b" * 16, role="probe", workload=old_probe(workload()), **fields)


def checked(**changes: Any) -> list[Record]:
    return rounds(450.0, **{"proof": proof(), "flags": ["cold"], **changes})


def told(*sides: list[Record], alone: bool = False) -> tuple[str, str]:
    """What comes after the device in the lines on then and now."""
    found = reproduction(*sides, alone=alone)
    then, now = (line.partition("NVIDIA H100 80GB HBM3, ")[2] for line in as_text(found).splitlines()[1:3])
    return then, now


def test_each_line_says_how_many_checks_passed_with_the_probe_of_its_run() -> None:
    both = [*checked(), probe()]
    assert told(both, both) == ("checks 3/3, cold", "checks 3/3, cold")
    assert told(both, checked()) == ("checks 3/3, cold", "checks 3/3; probe unchecked, unchecked, cold")
    partly = checked(proof=proof(0.01, check("sampler", "unchecked", what="no draws")))
    assert told(both, [*partly, probe()])[1] == "checks 3/4, 1 unchecked, unchecked, cold"
    wrong = [*checked(), probe(status="incorrect", reason="rows: row 3")]
    found = reproduction(both, wrong)
    assert (found.answer, found.exit_code) == ("lost", 1)
    assert "now: – (incorrect: on the probe: rows: row 3), checks 3/3; probe incorrect" in as_text(found)  # noqa: RUF001


def test_of_a_lone_record_nothing_is_said_about_its_probe() -> None:
    now = [*checked(), probe()]
    alone = "its probe is not in the record"
    assert told(checked(), now, alone=True) == (f"checks 3/3, {alone}, cold", "checks 3/3, cold")
    assert told(checked(proof=None), now, alone=True)[0] == f"checks none, {alone}, unchecked, cold"
    assert told(checked(flags=["unchecked"]), now, alone=True)[0] == f"checks 3/3, {alone}, unchecked"
    own = checked(workload=old_probe(workload()))
    assert told(own, own, alone=True) == ("checks 3/3, cold", "checks 3/3, cold")


def test_a_records_file_in_a_run_stands_for_its_row(tmp_path: Path) -> None:
    records = [*rounds(*STEADY, proof=proof(), flags=["cold"]), probe()]
    folder = save_run(tmp_path, records)
    file = folder / "records" / f"forward-inductor@cuda-{'a' * 16}-r3.json"
    for name, of in ((str(file), None), ("forward inductor@cuda", str(folder)), (file.stem, str(folder))):
        found, run_folder = reproduce.original(name, of, tmp_path)
        assert [one.round for one in found] == [0, 1, 2, 3, 4]
        assert run_folder is not None
        assert run_folder.samefile(folder)
        assert probes_of(run_folder, found[-1], []) == [records[-1]]
    for sent in (tmp_path / file.name, folder / "records" / "sent.json", folder / file.name):
        shutil.copy(file, sent)
        found, run_folder = reproduce.original(str(sent), None, tmp_path)
        assert ([one.round for one in found], run_folder) == ([3], None)


def test_what_the_lines_say_of_a_row_by_name_by_its_file_and_sent(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place / "stacks")
    shutil.rmtree(place / "results")
    write_suite(tmp_path, proving=True)
    write_stack(tmp_path, ["checked"])
    assert go(place, "run-all", "--suite", str(place / "mine.toml"), "--stack", "fake") == 0
    file, sent = the_record(place), place / "sent.json"
    shutil.copy(file, sent)
    named = ("--run", file.parents[1].name)
    for row, more in (("forward checked@fake", named), (str(file), ()), (str(sent), ())):
        capsys.readouterr()
        assert go(place, "reproduce", row, *more) == 2
        then, now = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("then: ", "now: ")))
        between = ", its probe is not in the record" if row == str(sent) else ""
        assert then.endswith(f", checks 2/2{between}, cold")
        assert now.endswith(", checks 2/2, cold")


def test_by_name_and_by_a_file_that_was_sent(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = place / "sent.json"
    shutil.copy(the_record(place), sent)
    cell_id = json.loads(sent.read_text())["cell_id"]
    # The fake bench says no more of its host than that it is a CPU: another device cannot be ruled out.
    assert go(place, "reproduce", "forward good@fake", "--rounds", "2") == 2
    out, err = capsys.readouterr()
    assert f"again: forward good@fake, workload {json.loads(sent.read_text())['workload_id']}" in err
    assert out.startswith("forward good@fake, workload "), "what was asked for, and no table of the new run"
    assert "now is 1.000" in out
    for folder in (place / "results").iterdir():
        if "reproduce" not in folder.name:
            shutil.rmtree(folder)
    assert go(place, "reproduce", str(sent)) == 2
    found = sorted((place / "results").glob("*-reproduce*"))
    assert len(found) == 2
    (folder,) = [one for one in found if not list((one / "records").glob("forward-*-r1.json"))]
    names = [path.name for path in (folder / "records").iterdir()]
    assert any(name.startswith(f"forward-good@fake-{cell_id}") for name in names)
    assert any(name.startswith("probe-forward-good@fake") for name in names)
    assert any(name.startswith("reference-") for name in names)
    assert any(name.startswith("ceilings-") for name in names)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stack": "theirs"}, 'unknown stack "theirs"'),
        ({"method": "evil"}, 'unknown method "evil"'),
        ({"device": "cuda"}, "the record was made on a GPU, and no GPU is here"),
        ({"workload_id": "0" * 16}, "its workload is not the one"),
        ({"role": "probe"}, "is a record of probe, not of a row"),
        ({"surprise": 1}, "surprise: unknown key"),
    ],
)
def test_records_that_cannot_be_run_here(
    place: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    sent = place / "sent.json"
    sent.write_text(json.dumps({**json.loads(the_record(place).read_text()), **changes}))
    before = list((place / "results").iterdir())
    capsys.readouterr()
    assert go(place, "reproduce", str(sent)) == 4
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert list((place / "results").iterdir()) == before


def test_names_that_lead_nowhere(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in ("no/such.json", "forward bad@fake"):
        assert go(place, "reproduce", row) == 4
        assert "no such" in capsys.readouterr().err


def test_a_checkpoint_is_asked_for() -> None:
    weights = {"source": "checkpoint", "fingerprint": "f" * 16}
    one = rounds(450.0)[0]
    of_checkpoint = one.model_copy(
        update={
            "workload": one.workload.model_copy(update={"weights": one.workload.weights.model_copy(update=weights)})
        }  # type: ignore[union-attr]
    )
    with pytest.raises(UsageError, match="name its folder with --checkpoint"):
        reproduce._checkpoints(of_checkpoint, RunOptions())


def with_image(image_id: str | None) -> Record:
    provenance = None if image_id is None else {"launcher": "docker", "image_id": image_id, "cache": "shared"}
    return record(provenance=provenance, device="cpu", stack="cpu", method="eager", samples=samples(9.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("image_id", "built_for", "pinned"),
    [
        (f"sha256:{'1' * 64}", "cpu", True),
        (f"sha256:{'1' * 64}", "other", False),
        (f"sha256:{'1' * 64}", None, False),
        ("somebody/evil:latest", "cpu", False),
        (None, "cpu", False),
    ],
)
def test_the_records_image_is_used_where_this_host_built_it(
    monkeypatch: pytest.MonkeyPatch, image_id: str | None, built_for: str | None, pinned: bool
) -> None:
    monkeypatch.setattr(reproduce, "_built_for", lambda _: built_for)
    choice: Choice = reproduce.choose_again(with_image(image_id), RunOptions(rounds=3), gpu=None, engine="an engine")
    stack: Stack = choice.stacks["cpu"]
    here = find_stacks([reproduce.IMAGES])["cpu"]
    assert stack.python == here.python
    assert (stack.ready is not None and stack.ready.name == image_id) is pinned
    assert (stack == here) is not pinned
    row = choice.plan.cells[-1]
    assert (row.rounds, row.role, row.cache) == (3, "row", "shared" if image_id else "cold")
    roles = ["ceilings", "reference", "reference", "probe", "row"]
    assert [cell.role for cell in choice.plan.cells] == roles


@pytest.mark.parametrize("built_for", ["theirs", "other", None])
def test_a_stack_that_is_not_here_is_the_image_that_was_built_for_it(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None
) -> None:
    monkeypatch.setattr(reproduce, "_built_for", lambda _: built_for)
    one, lacks = with_image(f"sha256:{'1' * 64}").model_copy(update={"stack": "theirs"}), list[UsageError]()
    choice = reproduce.choose_again(one, RunOptions(), gpu=None, engine="an engine", of_run=True, lack=lacks.append)
    stack = choice.stacks["theirs"]
    assert stack.ready is not None
    assert (stack.ready.name, stack.python) == (f"sha256:{'1' * 64}", "/opt/stack/bin/python")
    assert "stack theirs is taken from the run, as none of that name is here: its image" in choice.line
    assert bool(lacks) is (built_for != "theirs")
    if lacks:
        with pytest.raises(UsageError, match="neither the stack theirs nor an image that was built for it is here"):
            reproduce.choose_again(one, RunOptions(), gpu=None, engine="an engine", of_run=True)
    with pytest.raises(UsageError, match='unknown stack "theirs"'):  # of a record that somebody sent
        reproduce.choose_again(one, RunOptions(), gpu=None, engine="an engine")


def test_a_stack_that_is_not_here_is_a_plain_process_without_an_engine(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place / "stacks")
    words = ["reproduce", "forward good@fake", "--results", str(place / "results"), "--launcher", "local"]
    capsys.readouterr()
    assert run([*words, "--dry-run"]) == 0
    said = capsys.readouterr()
    line = "stack fake is taken from the run, as none of that name is here: this host's own Python"
    assert line in said.out.splitlines()[0]
    assert re.fullmatch("orchestrator: run .*, the newest\n", said.err)
    assert len(list((place / "results").iterdir())) == 1
    assert run(words) in (0, 2)
    assert line in capsys.readouterr().err
    assert len(list((place / "results").iterdir())) == 2


def test_a_dry_run_says_what_this_host_lacks_and_runs_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"source": "checkpoint", "fingerprint": "f" * 16}
    sent = place / "sent.json"
    raw = json.loads(the_record(place).read_text())
    one = Record.model_validate_json(json.dumps(raw))
    assert one.workload.weights is not None
    its = one.workload.model_copy(update={"weights": one.workload.weights.model_copy(update=weights)})
    raw |= {"device": "cuda", "workload": json.loads(its.model_dump_json()), "workload_id": its.workload_id}
    sent.write_text(json.dumps(raw))
    capsys.readouterr()
    assert go(place, "reproduce", str(sent), "--dry-run") == 0
    said = capsys.readouterr()
    assert "forward good@fake" in said.out
    lacking = said.err.splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in lacking] == ["cannot run here"] * 2
    assert "the record was made on a GPU, and no GPU is here" in lacking[0]
    assert "name its folder with --checkpoint FOLDER" in lacking[1]
    assert len(list((place / "results").iterdir())) == 1
