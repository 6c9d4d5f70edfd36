"""The tables as a terminal shows them: as wide as it is, in words first, with commands that can be pasted."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from golden_files import golden
from places import RESULTS, ROOT
from record_samples import record, samples, save_run, small_run

from orchestrator import cli
from orchestrator.analysis.reduced_run import make_report
from orchestrator.records.runs import find_run
from orchestrator.report.tables.terminal import render
from orchestrator.report.words import GLOSSARY

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "results", small_run(), finish=False)


@pytest.mark.parametrize("width", [80, 100])
def test_golden(run: Path, width: int) -> None:
    golden(f"terminal-{width}.txt", render(make_report(run), "20261123-100000-note", width=width))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal_but_commands(run: Path, width: int) -> None:
    lines = render(make_report(run), "mine", width=width).splitlines()
    assert [line for line in lines if len(line) > width and " orchestrator " not in line] == []
    if width >= 40:  # below, even words are broken
        text = " ".join("\n".join(lines).split())
        for shown in ("0.6413", "inductor", "crashed", "flash-attn is not installed", "incorrect"):
            assert shown in text


def test_what_is_said_in_colour_is_said_without(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    report = make_report(run)
    plain, coloured = render(report, "mine"), render(report, "mine", terminal=True)
    assert "\x1b" not in plain
    assert "\x1b[31m" in coloured, "what failed is red"
    assert [line.rstrip() for line in COLOUR.sub("", coloured).splitlines()] == plain.splitlines()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[(?:\d+;)*[34][0-7]m", render(report, "mine", terminal=True))


def test_the_notes_figures_are_in_their_own_order(tmp_path: Path) -> None:
    fast_once = record(cell_id="1" * 16, method="one", samples=samples(900.0, *[500.0] * 5, 100.0, *[500.0] * 9))
    even = record(cell_id="2" * 16, method="two", samples=samples(900.0, *[300.0] * 15))
    report = make_report(save_run(tmp_path, [fast_once, even]))
    places = []
    for protocol in ("steady", "note"):
        text = render(report, "mine", protocol)  # type: ignore[arg-type]
        places.append(text.index("one@cuda") < text.index("two@cuda"))
        assert ("speed, as the note" in text) == (protocol == "note")
    assert places == [False, True]


def test_an_empty_run(tmp_path: Path) -> None:
    assert "no cell has a record yet" in render(make_report(save_run(tmp_path, [])), "mine")


def in_terminal(*words: str, columns: int, **variables: str) -> str:
    """Return what the command writes on a terminal of so many columns; standard error is another place."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "LINES")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "FORCE_COLOR": "", **variables}
    controller, terminal = pty.openpty()
    os.set_blocking(controller, True)
    subprocess.run(["stty", "cols", str(columns)], stdin=terminal, check=True)
    done = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        env=environment,
        stdout=terminal,
        stderr=subprocess.PIPE,
        stdin=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(controller, 65536):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(controller)
    assert done.stderr is not None
    said = done.stderr.read()
    done.stderr.close()
    assert done.wait() == 0, said
    assert b"Traceback" not in said
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(("columns", "width"), [(80, 80), (200, 100), (40, 40)])
def test_on_a_terminal_table_is_short_and_as_wide_as_it(run: Path, columns: int, width: int) -> None:
    text = in_terminal("table", str(run), columns=columns)
    assert "\x1b[31m" in text
    lines = [line for line in COLOUR.sub("", text).splitlines() if " orchestrator " not in line]
    assert width * 0.9 <= max(map(len, lines)) <= width
    assert "| :---" not in text
    assert "| :---" in in_terminal("table", str(run), "--format", "markdown", columns=columns)


@pytest.mark.parametrize("words", [("runs",), ("history",), ("plan", "--suite", "smoke", "--launcher", "local")])
def test_other_tables_are_as_wide_as_the_terminal_too(run: Path, words: tuple[str, ...]) -> None:
    lines = in_terminal(*words, "--results", str(run.parent), columns=90).splitlines()
    assert max(map(len, lines)) <= 90
    assert any(line.startswith("    ") and ": " in line for line in lines), "columns that do not fit are below"


def test_what_flags_mean_is_said_where_rows_have_them(run: Path) -> None:
    said = " ".join(render(make_report(run), "mine").split())
    assert f"not_fused: {GLOSSARY['not_fused']}" in said
    assert GLOSSARY["drift"] not in said


def test_a_terminal_of_ascii_alone(run: Path) -> None:
    text = in_terminal("table", str(run), columns=80, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert text.isascii()
    assert "1.42x" in text
    assert "?" not in text


@pytest.mark.parametrize("name", ["h200-two-second", "h200-pinned-forward"])
def test_the_command_for_a_rows_proof_is_of_one_row(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = find_run(RESULTS, name).folder
    (line,) = [line for line in render(make_report(folder), name).splitlines() if " explain " in line]
    words = shlex.split(line.partition(" explain ")[2])
    assert cli.run(["explain", *words, "--results", str(RESULTS)]) == 0
    assert capsys.readouterr().err == ""
