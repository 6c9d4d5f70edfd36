"""Times one call: wall time on CLOCK_MONOTONIC around a synchronised call, and device time by CUDA events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from time import monotonic_ns  # by name: what a package puts in its place in `time` later is not asked
from typing import Any

import torch

from bench.parallel import ALONE, Team


@dataclass
class Timing:
    """Nanoseconds. `begin_ns` and `end_ns` are the host's monotonic clock, the others are durations."""

    begin_ns: int
    end_ns: int
    device_ns: int | None
    first_token_ns: int | None


class Clock:
    """Times calls on one device, or on all of a team's. A call may `mark` the moment when its first token exists.

    The ranks' processes share the monotonic clock: what they do together lasts from the first begin to the last end.
    """

    def __init__(self, device: str, team: Team = ALONE) -> None:
        self.cuda, self.team = device == "cuda", team
        self._mark: Any = None

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self.cuda:
            torch.cuda.synchronize()

    def mark(self) -> None:
        """Note the first token without waiting for the device: an event on it, or the time on a CPU."""
        if self._mark is None:
            self._mark = self._event() if self.cuda else monotonic_ns()

    def time(self, call: Callable[[], Any], look: Callable[[Any], object] = lambda _: None) -> tuple[Any, Timing]:
        """Run `call` once between two synchronisations; return its result and its timing.

        `look` reads something of the result before the time is taken: what was put off until then is in it.
        """
        self._mark = None
        self.synchronize()
        self.team.barrier()
        begin = monotonic_ns()
        before = self._event()
        result = call()
        after = self._event()
        self.synchronize()
        look(result)
        end = monotonic_ns()
        if not self.cuda:
            return result, self._of_all(
                Timing(begin, end, None, self._mark - begin if self._mark is not None else None)
            )
        first = _between(before, self._mark) if self._mark is not None else None
        return result, self._of_all(Timing(begin, end, _between(before, after), first))

    def _of_all(self, mine: Timing) -> Timing:
        if self.team.size == 1:
            return mine
        begins, ends, *durations = zip(*self.team.all(astuple(mine)))  # noqa: B905  (Python 3.10's zip)
        device_ns, first = (max((one for one in of_all if one is not None), default=None) for of_all in durations)
        return Timing(min(begins), max(ends), device_ns, first)

    def _event(self) -> Any:
        if not self.cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(before: Any, after: Any) -> int:
    # elapsed_time is in milliseconds.
    return round(before.elapsed_time(after) * 1e6)
