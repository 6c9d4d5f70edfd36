"""The page's data and text, without a browser (tests/browser has that): escaping, what is left out, the command."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_samples import NASTY, full_run, nasty_run, timed
from record_samples import ceilings, compiled_in, record, samples, save_run, shared_cache, small_run, workload

from orchestrator.base.errors import UsageError
from orchestrator.base.text import MISSING
from orchestrator.cli import run
from orchestrator.records.store import Run
from orchestrator.report.page import render_page, write_page
from orchestrator.report.page.embed import embedded
from orchestrator.report.source import LOG_LINES, read_log, read_source

if TYPE_CHECKING:
    from pathlib import Path

JSON = re.compile(r'<script type="application/json" id="(\w+)">(.*?)</script>', re.DOTALL)


def content(text: str) -> dict[str, Any]:
    return {name: json.loads(found) for name, found in JSON.findall(text)}


def page_of(folder: Path, records: list[Any]) -> dict[str, Any]:
    return content(render_page([save_run(folder, records)]))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for pair in value.items() for one in pair for s in strings(one)]
    if isinstance(value, list):
        return [s for one in value for s in strings(one)]
    return [value] if isinstance(value, str) else []


def test_what_a_stack_is_and_is_not_stands_below_its_rows(tmp_path: Path) -> None:
    deviation = {"package": "torch", "wanted": "2.2", "here": "2.13.0", "reason": "2.2 knows no such GPU"}
    facts = {"deviations": [deviation], "left_out": ["flash-attn (no nvcc)"], "drift": "since it was built: numpy"}
    stack = record().stack
    found = strings(content(render_page([save_run(tmp_path, [record(), ceilings()], stacks={stack: facts})])))
    assert f"{stack} has torch 2.13.0, not 2.2: 2.2 knows no such GPU." in found
    assert f"{stack} was built without flash-attn (no nvcc)." in found
    assert f"{stack} has drifted since it was built: numpy." in found


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_embedded_json_has_no_markup_in_it(value: Any) -> None:
    text = str(embedded(value))
    assert not set(text) & set("<>&\u2028\u2029")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_what_steers_a_terminal_or_text_is_gone() -> None:
    assert json.loads(str(embedded({"a\x1b": "b\u202ec\x00d\ne"}))) == {"a ": "b c d\ne"}
    assert json.loads(str(embedded([float("nan"), float("inf"), 1.5, True]))) == [None, None, 1.5, True]


def test_hostile_records_stay_in_the_data(tmp_path: Path) -> None:
    text = render_page([nasty_run(tmp_path)])
    outside = JSON.sub("", text)
    assert "window.broken" not in outside
    assert "onerror" not in outside
    assert outside.count("<script") == 2
    found = content(text)
    for where in ("data", "p0", "p1"):
        assert any(NASTY in one for one in strings(found[where])), where


def test_the_policy_names_exactly_what_is_there(tmp_path: Path) -> None:
    text = render_page([save_run(tmp_path, small_run())])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    found = policy[1].replace("&#39;", "'")
    assert found.startswith("default-src 'none';")
    parts = re.findall(r"<script>(.*?)</script>|<style>(.*?)</style>", text, re.DOTALL)
    assert len(parts) == 3
    for script, style in parts:
        assert base64.b64encode(hashlib.sha256((script or style).encode()).digest()).decode() in found
    assert not re.search(r"unsafe|https?:|\*", found)


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    text = JSON.sub("", render_page([save_run(tmp_path, full_run())]))
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=(?!\"(#|data:,))", text)
    assert "innerHTML" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_rows_are_the_tables_rows_in_their_order(tmp_path: Path) -> None:
    data = page_of(tmp_path, small_run())["data"]
    assert [row["name"] for row in data["rows"]] == [
        "inductor@cuda", "eager@cuda", "thunder@cuda", "tinyllama@cuda", "inductor@cuda", "thunder@cuda",
    ]  # fmt: skip
    assert [work["benchmark"] for work in data["workloads"]] == ["forward", "generation"]
    first = data["rows"][0]
    assert first["steady"]["text"] == "0.4514"
    assert first["steady"]["interval"].startswith("[0.44")
    assert first["cells"]["lit-gpt-note-2023-11"] == ["1.19 (17.3 GB)"]
    assert (first["first"]["text"], first["first"]["cache"], first["first"]["warmText"]) == ("61.0", "cold", "9.50")
    assert data["runs"][0]["facts"][0] == ["Ran on", ["NVIDIA H100 80GB HBM3, driver 580.159.04"]]


def test_first_calls_of_rounds_that_share_a_cache(tmp_path: Path) -> None:
    def shown(*first: float, cold: int = 1) -> tuple[dict[str, Any], list[str]]:
        found = page_of(tmp_path, shared_cache(*first, cold=cold, compiles=compiled_in(0, 1)))
        drawer = dict(found["p0"]["top"][0]["blocks"][0]["facts"])
        return found["data"]["rows"][0]["first"], [drawer["first call"], drawer.get("compiles in the warm-up")]

    first, drawer = shown(39_600.0, 8593.0, 7336.0, 6182.0, 6870.0)
    assert first == {"seconds": 39.6, "text": "39.6", "cache": "cold", "warm": pytest.approx(7.103), "warmText": "7.10"}
    assert drawer == ["39.60 s cold, 7.103 s warm", None]
    first, drawer = shown(115_000.0, 117_000.0, cold=0)
    assert first == {"seconds": 116.0, "text": "116", "cache": "warm"}
    assert drawer[0] == "116.0 s warm"


def test_compiles_in_the_warm_up_stand_in_the_drawer(tmp_path: Path) -> None:
    taken = samples(62_000.0, 30_100.0, *[100.0] * 4)
    found = page_of(tmp_path, [record(samples=taken, compiles=compiled_in(0, 1))])
    assert ["compiles in the warm-up", "30.00 s"] in found["p0"]["top"][0]["blocks"][0]["facts"]


def test_an_incorrect_row_has_no_speed_at_all(tmp_path: Path) -> None:
    found = page_of(tmp_path, small_run())
    place, row = next((n, row) for n, row in enumerate(found["data"]["rows"]) if row["status"] == "incorrect")
    for protocol in ("steady", "note"):
        assert row[protocol] == {"cell": [MISSING], "why": "the row is incorrect"}
    assert "first" not in row
    assert set(row["cells"]) == {"checks", "lit-gpt-note-2023-11"}
    assert found[f"p{place}"]["top"][0]["blocks"][0]["paragraphs"] == [
        "No speed is shown because the row is incorrect: forward: 3 of 10 | rows are <b>wrong</b> see the log."
    ]


def test_published_figures_that_were_wrong_are_no_speed(tmp_path: Path) -> None:
    data = page_of(tmp_path, small_run())["data"]
    figures = {f["method"]: f for f in data["workloads"][0]["published"][0]["figures"]}
    assert (
        any(f["status"] == "incorrect" for w in data["workloads"] for p in w["published"] for f in p["figures"])
        or figures
    )
    for work in data["workloads"]:
        for published in work["published"]:
            for figure in published["figures"]:
                assert figure["status"] == "ok" or figure["value"] is None or "corrected" in figure["text"]
                assert "~" not in figure["text"]


def test_two_runs_share_tables_and_have_verdicts(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / name, full_run(slower)) for name, slower in (("a", 1.0), ("b", 1.05))]
    data = content(render_page(runs))["data"]
    assert len(data["workloads"]) == 3
    assert {row["run"] for row in data["rows"]} == {0, 1}
    forward = [n for n, row in enumerate(data["rows"]) if row["method"] == "inductor" and row["workload"] == 0]
    assert [data["rows"][n]["run"] for n in forward] == [0, 1]
    assert data["verdicts"][f"{forward[0]}:{forward[1]}"][0] == "faster"
    assert data["verdicts"][f"{forward[1]}:{forward[0]}"][0] == "slower"


def test_one_workload_is_one_table_whatever_its_model_is_called(tmp_path: Path) -> None:
    other = workload("forward")
    assert other.model
    renamed = other.model_copy(update={"model": other.model.model_copy(update={"name": "another_name"})})
    between = workload("forward", sequence=1024)
    records = [
        record(cell_id=f"{n:016x}", method=method, workload=what, samples=timed(n, 400.0))
        for n, (method, what) in enumerate((("eager", other), ("inductor", renamed), ("thunder", between)))
    ]
    data = page_of(tmp_path, records)["data"]
    assert len(data["workloads"]) == 2
    assert [row["workload"] for row in data["rows"]] == sorted(row["workload"] for row in data["rows"])


def test_environments_are_kept_once(tmp_path: Path) -> None:
    data = page_of(tmp_path, full_run())["data"]
    assert len(data["environments"]) == 1
    assert ["numpy", "2.1.0"] in data["environments"][0]["packages"]


def test_a_file_that_is_not_a_record_is_named(tmp_path: Path) -> None:
    folder = save_run(tmp_path, small_run())
    (folder / "records" / "forward-x@y-0000000000000000-r0.json").write_text("{")
    data = content(render_page([folder]))["data"]
    assert data["runs"][0]["unreadable"] == ["records/forward-x@y-0000000000000000-r0.json: not valid JSON"]
    assert len(data["rows"]) == 6


def test_a_run_without_rows(tmp_path: Path) -> None:
    data = page_of(tmp_path, [ceilings()])["data"]
    assert data["rows"] == []
    assert data["workloads"] == []


@pytest.mark.parametrize("fault", ["missing", "changed", "link"])
def test_a_log_that_is_not_the_records(tmp_path: Path, fault: str) -> None:
    folder = save_run(tmp_path, [ceilings()])
    (tmp_path / "log").write_text("\n".join(f"line {n}" for n in range(200)))
    kept = Run.open(folder).save(record(samples=timed(1, 400.0)), tmp_path / "log")
    source = read_source(folder)
    log = read_log(source, kept)
    assert log
    assert (log.remark, log.left_out) == (None, 200 - LOG_LINES)
    assert log.text.endswith("line 199")
    path = folder / log.name
    if fault == "changed":
        path.write_text("another")
    else:
        path.unlink()
    if fault == "link":
        path.symlink_to("/etc/passwd")
    log = read_log(source, kept)
    assert log
    assert log.remark
    assert "root" not in log.text


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(tmp_path / "results", small_run()).rename(tmp_path / "results" / "mine")
    results = ["--results", str(tmp_path / "results")]
    assert run(["report", *results]) == 0
    page = tmp_path / "results" / "mine" / "report.html"
    assert page.read_text().startswith("<!doctype html>")
    assert str(page) in capsys.readouterr().out
    assert run(["report", "mine", "mine", "-o", str(tmp_path / "x.html"), *results]) == 0
    assert len(content((tmp_path / "x.html").read_text())["data"]["runs"]) == 1
    assert run(["report", "other", *results]) == 4
    assert run(["report", "mine", "-o", str(tmp_path / "no" / "x.html"), *results]) == 4
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run\\.json"):
        write_page([tmp_path], tmp_path / "x.html")
