"""What others wrote, on every way out: the terminal, error lines, tables, JSON, the page."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from record_samples import ENVIRONMENT, GPU, check, dispatch, proof, record, samples, save_run

from orchestrator import cli
from orchestrator.base.paths import REPOSITORY
from orchestrator.base.text import in_json, printable, show
from orchestrator.measure.watch import Event
from orchestrator.records.store import record_files
from orchestrator.report.page import render_page
from orchestrator.report.tables import EXPORTERS, render_tables, write_tables
from orchestrator.runner.progress import LiveProgress, Progress

EVIL = (
    "\x1b]0;title\x07\x1b[2J \x9b31m \x7f \x08 \u202egnp \u2066x\u2069 \u200b\ufeff\u00ad \U000e0041 \u2028 \r \u4e2d"
    " end"
)
FORMS = [
    *(("table", "--format", form) for form in ("text", *EXPORTERS)),
    *(("explain", "forward inductor@cuda", "--format", form) for form in ("text", "json")),
    *(("history", "--format", form) for form in ("text", "json")),
    *(("compare", "one", "two", "--format", form) for form in ("text", "markdown", "json")),
]


def steers(text: str) -> set[str]:
    """The characters that steer a terminal, turn or hide text."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs in which every free text is EVIL."""
    where = {**ENVIRONMENT, "packages": {EVIL: EVIL, "torch": EVIL}, "cpu": EVIL, "settings": {EVIL: EVIL}}
    named = {**where, "torch": f"2.1{EVIL}", "gpu": {**GPU, "name": f"H100{EVIL}", "driver": EVIL}}
    ran = dispatch(groups=[{"name": EVIL, "launches": 1, "share": 1.0}], instead=EVIL, expected=[EVIL], missing=[EVIL])
    shown = proof(0.01, check(EVIL, "unchecked", what=EVIL), resembles=EVIL, text=EVIL)
    for name in ("one", "two"):
        found = [
            record(
                samples=samples(9000.0, *[450.0] * 9),
                environment=named,
                dispatch=ran,
                proof=shown,
                detail={EVIL: EVIL, "operators": {EVIL: EVIL}},
            ),
            record("generation", cell_id="d" * 16, status="crashed", reason=EVIL, flags=[]),
        ]
        folder = save_run(tmp_path, found)
        folder.rename(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("arguments", FORMS, ids=" ".join)
def test_nothing_steers_the_terminal(
    results: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", "one"] if arguments[0] == "explain" else ["one"] if arguments[0] == "table" else []
    assert cli.run([*arguments, *run, "--results", str(results)]) in (0, 1, 2)
    out, err = capsys.readouterr()
    assert "end" in out
    assert not steers(out + err), steers(out + err)


def test_nothing_in_a_runs_tables_and_page_does(results: Path) -> None:
    (results / "one" / "records" / os.fsdecode(b"evil-\xff\x1b[2J.json")).write_text("{}")
    write_tables(results / "one")
    for name in ("tables.md", "tables.json", "tables.csv"):
        text = (results / "one" / name).read_text(encoding="utf-8")
        assert "end" in text
        assert not steers(text), (name, steers(text))
    assert not steers(render_page([results / "one"]))


def test_json_has_the_very_values_all_the_same(results: Path) -> None:
    rows = json.loads(render_tables(results / "one", form="json"))["rows"]
    assert EVIL in {row["reason"] for row in rows}
    values = ["é – 中", "\x7f\x85\u202e", "\ud800", "\U000e0041"]  # noqa: RUF001
    assert json.loads(in_json(json.dumps(values, ensure_ascii=False))) == values


@pytest.mark.parametrize("key", ["\x1b]0;title\x07x", "\u202egnp", "\ud800", "a\nb"])
def test_an_unknown_key_in_an_error_is_printable(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_run(tmp_path, [record(samples=samples(9000.0, *[450.0] * 9))])
    content: dict[str, Any] = json.loads(record_files(folder)[0].read_text())
    sent = tmp_path / "sent\x1b[2J\n.json"
    sent.write_text(json.dumps({**content, key: 1}))
    assert cli.run(["reproduce", str(sent), "--results", str(tmp_path)]) == 4
    out, err = capsys.readouterr()
    assert err.startswith("orchestrator: ")
    assert err.count("\n") == 1
    assert not steers(out + err)


def test_progress_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with Progress(out=out) as progress:
        progress.say(EVIL)
        progress.begin(EVIL, 1, 1, 5)
        progress.event(Event(EVIL, 0, 1))
        progress.end(record(status="crashed", reason=EVIL, flags=[]), 0)
    assert out.getvalue().count("end") == 6
    assert not steers(out.getvalue())


def test_a_live_line_and_what_stands_above_it_are_printable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with LiveProgress() as progress:
        for show in (
            progress.say,
            lambda text: progress.begin(text, 1, 1, 5),
            lambda text: progress.event(Event(text)),
        ):
            show(EVIL)
            progress._bar.refresh()
            out = capsys.readouterr().err
            assert "end" in out
            # It steers the terminal itself, with other sequences.
            assert not [part for part in ("\x1b]", "\x1b[2J", "\x9b") if part in out]
            assert steers(out) <= {"\x1b", "\r"}


def test_what_a_cell_says_of_itself_is_no_markup_of_the_live_line() -> None:
    with LiveProgress() as progress:
        progress.begin("forward [/good]@fake", 1, 2, 10)
        progress.event(Event("[/red] [bold", 0, 5))
        progress._bar.refresh()


@pytest.mark.parametrize(
    "begin",
    [
        "=",
        "+",
        "-",
        "@",
        "\t",
        "\r",
        "\n",
        "\n=",
        " =",
        "\u200b=",
        "\x1b=",
        "\u00a0@",
        "\uff1d",  # of full width
        "\uff0b",
        "\uff0d",
        "\uff20",
        "\ufe66",  # small
        "\u207a",  # raised
    ],
)
def test_a_spreadsheet_gets_no_formula(tmp_path: Path, begin: str) -> None:
    reason = f"{begin}cmd|' /C calc'!A0"
    folder = save_run(tmp_path, [record(status="crashed", reason=reason, flags=[])])
    header, *lines = csv.reader(io.StringIO(render_tables(folder, form="csv")))
    for line in lines:
        found = line[header.index("reason")]
        assert found == "'" + printable(reason)


@pytest.mark.parametrize("text", ["plain", "a = b", "1 - 2", "me@here", "é"])
def test_other_texts_stay_as_they_are_in_a_spreadsheet(tmp_path: Path, text: str) -> None:
    folder = save_run(tmp_path, [record(status="crashed", reason=text, flags=[])])
    header, line, _ = csv.reader(io.StringIO(render_tables(folder, form="csv")))
    assert line[header.index("reason")] == text


# Standard output that cannot take what is written.


def orchestrator(arguments: list[str], redirect: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    line = " ".join([f'"{sys.executable}"', "-m", "orchestrator", *(f"'{word}'" for word in arguments), redirect])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], env=environment, capture_output=True, check=False, cwd=REPOSITORY
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "utf-8"])
def test_what_the_terminals_encoding_lacks_is_replaced(results: Path, encoding: str) -> None:
    done = orchestrator(["table", "one", "--results", str(results)], PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"inductor@cuda" in done.stdout
    assert (b"?" in done.stdout.replace(b"How to read this?", b"")) == (encoding != "utf-8")
    assert ("| \u2013 |".encode() if encoding == "utf-8" else b"| - |") in done.stdout, "no doubt where a dash stands"


@pytest.mark.parametrize("redirect", [">&-", "<&- >&- 2>&-", "| head -n 1", "| true", "2>&1 | head -c 1"])
@pytest.mark.parametrize(
    "arguments", [["table", "one"], ["explain", "forward inductor@cuda", "--run", "one"], ["plan"]]
)
def test_nobody_has_to_read_to_the_end(results: Path, redirect: str, arguments: list[str]) -> None:
    done = orchestrator([*arguments, "--results", str(results)], redirect)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_below_standard_output_is_one_line(results: Path) -> None:
    done = orchestrator(["table", "one", "--results", str(results)], "> /dev/full")
    assert done.returncode == 4
    assert done.stderr.startswith(b"orchestrator: ")
    assert done.stderr.count(b"\n") == 1


def test_progress_outlives_its_reader_and_a_full_disk(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full, Progress(out=full) as progress:  # noqa: PTH123
        progress.say("lost")
        progress.say("lost too")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        show("nobody reads this", out)
        show("nor this", out)
    with open("/dev/full", "w") as full, pytest.raises(OSError, match="space"):  # noqa: PTH123
        show("a command that only prints says so", full)
