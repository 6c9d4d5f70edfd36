"""Fuzzing of every reader of a file that is not ours, guided by coverage: `make fuzz ARGS="--seconds 600"`.

    python tests/fuzz [--seconds S] [--target NAME]… [--keep] [--page]

Each target gets its share of the time in a process of its own, and begins with its corpus (`tests/fuzz/corpus`) and
its seeds. Anything but a refusal, an input that takes more than 10 s, and growth beyond 500 MB is a finding: its
smallest input and its traceback are printed and left in the folder that is named. `--keep` brings what covers new code
into the corpus, `--page` the figures into docs/reliability.md. Exit code 1 where there was a finding.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support"), str(HERE)]

from targets import TARGETS  # noqa: E402 - found by the line above

CORPUS = HERE / "corpus"
KEPT_FILES, KEPT_BYTES = 20, 1024
"""Of each target, the smallest first."""


def main() -> int:
    """Fuzz what was asked for; return 1 where there was a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    chosen = {name: TARGETS[name] for name in given.target or TARGETS}
    shares = sum(target.share for target in chosen.values())
    findings = Path(tempfile.mkdtemp(prefix="stackbench-fuzz-"))
    told = [
        fuzz(name, given.seconds * target.share / shares, findings, keep=given.keep) for name, target in chosen.items()
    ]
    found = sorted(findings.glob("*.txt"))
    for place in found:
        print(f"\nfinding {place.stem}: {place.with_suffix('.input')}\n{place.read_text()}")
    total, seconds = sum(one["executions"] for one in told), sum(one["seconds"] for one in told)
    print(f"{total:,} executions in {seconds:.0f} s, {len(found)} findings")
    if given.page:
        from reliability import put_section, versions

        put_section("fuzz", page(told, len(found), versions(), given.seconds))
    if not found:
        shutil.rmtree(findings)
    return 1 if found else 0


def fuzz(name: str, seconds: float, findings: Path, *, keep: bool) -> dict[str, Any]:
    """Fuzz one target in a process of its own; return what it counted."""
    corpus = Path(tempfile.mkdtemp(prefix="stackbench-corpus-"))
    kept = CORPUS / name
    for number, seed in enumerate(TARGETS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    for place in kept.glob("*"):
        shutil.copyfile(place, corpus / place.name)
    command = [sys.executable, str(HERE / "fuzz_one.py"), name, str(seconds), str(corpus), str(findings)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    said = findings / f"{name}.json"
    if not said.is_file():
        (findings / f"{name}-died.txt").write_text(f"exit code {ended.returncode}\n{ended.stderr[-3000:]}")
        return {"target": name, "executions": 0, "refused": 0, "seconds": seconds, "peak_bytes": 0}
    told: dict[str, Any] = json.loads(said.read_text())
    per_second = told["executions"] / told["seconds"]
    print(
        f"{name}: {told['executions']:,} executions, {per_second:,.0f} a second, {told['refused']:,} refused",
        flush=True,
    )
    if keep:
        keep_smallest(name, corpus)
    shutil.rmtree(corpus)
    return told


def keep_smallest(name: str, corpus: Path) -> None:
    """Keep the smallest of what the fuzzer kept: each input there has covered something new."""
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    found = sorted((place for place in corpus.iterdir() if not place.name.startswith("seed-")), key=size_of)
    for place in found[:KEPT_FILES]:
        if size_of(place) <= KEPT_BYTES:
            shutil.copyfile(place, CORPUS / name / place.name[:16])


def size_of(place: Path) -> int:
    return place.stat().st_size


def page(told: list[dict[str, Any]], findings: int, versions: str, seconds: float) -> str:
    """Return the section of docs/reliability.md."""
    lines = ["| reader | executions | a second | refused | peak memory |", "| :--- | ---: | ---: | ---: | ---: |"]
    for one in told:
        rate, refused = one["executions"] / one["seconds"], one["refused"] / max(one["executions"], 1)
        memory = f"{one['peak_bytes'] / 1e6:.0f} MB"
        lines.append(f"| `{one['target']}` | {one['executions']:,} | {rate:,.0f} | {refused:.0%} | {memory} |")
    total = sum(one["executions"] for one in told)
    found = f"{findings} findings" if findings else "no traceback, no hang beyond 10 s, no growth beyond 500 MB"
    head = f'{versions}; `make fuzz ARGS="--seconds {seconds:.0f}"`: {total:,} executions, {found}.'
    return f"{head}\n\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
