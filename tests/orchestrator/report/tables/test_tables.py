"""The tables of a small run against golden files (UPDATE_GOLDEN=1 writes them), and what must stay out of them."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_files import golden
from markdown_it import MarkdownIt
from record_samples import ceilings, compiled_in, record, samples, save_run, shared_cache, small_run, workload

from orchestrator.analysis import reduced_run
from orchestrator.analysis.reduced_run import make_report
from orchestrator.base.errors import UsageError
from orchestrator.base.text import code, escape, shortened
from orchestrator.records.record import Record
from orchestrator.report.page.index import make_index
from orchestrator.report.proof import prove
from orchestrator.report.remarks import as_markdown, remarks
from orchestrator.report.source import read_source
from orchestrator.report.tables import EXPORTERS, FILES, markdown, render_tables, terminal, write_tables

DEVIATION = {"package": "torch", "wanted": "2.2", "here": "2.13.0", "reason": "2.2 does not know this GPU"}
NASTY = "<script>x</script> | [a](http://b.c) `code` *bold* $x$\n# heading\n\x1b[31mred\u202eright"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path, small_run(), stacks={"cuda": {"deviations": [DEVIATION]}})


@pytest.mark.parametrize("name", sorted(FILES))
def test_golden(run: Path, name: str) -> None:
    write_tables(run)
    golden(name, (run / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([{"ids_below": 100}, {"ids_below": 32000}], ["ids below 100", "ids below 32000"]),
        ([{"seed": 1}, {"seed": 2}, {"sequence": 7}], ["seed 1", "seed 2", "bfloat16"]),
        ([{"weights": {"seed": 1}}, {"weights": {"seed": 2}}], ["workload [0-9a-f]{8}"] * 2),
    ],
)
def test_no_two_tables_have_one_heading(tmp_path: Path, changes: list[dict[str, Any]], told: list[str]) -> None:
    cells = [workload("train_static", **change) for change in changes]
    run = save_run(tmp_path, [record("train_static", cell_id=f"{n:016x}", workload=one) for n, one in enumerate(cells)])
    what = make_report(run).what
    assert all(re.search(f", {end}$", what[one.workload_id]) for one, end in zip(cells, told, strict=True))
    assert len(set(what.values())) == len(cells)
    heads = re.findall("^## train_static: (.*)$", render_tables(run), re.MULTILINE)
    assert heads == [
        escape(what[key]) for key in dict.fromkeys(row.steady.workload_id for row in make_report(run).pairs)
    ]
    assert len(set(re.findall("caption.*", render_tables(run, form="latex")))) == len(cells)


def test_given_records_in_any_order_make_the_same_tables(run: Path) -> None:
    shuffled = small_run()
    random.Random(1).shuffle(shuffled)  # noqa: S311
    for form in EXPORTERS:
        assert render_tables(run, shuffled, form=form) == render_tables(run, form=form)


def test_nothing_else_is_left_in_the_folder(run: Path) -> None:
    write_tables(run)
    assert sorted(p.name for p in run.iterdir()) == ["logs", "records", "run.json", *sorted(FILES)]


def test_a_table_with_an_engine_says_how_long_each_row_took_to_start(tmp_path: Path) -> None:
    cell = workload("generation", batch=1, prompt=[1, 2], new_tokens=8, temperature=1.0)
    plain = record(cell_id="d" * 16, method="eager", workload=cell, samples=samples(9e3, *[400.0] * 8))
    told = {"startup": {"startup_ns": 34_560_000_000}}
    engine = {"cell_id": "e" * 16, "method": "vllm", "kind": "engine", "detail": told}
    beside = record(**engine, workload=cell, samples=samples(9e3, *[300.0] * 8))
    alone, both = (save_run(tmp_path / str(len(rows)), rows) for rows in ([plain], [plain, beside]))
    assert "start-up" not in render_tables(alone).partition("## How to read")[0]
    lines = [line.split(" | ") for line in render_tables(both).splitlines() if line.startswith("| ")]
    place = next(heads.index("start-up, s") for heads in lines if "start-up, s" in heads)
    assert [line[place] for line in lines if "`vllm@cuda`" in line[0]] == ["34.6"]
    index = make_index([read_source(both)]).content([])
    assert ["startup", "start-up, s"] in index["workloads"][0]["columns"]
    assert [row["cells"]["startup"] for row in index["rows"] if row["method"] == "vllm"] == [["34.6"]]


def test_ceilings_beside_which_other_work_ran_are_told_at_the_head_and_below(tmp_path: Path) -> None:
    load = {"cpus": 2, "seconds": 3.4, "own": 0.2, "others": 0.19, "stolen": 0.0}
    row = record(
        samples=samples(9e3, *[500.0] * 8), work={"flops": 281_600_000_000_000, "bytes": None, "tokens": 20480}
    )
    quiet, loaded = (
        save_run(tmp_path / f"{others}", [row, ceilings(), ceilings(round=1, host_load={**load, "others": others})])
        for others in (0.19, 1.8)
    )
    words = (
        "1 of 2 ceilings was measured beside other work (other processes took 1.8 of this host's 2 CPUs), so it may be "
        "too low, and shares of it too high: close what else runs here, and run the suite again"
    )
    for run, told in ((quiet, False), (loaded, True)):
        head, _, rest = render_tables(run).partition("\n## ")
        assert (f"| Disturbed ceilings | {words} |" in head) == told
        below = "Of the ceiling: perhaps too high, see the disturbed ceilings at the head."
        assert (f"\n- {below}\n" in rest) == told
        index = make_index([read_source(run)]).content([])
        assert (["Disturbed ceilings", [words]] in map(list, index["runs"][0]["facts"])) == told
        assert (below in index["workloads"][0]["remarks"]) == told
        assert ("measured beside other work" in terminal.render(make_report(run), "RUN")) == told


def test_json_keeps_every_digit_and_the_wrong_figure_but_no_headline(run: Path) -> None:
    document = json.loads(render_tables(run, form="json"))
    (wrong,) = [r for r in document["rows"] if r["status"] == "incorrect" and r["protocol"] == "steady"]
    assert wrong["figure"]["value"] is not None
    assert wrong["headline"] is None
    (best,) = [r for r in document["rows"] if r["name"] == "inductor@cuda" and r["benchmark"] == "forward"][:1]
    assert best["figure"]["value"] == pytest.approx(0.45135, rel=1e-15)
    assert best["published"]["figure"] == 1.19
    assert best["share"]["share"] == pytest.approx(281.6 / 781 / 0.45135, rel=1e-6)
    assert set(document["workloads"]) == {r["workload_id"] for r in document["rows"]}
    assert document["run"]["rounds_recorded"] == document["run"]["rounds_planned"] == 11


def test_one_protocol_alone(run: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(render_tables(run, protocol="note", form="csv"))))
    assert {line["protocol"] for line in lines} == {"note"}
    rows = json.loads(render_tables(run, protocol="steady", form="json"))["rows"]
    assert {row["protocol"] for row in rows} == {"steady"}
    page = render_tables(run, protocol="note")
    assert "**0.4500**" in page
    assert "**0.4514**" not in page


def test_the_note_orders_the_rows_when_asked(tmp_path: Path) -> None:
    bursty = record(cell_id="d" * 16, method="bursty", samples=samples(9e3, 1.0, *[500.0] * 8))
    even = record(cell_id="e" * 16, method="even", samples=samples(9e3, 400.0, *[400.0] * 8))
    run = save_run(tmp_path, [bursty, even])
    steady, note = (render_tables(run, protocol=protocol) for protocol in ("steady", "note"))
    assert steady.index("`even@cuda`") < steady.index("`bursty@cuda`")
    assert note.index("`bursty@cuda`") < note.index("`even@cuda`")


def test_what_a_container_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    bad = [record(status="crashed", reason=NASTY, environment=None), ceilings(status="crashed", reason=NASTY)]
    run = save_run(tmp_path, bad)
    page = render_tables(run)
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(page)
    html = html.replace('<a href="#how-to-read-this">', "")
    for markup in ("<script", "<a ", "<em>", "red</h1>", "heading</h1>", "\x1b", "\u202e"):
        assert markup not in html
    assert "&lt;script&gt;" in html
    assert html.count("<tr>") == page.count("\n|") - 2  # no row was broken in two


def test_a_spreadsheet_gets_no_formula(tmp_path: Path) -> None:
    run = save_run(tmp_path, [record(status="crashed", reason="=HYPERLINK(1)", environment=None)])
    line = next(csv.DictReader(io.StringIO(render_tables(run, form="csv"))))
    assert line["reason"] == "'=HYPERLINK(1)"
    assert line["figure.value"] == ""


def test_several_processes_read_as_one_does(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (3, 1, 2):
        (run / "records" / f"forward-x@cuda-000000000000000{number}-r0.json").write_text("{")
    alone = make_report(run)
    monkeypatch.setattr(reduced_run, "SHARE", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    assert make_report(run) == alone
    assert len(alone.unreadable) == 3


def test_a_bad_record_is_named_and_the_rest_is_kept(run: Path) -> None:
    (run / "records" / "forward-x@cuda-0123456789abcdef-r0.json").write_text("{")
    report = write_tables(run)
    assert len(report.unreadable) == 1
    assert len(report.pairs) == 6
    page = (run / "tables.md").read_text()
    assert "forward-x@cuda-0123456789abcdef-r0.json" in page
    assert str(run) not in page


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
def test_a_loss_that_is_not_finite_reaches_no_table(run: Path, number: str) -> None:
    def never(name: str) -> None:
        raise AssertionError(name)

    path = next(run.glob("records/forward-inductor@*-r0.json"))
    path.write_text(path.read_text().replace('"loss":null', f'"loss":{number}', 1))
    (line,) = write_tables(run).unreadable
    assert f"records/{path.name}: " in line
    assert "loss: must be a finite number" in line
    json.loads((run / "tables.json").read_text(), parse_constant=never)


def test_rows_of_one_name_are_distinguished(tmp_path: Path) -> None:
    taken = samples(9.0, *[5.0] * 9)
    run = save_run(tmp_path, [record(samples=taken), record(cell_id="9" * 16, samples=taken)])
    page = render_tables(run)
    assert "`inductor@cuda` (aaaaaaaa)" in page
    assert "Rows of one name are different cells" in page


def test_different_torch_versions_are_remarked(tmp_path: Path) -> None:
    old = record(cell_id="9" * 16, stack="old", samples=samples(9.0, *[5.0] * 9))
    assert old.environment is not None
    environment = {**old.environment.model_dump(mode="json"), "torch": "2.1.0", "fingerprint": "e" * 16}
    old = record(cell_id="9" * 16, stack="old", samples=samples(9.0, *[5.0] * 9), environment=environment)
    page = render_tables(save_run(tmp_path, [old, record(samples=samples(9.0, *[5.0] * 9))]))
    assert "different versions of torch" in page


def test_a_cpu_row_shows_the_hosts_memory(tmp_path: Path) -> None:
    small = workload(batch=2, sequence=64)
    memory = {"process_bytes": None, "steady_bytes": None, "host_bytes": 412_000_000}
    got = record(device="cpu", workload=small, samples=samples(9.0, 5.0, 5.0, 5.0), memory=memory)
    run = save_run(tmp_path, [got], finish=False)
    page = render_tables(run)
    assert "0.412 (host)" in page
    latex = render_tables(run, form="latex")
    assert re.search(r"& 0\.412\\textsuperscript{\w} &", latex)
    assert "of the host\\textquotesingle{}s memory." in latex
    assert "**The run was not finished.**" in page
    assert "A100" not in page  # another workload than the published one
    assert "\\*" in page  # fewer samples than the note's


ROUNDS = (39_600.0, 8593.0, 7336.0, 6182.0, 6870.0)


@pytest.mark.parametrize(
    ("rounds", "shown", "raised", "cells"),
    [
        (shared_cache(*ROUNDS), "39.6 cold, 7.10 warm", "", ("39.6", "cold", "7.103")),
        (shared_cache(115_000.0, 117_000.0, cold=0), "116 warm", "first call warm", ("116.0", "warm", "116.0")),
        (shared_cache(39_600.0), "39.6 cold", "", ("39.6", "cold", "")),
        (shared_cache(1646.0, 778.0, 764.0, method="eager"), "1.65 cold, 0.771 warm", "", ("1.646", "cold", "0.771")),
    ],
)
def test_first_calls_of_rounds_that_share_a_cache(
    tmp_path: Path, rounds: list[Record], shown: str, raised: str, cells: tuple[str, ...]
) -> None:
    run = save_run(tmp_path, rounds)
    page = render_tables(run)
    assert f"| {shown} |" in page
    assert "cold warm" not in page
    latex = render_tables(run, form="latex")
    assert " & cold, warm & " in latex, "the column's head says which is which"
    letter = re.search(rf"\((\w)\) {raised}\.", latex) if raised else None
    mark = rf"\textsuperscript{{{letter[1]}}}" if letter else ""
    assert f"& {shown.replace(' cold', '').replace(' warm', '')}{mark} &" in latex
    assert bool(mark) == bool(raised)
    names = ("first_call.seconds", "first_call.cache", "first_call.warm_seconds")
    for line in csv.DictReader(io.StringIO(render_tables(run, form="csv"))):
        assert tuple(line[name] for name in names) == cells
    for row in json.loads(render_tables(run, form="json"))["rows"]:
        first = [row["first_call"][name] for name in ("seconds", "cache", "warm_seconds")]
        assert tuple("" if value is None else str(value) for value in first) == cells


def test_what_each_operator_was_dispatched_to_stands_below_the_table(tmp_path: Path) -> None:
    operators = {
        "attention": "flash_attn_func",
        "loss": "not called",
        "norm": "eager",
        "rotary": "eager",
        "swiglu": "a|b",
    }
    run = save_run(tmp_path, [record(method="tinyllama", detail={"operators": operators})])
    line = "`tinyllama@cuda` dispatched attention to flash_attn_func; norm and rotary to eager; swiglu to a\\|b."
    assert line in render_tables(run)
    (row, _) = json.loads(render_tables(run, form="json"))["rows"]
    assert row["evidence"]["operators"] == {name: what for name, what in operators.items() if what != "not called"}
    for odd in ("flash", ["flash"], {"attention": 1}, None):
        run = save_run(tmp_path / repr(odd), [record(detail={"operators": odd})])
        assert "dispatched" not in render_tables(run)


def test_later_compiles_are_shown(tmp_path: Path) -> None:
    taken = samples(62_000.0, 30_100.0, *[100.0] * 4)
    run = save_run(tmp_path, [record(samples=taken, compiles=compiled_in(0, 1))])
    assert "2 graphs compiled, 30.0 s for compiles in the warm-up" in render_tables(run)
    line = next(csv.DictReader(io.StringIO(render_tables(run, form="csv"))))
    assert (line["first_call.seconds"], line["first_call.upfront_seconds"]) == ("62.0", "92.0")
    run = save_run(tmp_path / "none", [record(samples=taken, compiles=compiled_in(0))])
    assert "in the warm-up;" not in render_tables(run)


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    run = save_run(tmp_path, [])
    write_tables(run)
    assert "No cell has a record yet" in (run / "tables.md").read_text()


def test_a_folder_that_is_not_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json"):
        write_tables(tmp_path)


def test_the_page_is_made_from_the_report_alone(run: Path) -> None:
    report = make_report(run, published=())
    assert "A100" not in markdown.render(report)


def test_text() -> None:
    assert escape("train_static @ _x_") == "train_static @ \\_x\\_"
    assert code("inductor@cuda") == "`inductor@cuda`"
    assert code("a|b") == "a\\|b"
    assert shortened("abcdef", 4) == "ab …"
    assert shortened("abcd", 4) == "abcd"


def test_csv_has_what_a_row_of_json_has(run: Path) -> None:
    document = json.loads(render_tables(run, form="json"))
    lines = list(csv.DictReader(io.StringIO(render_tables(run, form="csv"))))
    assert len(lines) == len(document["rows"]) > 0
    compared = 0
    for row, line in zip(document["rows"], lines, strict=True):
        row["environment"] = document["environments"].get(row["environment"])
        row["workload"] = document["workloads"][row["workload_id"]]
        for name, cell in line.items():
            value = row
            for part in name.split("."):
                step = ("low", "high").index(part) if isinstance(value, list) else part
                value = None if value is None else value[step]
            if not isinstance(value, (list, dict)):
                assert cell == ("" if value is None else str(value)), name
                compared += value is not None
    assert compared > 50 * len(lines) / 2


def test_columns_are_there_whatever_a_run_has_seen(tmp_path: Path, run: Path) -> None:
    bare = save_run(tmp_path / "bare", [record(status="crashed", reason="exit code 1", environment=None)])
    heads = [render_tables(folder, form="csv").splitlines()[0] for folder in (run, bare, save_run(tmp_path / "no", []))]
    assert len(set(heads)) == 1
    assert {"figure.value", "figure.interval.low", "first_call.seconds", "evidence.checks.passed"} <= set(
        heads[0].split(",")
    )


def test_the_page_has_the_tables_cells_and_remarks(run: Path) -> None:
    report = make_report(run)
    source = read_source(run)
    content = make_index([source]).content([])
    shown = [as_markdown(remark) for remark in remarks([(report, pair) for pair in report.pairs[:4]])]
    assert len(shown) == len(content["workloads"][0]["remarks"]) > 8
    page = markdown.render(report)
    for line in shown:
        assert f"- {line}\n" in page
    for row in content["rows"]:
        for key, (text, *_) in row["cells"].items():
            assert text in page, key


def test_which_rate_a_share_is_of_is_said_where_any_is_another_than_the_bursts(run: Path) -> None:
    pairs = [pair for pair in make_report(run).pairs if pair.steady.share.bound == "compute"]
    eager = next(pair for pair in pairs if pair.steady.method == "eager")
    share = eager.steady.share.model_copy(update={"rate": "sustained", "precision": "tf32"})
    capped = replace(eager, steady=eager.steady.model_copy(update={"share": share}))
    begin = "Of the ceiling: of the matrix product's "
    for shown, said in (
        (pairs, []),
        ([capped], [f"{begin}sustained rate in TF32."]),
        (
            [*(pair for pair in pairs if pair is not eager), capped],
            [f"{begin}burst rate (`inductor@cuda`).", f"{begin}sustained rate in TF32 (`eager@cuda`)."],
        ),
    ):
        lines = [as_markdown(remark) for remark in remarks([(make_report(run), pair) for pair in shown])]
        assert [line for line in lines if line.startswith(begin)] == said
    words = "56.2 % (compute bound, sustained rate in TF32, ceilings of this device, by cuda)"
    (one,) = [record for record in small_run() if record.cell_id == eager.steady.cell_id]
    assert words in str(prove(read_source(run), (one,), capped).top)


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        (2, "Inconclusive against eager: 2 of at least 5 rounds (`--rounds 5` or more)."),
        (
            5,
            "the interval holds 1 and is wider than ±1 % (about `--rounds 324` would do).",
        ),
    ],
)
def test_the_hint_fits_the_rounds_that_there_are(tmp_path: Path, rounds: int, says: str) -> None:
    def made(method: str, cell: str, begin: float) -> list[Record]:
        walls = [begin + 60 * (n % 3) for n in range(rounds)]
        same = {"method": method, "cell_id": cell * 16}
        return [record(round=n, samples=samples(9000.0, *[wall] * 9), **same) for n, wall in enumerate(walls)]

    page = render_tables(save_run(tmp_path, [*made("inductor", "a", 400.0), *made("eager", "b", 410.0)]))
    assert says in page.replace("\\", "")
