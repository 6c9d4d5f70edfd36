"""What the gate costs a row: checks and evidence of dispatch, as a share of the wall time of its cell.

    python tests/benchmarks/gate.py RUN [RESULTS]

Reads a run and runs nothing; references are cells of their own. Bar: under 25 % of each row. Exit code 1 where
it is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from orchestrator.base.errors import StackbenchError  # noqa: E402 - found by the line above
from orchestrator.records.runs import find_run  # noqa: E402

LIMIT = 0.25
PHASES = ("proof", "dispatch")


def main() -> int:
    """Print each row's share, the largest first; return 1 where one is over the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("results", metavar="RESULTS", type=Path, nargs="?", default="results", help="(%(default)s)")
    given = parser.parse_args()
    try:
        run = find_run(given.results, given.run)
    except StackbenchError as error:
        parser.error(str(error))
    shares = []
    for record in run.records([]):
        if record.role != "row" or record.status != "ok" or not (record.provenance and record.provenance.wall_ns):
            continue
        spent = {phase.name: (phase.end_ns - phase.begin_ns) / 1e9 for phase in record.phases if phase.name in PHASES}
        wall = record.provenance.wall_ns / 1e9
        shares.append((sum(spent.values()) / wall, record, spent, wall))
    for share, record, spent, wall in sorted(shares, key=lambda item: -item[0]):
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items())
        print(f"{share:6.1%}  {record.workload.benchmark} {record.method}@{record.stack}: {parts} of {wall:.1f} s")
    return int(any(share >= LIMIT for share, *_ in shares))


if __name__ == "__main__":
    sys.exit(main())
