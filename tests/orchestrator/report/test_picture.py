"""The picture of runs beside eager: what has a bar and how long it is; the committed one is of committed runs."""

from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from made_docs import H100
from places import RESULTS, ROOT
from record_samples import save_run, small_run

from orchestrator.analysis.reduced_run import Report, make_report
from orchestrator.base.errors import UsageError
from orchestrator.cli import run
from orchestrator.records.runs import find_run
from orchestrator.report.picture import MARGIN, SMALL, WIDTH, factor, groups, picture, speedup

SVG = "{http://www.w3.org/2000/svg}"


def report(name: str = "h100-operators") -> Report:
    return make_report(find_run(RESULTS, name).folder)


def changed(given: Report, title: str, **changes: Any) -> Report:
    """The report with another row of that title."""
    pairs = [
        dataclasses.replace(pair, steady=pair.steady.model_copy(update=changes)) if pair.steady.title == title else pair
        for pair in given.pairs
    ]
    assert pairs != list(given.pairs)
    return dataclasses.replace(given, pairs=tuple(pairs))


def elements(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}{tag}"))  # noqa: S314 - our own


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in elements(svg, "text")]


def bars(svg: str) -> list[ET.Element]:
    return [element for element in elements(svg, "rect") if element.get("class") in ("faster", "slower")]


def test_the_committed_picture_is_of_the_committed_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "speed.svg"
    assert run(["picture", *H100, "-o", str(made)]) == 0
    assert capsys.readouterr().out == f"{made}: 14 bars\n"
    assert made.read_bytes() == (ROOT / "docs" / "speed.svg").read_bytes()


def test_a_bar_is_as_long_as_its_figure_says() -> None:
    given = [report()]
    svg = picture(given, ["h100-operators"])
    exact = [speedup(row) or 0.0 for group in groups(given) for row in group.rows]
    assert [text for text in texts(svg) if text.endswith("×")] == [factor(value) for value in exact]  # noqa: RUF001
    widths = [float(bar.get("width", "")) for bar in bars(svg)]
    scale = max(widths) / max(abs(math.log(value)) for value in exact)
    assert widths == pytest.approx([abs(math.log(value)) * scale for value in exact], abs=0.2)
    assert [bar.get("class") for bar in bars(svg)] == ["faster" if value >= 1 else "slower" for value in exact]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"status": "incorrect"}, "incorrect"), ({"flags": ("unchecked",)}, "ok, unchecked"), ({"versus": None}, "ok")],
)
def test_a_row_without_proof_has_no_bar(changes: dict[str, Any], says: str) -> None:
    whole = picture([report()], ["a"])
    svg = picture([changed(report(), "forward fused@h100", **changes)], ["a"])
    assert len(bars(svg)) == len(bars(whole)) - 1
    assert "1.34×" in texts(whole)  # noqa: RUF001  (times)
    assert "1.34×" not in texts(svg)  # noqa: RUF001  (times)
    assert says in texts(svg)


def test_a_bar_of_a_flagged_row_is_named_below() -> None:
    whole = report()
    drifts = "forward tinyllama_full@h100 drift; model_inference fused@h100 drift"
    assert f"Flagged, as its table explains: {drifts}." in texts(picture([whole], ["a"]))
    svg = picture([changed(whole, "forward fused@h100", flags=("tainted",))], ["a"])
    assert len(bars(svg)) == len(bars(picture([whole], ["a"])))
    named = "forward fused@h100 tainted; forward tinyllama_full@h100 drift and 1 more"
    assert f"Flagged, as its table explains: {named}." in texts(svg)
    quiet = picture([report("h100-thunder")], ["b"])
    assert not any("Flagged" in text for text in texts(quiet))


def test_rounds_have_intervals_and_a_round_says_so() -> None:
    one, several = picture([report()], ["a"]), picture([report("h200-rounds")], ["b"])
    assert "One round, no verdict: that takes at least 5 rounds a side." in texts(one)
    ranges = [element.get("class") for element in elements(several, "line")]
    assert ranges.count("range") == len(bars(several)) == 2
    assert not [element for element in elements(one, "line") if element.get("class") == "range"]


def test_a_method_on_two_stacks_is_told_apart() -> None:
    one, other = report("h100-inductor"), report("h100-thunder")
    svg = picture([one, changed(other, "forward thunder@h100-nvfuser", method="inductor")], ["a", "b"])
    assert {"inductor@h100", "inductor@h100-nvfuser"} <= set(texts(svg))
    assert texts(svg).count("inductor") == 1  # of train_static


def test_of_several_runs_the_row_of_most_rounds_has_the_bar_and_of_those_the_last_runs() -> None:
    one, five = report("h200-second"), report("h200-rounds")
    both = [("forward", "inductor", 5), ("train_static", "inductor", 5)]
    for reports in ([one, five], [five, one]):
        shown = [(row.benchmark, row.method, row.rounds_ok) for group in groups(reports) for row in group.rows]
        assert [row for row in shown if row[0] in ("forward", "train_static")] == both
    again = changed(one, "generation inductor@h200", cell_id="of the last")
    (rows,) = (group.rows for group in groups([one, again]) if group.workload.benchmark == "generation")
    assert [row.cell_id for row in rows if row.method == "inductor"] == ["of the last"]


def test_no_bar_or_figure_leaves_its_column() -> None:
    svg = picture([report()], ["a"])
    width = float(ET.fromstring(svg).get("width", ""))  # noqa: S314 - our own
    for bar in bars(svg):
        assert float(bar.get("x", "")) >= 0
        assert float(bar.get("x", "")) + float(bar.get("width", "")) < width - 40


def test_what_a_record_says_is_text_alone() -> None:
    svg = picture([changed(report(), "forward fused@h100", method="</text><b>x</b>\x1b")], ["<b>"])
    assert any("</text><b>x" in text for text in texts(svg))
    assert not elements(svg, "b")


def test_it_is_read_aloud_and_asks_nothing_of_a_network() -> None:
    svg = picture([report()], ["a"])
    assert "forward: fused 1.34×" in "".join(elements(svg, "desc")[0].itertext())  # noqa: RUF001  (times)
    assert svg.count("http") == 1
    assert "prefers-color-scheme: dark" in svg


def test_runs_without_eager_are_refused() -> None:
    whole = report()
    rows = tuple(pair for pair in whole.pairs if pair.steady.method != "eager")
    with pytest.raises(UsageError, match="no row beside eager"):
        picture([dataclasses.replace(whole, pairs=rows)], ["a"])


def test_two_runs_of_one_name_are_not_drawn_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [save_run(tmp_path / place, small_run()).rename(tmp_path / place / "same") for place in "ab"]
    assert run(["picture", *map(str, folders), "-o", str(tmp_path / "p.svg")]) == 4
    assert 'two runs are called "same"; rename one of them' in capsys.readouterr().err
    assert run(["picture", str(folders[0]), f"{folders[0]}/", "-o", str(tmp_path / "p.svg")]) == 0


def small_print(svg: str) -> list[tuple[float, float, str]]:
    """Where each text of small print begins and, as it may be as wide as that, ends, in pixels; and the text."""
    found = [(float(e.get("x", "")), "".join(e.itertext())) for e in elements(svg, "text") if e.get("class") == "muted"]
    return [(x, x + SMALL * len(text), text) for x, text in found]


def test_no_small_print_runs_into_the_next_column_or_off_the_edge() -> None:
    every = ("coarser", "memoised", "tainted", "drift")
    given, why = report(), "incorrect, coarser, memoised, tainted, drift"
    for title in ("forward fused@h100", "train_dynamic tinyllama@h100"):
        given = changed(given, title, status="incorrect", flags=every)
    svg = picture([given], ["a run of a name " * 20])
    width, middle = float(ET.fromstring(svg).get("width", "")), MARGIN + WIDTH  # noqa: S314 - our own
    found = small_print(svg)
    assert [text for *_, text in found].count(why) == 2
    assert all(end <= (middle if text == why and begin < middle else width) for begin, end, text in found)
    alone = dataclasses.replace(given, pairs=tuple(pair for pair in given.pairs if pair.steady.benchmark == "forward"))
    one = picture([alone], ["a"])
    assert float(ET.fromstring(one).get("width", "")) < 2 * WIDTH  # noqa: S314 - our own
    assert max(end for _, end, _ in small_print(one)) <= WIDTH + 2 * MARGIN


def test_eagers_line_ends_above_the_rows_without_a_bar() -> None:
    svg = picture([changed(report(), "forward fused@h100", status="incorrect")], ["a"])
    first = next(element for element in elements(svg, "line") if element.get("class") == "eager")
    (status,) = [element for element in elements(svg, "text") if element.text == "incorrect"]
    assert float(first.get("y2", "")) < float(status.get("y", "")) - 8


def test_a_long_figure_leaves_its_rows_name_readable() -> None:
    versus = next(pair.steady.versus for pair in report().pairs if pair.steady.title == "forward fused@h100")
    assert versus is not None
    slow = versus.model_copy(update={"verdict": versus.verdict.model_copy(update={"ratio": 1 / 0.0349})})
    svg = picture([changed(report(), "forward fused@h100", versus=slow)], ["a"])
    (figure,) = [text for text in elements(svg, "text") if text.text == factor(0.0349)]
    (name,) = [text for text in elements(svg, "text") if text.text == "fused" and text.get("y") == figure.get("y")]
    assert float(figure.get("x", "")) - 8 * len(figure.text or "") >= float(name.get("x", "")) + 6


def test_two_workloads_of_a_benchmark_are_told_apart_in_words_and_in_the_caption() -> None:
    whole = report()
    other = changed(whole, "forward fused@h100", flags=("tainted",))
    pairs = []
    for pair in other.pairs:
        if pair.steady.benchmark == "forward":
            work = pair.steady.workload.model_copy(update={"dtype": "float32"})
            row = pair.steady.model_copy(update={"workload": work, "workload_id": work.workload_id})
            pairs.append(dataclasses.replace(pair, steady=row))
    svg = picture([dataclasses.replace(other, pairs=(*other.pairs, *pairs))], ["a"])
    flagged = next(text for text in texts(svg) if text.startswith("Flagged"))
    assert "forward (bfloat16) fused@h100 tainted" in flagged
    aloud = "".join(elements(svg, "desc")[0].itertext())
    assert "forward (bfloat16): fused 1.34×" in aloud  # noqa: RUF001  (times)
    assert "forward (float32): fused 1.34×" in aloud  # noqa: RUF001  (times)
