"""A cell's whole proof in sections, worded once: `orchestrator explain` prints them, the page's drawer shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.analysis.reduced_run import Pair
from orchestrator.analysis.rows import Row
from orchestrator.base.text import (
    DIGITS,
    MISSING,
    counted,
    milliseconds,
    one_line,
    percent,
    plain,
    scaled,
    shortened,
    with_interval,
)
from orchestrator.base.text import significant as rounded
from orchestrator.records.checks import held_to_list
from orchestrator.records.record import Record
from orchestrator.records.store import stem_of
from orchestrator.report.again import WITH_A_ROW, commands
from orchestrator.report.columns import break_even, first_call, later_compiles
from orchestrator.report.rounds import checks, round_sections
from orchestrator.report.sections import Block, Environment, Section, code, facts, section, text
from orchestrator.report.source import Source
from orchestrator.report.words import loss_advice, sentence, taint_note, warnings

REASON_LENGTH = 320
"""A crash's reason has the end of its log in it; the round says all of it."""


@dataclass(frozen=True)
class RoundProof:
    """What one round's record says."""

    number: int
    status: str
    flags: tuple[str, ...]
    reason: str | None
    began: str | None
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Proof:
    """A cell's proof: figures, what each round says, the workload, and how to run it again."""

    title: str
    about: str
    top: tuple[Section, ...]
    rounds: tuple[RoundProof, ...]
    bottom: tuple[Section, ...]

    def as_json(self, environments: dict[Environment, int]) -> dict[str, Any]:
        """Return what the page's drawer shows; `environments` as for `Section.as_json`."""
        return {
            "about": self.about,
            "top": [found.as_json(environments) for found in self.top],
            "rounds": [
                {**vars(one), "sections": [found.as_json(environments) for found in one.sections]}
                for one in self.rounds
            ],
            "bottom": [found.as_json(environments) for found in self.bottom],
        }


def prove(source: Source, records: tuple[Record, ...], pair: Pair | None) -> Proof:
    """Return the proof of the cell that has these rounds; `pair` is null of a cell that has no row."""
    records = tuple(map(held_to_list, records))  # as the row's figures are
    last, count = records[-1], len(records)
    of = "probe of " if last.role == "probe" else ""
    again: list[Block | None] = [code(line, command=True) for line in commands(source, last, count)]
    return Proof(
        title=f"{of}{last.workload.benchmark} {last.method}@{last.stack}",
        about=f"cell {last.cell_id}, workload {last.workload_id}, {counted(count, 'round')}",
        top=tuple(filter(None, (_figures(pair), _beside(pair.steady)) if pair else ())),
        rounds=tuple(
            RoundProof(r.round, r.status, r.flags, r.reason, r.started_utc, round_sections(source, r)) for r in records
        ),
        bottom=tuple(
            filter(
                None,
                [
                    _probe(source, pair.steady) if pair else None,
                    section("Workload", _workload(last), folded=True),
                    section("Run it again", *(again or [text(WITH_A_ROW)])),
                ],
            )
        ),
    )


def measured_all_the_same(pair: Pair) -> Section | None:
    """Return the figures of a row that shows no speed: not a result, and shown in the terminal alone."""
    if pair.steady.status == "ok" or pair.steady.figure.value is None:
        return None
    return section("Measured, but not shown as a speed", facts(*_measured(pair)))


def _figures(pair: Pair) -> Section | None:
    row = pair.steady
    if row.status != "ok":
        why = f": {shortened(one_line(row.reason), REASON_LENGTH)}" if row.reason else ""
        return section("Figures", text(f"No speed is shown because the row is {row.status}{why}."))
    later, call = later_compiles(row), first_call(row, " s", DIGITS)
    return section(
        "Figures",
        facts(
            *_measured(pair),
            ("first call", None if row.first_call.seconds is None else call.line()),
            ("compiles in the warm-up", None if later is None else f"{rounded(later)} s"),
        ),
    )


def _measured(pair: Pair) -> list[tuple[str, str | None]]:
    row = pair.steady
    found = [fact for shown, name in ((row, "steady"), (pair.note, "as the note")) for fact in _figure(shown, name)]
    if row.work is not None:
        least = "" if row.work.bytes is None else f", at least {scaled(row.work.bytes, 'B')} read"
        found.append(("work of a sample", f"{scaled(row.work.flops, 'FLOP')}{least}"))
    return found


def _figure(row: Row, name: str) -> list[tuple[str, str | None]]:
    figure, share = row.figure, row.share
    words = f"none ({figure.reason})"
    if figure.value is not None:
        shown = f"{rounded(figure.value)} {figure.unit}"
        words = with_interval(shown, figure.interval, figure.interval_level, figure.interval_kind)
        words += f"; {figure.basis}"
    device = None if figure.device_value is None else f"{rounded(figure.device_value)} {figure.unit}"
    tokens = None
    if figure.first_token_seconds is not None:
        further = milliseconds(figure.next_token_seconds)
        tokens = f"first {milliseconds(figure.first_token_seconds)} ms, each further one {further} ms"
    ceiling = f"{MISSING} ({share.reason})"
    if share.share is not None:
        rate = "" if share.is_plain else f", {share.rate_in_words}"
        ceiling = (
            f"{percent(share.share)} ({share.bound} bound{rate}, ceilings of {share.ceiling_of}, by {share.stack})"
        )
    return [
        (name, words),
        (f"{name}, by the device's clock", device),
        (f"{name}, tokens", tokens),
        (f"{name}, of the ceiling", ceiling),
    ]


def _beside(row: Row) -> Section | None:
    """Return how the row stands beside eager, when it pays off, and what its samples warn of."""
    against, even, power = row.versus, row.break_even, row.evidence.power
    after = None
    if even is not None:
        after = "after " * bool(even.count) + ("never" if even.count is None else break_even(row))
        after += f" ({even.reason})" if even.reason else ""
    return section(
        "Beside others",
        facts(
            (f"against {against.against}" if against else "", against.verdict.in_words if against else None),
            ("pays off", after),
            ("energy", f"{rounded(power.joules)} J a {power.per}" if power and power.joules is not None else None),
        ),
        text(*map(sentence, warnings(row)), warning=True),
        text(loss_advice(row), taint_note(row)),
    )


def _probe(source: Source, row: Row) -> Section | None:
    """Return how the row's method did on the probe, check by check."""
    result = row.probe
    if result is None:
        return None
    how = "passed" if result.passed else result.status if result.status not in (None, "ok") else "unchecked"
    blocks: list[Block | None] = [
        text(f"{how}{f': {result.reason}' if result.reason else ''}", warning=not result.passed)
    ]
    for record in source.probes.get((row.benchmark, row.method, row.stack), ()):
        held = held_to_list(record)
        blocks += [text(f"records/{stem_of(record)}.json, {held.status}"), *checks(source, held)]
    return section("On the probe", *blocks, folded=result.passed)


def _workload(record: Record) -> Any:
    content = record.workload.model_dump(mode="json", exclude_none=True, exclude={"subjects", "beside"})
    if (weights := record.workload.weights) and weights.routing == "hash":
        content["weights"].pop("routing")  # as of every model without experts
    if record.workload.devices == 1:
        del content["devices"]
    if model := record.workload.model:
        # What a family asks for beyond Llama, where it does.
        asked = {"name", *model.hashed()}
        content["model"] = {name: value for name, value in content["model"].items() if name in asked}
    beside = (("beside it", f"in {one.dtype}, workload {one.workload_id}") for one in record.workload.beside or ())
    subjects = (("reference for", f"{s.benchmark}, workload {s.workload_id}") for s in record.workload.subjects or ())
    return facts(*((name.replace("_", " "), plain(value)) for name, value in content.items()), *subjects, *beside)
