"""What people choose an engine by: the page over several runs, and the picture of throughput against latency."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ladder_samples import ladder_record, ladder_run
from record_samples import save_run, small_run

from orchestrator.cli import run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    wrong = ladder_record("broken", 8, status="incorrect", reason="rows: row 3 of 8", samples=[])
    first = save_run(folder / "a", [*ladder_run(methods=("eager", "inductor", "fast"), rounds=5), wrong])
    second = save_run(folder / "b", ladder_run(1.05, methods=("inductor", "wide"), rounds=5))
    named = folder / "loan-1", folder / "loan-2"
    first.rename(named[0])
    second.rename(named[1])
    return named


def lines(text: str, begins: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begins)]


def test_engines_of_two_runs_are_joined_by_the_row_that_ran_beside_each(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["which-engine", *map(str, runs)]) == 0
    text = capsys.readouterr().out
    assert "differ by up to 5.0 %" in text
    at_8 = [line.split(" | ") for line in lines(text, "| 8 |")][4:]  # of the second ladder
    assert [cells[1] for cells in at_8] == ["`wide@cuda` ◆", "`inductor@cuda`", "`fast@cuda`", "`eager@cuda`"]
    assert [cells[6].split()[0] for cells in at_8] == ["1.10×", "–", "0.979×", "0.378×"]  # noqa: RUF001
    assert [cells[-1] for cells in at_8] == ["loan-2 |", "loan-1 |", "loan-1 |", "loan-1 |"]
    assert at_8[0][7:11] == ["33.3", "28.0", "1/1", "ok"]
    assert lines(text, "- 8 sequences")[1].startswith("- 8 sequences at once: `wide@cuda`, 759.6 tokens/s, 1.10×")  # noqa: RUF001
    assert lines(text, "- `broken@cuda`, batch 8, 128 prompt tokens: incorrect: rows: row 3 of 8")


def test_the_command_writes_a_file_and_refuses_what_has_no_such_row(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "which.md"
    assert run(["which-engine", str(runs[0]), "--beside", "eager", "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("# Which engine\n")
    assert "| beside eager |" in page.read_text(encoding="utf-8")
    other = str(save_run(tmp_path / "other", small_run()))
    assert run(["which-engine", other]) == 4
    assert run(["picture", other, "--of", "latency", "-o", str(tmp_path / "no.svg")]) == 4
    assert run(["picture", str(runs[0]), "-o", str(tmp_path / "no.svg")]) == 4
    said = capsys.readouterr().err
    assert said.count("no row of batched_generation") == 2
    assert "of batched_generation there is `--of latency`" in said
    assert not (tmp_path / "no.svg").exists()


def test_the_picture_has_a_point_for_each_row_and_rings_the_front(runs: tuple[Path, Path], tmp_path: Path) -> None:
    drawn = tmp_path / "latency.svg"
    assert run(["picture", *map(str, runs), "--of", "latency", "-o", str(drawn)]) == 0
    svg = ET.parse(drawn).getroot()  # noqa: S314 - our own
    marks = [one for tag in ("circle", "polygon") for one in svg.iter(f"{SVG}{tag}")]
    kinds = [str(one.get("class")) for one in marks]
    assert kinds.count("ring") == 2 * 4
    assert sum(kind.startswith("open") for kind in kinds) == 2 * 4, "eager's, which are unchecked"
    assert len(kinds) - kinds.count("ring") == 2 * 16 + 4, "and one for each name above"
    assert sum(path.get("class") == "front" for path in svg.iter(f"{SVG}path")) == 2
    spoken = next(svg.iter(f"{SVG}desc")).text or ""
    assert "wide@cuda at batch 128 4902 tokens/s, 24.0 ms a token, on the front" in spoken


def test_the_tables_have_what_a_batch_is_judged_by(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["table", str(runs[0]), "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    heads = next(line for line in text.splitlines() if line.startswith("| method@stack")).split(" | ")
    for head in ("steady, tokens/s", "first, further token, ms", "each sequence, tokens/s", "start-up, s"):
        assert head in heads
    row = next(line for line in text.splitlines() if line.startswith("| `fast@cuda`")).split(" | ")
    assert row[heads.index("each sequence, tokens/s")] == "135.1"
    assert row[heads.index("first, further token, ms")] == "26.5, 7.25"
    assert row[heads.index("start-up, s")] == "32.9"
