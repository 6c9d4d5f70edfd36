"""What `reproduce` says at its end."""

from __future__ import annotations

from orchestrator.analysis.reproduction import Reproduction
from orchestrator.analysis.rows import Row
from orchestrator.base.text import MISSING, counted, printable, significant, with_interval
from orchestrator.records.record import COMPUTED
from orchestrator.report import cells as proof
from orchestrator.report.tables.comparison import difference_lines, speedup


def as_text(found: Reproduction) -> str:
    """Return a few lines for a terminal."""
    lines = [
        f"{found.then.title}, workload {found.then.workload_id}",
        f"then: {_figure(found.then, alone=found.alone)}",
        f"now:  {_figure(found.now)}",
    ]
    if found.verdict is not None:
        lines.append(f"now is {speedup(found.verdict)} as fast as then")
    lines.append(f"{found.answer}: {found.why}")
    if found.differences:
        lines += difference_lines([("differs, then / now", found.differences)])
    else:
        lines.append("nothing differs in what the records say of device, driver, clock and packages")
    return "\n".join(" ".join(printable(line).split()) for line in lines)


def _figure(row: Row, *, alone: bool = False) -> str:
    if row.headline is None:
        parts = [f"{MISSING} ({row.status}{f': {row.reason}' if row.reason else ''})"]
    else:
        figure = f"{significant(row.headline)} {row.figure.unit}"
        parts = [with_interval(figure, row.figure.interval, row.figure.interval_level, row.figure.interval_kind)]
        parts += [counted(row.rounds_ok, "round"), f"on {row.hardware.name or 'an unknown device'}"]
    if row.status in COMPUTED:
        parts.append(f"checks {proof.checks(row)}")
        parts += ["its probe is not in the record"] if alone else []
    return ", ".join([*parts, *(row.flags if row.headline is not None else ())])
