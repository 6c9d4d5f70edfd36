"""Is a row faster on an input that it has just seen? What it then skips, no timed sample could skip.

Blocks of four calls: an input that is new, the same twice more, another new one. So whatever drifts evenly is the same
for both kinds. The shortest calls of either kind are compared, for other work can only make one longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from time import process_time_ns
from typing import Any, NamedTuple

from bench.benchmarks import Context

# A look: one block of a long call, and BLOCKS of a short one, or as many as last LEAST_NS.
LEAST_NS, LONG_NS, BLOCKS = 10_000_000, 1_000_000_000, 3
# Of calls that take longer, one pair is enough to see that there is nothing to look for.
PAIR_NS = 100_000_000
FASTER = 0.9
# So many looks must all find it faster. Whatever the noise, half of them find a right method slower; on two loaded CPUs
# one in eight found one faster by FASTER.
LOOKS = 12


class Block(NamedTuple):
    """Nanoseconds of calls on new inputs, and on one just seen."""

    new: tuple[int, int]
    seen: tuple[int, int]


def seen_again(context: Context, task: Any) -> float | None:
    """The time on an input just seen over that on a new one; None of a training step, whose weights have changed.

    It is the largest of all looks, and below FASTER only where each of them was.
    """
    if not task.inference:
        return None
    fresh = count(context.workload.iterations + 1, 2)  # the proof has used one more than was timed
    number = next(fresh)
    new = brief(context, task, number)
    if new >= PAIR_NS and (found := brief(context, task, number) / new) >= FASTER:
        return found
    found = 0.0
    for _ in range(LOOKS):
        found = max(found, ratio(look(context, task, fresh)))
        if found >= FASTER:
            break
    return found


def look(context: Context, task: Any, fresh: Iterator[int]) -> list[Block]:
    """Make blocks until they say enough; `fresh` are numbers of inputs that, with the one after each, are new."""
    blocks: list[Block] = []
    spent = 0
    while spent < LEAST_NS or (spent < LONG_NS and len(blocks) < BLOCKS):
        blocks.append(block(context, task, next(fresh)))
        spent += sum(blocks[-1].new + blocks[-1].seen)
    return blocks


def ratio(blocks: Sequence[Block]) -> float:
    """The shortest call on an input just seen over the shortest on a new one."""
    return min(min(one.seen) for one in blocks) / min(min(one.new) for one in blocks)


def block(context: Context, task: Any, fresh: int) -> Block:
    """Call on the inputs of number `fresh` three times, and on the next once."""
    first, *seen, last = (brief(context, task, number) for number in (fresh, fresh, fresh, fresh + 1))
    return Block((first, last), (seen[0], seen[1]))


def brief(context: Context, task: Any, number: int) -> int:
    """What a sample takes, or the part of it that is profiled: device time on a GPU, else this process's CPU time.

    Others' work makes wall times longer at random.
    """
    inputs = task.inputs(number)  # made for each call, so that the same ran before all of them
    before = process_time_ns()
    timing = context.clock.time(lambda: task.brief(inputs))[1]
    spent: int = context.team.same(timing.device_ns or max(1, process_time_ns() - before))
    return spent
