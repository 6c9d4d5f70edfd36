"""`python -m bench SPEC` runs one cell; `--fingerprint` says what is installed, `--facts` also how torch was built."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import beside, caches, ranks
from bench.environment import facts, fingerprint
from bench.spec import read_spec


def main() -> int:
    """Exit 0 when a record was written, whatever its status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run one cell of a Stackbench plan.")
    parser.add_argument("spec", nargs="?", type=Path, help="the cell's spec.json; the record is written beside it")
    parser.add_argument("--fingerprint", action="store_true", help="print Python and packages as one JSON line")
    parser.add_argument("--rank", type=int, help="be this one of the processes of a cell of several devices")
    parser.add_argument("--facts", action="store_true", help="the same with torch's build; imports torch")
    options = parser.parse_args()
    if options.fingerprint or options.facts:
        print(json.dumps(fingerprint() if options.fingerprint else facts()))
        return 0
    if options.spec is None:
        parser.error("give the path of a spec.json, or --fingerprint or --facts")
    try:
        spec = read_spec(options.spec)
        alone = spec.workload.devices == 1
        if not alone and options.rank is not None:
            spec = ranks.of(spec, options.rank)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"bench: {options.spec}: no spec that can be read: {type(error).__name__} {error}", file=sys.stderr)
        return 4
    if not alone and options.rank is None:
        record = ranks.run(spec)
    else:
        caches.use(spec)
        with beside.others(spec) as others:
            from bench.cell import run  # imports torch, which reads its cache folders' names then

            record = run(spec, others)
    print(f"{record['status']}: {record['reason'] or 'done'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
