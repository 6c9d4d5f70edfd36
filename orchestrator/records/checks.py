"""The list of checks that bench and the orchestrator share, and a record held to it.

`bench/proof/checks.json` says for each benchmark which checks there must be, whether a check's value must be at most
or at least its limit, and the laxest limit that may stand in a record. bench judged each check already; here its
arithmetic is done again, from the numbers in the record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from orchestrator.base.files import Frozen, read_json, validate
from orchestrator.base.paths import BENCH
from orchestrator.plan.workload import GENERATING, Benchmark, Dtype, Kind, Role, Workload
from orchestrator.records.record import COMPUTED, Check, Flag, Record

LIST = BENCH / "proof" / "checks.json"
CLOCKS, REPORTED = OWN = "clocks", "as reported"
"""Checks that only the orchestrator makes."""


class Listed(Frozen):
    """One check. `since`: the version of the list in which it came, or in which its limit last changed."""

    since: int
    at: Literal["most", "least"] | None = None
    """Null: nothing is compared with a limit."""
    limit: float | None = None
    """The laxest that may stand in a record; null where what eager shows sets it."""
    sharp: float | None = None
    """The laxest on a probe's sharp weights, where it is another."""
    few: float | None = None
    """Over n places `limit` is granted 1 + few / sqrt(n) times: few of them scatter."""
    among: int | None = None
    """So many places are judged, or all that there are where they are fewer; null: all."""
    pool: int | None = None
    pooled: float | None = None
    """The limit over so many places and more, in the place of `limit`."""
    roles: tuple[Role, ...] = ("row", "probe")
    batch: int = 1
    """The smallest for which it must be."""
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32", "float64")
    """Where it must be: elsewhere it may be missing."""

    def laxest(self, workload: Workload) -> float | None:
        """Return the laxest limit on this workload."""
        limit, weights = self.limit, workload.weights
        if self.sharp is not None and weights and weights.source == "probe":
            limit = self.sharp
        if limit is None or self.few is None:
            return limit
        length = workload.new_tokens if workload.benchmark in GENERATING else workload.sequence
        places = (workload.batch or 1) * (length or 1)
        if self.pooled is not None and places >= (self.pool or 0):
            limit = self.pooled
        return limit * (1 + self.few / math.sqrt(min(places, self.among or places)))

    def refuses(self, check: Check, workload: Workload) -> str | None:
        """Return why the numbers of a check that passed do not let it pass, if they do not."""
        if self.at is None:
            return None
        sign = 1 if self.at == "most" else -1
        value, limit, laxest = check.value, check.limit, self.laxest(workload)
        if limit is not None and laxest is not None and sign * limit > sign * laxest + 1e-9 * abs(laxest):
            return f"its limit is {limit:.6g}, and {laxest:.6g} is the laxest that the list of checks allows"
        if value is not None and limit is not None and sign * value > sign * limit:
            return f"it passed with {value:.6g}, and must be at {self.at} {limit:.6g}"
        return None


class CheckList(Frozen):
    """The file."""

    version: int
    families: dict[str, tuple[Benchmark, ...]]
    kinds: dict[Kind, dict[str, tuple[Benchmark, ...]]]
    """The same for kinds of methods whose checks are others than those of bench's own model."""
    checks: dict[str, dict[str, Listed]]

    def of(self, benchmark: Benchmark, kind: Kind = "model") -> dict[str, Listed]:
        """Return the checks of a benchmark by a kind of methods, by name; none where it has no proof."""
        families = self.kinds.get(kind, self.families)
        return next((self.checks[family] for family, those in families.items() if benchmark in those), {})


@cache
def check_list(path: Path = LIST) -> CheckList:
    """Return the list; a bad file is a UsageError."""
    return validate(CheckList, read_json(path), path)


def held_to_list(record: Record, own: Iterable[Check] | None = None) -> Record:
    """Return the record with the checks that the list refuses failed, and those that it lacks unchecked.

    Status, reason and flags follow. `own`: what the orchestrator checked of a record that has just been written;
    checks that bench gave the same names are dropped.

    A record is held to the list that its bench had: what came later, or changed later, is not asked of it. The records
    from before there was a list are held to their own limits alone.
    """
    if record.proof is None or record.status not in COMPUTED:
        return record
    there = record.proof.checks
    if own is not None:
        there = (*(check for check in there if check.name not in OWN), *own)
    if not there:
        return record
    listed, version = check_list().of(record.workload.benchmark, record.kind), record.proof.checks_version
    checks = tuple(_judged(record, listed, check, version or 0) for check in there)
    if version is not None:
        checks += tuple(_missing(record, listed, version))
    flags = _flags(record, checks)
    if checks == record.proof.checks and flags == record.flags:
        return record
    changes: dict[str, object] = {"proof": record.proof.model_copy(update={"checks": checks}), "flags": flags}
    failed = next((check for check in checks if check.status == "failed"), None)
    if failed is not None and record.status == "ok":
        reason = f"{record.workload.benchmark}: {failed.name}: {failed.what}"
        changes |= {"status": "incorrect", "reason": reason}
    return record.model_copy(update=changes)


def _flags(record: Record, checks: tuple[Check, ...]) -> tuple[Flag, ...]:
    """Return the record's flags by these checks: logits that failed are not `coarser` too, as older records say."""
    flags = record.flags
    if any(check.name == "logits" and check.status == "failed" for check in checks):
        flags = tuple(flag for flag in flags if flag != "coarser")
    changed = record.proof is not None and checks != record.proof.checks
    if changed and any(check.status == "unchecked" for check in checks):
        flags = tuple(dict.fromkeys(("unchecked", *flags)))
    return flags


def _judged(record: Record, listed: dict[str, Listed], check: Check, version: int) -> Check:
    part, name = next(
        ((part, check.name.removeprefix(start)) for part, start in _parts(record) if check.name.startswith(start)),
        (record.workload, check.name),
    )
    one = listed.get(name)
    if one is None or check.status != "passed":
        return check
    own = one if one.since <= version else one.model_copy(update={"limit": None, "sharp": None})
    why = own.refuses(check, part)
    return check if why is None else check.model_copy(update={"status": "failed", "what": f"{why}; {check.what}"})


def _missing(record: Record, listed: dict[str, Listed], version: int) -> Iterator[Check]:
    there = {check.name for check in record.proof.checks} if record.proof else set()
    for part, start in ((record.workload, ""), *_parts(record)):
        for name, one in listed.items():
            wanted = one.since <= version and record.role in one.roles and part.dtype in one.dtypes
            if wanted and (part.batch or 1) >= one.batch and start + name not in there:
                yield Check(name=start + name, status="unchecked", what="the record has no such check")


def _parts(record: Record) -> Iterator[tuple[Workload, str]]:
    """Yield each workload that was run beside the record's, and how the names of its checks start."""
    for part in record.workload.beside or ():
        yield part, f"{part.dtype}: "
