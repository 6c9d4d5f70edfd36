"""The suite `scaling` on this host's own Python, in plain processes: how cells of several GPUs scale here.

    python tests/benchmarks/several.py --devices 1 2 --results FOLDER [--quick] [options of run-all ...]

Needs what the orchestrator needs and a torch with CUDA in this Python; no engine and no network. `--quick` leaves out
probes and what the ceilings sustain: a first look. What is left of the options goes to `run-all`, as `--benchmark
train_static --method eager --max-minutes 9`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "orchestrator" / "plan" / "suites" / "scaling.toml"
AXIS = "devices = [1, 2, 4, 8]"
STACK = """schema_version = 1
name = "host"
description = "This machine's own Python"
methods = ["eager", "inductor"]

[ready]
name = "none"
python = "python3"

[gpu]
required = true
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="how many GPUs a cell has, each in turn")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options, others = parser.parse_known_args()
    place = options.results.absolute() / "asked"
    (place / "stacks" / "host").mkdir(parents=True, exist_ok=True)
    (place / "stacks" / "host" / "stack.toml").write_text(STACK, encoding="utf-8")
    suite = SUITE.read_text(encoding="utf-8")
    assert AXIS in suite
    suite = suite.replace(AXIS, f"devices = {options.devices}")
    if options.quick:
        suite = suite.replace("warm = false", "warm = false\nprobes = false").replace(
            "[ceilings]", "[ceilings]\nsustained_s = 0"
        )
    (place / "scaling.toml").write_text(suite, encoding="utf-8")
    command = [sys.executable, "-m", "orchestrator", "run-all", "--suite", str(place / "scaling.toml")]
    command += ["--stacks", str(place / "stacks"), "--stack", "host", "--launcher", "local"]
    command += ["--results", str(options.results), *others]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    environment.setdefault("STACKBENCH_PYTHON", sys.executable)
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
