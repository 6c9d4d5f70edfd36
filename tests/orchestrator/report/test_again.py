"""Lines that run a cell again, pasted into a shell: of runs of one's own, of imported and of committed ones."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from committed import FOLDERS
from fake_run import write_stack, write_suite
from places import COMMITTED, ROOT
from record_samples import record, save_run, small_run, workload

from orchestrator.analysis.reduced_run import make_report
from orchestrator.base.paths import IMAGES, STATE_VARIABLE
from orchestrator.cli import run
from orchestrator.plan.stack import find_stacks
from orchestrator.plan.suite import load_suite
from orchestrator.records import unpacked
from orchestrator.records.asked import FILE, Asked, read_asked
from orchestrator.records.record import is_row
from orchestrator.records.store import Run
from orchestrator.records.unpacked import open_bundle
from orchestrator.report import again
from orchestrator.report.again import commands, plan_words, program, run_words, typed
from orchestrator.report.explain import explain
from orchestrator.report.proof import prove
from orchestrator.report.sections import Code
from orchestrator.report.source import read_source
from orchestrator.report.tables.terminal import render

SHOW = """printf '%s\\0' "$@" """


def words_of(line: str) -> list[str]:
    """What a shell makes of the line's words."""
    shim = f"orchestrator() {{ {SHOW}; }}\n{line}\n"
    done = subprocess.run(["sh", "-c", shim], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split("\0")[:-1]


def starts(line: str, state: Path | None = None) -> str:
    """Run the line dry, as it is in a shell but for that; return what it planned. With a `state` by the fake bench."""
    dry = line.replace(" run-all ", " plan ", 1).replace(" --fresh", "") if " run-all " in line else f"{line} --dry-run"
    command = ["-m", "orchestrator"] if state is None else [str(ROOT / "tests" / "support" / "fake_run.py"), str(state)]
    shim = f'orchestrator() {{ {shlex.join([sys.executable, *command])} "$@"; }}\n{dry}\n'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({STATE_VARIABLE: str(state)} if state else {})}
    done = subprocess.run(["sh", "-c", shim], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (line, done.stderr)
    assert "\nplan " in done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout


def lines_of(folder: Path) -> list[str]:
    """Every line that `explain` and the page's drawers show of the run's rows."""
    source = read_source(folder)
    pairs = {pair.steady.cell_id: pair for pair in source.report.pairs}
    proofs = [prove(source, records, pairs.get(cell_id)) for cell_id, records in source.records.items()]
    shown = (block for proof in proofs for section in proof.bottom for block in section.blocks)
    return [block.text for block in shown if isinstance(block, Code) and block.command]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_line_of_every_committed_run_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record for record in Run.open(folder).records([]) if is_row(record)]
    rows, rounds = {record.cell_id: record for record in records}, Counter(record.cell_id for record in records)
    here = find_stacks([IMAGES])
    lines = [line for line in lines_of(folder) if line.startswith("orchestrator reproduce ")]
    assert sorted(line.split()[2] for line in lines) == sorted(rows)
    # A row of a stack that is here runs again by run-all too.
    ours = [line for line in lines_of(folder) if line not in lines]
    assert len(ours) == sum(row.stack in here for row in rows.values())
    for line in (lines[0], *(line.replace("--launcher docker", "--launcher local") for line in ours)):
        assert starts(line)
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")  # asked for each line it would take a second each
    for line in lines:
        count = rounds[line.split()[2]]
        assert line.endswith(f" --run {folder.name}{f' --rounds {count}' if count > 1 else ''}")
        assert run([*words_of(line), "--dry-run"]) == 0
        said = capsys.readouterr()
        taken = "is taken from the run, as none of that name is here" in said.out
        assert taken == (rows[line.split()[2]].stack not in here)
        assert f"\n{read_source(folder).records[line.split()[2]][-1].workload.benchmark} " in said.out


def test_a_published_runs_own_suite_is_named_where_it_can_be_planned(tmp_path: Path) -> None:
    folder = next(folder for folder in FOLDERS if (folder / "suite.toml").is_file())
    (row, *_) = (record for record in Run.open(folder).records([]) if is_row(record))
    row = row.model_copy(update={"stack": "thunder"})  # one that is here
    text, named = (folder / "suite.toml").read_text(encoding="utf-8"), load_suite(str(folder / "suite.toml")).name

    def suite_of(run: Path, suite: str = named) -> str | None:
        words = plan_words(suite, Asked(), row, run)
        return None if words is None else words[words.index("--suite") + 1]

    (own := tmp_path / "own").mkdir()
    assert suite_of(own) is None
    assert suite_of(own, "note") == "note"
    (own / "suite.toml").write_text(text)
    assert suite_of(own) == str(own / "suite.toml")
    (own / "suite.toml").write_text(text.replace(f'name = "{named}"', 'name = "note"'))
    assert (suite_of(own), suite_of(own, "note")) == (None, str(own / "suite.toml"))
    (linked := tmp_path / "linked").mkdir()
    (linked / "suite.toml").symlink_to(folder / "suite.toml")
    (lacking := tmp_path / "lacking").mkdir()
    (lacking / "suite.toml").write_text(text + '\n[models.mix]\nconfig = "config.json"\n')
    (odd := tmp_path / "odd").mkdir()
    (odd / "suite.toml").write_bytes(b"\xff\x00")
    assert [suite_of(run) for run in (linked, lacking, odd)] == [None] * 3


def test_what_is_no_row_says_with_which_rows_it_is_run() -> None:
    folder = FOLDERS[0]
    for one in Run.open(folder).records([]):
        if not is_row(one):
            assert again.WITH_A_ROW in explain(folder, one.cell_id)


@pytest.fixture
def own(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was begun here: from a suite file, on a stack of a folder, both with odd names."""
    odd = place / "it's mine"
    odd.mkdir()
    write_stack(odd, ["good"])
    write_suite(odd)
    monkeypatch.chdir(place)
    words = ["run-all", "--suite", "it's mine/mine.toml", "--stacks", "it's mine/stacks", "--stack", "fake"]
    assert run([*words, "--launcher", "local", "--rounds", "2", "--results", "runs"]) == 0
    (folder,) = (place / "runs").iterdir()
    return folder


def test_of_a_run_of_ones_own(own: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (place, ROOT):
        monkeypatch.chdir(here)
        from_suite, from_record = lines_of(own)
        where = "" if here == place else f"{place}/"
        odd = f"{where}it's mine"
        results = ["--results", f"{where}runs"]
        assert words_of(from_suite) == [
            *("run-all", "--suite", f"{odd}/mine.toml", "--stack", "fake", "--stacks", f"{odd}/stacks"),
            *("--method", "good", "--benchmark", "forward", "--launcher", "local", "--rounds", "2", "--fresh"),
            *results,
        ]
        cell_id = from_record.split()[2]
        assert words_of(from_record) == [
            *("reproduce", cell_id, "--run", own.name, *results, "--stacks", f"{odd}/stacks", "--rounds", "2"),
        ]
        for line in (from_suite, from_record):
            assert "forward good@fake" in starts(line, place / "state")


def test_where_its_suite_or_its_stacks_are_gone_the_line_from_its_record_is_left(own: Path, place: Path) -> None:
    shutil.move(place / "it's mine" / "mine.toml", place / "other.toml")
    (line,) = lines_of(own)
    assert "--stacks" in line
    assert starts(line, place / "state")
    shutil.rmtree(place / "it's mine")
    (line,) = lines_of(own)
    assert "--stacks" not in line
    assert "is taken from the run" in starts(line, place / "state")


@pytest.mark.parametrize("how", ["imported", "in place", "by its name"])
def test_of_a_run_that_came_in_a_bundle(
    own: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    (place / "sent").mkdir()
    sent = place / "sent" / "their run.tar.gz" if how == "in place" else place / "sent" / "theirs.tar.gz"
    assert run(["bundle", own.name, "--results", "runs", "-o", str(sent)]) == 0
    if how == "imported":
        assert run(["import", str(sent), "--results", "sent"]) == 0
        folder = place / "sent" / own.name
        words = ["--run", own.name, "--results", "sent"]
    else:
        monkeypatch.setattr(unpacked, "STATE", place / "state")
        folder = open_bundle(sent).folder
        words = ["--run", str(sent)]
    if how == "by its name":
        monkeypatch.setattr(again, "RESULTS", place / "sent")
        words = ["--run", "theirs"]
    assert not (folder / FILE).exists()
    (line,) = lines_of(folder)
    assert words_of(line) == ["reproduce", line.split()[2], *words, "--rounds", "2"]
    if how == "by its name":
        line += " --results sent"
    capsys.readouterr()
    assert "stack fake is taken from the run" in starts(line, place / "state")


def test_a_bundle_behind_a_folder_of_its_name_is_named_by_its_path(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "STATE", place / "state")
    monkeypatch.setattr(again, "RESULTS", place)
    bundle = place / COMMITTED[0].name
    shutil.copy(COMMITTED[0], bundle)
    folder = open_bundle(bundle).folder
    assert run_words(folder) == ["--run", folder.name]
    (place / folder.name).mkdir()
    assert run_words(folder) == ["--run", str(bundle)]


def test_a_run_in_the_folder_where_commands_look_needs_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_run(tmp_path, [record(stack="cpu", method="eager")])
    monkeypatch.setattr(again, "RESULTS", tmp_path)
    source = read_source(folder)
    assert commands(source, record(stack="cpu", method="eager"), 1) == [
        "orchestrator run-all --suite note --stack cpu --method eager --benchmark forward --fresh",
        f"orchestrator reproduce {record().cell_id} --run {folder.name}",
    ]


def test_paths_as_one_types_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert typed(tmp_path / "here" / "a b") == "'a b'"
    assert typed(tmp_path / "here" / "a b", relative=False) == "~/'here/a b'"
    assert typed(tmp_path / "x") == "~/x"
    assert typed("/srv/x;y") == "'/srv/x;y'"


def test_how_the_cell_was_run() -> None:
    made = {"launcher": "docker", "cache": "shared"}
    words = plan_words("note", Asked(), record(provenance=made, stack="cpu"), Path("run"))
    assert words is not None
    assert words[-4:] == ["--launcher", "docker", "--cache", "shared"]
    for other in (record(stack="theirs"), record(stack="cpu", workload=of_checkpoint())):
        assert plan_words("note", Asked(), other, Path("run")) is None
    assert plan_words("mine", Asked(), record(stack="cpu"), Path("run")) is None


def of_checkpoint():
    return workload(weights={"source": "checkpoint", "fingerprint": "f" * 16})


def test_a_checkpoints_folder(tmp_path: Path) -> None:
    one = record(stack="cpu", workload=of_checkpoint())
    folder = save_run(tmp_path, [one])
    (line,) = commands(read_source(folder), one, 1)
    assert line.endswith(" --checkpoint FOLDER")
    for named in (None, "/models/mine"):
        asked = Asked(checkpoint=named, weights={"f" * 16: "/models/mine"}, methods=("/methods",))
        (folder / FILE).write_text(asked.model_dump_json())
        from_suite, from_record = commands(read_source(folder), one, 1)
        assert ("--checkpoint /models/mine" in from_suite) is (named is not None)
        assert from_record.endswith(" --checkpoint /models/mine")
        assert "--methods" not in from_suite + from_record  # bench's own method needs none


def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = record(stack="cpu", method="mine", method_source="a" * 64)
    folder, asked = save_run(tmp_path, [one]), tmp_path / "asked"
    (folder / FILE).write_text(Asked(methods=(str(asked),)).model_dump_json())
    for other in (None, "other.py"):  # the folder is gone, or the file
        if other:
            asked.mkdir()
            (asked / other).write_text("")
        (line,) = commands(read_source(folder), one, 1)
        assert line.endswith(" --methods FOLDER")
    (asked / "mine.py").write_text("")
    for line in commands(read_source(folder), one, 1):
        assert f" --methods {asked}" in line
    (folder / "methods").mkdir()
    (folder / "methods" / "mine.py").write_text("")  # the very file that was measured
    for line in commands(read_source(folder), one, 1):
        assert f" --methods {folder}/methods" in line
    monkeypatch.setattr(again, "origin_of", lambda _folder: tmp_path / "sent.tar.gz")
    (folder / FILE).unlink()
    (line,) = commands(read_source(folder), one, 1)
    assert line.endswith("/sent.tar.gz --methods FOLDER")


def test_a_file_that_is_not_ours_says_nothing(tmp_path: Path) -> None:
    folder = save_run(tmp_path, small_run())
    for content in ("", "{", "[]", '{"suite": 1}', '{"surprise": 1}'):
        (folder / FILE).write_text(content)
        assert read_asked(folder) == Asked()


def test_commands_are_called_as_they_can_be_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout's command is on no PATH: a line without its folder could not be pasted."""
    place = tmp_path / ".venv" / "bin" / "orchestrator"
    place.parent.mkdir(parents=True)
    place.write_text("#!/bin/sh\n", encoding="utf-8")
    place.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/orchestrator"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == ".venv/bin/orchestrator"
    folder = save_run(tmp_path / "results", small_run())
    assert "\n  .venv/bin/orchestrator reproduce " in explain(folder, "forward inductor")
    assert {line.split()[0] for line in lines_of(folder)} == {"orchestrator"}, "a page is read on other hosts"
    monkeypatch.setenv("PATH", str(place.parent))
    assert program() == "orchestrator"
    monkeypatch.setattr(sys, "argv", ["__main__.py"])
    assert program() == "orchestrator"


def test_in_a_compose_service_commands_are_the_hosts_and_paths_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has Docker alone has no `orchestrator`, and their checkout is not where the container sees it."""
    folder = save_run(tmp_path / "results", small_run())
    monkeypatch.setenv("STACKBENCH_SERVICE", "cpu")
    assert "\n  docker compose run --rm cpu reproduce " in explain(folder, "forward inductor")
    shown = render(make_report(folder), folder.name).splitlines()[-3:]
    begins = [line.split(": ")[1] for line in shown]
    assert begins[:2] == [
        f"docker compose run --rm cpu table {folder.name} --format markdown",
        f"docker compose run --rm cpu report {folder.name}",
    ]
    assert begins[2].startswith("docker compose run --rm cpu explain ")
    monkeypatch.chdir(tmp_path)
    results = ["--results", str(tmp_path / "results")]
    assert run(["report", folder.name, *results]) == 0
    assert run(["bundle", folder.name, *results, "-o", str(tmp_path / "results" / "b.tar.gz")]) == 0
    assert run(["import", str(tmp_path / "results" / "b.tar.gz"), "--results", str(tmp_path / "others")]) == 0
    places = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    name = folder.name
    assert places == [f"results/{name}/report.html", "results/b.tar.gz:", f"others/{name}:"]
    services = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").split("\nservices:")[1]
    names = re.findall(r"^  ([a-z-]+):$", services, re.MULTILINE)
    assert re.findall("STACKBENCH_SERVICE: ([a-z-]+)", services) == names
