"""What stands under a table: how its figures were made, versions, deviations, caveats of the published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.base.text import MISSING, code, escape, gigabytes, significant
from orchestrator.report import cells as proof

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.analysis.published import Published, PublishedFigure
    from orchestrator.analysis.reduced_run import Pair, Report
    from orchestrator.analysis.rows import Row
    from orchestrator.records.record import Environment

SHORT_HASH = 12
HOW_TO_READ = """\
## How to read this

- **steady**: the first call and the warm-up apart; the median of the rounds' medians with its 99 % interval (at
  the level that is named, where the samples are too few for 99 %).
- **against eager**: how many times as fast as eager on the same stack, with the 99 % interval (Welch's, of the
  logarithms of the rounds' medians) and the verdict: faster, slower, same (the whole interval within ±1 %), or
  inconclusive (fewer than five rounds a side, or an interval that is wider than that and holds 1).
- **checks**: passed of all, on the very callable that was timed, after timing. Tolerances are relative to what eager
  in the same precision shows against the same float32 (tiny models: float64) reference.
- **error ÷ eager's**: distance from that reference over the distance of eager on the stack that made it. Right methods
  are near 1; of eager on another stack it is the drift between the stacks.
- **as the note**: the Lit-GPT note's own reckoning of November 2023, by the samples' numbers, whatever is in them.
- **peak GB**: 1e9 bytes; of the whole process, never reset; from the end of the warm-up on; and what the allocator
  held of the device: a CUDA graph's own memory counts there and not in the steady peak.
- **first call**: compilation included; cold: with an empty compile cache, warm: a second process over the same one. Of
  several rounds the median of the cold ones, and of the warm ones where there was no such second process. Partly
  warm: over a cache that lacked something.
- **pays off after**: so many passes, tokens or steps until the extra time of the first call, and of compiles in the
  warm-up, is made up for against eager; of the cold rounds where there are any.
- **of the ceiling**: the least time that the work can take at the rates measured on this device in this run, over the
  time that it took; compute or memory, whichever bounds more tightly.
- **unchecked**: a check could not be made, of the row or of its method on the probe (a tiny model in float32, with
  weights on which faults stand out); the reason stands below the table. **incorrect**: a check failed.
- **not_fused**: kernels that the method promises were not seen. **drift**, **tainted**: see below the table.
- A row's whole proof: `orchestrator explain 'BENCHMARK METHOD@STACK'`. All digits: tables.json, tables.csv."""


def below(pairs: Sequence[Pair], report: Report) -> str:
    """Return the notes of one benchmark's table as a list."""
    lines = [*_bases(pairs), *_intervals(pairs), *proof.lines(pairs), *_shares(pairs), *_versions(pairs)]
    lines += _deviations(pairs, report)
    if any(not pair.note.figure.complete and pair.note.headline is not None for pair in pairs):
        lines.append("\\* The run has fewer samples than the note's.")
    if len({pair.steady.name for pair in pairs}) < len(pairs):
        lines.append(
            "Rows of one name are different cells (other packages, device or cache): see `orchestrator explain ID`."
        )
    for comparison in comparisons(pairs, report):
        lines += _published(pairs, comparison)
    return "\n".join(f"- {line}" for line in lines)


def comparisons(pairs: Sequence[Pair], report: Report) -> list[Published]:
    """Return the published comparisons that have the workload of these rows."""
    return [comparison for comparison in report.published if comparison.for_workload(pairs[0].steady.workload)]


def published_text(figure: PublishedFigure) -> str:
    """Return a published figure with its memory, its status where that is not ok, and its correction."""
    if figure.figure is None:
        return figure.status
    text = significant(figure.figure, 3)
    if figure.memory_bytes is not None:
        text += f" ({gigabytes(figure.memory_bytes)} GB)"
    if figure.status != "ok":
        text = f"~~{text}~~ {figure.status}"
    return f"{text}, corrected to {significant(figure.corrected, 3)}" if figure.corrected is not None else text


def stacks(report: Report) -> str:
    """Return the section that says what each stack was made of."""
    images: dict[str, dict[str, None]] = {}
    for pair in sorted(report.pairs, key=lambda pair: pair.steady.stack):
        environment, image_id = pair.steady.environment, pair.steady.image_id
        if environment is not None:
            # A run that went on elsewhere may have had another image of the very same packages.
            found = images.setdefault(f"- {code(pair.steady.stack)}: {escape(_long(environment))}", {})
            if image_id:
                found[image_id.removeprefix("sha256:")[:SHORT_HASH]] = None
    lines = [f"{line}, image {' and '.join(map(escape, found))}" if found else line for line, found in images.items()]
    return "\n".join(["## Stacks", "", *lines]) if lines else ""


def published(report: Report) -> str:
    """Return the section on where the published figures come from, with the caveats that hold for all of them."""
    lines = []
    for comparison in report.published:
        if any(comparison.for_workload(pair.steady.workload) for pair in report.pairs):
            lines.append(
                f"- {escape(comparison.short)}: {escape(comparison.title)} ({escape(comparison.source)}); "
                f"{escape(comparison.gpu)}, driver {escape(comparison.driver or MISSING)}, "
                f"CUDA {escape(comparison.cuda or MISSING)}."
            )
            own = {key for figure in comparison.figures for key in figure.caveats}
            lines += [f"- {_caveat(comparison, key)}" for key in comparison.caveats if key not in own]
    return "\n".join(["## Published figures", "", *lines]) if lines else ""


def _bases(pairs: Sequence[Pair]) -> list[str]:
    lines = []
    for title, rows in (("Steady", [p.steady for p in pairs]), ("As the note", [p.note for p in pairs])):
        told = _by_text((row.figure.basis, row) for row in rows if row.headline is not None)
        lines += [f"{title}: {escape(basis)}{_whose(names, told)}." for basis, names in told.items()]
    return lines


def _intervals(pairs: Sequence[Pair]) -> list[str]:
    shown = [pair.steady for pair in pairs if pair.steady.headline is not None]
    if all(row.figure.interval_kind != "within-process" for row in shown):
        return []
    return ["One round: within-process interval, which knows nothing of how processes differ from one another."]


def _shares(pairs: Sequence[Pair]) -> list[str]:
    ok = [pair.steady for pair in pairs if pair.steady.headline is not None]
    told = _by_text((row.share.reason, row) for row in ok if row.share.reason)
    lines = [f"No share of the ceiling{_whose(names, told)}: {escape(reason)}." for reason, names in told.items()]
    if any(row.share.share is not None and row.share.ceiling_of == "this model of device" for row in ok):
        lines.append("The ceilings were measured on another device of the same model.")
    return lines


def _versions(pairs: Sequence[Pair]) -> list[str]:
    known = [(pair.steady.stack, pair.steady.environment) for pair in pairs if pair.steady.environment is not None]
    stacks_of: dict[str, set[str]] = {}
    for stack, environment in known:
        stacks_of.setdefault(environment.in_short, set()).add(stack)
    lines = [f"{', '.join(map(code, sorted(names)))}: {escape(text)}." for text, names in stacks_of.items()]
    if len({environment.torch for _, environment in known}) > 1:
        lines.append("**The rows of this table ran on different versions of torch.**")
    return lines


def _deviations(pairs: Sequence[Pair], report: Report) -> list[str]:
    lines = []
    for stack in sorted({pair.steady.stack for pair in pairs}):
        facts = report.header.stacks.get(stack, {})
        told = facts.get("deviations") or ()
        lines += [_deviation(stack, deviation) for deviation in told if isinstance(deviation, dict)]
        lines += [f"{code(stack)} was built without {escape(str(part))}." for part in facts.get("left_out") or ()]
        if facts.get("drift"):
            lines.append(f"{code(stack)} has drifted {escape(str(facts['drift']))}.")
    return lines


def _deviation(stack: str, deviation: dict[str, Any]) -> str:
    package, wanted, here, reason = (str(deviation.get(key)) for key in ("package", "wanted", "here", "reason"))
    return f"{code(stack)} has {escape(package)} {escape(here)}, not {escape(wanted)}: {escape(reason)}."


def _published(pairs: Sequence[Pair], comparison: Published) -> list[str]:
    figures = comparison.for_workload(pairs[0].steady.workload)
    run = {pair.steady.method for pair in pairs}
    lines = []
    others = [f"{escape(figure.label)} {published_text(figure)}" for figure in figures if figure.method not in run]
    if others:
        lines.append(f"Published for methods that are not in this table: {'; '.join(others)}.")
    caveats = dict.fromkeys(key for figure in figures for key in figure.caveats)
    return lines + [_caveat(comparison, key) for key in caveats]


def _caveat(comparison: Published, key: str) -> str:
    return f"{escape(comparison.short)}, {escape(key.replace('_', ' '))}: {escape(comparison.caveats[key])}"


def _by_text(told: Iterable[tuple[str | None, Row]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text, row in told:
        if text:
            found.setdefault(text, []).append(row.name)
    return found


def _whose(names: Sequence[str], told: dict[str, list[str]]) -> str:
    """Name the rows only where they differ."""
    return "" if len(told) == 1 else f" ({', '.join(map(code, names))})"


def _long(versions: Environment) -> str:
    parts = [
        ("Python", versions.python),
        ("torch", versions.torch),
        ("torch's commit", versions.torch_git and versions.torch_git[:SHORT_HASH]),
        ("CUDA", versions.cuda),
        ("cuDNN", versions.cudnn),
        ("Triton", versions.triton),
        ("compiler", versions.compiler),
        *((name, version) for name, version in versions.kernel_packages.items() if name != "triton"),
        ("fingerprint", versions.fingerprint),
    ]
    return ", ".join(f"{name} {value}" for name, value in parts if value)
