"""What the page looks like: the answer first, charts that do not mislead, a method's one colour, nothing too wide."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from ladder_samples import ladder_run
from page_samples import MEMORY, draw_all, timed
from record_samples import record, save_run

from orchestrator.base.text import MISSING
from orchestrator.report.page import write_page

if TYPE_CHECKING:
    from pathlib import Path

Visit = "Callable[..., Any]"
NAMES = ("one", "two", "gpus", "grows", "tiny", "failed", "nasty")
WIDTHS = (390, 1400)
HUE = re.compile(r"\bc(\d)\b")


def matrix(page: Any, nth: int = 0) -> dict[str, list[str]]:
    """What a matrix says: by method the lines of its cells, joined."""
    rows = page.locator(".answer").nth(nth).locator("tbody tr")
    return {
        row.locator("th").inner_text().replace("\n", " "): [
            " ".join(cell.split()).replace("\u00d7", "x") for cell in row.locator("td").all_inner_texts()
        ]
        for row in rows.all()
    }


def test_it_begins_with_the_answer(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    assert page.locator("h1:visible").all_inner_texts() == ["Times as fast as eager"]
    assert page.locator(".answer thead th").all_inner_texts() == ["method", "forward", "generation", "train_static"]
    assert matrix(page) == {
        "inductor": ["1.43x 0.4513 s", "168.7 tokens/s no eager", "1.21x⚑1 452.5 ms"],
        "inductor_default": ["1.39x 0.4636 s", MISSING, MISSING],
        "thunder": ["1.36x⚑2 0.4716 s", "crashed", MISSING],
        "tinyllama": ["1.23x 0.5227 s", "unsupported", MISSING],
        "eager": ["1x 0.6424 s", MISSING, "1x 548.3 ms"],
        "stale": ["incorrect", MISSING, MISSING],
    }
    legend = page.locator(".answer-legend").inner_text()
    for part in ("⚑ every ratio\nunchecked: A check", "⚑ 1\ninconclusive: 1 of at least 5 rounds", "⚑ 2\ntainted: "):
        assert part in legend.replace("\t", "\n"), part
    above = page.evaluate(
        "[...document.querySelectorAll('.answer, .workload, .about')].map((one) => one.className.split(' ')[0])"
    )
    assert above == ["answer", "workload", "workload", "workload", "about"]
    assert not page.locator(".facts").first.is_visible(), "what is known of the run is folded"


def test_a_cell_of_the_matrix_leads_to_its_proof_and_back(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    cell = page.locator(".answer button", has_text="1.36")
    cell.focus()
    page.keyboard.press("Enter")
    assert page.locator("#drawer-title").inner_text() == "forward thunder@cuda"
    page.keyboard.press("Escape")
    assert cell.evaluate("(node) => node === document.activeElement")
    cell.hover()
    assert "[1.35, 1.37] faster" in page.locator("#tip").inner_text()
    assert "⚑ tainted: " in page.locator("#tip").inner_text()
    cell.click()
    assert not page.locator("#tip").is_visible(), "it does not lie over the drawer"
    page.keyboard.press("Escape")
    page.locator(".answer a", has_text="train_static").click()
    assert page.url.endswith("#workload-2")


def test_the_matrix_follows_filter_and_protocol(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    page.locator(".chip", has_text="train_static").click()
    assert matrix(page) == {"inductor": ["1.21x 452.5 ms"], "eager": ["1x 548.3 ms"]}
    page.locator(".chip", has_text="train_static").click()
    page.keyboard.press("p")
    assert matrix(page)["inductor"][0] == "1.42x 0.4492 s"
    assert "as the note: its protocol makes no verdict" in page.locator(".answer-legend").inner_text()


def test_runs_on_different_gpus_have_a_matrix_each(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["gpus"])
    assert page.locator("#matrix h2").all_inner_texts() == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    assert [next(iter(matrix(page, n))) for n in (0, 1)] == ["inductor", "eager"], "the fastest first"
    assert matrix(page, 1)["inductor"] == ["0.699x 0.8573 s"]
    tones = page.locator(".answer td.tone").evaluate_all("(all) => all.map((one) => one.className)")
    assert tones == ["tone fast2", "tone even", "tone even", "tone slow2"]


def test_an_eager_of_another_workload_takes_no_figure_out_of_the_matrix(tmp_path: Path, visit: Visit) -> None:
    fast = record(samples=timed(1, 464.0), memory=MEMORY, flags=["cold"])
    fewer = fast.workload.model_copy(update={"iterations": 6})
    eager = record(method="eager", cell_id="e" * 16, workload=fewer, samples=timed(2, 600.0), memory=MEMORY)
    for name, rows in (("alone", [fast]), ("beside", [fast, eager])):
        write_page([save_run(tmp_path / name, rows)], tmp_path / f"{name}.html")
        page = visit(tmp_path / f"{name}.html")
        assert re.match(r"0\.46\d+ s(⚑1)? no eager", matrix(page)["inductor"][0])
    heads = page.locator(".answer thead th").all_inner_texts()
    assert [head.split() for head in heads] == [
        ["method"],
        ["forward", "10", "iterations"],
        ["forward", "6", "iterations"],
    ]
    assert [cell[:2] for cell in matrix(page)["eager"]] == [MISSING, "1x"]


def test_one_round_is_called_inconclusive_once(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["gpus"])
    assert page.locator("#results").inner_text().count("inconclusive: ") == 1
    assert page.locator(".rows td .doubt").count() == 2, "the rows have the mark"
    assert page.locator(".rows td .doubt").first.get_attribute("title") == "inconclusive"
    page.keyboard.press("c")
    page.select_option("#base", label="run-h100 · cuda")
    assert page.locator("#compare").inner_text().count("a verdict takes five rounds a side") == 1
    assert page.locator("#compare td .doubt").count() == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_first_figure_is_on_a_phones_first_screen(pages: dict[str, Path], visit: Visit, name: str) -> None:
    page = visit(pages[name], wide=390, high=664)
    first = page.locator(".answer td button").first.bounding_box()
    assert first["y"] + first["height"] <= 664
    assert first["x"] + first["width"] <= 390


def colours(page: Any, selector: str) -> set[str]:
    found = page.locator(selector).evaluate_all("(all) => all.map((one) => one.getAttribute('class'))")
    return {match[1] for name in found if (match := HUE.search(name))}


def test_a_method_has_one_colour_in_every_view(pages: dict[str, Path], visit: Visit) -> None:
    for name in ("one", "two"):
        page = visit(pages[name])
        draw_all(page)
        page.keyboard.press("c")
        page.wait_for_selector("#compare .chart")
        seen = {}
        for method in ("inductor", "inductor_default", "thunder", "tinyllama", "eager"):
            rows = page.evaluate(
                "(name) => JSON.parse(document.getElementById('data').textContent).rows"
                ".flatMap((row, n) => row.method === name ? [n] : [])",
                method,
            )
            marks = ", ".join(f'svg [data-row="{n}"] [class*=c], svg [data-row="{n}"][class*=c]' for n in rows)
            keys = ", ".join(f'#results tr[data-row="{n}"] .key *' for n in rows)
            named = f"#matrix tr:has(th:text-is('{method}')) .key *, #compare tr:has(th:text-is('{method}')) .key *"
            seen[method] = [colours(page, one) for one in (marks, keys, named)]
            assert seen[method] == [seen[method][0]] * 3, method
            assert len(seen[method][0]) == 1, method
        assert len({next(iter(found[0])) for found in seen.values()}) == len(seen)


def test_a_chart_of_one_row_is_not_drawn(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["one"])
    draw_all(page)
    assert page.locator("#workload-1 .chart").count() == 0, "of generation one row alone has a speed"
    assert "One row alone has a speed" in page.locator("#workload-1").inner_text()
    for said in page.locator(".chart svg[role=img]").evaluate_all("(all) => all.map((one) => one.ariaLabel)"):
        assert len(re.findall(r"\w+@\w+", said)) > 1, said


def texts(found: Any) -> list[str]:
    return list(found.evaluate_all("(all) => all.map((one) => one.textContent)"))


@pytest.mark.parametrize(("typical", "cut"), [((600.0, 500.0), True), ((600.0, 100.0), False)])
def test_axes_begin_where_the_data_does_and_say_so(
    tmp_path: Path, visit: Visit, typical: tuple[float, ...], *, cut: bool
) -> None:
    rows = [
        record(
            cell_id=f"{n:016x}",
            method=f"method_{n}",
            samples=timed(n, each),
            memory={**MEMORY, "process_bytes": 15_000_000_000 + n * 500_000_000},
        )
        for n, each in enumerate(typical)
    ]
    write_page([save_run(tmp_path, rows)], tmp_path / "page.html")
    page = visit(tmp_path / "page.html")
    draw_all(page)
    chart = page.locator(".chart", has_text="Speed against memory")
    assert ("The axes of speed and memory do not begin at zero." in chart.inner_text()) == cut
    assert ("The axis of memory does not begin at zero." in chart.inner_text()) != cut
    ticks = [float(text) for text in texts(chart.locator("svg[role=img] text.dim")) if text[0].isdigit()]
    assert (0 in ticks) != cut
    plot, marks = chart.locator("svg[role=img]").bounding_box(), chart.locator("svg[role=img] .mark").all()
    places = sorted(mark.bounding_box()["x"] - plot["x"] for mark in marks)
    assert places[0] < plot["width"] / 2 < places[1], "the points have the room"
    bars = page.locator(".chart", has_text="Speed").filter(has_text="No share of the ceiling is known")
    assert texts(bars.locator("svg[role=img] text.dim"))[0] == "0", "bars begin at zero"


OVERLAPS = """
() => [...document.querySelectorAll('svg[role=img]')].flatMap((svg) => {
  const boxes = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  return boxes.flatMap(([one, a], n) => boxes.slice(n + 1).filter(([, b]) => meet(a, b)).map(([two]) => [one, two]));
})
"""


@pytest.mark.parametrize("wide", [*WIDTHS, 820])
@pytest.mark.parametrize("mark", ["", "#compare"])
def test_no_label_lies_on_another(pages: dict[str, Path], visit: Visit, wide: int, mark: str) -> None:
    for name in ("one", "two", "gpus", "grows", "tiny"):
        page = visit(pages[name], mark=mark, wide=wide)
        draw_all(page)
        assert page.evaluate(OVERLAPS) == [], name


# What scrolls sideways may hold more than it shows, and what is hidden for eyes has no box.
TOO_WIDE = """
() => [...document.querySelectorAll('body, body *:not(svg *, script, style, .hidden-text)')].filter((node) => {
  const style = getComputedStyle(node);
  if (style.display === 'inline' || ['auto', 'scroll'].includes(style.overflowX)) return false;
  return node.scrollWidth > node.clientWidth + 1;
}).map((node) => [node.tagName, node.className, node.scrollWidth, node.clientWidth, node.textContent.slice(0, 60)])
"""


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


@pytest.mark.parametrize("wide", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_wider_than_its_box(pages: dict[str, Path], visit: Visit, wide: int, theme: str, name: str) -> None:
    page = visit(pages[name], wide=wide, color_scheme=theme)
    draw_all(page)
    unfold(page)
    if not page.locator("#filters").is_visible() and wide == 390:
        page.locator("#filters-toggle").click()
    assert page.evaluate(TOO_WIDE) == []
    page.keyboard.press("p")
    draw_all(page)
    assert page.evaluate(TOO_WIDE) == []
    page.keyboard.press("c")
    unfold(page)
    assert page.evaluate(TOO_WIDE) == []
    page.keyboard.press("?")
    assert page.evaluate(TOO_WIDE) == []
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    for row in page.locator("#results tr[data-row]:visible").all():
        row.click()
        unfold(page)
        assert page.evaluate(TOO_WIDE) == []
        page.keyboard.press("Escape")


def test_what_is_wider_than_a_phone_says_that_it_scrolls(pages: dict[str, Path], visit: Visit) -> None:
    page = visit(pages["two"], wide=390, mark="#compare")
    box = page.locator("#compare .scroll").first
    hint = page.locator("#compare .hint").first
    assert box.evaluate("(node) => node.scrollWidth > node.clientWidth")
    assert hint.inner_text() == "Scroll sideways for more →"
    assert "more" in box.get_attribute("class").split()
    box.focus()
    assert box.evaluate("(node) => node === document.activeElement"), "the arrows scroll it"
    box.evaluate("(node) => { node.scrollLeft = node.scrollWidth; }")
    page.wait_for_selector("#compare .workload:first-child .scroll.pushed:not(.more)")
    wide = visit(pages["two"], wide=1400, mark="#compare")
    assert not wide.locator("#compare .hint").first.is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_throughput_against_latency_has_a_point_for_each_row_and_follows_the_filter(
    tmp_path: Path, visit: Visit, width: int
) -> None:
    run = save_run(tmp_path / "run", ladder_run(methods=("eager", "inductor", "fast")))
    write_page([run], tmp_path / "page.html")
    page = visit(tmp_path / "page.html")
    page.set_viewport_size({"width": width, "height": 900})
    charts = page.locator("#ladders .chart")
    assert charts.count() == 2
    first = charts.first
    assert first.locator("h3").inner_text() == "llama_3_1_8b, 128 prompt tokens, 128 new tokens, bfloat16"
    assert first.locator("svg g[data-row]").count() == 12
    assert first.locator("svg .ring").count() == 4
    assert first.locator("svg g .hollow").count() == 4, "eager's are unchecked"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    point = first.locator("svg g[data-row]").first
    point.click()
    assert page.locator("#drawer-title").inner_text().startswith("batched_generation eager@cuda")
    page.keyboard.press("Escape")
    if width > 760:
        page.locator(".chip", has_text="inductor").click()
        assert page.locator("#ladders .chart").first.locator("svg g[data-row]").count() == 4
