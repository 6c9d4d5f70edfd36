"""The LaTeX tables: nothing from a record is ever markup, and what is there is balanced."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import record, samples, save_run, small_run

from orchestrator.cli import run
from orchestrator.report.tables import render_tables
from orchestrator.report.tables.latex import escape

NASTY = "\\input{/etc/passwd} \\write18{rm} $x$ & # % _ ^ ~ {} [x] \n\n\\end{tabular} \u202e\x1b ``'' --- é 中"
SLIGHTLY_PT = 10.0
COMMAND = re.compile(r"\\([A-Za-z]+|.)")
OURS = {
    *(
        "begin",
        "end",
        "caption",
        "centering",
        "footnotesize",
        "setlength",
        "tabcolsep",
        "multicolumn",
        "toprule",
        "midrule",
        "bottomrule",
        "textbackslash",
        "textasciicircum",
    ),
    *("textasciitilde", "textless", "textgreater", "textbar", "textquotedbl", "textquotesingle", "textasciigrave"),
    "textsuperscript",
    *("times", "div", "pm", "dots", "\\", "{", "}", "$", "&", "#", "%", "_"),
}


def commands(text: str) -> set[str]:
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    return set(COMMAND.findall(code))


@given(st.text())
def test_escaped_text_has_no_command_but_ours(text: str) -> None:
    escaped = escape(text)
    assert commands(escaped + " ") <= OURS
    assert escaped.isascii()
    assert "\n" not in escaped
    bare = re.sub(r"\\[^A-Za-z]", "", escaped)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[&#%_^~]", bare)


def test_a_run(tmp_path: Path) -> None:
    folder = save_run(tmp_path, [*small_run(), record(cell_id="9" * 16, method="evil", status="crashed", reason=NASTY)])
    text = render_tables(folder, form="latex")
    assert commands(text) <= OURS
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"eager & 0.6413 & {[}0.6400, 0.6440{]}\textsuperscript{" in text
    assert "within one process, which does not include how processes differ." in text, "written once, in the caption"
    assert re.search(r"^thunder(\\textsuperscript{\w})* & \\multicolumn\{7\}\{l\}\{incorrect: ", text, re.MULTILINE)
    assert "0.4503" not in next(line for line in text.splitlines() if line.startswith("thunder"))
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines if "multicolumn" not in line} == {7}
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines if "multicolumn" in line} == {1}
    note = render_tables(folder, protocol="note", form="latex")
    assert "interval" not in note


def test_stacks_and_letters(tmp_path: Path) -> None:
    timed = samples(9e3, 450.0, *[450.0, 451.0, 452.0] * 3)
    alike = [record(samples=timed, method="eager"), record(samples=timed, cell_id="2" * 16)]
    other = record(samples=timed, cell_id="3" * 16, stack="other", flags=["warm", "drift"])
    text = render_tables(save_run(tmp_path / "one", alike), form="latex")
    assert "method & " in text
    assert re.search(r"^eager\\textsuperscript{a} & 0.4510", text, re.MULTILINE)
    assert "stack cuda. (a) unchecked." in text
    text = render_tables(save_run(tmp_path / "two", [*alike, other]), form="latex")
    assert "method@stack & " in text
    (row,) = [line for line in text.splitlines() if line.startswith("inductor@other")]
    (caption,) = [line for line in text.splitlines() if line.startswith(r"\caption")]
    found = dict(re.findall(r"\((\w)\) ([^.(]+)\.", caption))
    assert {found[letter] for letter in re.findall(r"textsuperscript\{(\w)\}", row)} >= {"drift", "first call warm"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_run(tmp_path, [record(samples=samples(9e3, 450.0, 450.0, 450.0, 451.0))])
    assert run(["table", str(folder), "--format", "latex"]) == 0
    assert capsys.readouterr().out.startswith("% run 20261123-100000-note, suite note")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_it_sets(tmp_path: Path) -> None:
    folder = save_run(tmp_path, [*small_run(), record(cell_id="9" * 16, method="evil", status="crashed", reason=NASTY)])
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{textcomp,booktabs}\\begin{document}\n"
    (tmp_path / "x.tex").write_text(head + render_tables(folder, form="latex") + "\\end{document}\n")
    words = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "x.tex"]
    assert subprocess.run(words, cwd=tmp_path, check=False).returncode == 0
    log = (tmp_path / "x.log").read_text()
    too_wide = [float(found) for found in re.findall(r"Overfull \\hbox \(([0-9.]+)pt", log)]
    assert max(too_wide, default=0.0) < SLIGHTLY_PT, "in the narrow column of text that article has"
