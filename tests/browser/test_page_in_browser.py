"""The page in a real browser, opened from a file: by click and by key, hostile records, thousands of rows."""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from page_samples import draw_all, many_rows
from record_samples import record, samples, save_run

from orchestrator.base.text import MISSING
from orchestrator.report.page import write_page

if TYPE_CHECKING:
    from pathlib import Path

Visit = "Callable[..., Any]"
ROWS = "#results tr[data-row]:visible"


def names(page: Any) -> list[str]:
    return [text.split("@")[0] for text in page.locator(f"{ROWS} th").all_inner_texts()]


def test_it_opens_with_tables_and_charts(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    draw_all(page)
    assert page.title().startswith("Stackbench: run-a")
    assert page.locator("#results .workload").count() == 3
    assert names(page)[:6] == ["inductor", "inductor_default", "thunder", "tinyllama", "eager", "stale"]
    forward = page.locator("#workload-0 .chart")
    titles = forward.locator("h3").all_inner_texts()
    assert titles == [
        "Against the ceiling",
        "Speed against memory",
        "Samples over time",
        "First call against steady",
        "Kernels",
    ]
    assert page.locator("#workload-2 .chart h3").all_inner_texts()[-1] == "Loss"
    for label in forward.locator("svg[role=img]").evaluate_all(
        "(all) => all.map((one) => one.getAttribute('aria-label'))"
    ):
        assert "inductor@cuda" in label
    assert page.locator("#workload-0 .taint").count() == 5
    assert page.locator("#workload-0 .legend").first.inner_text().startswith("inductor@cuda")


def test_a_chart_of_rows_that_are_tainted_says_so(pages: dict[str, Path], visit: Visit, tmp_path: Path) -> None:
    load = {"cpus": 4, "seconds": 5.0, "own": 2.0, "stolen": 0.0}
    for others, says in ((0.0, "none is tainted."), (3.0, "tainted are whole rows, and no single sample.")):
        disturbed = [
            record(
                device="cpu",
                method=method,
                cell_id=f"{n:016x}",
                samples=samples(900.0, *[450.0] * 9),
                host_load={**load, "others": others},
            )
            for n, method in enumerate(("eager", "inductor"))
        ]
        write_page([save_run(tmp_path / str(others), disturbed)], tmp_path / "page.html")
        page = visit(tmp_path / "page.html")
        draw_all(page)
        assert page.locator(".flag.tainted:visible").count() == 2 * (others > 0)
        assert says in page.locator(".chart", has_text="Samples over time").locator("p").first.inner_text()
    page = visit(pages["one"])
    draw_all(page)
    shown = page.locator("#workload-0 .chart", has_text="Samples over time").locator("p").first.inner_text()
    assert "tainted ones are crossed out." in shown


def test_first_calls_by_layers_lead_to_their_rows(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["grows"])
    draw_all(page)
    charts = page.locator(".chart", has_text="First call by layers")
    assert charts.count() == 4, "one beside each of the four workloads"
    found = charts.first.locator("svg[role=img]").get_attribute("aria-label")
    assert "9.00 s at 2, 36.0 s at 8, 72.0 s at 16, 144 s at 32" in found
    assert "Measured on 2 GPUs, whose hosts" in charts.first.inner_text()
    line = charts.first.locator("svg[role=img] path.line").get_attribute("d")
    assert (line.count("M"), line.count("L")) == (2, 2), "between two GPUs there is no line"
    marks = charts.first.locator("svg[role=img] [data-row]")
    assert marks.count() == 4
    marks.last.click()
    assert "model_of_32" in page.locator("#drawer").inner_text()


def test_an_incorrect_row_shows_no_speed(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    row = page.locator(ROWS, has_text="stale@cuda")
    assert row.locator("td").nth(0).inner_text() == MISSING
    assert "incorrect" in row.inner_text()
    draw_all(page)
    for title in ("Against the ceiling", "Speed against memory", "Samples over time", "First call against steady"):
        assert "stale" not in page.locator("#workload-0 .chart", has_text=title).first.locator(
            "svg"
        ).first.get_attribute("aria-label")
    row.click()
    why = "relative error: batch 3, position 17"
    assert f"No speed is shown because the row is incorrect: {why}." in page.locator("#drawer").inner_text()


def test_filters_by_click_and_by_key(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    assert page.locator("#count").inner_text() == "11 rows"
    page.locator(".chip", has_text="generation").click()
    assert len(names(page)) == 3
    page.locator(".chip", has_text="crashed").click()
    assert names(page) == ["thunder"]
    assert page.locator("#count").inner_text() == "1 of 11 rows"
    page.locator(".chip", has_text="crashed").click()
    page.locator(".chip", has_text="generation").click()
    page.locator(".chip", has_text="tainted").click()
    assert names(page) == ["thunder"]
    page.locator(".chip", has_text="tainted").click()
    page.keyboard.press("/")
    page.keyboard.type("train eager")
    assert names(page) == ["eager"]
    page.keyboard.press("Escape")
    assert len(names(page)) == 11
    page.keyboard.press("/")
    page.keyboard.type("nothing like it")
    assert names(page) == []
    page.locator("#clear").click()
    assert len(names(page)) == 11
    box = page.locator(".chip input").first
    box.focus()
    page.keyboard.press("Space")
    assert len(names(page)) == 6


def test_the_drawer_by_key(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    drawer = page.locator("#drawer")
    assert drawer.is_visible()
    assert page.locator("#drawer-title").inner_text() == "forward inductor_default@cuda"
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate("document.getElementById('drawer').contains(document.activeElement)")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.getElementById('drawer').contains(document.activeElement)")
    page.keyboard.press("ArrowRight")
    assert page.locator("#drawer-title").inner_text() == "forward thunder@cuda"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert not drawer.is_visible()
    assert page.evaluate("document.activeElement.innerText").startswith("inductor_default@cuda")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert page.locator("#drawer-title").inner_text() == "train_static eager@cuda"


def test_the_drawer_has_the_whole_proof(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    page.locator(ROWS, has_text="thunder@cuda").first.click()
    drawer = page.locator("#drawer")
    text = drawer.inner_text()
    for part in (
        "steady",
        "at 99 %, across rounds",
        "as the note",
        "relative error",
        "0.004400",
        "0.008200",
        "1.10 times eager's",
        "against eager@cuda",
        "times as fast",
        "On the probe",
        "attention flash",
        "sm90_xmma_gemm",
        "graph breaks",
        "call to print in forward",
        "tensor 'tokens' size mismatch",
        "SM clock, MHz",
        "1905",
        "software power cap 31.0 % of the readings",
        "bench source",
        "weights",
        "orchestrator reproduce ",
        " --run run-a --results ",
        " --rounds 5",
    ):
        assert part in text, part
    assert drawer.locator(".rounds button").count() == 5
    drawer.locator(".rounds button").first.click()
    assert "Round 0: ok" in drawer.inner_text()
    drawer.locator("summary", has_text="Packages").click()
    assert "triton" in drawer.inner_text()
    drawer.locator("summary", has_text="as a table").click()
    assert "hardware slowdown seen for 40 % of the sample" in drawer.inner_text()
    page.mouse.click(20, 450)
    assert not drawer.is_visible()


def test_theme_by_click_by_key_and_remembered(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"], color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.keyboard.press("t")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate(ground) == light
    page.locator("#theme").click()
    assert page.evaluate(ground) == dark
    bright = visit(pages["one"], color_scheme="light")
    assert bright.evaluate(ground) == light


def test_it_works_where_nothing_can_be_remembered(pages: dict[str, Path], browser: Any) -> None:
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no storage'); } });"
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(pages["one"].as_uri())
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") in ("light", "dark")
    context.close()
    assert errors == []


def test_protocol(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    head = page.locator("#workload-0 thead th").nth(1)
    steady = page.locator("#workload-0 td").first.inner_text()
    assert head.inner_text() == "steady, s"
    page.keyboard.press("p")
    assert head.inner_text() == "as the note, s"
    assert page.locator("#workload-0 td").first.inner_text() != steady
    page.locator("[data-protocol=steady]").click()
    assert page.locator("#workload-0 td").first.inner_text() == steady


def test_compare_by_click_and_by_key(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["two"])
    page.locator("[data-view=compare]").click()
    heads = page.locator("#compare .matrix").first.locator("thead th").all_inner_texts()
    assert [head.split("\n")[0] for head in heads] == ["method", "run-a · cuda", "run-b · cuda", "A100 2023, published"]
    first = page.locator("#compare .matrix tbody tr").first.inner_text()
    assert "slower" in first
    assert "0.95\u00d7" in first
    assert "different GPUs" in page.locator("#compare").inner_text()
    page.select_option("#base", label="A100 2023, published")
    assert "2.64\u00d7" in page.locator("#compare .matrix tbody tr").first.inner_text()
    assert "Geometric mean" in page.locator("#compare-mean").inner_text()
    page.locator("#compare .matrix button").first.click()
    assert page.locator("#drawer-title").inner_text() == "forward inductor@cuda · run-a"
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    assert page.locator("#results").is_visible()
    page.keyboard.press("c")
    page.keyboard.press("/")
    page.keyboard.type("tinyllama")
    assert page.locator("#compare .matrix tbody th").all_inner_texts() == ["tinyllama", "tinyllama"]


def test_a_row_and_a_view_can_be_pointed_at(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    page.locator(ROWS).nth(1).click()
    mark = re.search(r"#row-1-[0-9a-f]{16}$", page.url)
    assert mark
    assert visit(pages["one"], mark=mark[0]).locator("#drawer-title").inner_text() == "forward inductor_default@cuda"
    assert visit(pages["one"], mark="#compare").locator("#compare").is_visible()
    assert not visit(pages["one"], mark="#row-999-0").locator("#drawer").is_visible()


def test_what_a_record_says_does_nothing(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["nasty"])
    draw_all(page)
    for row in (0, 1):
        page.locator(ROWS).nth(row).click()
        for fold in page.locator("#drawer summary").all():
            fold.click()
        text = page.locator("#drawer").inner_text()
        assert "<script>window.broken = 'by a record'</script>" in text
        if row == 0:
            assert "window.broken='package'" in text
            assert "a line\n</script><script>" in text
        page.keyboard.press("Escape")
    page.keyboard.press("c")
    for mark in page.locator("[data-tip]").all()[:20]:
        mark.dispatch_event("pointermove")
    assert page.evaluate("window.broken") is None
    assert page.locator("#results img, #drawer img, #compare img").count() == 0
    assert page.locator("script:not([type])").count() == 2


def test_the_policy_stops_what_would_slip_through(pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.broken = 1';"
        " const d = document.createElement('div'); d.innerHTML = '<img src=x onerror=\"window.broken = 2\">';"
        " document.body.append(s, d); }"
    )
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.broken") is None
    assert refused == "refused"
    page.close()


@pytest.mark.parametrize("wide", [390, 820, 1440])
@pytest.mark.parametrize("mark", ["", "#compare"])
def test_nothing_runs_out_of_the_window(pages: dict[str, Path], visit: Visit, wide: int, mark: str) -> None:
    for name in ("one", "two", "nasty"):
        page = visit(pages[name], mark=mark, wide=wide)
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= wide
        if not mark:
            page.locator(ROWS).first.click()
            assert page.evaluate(
                "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.getElementById('drawer'))"
            )


OUTSIDE = """
() => [...document.querySelectorAll('svg text')].map((text) => {
  const [own, whole] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
  return [Math.round(Math.max(whole.left - own.left, own.right - whole.right)), text.textContent];
}).filter(([beyond]) => beyond > 1)
"""


@pytest.mark.parametrize("wide", [390, 1440])
def test_no_label_runs_out_of_its_chart(pages: dict[str, Path], visit: Visit, wide: int) -> None:
    for name in ("one", "two", "grows"):
        page = visit(pages[name], wide=wide)
        draw_all(page)
        assert page.evaluate(OUTSIDE) == []


def test_on_a_phone(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"], wide=390, high=844, has_touch=True)
    assert not page.locator("#filters").is_visible()
    page.locator("#filters-toggle").tap()
    page.locator(".chip", has_text="train_static").tap()
    assert len(names(page)) == 2
    page.locator(".chip", has_text="train_static").tap()
    for row in page.locator(ROWS).all():
        cells = [box for cell in row.locator("th, td").all() if (box := cell.bounding_box())]
        assert max(box["x"] + box["width"] for box in cells) <= 390
    page.locator(ROWS).first.tap()
    assert round(page.locator("#drawer").bounding_box()["width"]) == 390
    page.locator("#drawer [aria-label=Close]").tap()
    assert not page.locator("#drawer").is_visible()


def test_keys_are_explained(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


OPEN_S, FILTER_MS = 2.0, 100.0
BUSY = 5.0
"""A busy host may take so many times the bar by the wall; the page's own thread may not take longer than the bar."""
FILTER = """async (text) => {
  const box = document.getElementById("words");
  const begin = performance.now();
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  document.body.getBoundingClientRect();
  return performance.now() - begin;
}"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))"


def thread_seconds(session: Any) -> float:
    """Seconds that the page's main thread has been at work."""
    found = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))


@pytest.mark.parametrize("tables", [5, 200])
def test_two_thousand_rows(tables: int, tmp_path: Path, browser: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_page([save_run(tmp_path, many_rows(2000, tables))], tmp_path / "many.html")
    walls, threads = [], []
    for _ in range(3):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto((tmp_path / "many.html").as_uri(), wait_until="commit")
        page.wait_for_selector("html[data-ready]", state="attached")
        page.evaluate(DRAWN)
        walls.append(page.evaluate("performance.now()") / 1e3)
        threads.append(thread_seconds(session))
        if len(walls) < 3:
            context.close()
    assert page.locator("#count").inner_text() == "2,000 rows"
    walled: dict[str, float] = {}
    worked: dict[str, float] = {}
    for text in ("method_3", "stack-2", "crashed", "method_1 stack-1", "") * 4:
        before = thread_seconds(session)
        wall = page.evaluate(FILTER, text)
        taken = (thread_seconds(session) - before) * 1e3
        walled[text], worked[text] = min(wall, walled.get(text, wall)), min(taken, worked.get(text, taken))
    assert page.locator("#count").inner_text() == "2,000 rows"
    context.close()
    with capsys.disabled():
        print(f"\n2,000 rows in {tables} tables: open {min(walls):.2f} s (its thread {min(threads):.2f} s),", end=" ")
        print(f"filter {median(walled.values()):.0f} ms, the slowest {max(walled.values()):.0f} ms", end=" ")
        print(f"(its thread {median(worked.values()):.0f} and {max(worked.values()):.0f} ms), best of each")
    assert min(threads) < OPEN_S
    assert min(walls) < OPEN_S * BUSY
    assert median(worked.values()) < FILTER_MS
    assert median(walled.values()) < FILTER_MS * BUSY
