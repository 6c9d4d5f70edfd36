"""The drawer's sections on whether the output was right, and on how the row stands beside eager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.base.text import counted, significant
from orchestrator.report.blocks import facts, section, table, text
from orchestrator.report.words import loss_advice, taint_note, warnings

if TYPE_CHECKING:
    from orchestrator.analysis.rows import Row
    from orchestrator.records.record import Record
    from orchestrator.report.blocks import Block, Section

UNCHECKED = "Unchecked: nothing beyond finite numbers was asked of the output."
PLURALS = {"pass": "passes"}


def beside_section(row: Row) -> Section | None:
    """Return how an ok row stands beside eager, when it pays off, and what its samples warn of."""
    if row.status != "ok":
        return None
    told: list[tuple[str, str]] = []
    if row.versus is not None:
        told.append((f"against {row.versus.against}", row.versus.verdict.in_words))
    if row.break_even is not None:
        even = row.break_even
        after = "never" if even.count is None else f"after {counted(even.count, even.of, PLURALS.get(even.of))}"
        told.append(("pays off", f"{after}{_why(even.reason)}"))
    if row.evidence.power is not None and row.evidence.power.joules is not None:
        told.append(("energy", f"{significant(row.evidence.power.joules)} J a {row.evidence.power.per}"))
    warned = [f"{warning[:1].upper()}{warning[1:]}." for warning in warnings(row)]
    return section("Beside others", facts(told), text(*warned, warning=True), text(loss_advice(row), taint_note(row)))


def checks_of(record: Record) -> list[Block | None]:
    """Return the checks one a line, the reference, and the fault that the error resembles."""
    proof = record.proof
    if proof is None:
        return [text("There is no proof: the cell did not get that far.")]
    rows = [(c.status, c.name, _number(c.value), _number(c.limit), c.what) for c in proof.checks]
    blocks = [table(("", "check", "value", "limit", "what"), rows, numeric=(2, 3), state=0)]
    blocks.append(None if rows else text(UNCHECKED))
    if proof.resembles:
        blocks.append(text(f"The error looks like this fault: {proof.resembles}.", warning=True))
    reference = proof.reference
    if reference is not None:
        error, eager = reference.error, reference.eager_error
        ratio = f", {significant(error / eager, 3)} times eager's" if error is not None and eager else ""
        blocks.append(
            facts(
                [
                    ("reference", f"{reference.dtype}, {_made_by(reference.stack)}"),
                    ("error", None if error is None else f"{_number(error)} of the reference{ratio}"),
                    ("eager's error", None if eager is None else f"{_number(eager)} in the same precision"),
                    ("SHA-256", reference.sha256),
                ]
            )
        )
    if proof.seconds is not None:
        blocks.append(text(f"The checks took {significant(proof.seconds, 3)} s."))
    return blocks


def _made_by(stack: str | None) -> str:
    return "computed in the cell itself" if stack is None else f"made on the stack {stack}"


def _number(value: float | None) -> str:
    return "" if value is None else significant(value)


def _why(reason: str | None) -> str:
    return f" ({reason})" if reason else ""
