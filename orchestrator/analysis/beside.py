"""Rows beside others: eager on the same stack, other stacks, the probe of their method, and the same on one device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from orchestrator.analysis.evidence import piece
from orchestrator.analysis.rows import BreakEven, ProbeResult, Row, Scaling, Versus
from orchestrator.analysis.statistics import verdict
from orchestrator.plan.proof_cells import MOST_KEY_HEADS, probe_workload
from orchestrator.plan.workload import Kind, Scaled, Workload, on_one_device
from orchestrator.records.record import COMPUTED, Flag

EAGER = "eager"
NOT_FASTER = "it is not faster than eager"

ProbeKey = tuple[str, str, str, str]
"""benchmark, method, stack, device"""


def beside_eager(row: Row, eager: Row | None) -> Row:
    """Return `row` with its verdict, break-even and loss distance against eager on its stack."""
    if eager is None or eager.cell_id == row.cell_id or row.method == EAGER:
        return row
    changes: dict[str, object] = {}
    if row.headline is not None:
        changes["break_even"] = break_even(row, eager)
        if eager.headline is not None:
            against = verdict(row.figure.round_seconds, eager.figure.round_seconds)
            changes["versus"] = Versus(against=eager.name, verdict=against)
    distances = [
        abs(mine - other)
        for mine, other in zip(row.evidence.losses, eager.evidence.losses, strict=False)
        if mine is not None and other is not None
    ]
    if distances:
        changes["loss_distance"] = max(distances)
    return row.model_copy(update=changes) if changes else row


class EagerRows:
    """Eager's rows by what another row must share with them: workload, stack, device."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._found: dict[tuple[str | None, ...], Row] = {}
        for row in sorted((row for row in rows if row.method == EAGER), key=_worth):
            # The last one stays: an ok one, the same for every order of the rows.
            exactly = (*_ground(row), row.fingerprint)
            self._found[exactly] = self._found[_ground(row)] = row

    def of(self, row: Row) -> Row | None:
        """Return eager's row beside `row`: with the very same packages where there is one, else with others."""
        exact = self._found.get((*_ground(row), row.fingerprint))
        return exact if exact is not None and exact.status == "ok" else self._found.get(_ground(row))


def across_stacks(rows: Sequence[Row]) -> list[Versus]:
    """Return how the best row stands against other stacks: against the best row of each, and against their eager.

    `rows` are those of one workload on one model of device in one run, the best first. What would be inconclusive is
    left out: a verdict takes as many rounds here as anywhere.
    """
    shown = [row for row in rows if row.headline is not None]
    if not shown:
        return []
    best, seen = shown[0], {shown[0].stack}
    own_eager = any(row.method == EAGER and row.stack == best.stack for row in shown)
    found = []
    for row in shown[1:]:
        if row.stack not in seen or (row.method == EAGER and not own_eager):
            against = verdict(best.figure.round_seconds, row.figure.round_seconds)
            found += [Versus(against=row.name, verdict=against)] if against.outcome != "inconclusive" else []
        seen.add(row.stack)
    return found


def break_even(row: Row, eager: Row) -> BreakEven:
    """Return after how much work what the row costs up front, beyond what eager does, is made up for.

    Up front are the first call and later compiles in the warm-up, in seconds, of the rounds that began with an empty
    compile cache where there are any. Compiles in timed samples are in the speed and not counted again.
    """
    of = piece(row.workload)

    def never(reason: str) -> BreakEven:
        return BreakEven(count=None, of=of, reason=reason)

    if eager.headline is None:
        return never(f"eager is {eager.status}")
    mine, others = _per_piece(row), _per_piece(eager)
    first, eager_first = row.first_call.upfront_seconds, eager.first_call.upfront_seconds
    if mine is None or others is None or first is None or eager_first is None:
        return never("the first call or the speed is not known")
    if mine >= others:
        return never(NOT_FASTER)
    if first <= eager_first:
        return BreakEven(count=0, of=of, reason="its first call and compiles take no longer than eager's")
    return BreakEven(count=math.ceil((first - eager_first) / (others - mine)), of=of)


def beside_probes(row: Row, probes: Mapping[ProbeKey, Sequence[Row]]) -> Row:
    """Return `row` with its probes' result: a wrong probe makes it incorrect, one that did not pass unchecked."""
    if row.workload.is_own_probe or row.status not in COMPUTED:
        return row
    found = probes.get((row.benchmark, row.method, row.stack, row.hardware.device), ())
    # Those that ran with the same packages as the row, or all where none did.
    found = [probe for probe in found if probe.fingerprint == row.fingerprint] or found
    own, *parts = probe_ids(row.workload_id, row.workload, row.kind)
    mine = [probe for probe in found if probe.workload_id == own or _of_older_run(probe)]
    # For a while each precision was a cell of its own: all of them must have passed.
    each = [[probe for probe in found if probe.workload_id == one] for one in parts] if not mine else [mine]
    result = min(map(probe_result, each), key=lambda one: (one.status != "incorrect", one.passed))
    changes: dict[str, object] = {"probe": result}
    if result.status == "incorrect":
        if row.status == "ok":
            reason = f"on the probe: {result.reason or 'no reason given'}"
            changes.update(status="incorrect", reason=reason)
    elif not result.passed and "unchecked" not in row.flags:
        changes["flags"] = with_flag(row.flags, "unchecked")
    return row.model_copy(update=changes)


_probe_ids: dict[tuple[str, Kind], tuple[str, ...]] = {}


def probe_ids(workload_id: str, workload: Workload, kind: Kind) -> tuple[str, ...]:
    """Return the workload_ids of a workload's probe and of its parts; kept, since many rows share a workload."""
    if (workload_id, kind) not in _probe_ids:
        probe = probe_workload(workload, kind)
        _probe_ids[workload_id, kind] = tuple(one.workload_id for one in (probe, *probe.parts))
    return _probe_ids[workload_id, kind]


def probe_result(probes: Sequence[Row]) -> ProbeResult:
    """Return what the probes of one method say: one that is wrong counts before others, then one that passed."""
    if not probes:
        return ProbeResult(status=None, passed=False, reason="no probe was run")
    shown = max(probes, key=lambda probe: (probe.status == "incorrect", _passed(probe), probe.cell_id))
    passed = _passed(shown)
    reason = shown.reason
    if not passed and reason is None:
        reason = shown.evidence.checks.why if shown.evidence.checks else "its output was not checked"
    return ProbeResult(
        status=shown.status, passed=passed, checks=shown.evidence.checks, reason=None if passed else reason
    )


def with_flag(flags: Sequence[Flag], flag: Flag) -> tuple[Flag, ...]:
    """Return `flags` with one more, in the order of the closed list."""
    return tuple(one for one in get_args(Flag) if one in flags or one == flag)


def _ground(row: Row) -> tuple[str | None, ...]:
    return (row.workload_id, row.stack, row.hardware.device, row.hardware.name)


def _worth(row: Row) -> tuple[bool, str]:
    return (row.status == "ok", row.cell_id)


def _of_older_run(probe: Row) -> bool:
    """Whether it is from before probes had the traits of the row's model: all had one model, of four key heads."""
    return probe.workload.model is not None and probe.workload.model.kv_heads > MOST_KEY_HEADS


def _passed(probe: Row) -> bool:
    return probe.status == "ok" and "unchecked" not in probe.flags


def _per_piece(row: Row) -> float | None:
    return row.figure.seconds / row.units if row.figure.seconds is not None and row.units else None


def beside_one_device(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, those of several devices with their efficiency where the same is there on one.

    By the same method on the same stack and model of device.
    """
    ways = on_one_device(row.workload for row in rows)
    if not ways:
        return list(rows)
    alone = {_alone_ground(row, row.workload_id): row for row in sorted(rows, key=_worth) if row.workload.devices == 1}
    return [_beside(row, alone, *ways[row.workload_id]) if row.workload_id in ways else row for row in rows]


def _beside(row: Row, alone: dict[tuple[str | None, ...], Row], way: Scaled, workload_id: str) -> Row:
    one, devices = alone.get(_alone_ground(row, workload_id)), row.workload.devices
    if one is None or one.headline is None or row.headline is None:
        return row
    found = verdict(row.figure.round_seconds, one.figure.round_seconds)
    mine, theirs = (side.work.tokens if side.work else None for side in (row, one))
    if not mine or not theirs or found.speedup is None:
        return row
    share, interval = mine / theirs / devices, found.speedup_interval
    scaling = Scaling(
        against=one.cell_id,
        devices=devices,
        way=way,
        efficiency=found.speedup * share,
        interval=None if interval is None else (interval[0] * share, interval[1] * share),
    )
    return row.model_copy(update={"scaling": scaling})


def _alone_ground(row: Row, workload_id: str) -> tuple[str | None, ...]:
    return (workload_id, row.method, row.stack, row.hardware.device, row.hardware.name, row.fingerprint)
