"""What the harness costs the method: a row beside a short script of the same packages, in the same minute.

    python tests/benchmarks/peers.py --stack tinyllama --method tinyllama [--suite note] [--sustained 20]

For each row: its method's script of peers/methods/, the row's cell as `run-all` runs it, and the script again, each in
a process of its own by the same launcher: the same image, rights, limits and GPU. The script takes the place of bench
in the cell's folders and has nothing of it. Bar: the row's figure is at most 2 % above the mean of the two scripts' by
the same statistic: the median of seven calls, or the mean over a time of calls back to back where the row's is one.
Exit code 1 where it is missed, or the row is not `ok`.

Rows of forward have such a script. Those of `batched_generation` by an engine stand beside that engine's own tool, with
3 % for a bar, where it can do what the row does: vLLM's `bench latency`; SGLang's `bench_one_batch`, which goes round
its scheduler and so is a floor; LitGPT's `LLM.benchmark`, for one prompt. With --rounds the mean of the rounds' ratios
is what the bar is for.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from bench.engine import MEMORY_FRACTION  # noqa: E402 - found by the line above
from orchestrator.analysis.protocol import steady  # noqa: E402
from orchestrator.base.errors import StackbenchError  # noqa: E402
from orchestrator.base.files import write_text  # noqa: E402
from orchestrator.base.paths import RESULTS  # noqa: E402
from orchestrator.base.text import counted  # noqa: E402
from orchestrator.build.ready import choose_place, reach_engine  # noqa: E402
from orchestrator.host.devices import look  # noqa: E402
from orchestrator.launchers.work_area import copy_bench  # noqa: E402
from orchestrator.measure.cell_spec import SPEC_FILE  # noqa: E402
from orchestrator.plan.choice import RunOptions  # noqa: E402
from orchestrator.runner.one_round import Session, make_job, run_round  # noqa: E402
from orchestrator.runner.order import Turn  # noqa: E402
from orchestrator.runner.progress import make_progress  # noqa: E402
from orchestrator.runner.run_all import made_ready  # noqa: E402

PEERS = Path(__file__).with_suffix("")
SIZES = ("layers", "width", "heads", "mlp_width", "vocabulary", "norm_eps")
LIMITS = {"forward": 1.02, "batched_generation": 1.03}
ENGINES = ("litgpt", "sglang", "vllm")


def main() -> int:
    """Run the rows with their peers, and print a line for each; return 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suite", default="note")
    parser.add_argument("--stack", required=True)
    parser.add_argument(
        "--method", required=True, choices=sorted(path.stem for path in (PEERS / "methods").glob("*.py"))
    )
    parser.add_argument("--launcher", choices=("auto", "docker", "local"), default="auto")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--gpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sustained", type=float, default=20.0, help="seconds of calls back to back, after 10 of soak")
    given = parser.parse_args()
    options = RunOptions(
        suite=given.suite,
        stacks=(given.stack,),
        methods=(given.method,),
        benchmarks=("batched_generation" if given.method in ENGINES else "forward",),
        launcher=given.launcher,
        rounds=given.rounds,
        gpu=given.gpu,
        results=given.results,
        fresh=True,
    )
    host = look(options)
    choice = choose_place(options, host)
    with make_progress() as progress, made_ready(options, host, choice, reach_engine(choice), progress) as one:
        found = [(turn, *one_turn) for turn in one.todo if (one_turn := in_turn(one, turn, given.sustained))]
    rows: dict[str, tuple[Turn, list[float]]] = {}
    for turn, line, ratio in found:
        print(line, "(bar missed)" * (ratio > LIMITS[turn.cell.benchmark]))
        rows.setdefault(turn.cell_id, (turn, []))[1].append(ratio)
    missed = False
    for turn, ratios in rows.values():
        mean, limit = statistics.mean(ratios), LIMITS[turn.cell.benchmark]
        missed |= mean > limit
        if len(ratios) > 1:
            line = f"{turn.title}: ratio {mean:.4f} over {counted(len(ratios), 'round')}"
            print(line, "(bar missed)" * (mean > limit))
    return int(missed or not any(turn.cell.role == "row" for turn in one.todo))


def in_turn(one: Session, turn: Turn, sustained_s: float) -> tuple[str, float] | None:
    """Run a turn, a row between two runs of its peer; return what to say of a row, and its ratio to the peer's."""
    one.progress.begin(turn.title, one.todo.index(turn) + 1, len(one.todo), turn.cell.timeout_s)
    if turn.cell.role != "row":
        run_round(one, turn)
        return None
    before = peer(one, turn, sustained_s)
    if "refused" in before:
        print(f"{turn.title}: has no peer: {before['refused']}")
        return None
    record = run_round(one, turn)
    after = peer(one, turn, sustained_s)
    one.outcomes.write_tables(now=True)
    rows = json.loads((one.run.folder / "tables.json").read_text(encoding="utf-8"))["rows"]
    (row,) = (row for row in rows if row["protocol"] == "steady" and row["cell_id"] == turn.cell_id)
    if row["headline"] is None:
        return f"{turn.title}: {row['status']}: {row['reason']}", math.inf
    lasting = any(sample.phase == "sustained" for sample in record.samples)
    name = "mean_s" if lasting else "median_s"
    # Of this round alone, as its peers are; the row's figure is that of all rounds so far.
    peers, reduced = (before[name], after[name]), steady(record)
    assert reduced.seconds is not None
    figure = reduced.seconds
    ratio = figure / statistics.mean(peers)
    shown = " and ".join(f"{1e3 * seconds:.2f} ms" for seconds in peers)
    line = f"{turn.title}, round {turn.round}: {1e3 * figure:.2f} ms ({reduced.basis}); peer before and after "
    return f"{line}{shown} ({name}); ratio {ratio:.4f}", ratio


def peer(one: Session, turn: Turn, sustained_s: float) -> dict[str, Any]:
    """Return what the peer of a row says of its times, in seconds; StackbenchError where it fails."""
    workload = turn.cell.workload
    assert workload.model is not None
    spec = {
        **{name: getattr(turn.cell, name) for name in ("method", "device")},
        **{name: getattr(workload, name) for name in ("dtype", "batch", "sequence", "prompt_length", "new_tokens")},
        "model": {name: getattr(workload.model, name) for name in SIZES},
        **{name: getattr(workload.model, name) for name in ("kv_heads", "head_size")},
        "sustained_s": sustained_s,
        "memory_fraction": MEMORY_FRACTION,
    }
    with one.area.cell("peer") as folder:
        job = make_job(one, turn, folder)
        spec["folder"] = one.launcher.places(job).checkpoint
        write_text(job.work / SPEC_FILE, json.dumps(spec))
        launcher: Any = replace(one.launcher, bench=copy_bench(PEERS, folder / "peer" / "bench"))  # type: ignore[type-var]
        with launcher.start(one.ready.prepared[turn.cell.stack], job) as handle:
            ended = handle.wait(turn.cell.timeout_s)
            handle.collect()
        log = job.log.read_text(errors="replace").strip()
    if ended is None or ended.code != 0:
        raise StackbenchError(f"the peer ended as {ended}: {log[-2000:]}", where=turn.title)
    # The last of its lines, but for what others in its processes have to say at their end.
    found: dict[str, Any] = json.loads([line for line in log.splitlines() if line.startswith("{")][-1])
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StackbenchError as error:
        print(f"peers: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
