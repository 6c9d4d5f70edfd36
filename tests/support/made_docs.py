"""What in docs/ is made from code and committed runs: `make docs-generate` writes it, a test sees that it is so."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

import made_results
from places import RESULTS, ROOT

from orchestrator.analysis.reduced_run import make_report
from orchestrator.base.files import write_text
from orchestrator.records.record import Flag, Status
from orchestrator.records.runs import find_run
from orchestrator.report.picture import ARIA, picture
from orchestrator.report.words import GLOSSARY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = ROOT / "docs"
H100 = made_results.RUNS["H100"]
ELSEWHERE = {*get_args(Flag), *get_args(Status), "reference", "probe"}
"""Terms of the glossary that docs/reading.md and docs/words.md explain."""
BOX, GAP, ROW, WIDTH, TOP = 26, 6, 36, 400, 62
LEFT = {"orchestrator": 10, "bench": 440}
WHERE = {
    "orchestrator": "outside of every stack, without torch",
    "bench": "inside a stack: torch and the standard library",
}
STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
.page { fill: #ffffff; } text { fill: #1b1d20; text-anchor: middle; } .head { font-weight: 600; font-size: 15px; }
.muted { fill: #565c63; font-size: 11px; } .box { fill: #eef3fa; stroke: #1d56b0; }
@media (prefers-color-scheme: dark) {
  .page { fill: #131518; } text { fill: #e7e9eb; } .muted { fill: #a3a9b0; } .box { fill: #1b2836; stroke: #6aa6ff; }
}
"""


def made() -> dict[Path, str]:
    """Return each such file with what belongs in it."""
    own = {DOCS / "speed.svg": speed(), DOCS / "rooms.svg": rooms(), DOCS / "columns.md": columns()}
    return {**own, **made_results.made()}


def speed() -> str:
    """The picture on README's first screen: what `orchestrator picture` makes of the H100's runs."""
    return picture([make_report(find_run(RESULTS, name).folder) for name in H100], H100)


def columns() -> str:
    """A page of the glossary's terms that stand at the head of a table's columns."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    lines = [
        "# Columns",
        "",
        "What stands at the head of a table's columns, made by `make docs-generate` from the words of tables and page.",
        "[Reading a row](reading.md) has more on some of them, and explains status and flags.",
    ]
    for term, text in GLOSSARY.items():
        if term not in ELSEWHERE:
            lines += ["", *textwrap.wrap(f"- **{term}**: {text}", 118, subsequent_indent="  ", **whole)]
    return "\n".join([*lines, ""])


def layers() -> dict[str, list[list[str]]]:
    """The layers of each package from above, as pyproject's import contracts have them; packages of one are a list."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return {contract["containers"][0]: _rows(contract) for contract in contracts if contract["type"] == "layers"}


def _rows(contract: dict[str, Any]) -> list[list[str]]:
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def rooms() -> str:
    """The packages as boxes, a row for each layer, orchestrator's beside bench's."""
    found = layers()
    height = TOP + ROW * max(map(len, found.values())) + 8
    words = "; ".join(f"{name}: {' over '.join(' and '.join(row) for row in rows)}" for name, rows in found.items())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 850 {height}" width="850" {ARIA}>',
        '<title id="title">The packages of orchestrator and bench, layer by layer</title>',
        f'<desc id="desc">{words}.</desc>',
        f"<style>{STYLE}</style>",
        '<rect class="page" width="100%" height="100%" rx="6"/>',
    ]
    for name, rows in found.items():
        left = LEFT[name]
        lines.append(f'<text class="head" x="{left + WIDTH / 2:g}" y="28">{name}/</text>')
        lines.append(f'<text class="muted" x="{left + WIDTH / 2:g}" y="46">{WHERE[name]}</text>')
        for number, row in enumerate(rows):
            width = (WIDTH - GAP * (len(row) - 1)) / len(row)
            top = TOP + ROW * number
            for place, package in enumerate(row):
                x = left + (width + GAP) * place
                lines.append(f'<rect class="box" x="{x:g}" y="{top}" width="{width:g}" height="{BOX}" rx="4"/>')
                lines.append(f'<text x="{x + width / 2:g}" y="{top + 18}">{package}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    for path, text in made().items():
        write_text(path, text)
        print(path.relative_to(ROOT))
