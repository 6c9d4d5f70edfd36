"""What a person or a program asks of the command line: which run, which runs, which version, facts as JSON, names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from record_samples import record, samples, save_run, small_run

from orchestrator import cli
from orchestrator.base.files import bench_source
from orchestrator.base.paths import REPOSITORY
from orchestrator.records.record import Record
from orchestrator.report.tables import write_tables


def run_in(results: Path, name: str, records: list[Record], **changes: Any) -> Path:
    """A run that was begun here when its name says."""
    folder = save_run(results, records)
    header = json.loads((folder / "run.json").read_text())
    began = f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:00:00Z"
    (folder / "run.json").write_text(json.dumps({**header, "run_id": name, "started_utc": began, **changes}))
    return folder.rename(results / name)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three runs: of a GPU, whole; of the CPU, imported and not finished; and one that cannot be read."""
    place = tmp_path / "results"
    gpu = {"gpu": {"name": "NVIDIA H100", "uuid": "GPU-0", "driver": "1", "memory_bytes": 1}}
    run_in(place, "20250101-100000-note", small_run(), host=gpu)
    one = [record(samples=samples(900.0, *[450.0] * 5)), record(cell_id="2" * 16, status="crashed", flags=[])]
    run_in(place, "20250202-100000-note", one, imported_utc="2025-03-01T00:00:00Z", finished_utc=None)
    run_in(place, "20250303-100000-note", one).joinpath("run.json").write_text("{")
    return place


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert cli.run(list(words)) == code
    out, err = capsys.readouterr()
    return out, err


def test_runs_newest_first_with_a_line_for_a_bad_one(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "runs", "--results", str(results))
    head, *lines = out.splitlines()
    assert head.split() == ["run", "began", "(UTC)", "suite", "on", "rows"]
    assert [line.split()[0] for line in lines[:3]] == [f"20250{n}0{n}-100000-note" for n in (2, 1, 3)]
    assert lines[0].split("  ")[1] == "2025-02-02 10:00"
    assert "CPU" in lines[0]
    assert re.search("  1 ok, 1 crashed  +not finished, imported$", lines[0])
    assert "NVIDIA H100  3 ok, 1 incorrect, 1 unsupported, 1 crashed" in lines[1]
    assert lines[2].endswith("cannot be read")
    assert lines[3].startswith("20250303-100000-note: ")
    assert "run.json" in lines[3]
    assert (len(lines), err) == (4, "")


def test_runs_as_json_counts_as_the_tables_do(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, "runs", "--format", "json", "--results", str(results))[0])["runs"]
    assert found[2] == {
        **dict.fromkeys(found[2]),
        "name": "20250303-100000-note",
        "stacks": [],
        "problem": found[2]["problem"],
    }
    assert (found[0]["finished_utc"], found[0]["device"]) == (None, "CPU")
    tables = json.loads(shown(capsys, "table", found[1]["name"], "--format", "json", "--results", str(results))[0])
    rows = [row["status"] for row in tables["rows"] if row["protocol"] == "steady"]
    assert found[1]["rows"] == {status: rows.count(status) for status in dict.fromkeys(found[1]["rows"])}
    assert sum(found[1]["rows"].values()) == len(rows)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"rows": [{"status": "fine", "protocol": "steady"}]}', b"\xff"])
def test_runs_takes_the_tables_where_they_are_no_older_than_the_records(
    results: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    def rows() -> Any:
        out, _ = shown(capsys, "runs", "--format", "json", "--results", str(results))
        (run,) = [run for run in json.loads(out)["runs"] if run["name"] == folder.name]
        assert (run["problem"] or "").startswith("cannot be read: records/") == (run["rows"] == {})
        return run["rows"]

    folder = results / "20250101-100000-note"
    counted = rows()
    write_tables(folder)
    for path in (folder / "records").iterdir():
        path.write_text("{")  # only the tables know, for the folder's time is as it was
    assert rows() == counted
    later = (folder / "tables.json").stat().st_mtime_ns + 10**9
    os.utime(folder / "records", ns=(later, later))
    assert rows() == {}
    (folder / "tables.json").write_bytes(content)
    os.utime(folder / "tables.json", ns=(later, later))
    assert rows() == {}


def test_no_run_at_all_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "runs", "--results", str(tmp_path), code=4)
    assert (out, err.count("\n")) == ("", 1)
    assert "no run here" in err


TAKING = [
    ("table", "--format", "json"),
    ("report",),
    ("picture",),
    ("explain", "forward inductor@cuda"),
    ("compare", ":eager", ":inductor"),
    ("bundle",),
]


@pytest.mark.parametrize("words", TAKING, ids=" ".join)
def test_every_command_says_which_run_it_took_and_takes_another_by_name(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [*(["-o", "one"] if words[0] in ("report", "picture", "bundle") else []), "--results", str(results)]
    assert cli.run([*words, *out]) in (0, 1, 2)
    newest = capsys.readouterr()
    bad = "orchestrator: left out: "
    assert [line for line in newest.err.splitlines() if not line.startswith(bad)][:1] == [
        "orchestrator: run 20250101-100000-note, the newest"
    ]
    out = [word.replace("one", "another") for word in out]
    assert cli.run([*words, "--run", "20250101-100000-note", *out]) in (0, 1, 2)
    named = capsys.readouterr()
    assert "the newest" not in named.err
    assert named.out.replace("another", "one") == newest.out
    if words[0] in ("table", "report", "picture", "bundle"):
        out = [word.replace("another", "third") for word in out]
        assert cli.run([words[0], "20250101-100000-note", *words[1:], *out]) == 0
        assert capsys.readouterr().out.replace("third", "one") == newest.out


def test_explain_as_json_has_the_rows_unrounded_and_what_the_text_says(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--run", "20250101-100000-note", "--results", str(results))
    text, _ = shown(capsys, "explain", "forward inductor@cuda", *where)
    found = json.loads(shown(capsys, "explain", "forward inductor@cuda", *where, "--format", "json")[0])
    tables = json.loads(shown(capsys, "table", where[1], *where[2:], "--format", "json")[0])
    (row,) = [r for r in tables["rows"] if r["name"] == "inductor@cuda" and r["benchmark"] == "forward"][:1]
    assert found["rows"]["steady"]["figure"] == row["figure"]
    assert set(found["rows"]) == {"steady", "note"}
    assert (found["title"], found["cell_id"], found["run"]) == ("forward inductor@cuda", "1" * 16, where[1])
    assert [Path(name).stem[-2:] for name in found["records"]] == ["r0", "r1", "r2"]
    assert [one["number"] for one in found["rounds"]] == [0, 1, 2]
    for section in (*found["top"], *found["bottom"], *found["rounds"][0]["sections"]):
        assert section["title"] in text
    numbers = {
        block["number"]
        for one in found["rounds"]
        for section in one["sections"]
        for block in section["blocks"]
        if block["kind"] == "environment"
    }
    assert numbers == set(range(len(found["environments"])))
    probe = json.loads(shown(capsys, "explain", "probe of forward inductor", *where, "--format", "json")[0])
    assert probe["rows"] is None


def test_doctor_as_json_says_what_the_text_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    text, _ = shown(capsys, "doctor")
    found = json.loads(shown(capsys, "doctor", "--format", "json")[0])
    assert found["exit_code"] == 0
    lines = []
    for one in found["checks"]:
        assert list(one) == ["name", "state", "value", "remedy"]
        assert one["state"] in ("ok", "warn", "fail")
        remedy = f"; {one['remedy']}" if one["remedy"] is not None else ""
        lines.append(f"{one['state']:<4}  {one['name']:<18}  {one['value']}{remedy}")

    def steady(lines: list[str]) -> list[str]:
        return [re.sub(r"[\d.]+ GB free", "free", line) for line in lines]

    assert steady(lines) == steady(text.splitlines())


def test_dry_run_says_what_plan_says_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--suite", "smoke", "--method", "eager", "--launcher", "local", "--results", str(tmp_path / "none")]
    plan = shown(capsys, "plan", *words)
    assert shown(capsys, "run-all", *words, "--fresh", "--dry-run") == plan
    assert "forward eager@cpu" in plan[0]
    assert not (tmp_path / "none").exists()


def test_the_version_names_package_commit_and_bench(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "--version")
    number = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert number is not None
    commit = r"commit [0-9a-f]{7,}( changed)?, " if (REPOSITORY / ".git").exists() else ""
    assert re.fullmatch(rf"orchestrator {re.escape(number[1])} \({commit}bench {bench_source()}\)\n", out), out
    assert err == ""


def test_the_version_where_there_is_no_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "commit" not in shown(capsys, "--version")[0]


def completed(*words: str) -> list[str]:
    """Return what a shell would offer for the last word."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "_ORCHESTRATOR_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["orchestrator", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_a_shell_completes_names(results: Path) -> None:
    where = ("--results", str(results))
    assert completed("table", *where, "20250") == [f"20250{n}0{n}-100000-note" for n in (1, 2, 3)]
    assert completed("explain", *where, "--run", "202501") == ["20250101-100000-note"]
    assert completed("compare", *where, "20250101-100000-note", "202502") == ["20250202-100000-note"]
    assert completed("table", "--results", str(results / "nowhere"), "2") == []
    assert "smoke" in completed("run-all", "--suite", "s")
    assert completed("plan", "--stack", "thunder-") == ["thunder-next"]
    assert completed("run-all", "--method", "ind") == ["inductor", "inductor_default"]
    assert completed("plan", "--benchmark", "train_") == ["train_dynamic", "train_static"]
