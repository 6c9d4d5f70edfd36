"""A headless Chromium for the tests of the page: the system's own, driven by Playwright. Nothing is downloaded.

STACKBENCH_TEST_CHROMIUM names the program; where it is set, a browser that cannot be had is an error and no reason to
skip.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_samples import failed_run, full_run, nasty_run, on_gpu, tiny_run
from record_samples import ENVIRONMENT, GPU, save_run, with_layers

from orchestrator.report.page import write_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    wanted = os.environ.get("STACKBENCH_TEST_CHROMIUM")
    program = wanted or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this host (STACKBENCH_TEST_CHROMIUM names one)")
    if not wanted:
        pytest.importorskip("playwright", reason="Playwright is not installed (it is in tests/dev.lock)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file in a window of its own; afterwards nothing may have been complained of or asked of any network."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def opened(path: Path, *, mark: str = "", wide: int = 1440, high: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": wide, "height": high}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url),
        )
        page.goto(path.as_uri() + mark)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of one run, of two, of two on different GPUs, of growing first calls, of failures, of hostile text."""
    folder = tmp_path_factory.mktemp("pages")
    records = {
        "a": full_run(),
        "b": full_run(1.05),
        "h100": on_gpu("NVIDIA H100 80GB HBM3", 1.3),
        "h200": on_gpu("NVIDIA H200", 0.7),
        "failed": failed_run(),
        "tiny": tiny_run(),
    }
    runs = {name: save_run(folder / name, found).rename(folder / f"run-{name}") for name, found in records.items()}
    made = {"one": [runs["a"]], "two": [runs["a"], runs["b"]], "nasty": [nasty_run(folder / "n")]}
    made |= {"gpus": [runs["h100"], runs["h200"]], "failed": [runs["failed"]], "tiny": [runs["tiny"]]}
    moved = {**ENVIRONMENT, "gpu": {**GPU, "uuid": "GPU-1"}}
    grows = [with_layers(n, 4.5 * n, **({"environment": moved} if n == 32 else {})) for n in (2, 8, 16, 32)]
    made["grows"] = [save_run(folder / "g", grows)]
    for name, folders in made.items():
        write_page(folders, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}
