"""Collects what the checks of one cell found. All of them run, also when an earlier one failed."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.spec import Spec
from bench.status import Incorrect

LONGEST = 300
LIST = Path(__file__).with_name("checks.json")
"""Which checks each benchmark has, and the laxest limit of each: read by the orchestrator too."""


class Checks:
    """`items` are the record's checks, ready for JSON, in the order in which they were judged."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []

    def judge(
        self,
        name: str,
        passed: bool | None,
        *,
        value: float | None = None,
        limit: float | None = None,
        what: str | None = None,
    ) -> None:
        """Record a verdict, None where nothing can be said.

        A name that was judged before keeps its first failure, else its last verdict.
        """
        status = "unchecked" if passed is None else "passed" if passed else "failed"
        item = {"name": name, "status": status, "value": finite(value), "limit": finite(limit), "what": what}
        if what is not None and len(what) > LONGEST:
            item["what"] = what[:LONGEST] + " …"
        for place, before in enumerate(self.items):
            if before["name"] == name:
                if before["status"] != "failed":
                    self.items[place] = item
                return
        self.items.append(item)

    def at_most(self, name: str, value: float, limit: float, what: str) -> None:
        """Judge `value` by `limit`; a value that is not a number fails."""
        self.judge(name, value <= limit, value=value, limit=limit, what=what)

    def complete(self, spec: Spec) -> int:
        """Make unchecked what the list has and nobody judged; return the list's version."""
        listed, workload = json.loads(LIST.read_text(encoding="utf-8")), spec.workload
        families = listed["families"] if spec.kind == "model" else listed["kinds"][spec.kind]
        family = next(name for name, those in families.items() if workload.benchmark in those)
        for name in self._left(tuple(listed["checks"][family])):
            one = listed["checks"][family][name]
            wanted = spec.role in one.get("roles", [spec.role]) and workload.dtype in one.get(
                "dtypes", [workload.dtype]
            )
            if wanted and (workload.batch or 1) >= one.get("batch", 1):
                self.unchecked(name, "it was not judged")
        version: int = listed["version"]
        return version

    def unchecked(self, name: str, why: str) -> None:
        """Record that nothing can be said, and why."""
        self.judge(name, None, what=why)

    @contextmanager
    def guard(self, *names: str) -> Iterator[None]:
        """What is raised inside leaves those of `names` that were not judged yet `unchecked`, with its first line.

        Incorrect makes the first of them `failed` instead.
        """
        try:
            yield
        except Incorrect as error:
            left = self._left(names)
            self.judge(left[0] if left else names[0], passed=False, what=str(error))
        except Exception as error:  # noqa: BLE001  (a check that breaks is recorded as such; the others still run)
            traceback.print_exc()
            for name in self._left(names):
                self.unchecked(name, f"{type(error).__name__}: {error}".strip().splitlines()[0])

    def _left(self, names: tuple[str, ...]) -> list[str]:
        judged = {item["name"] for item in self.items}
        return [name for name in names if name not in judged]


def first_failed(items: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of a record's checks that failed, or None."""
    return next((item for item in items if item["status"] == "failed"), None)


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: they become None."""
    return None if value is None or not math.isfinite(value) else float(value)
