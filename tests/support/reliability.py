"""The parts of docs/reliability.md that commands write, each its own."""

from __future__ import annotations

import datetime as dt
import platform
import re
import subprocess
from pathlib import Path

from places import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def put_section(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of the section `name`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text(encoding="utf-8")
    found, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{text.strip()}\n{end}", whole, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{page.name} has {count} sections {name}")
    page.write_text(found, encoding="utf-8")


def versions() -> str:
    """Return day, commit and versions, for a section's first line."""
    day = dt.datetime.now(dt.timezone.utc).date()
    commit = said("git", "rev-parse", "--short", "HEAD") + (
        "" if not said("git", "status", "--porcelain") else " with changes"
    )
    engine = said("docker", "version", "--format", "{{.Server.Version}}")
    parts = [f"Python {platform.python_version()}", f"Linux {platform.release().partition('-')[0]}"]
    return f"{day}, commit {commit}, {', '.join([*parts, *([f'Docker Engine {engine}'] if engine else [])])}"


def said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
