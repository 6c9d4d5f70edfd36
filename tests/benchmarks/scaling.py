"""Reading, reducing and tabulating 1,000, 10,000 and 100,000 records: how long, in which part, and how much memory.

    python tests/benchmarks/scaling.py [COUNT ...]

Bars: 10,000 records in 2.5 s, 100,000 in 25 s and below 2 GB, growing linearly. Records are as large as the note's own
(50 or 10 samples, 80 packages, about 9 KB), four rounds to a cell. They are made in a temporary folder (1 GB at
100,000), which is removed. Each count is measured in a process of its own, after imports, with the files in the page
cache: the best of three times, of 100,000 the only one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

import record_samples  # noqa: E402 - found by the line above
from arguments import positive  # noqa: E402

from orchestrator.analysis.published import read_published  # noqa: E402
from orchestrator.analysis.reduce import Reduction  # noqa: E402
from orchestrator.analysis.reduced_run import reduce_run, report_of  # noqa: E402
from orchestrator.analysis.statistics import student_t  # noqa: E402
from orchestrator.plan.cell import Plan  # noqa: E402
from orchestrator.records.store import Run, read_record, record_files, stem_of  # noqa: E402
from orchestrator.report.tables import FILES, write_tables  # noqa: E402

COUNTS = (1_000, 10_000, 100_000)
ROUNDS = 4
PACKAGES = 80
TIMES = 3
LIMITS_S = {10_000: 2.5, 100_000: 25.0}
LIMIT_BYTES = 2_000_000_000
LINEAR_WITHIN = 1.3
"""CPU time for each record may grow by this factor from 10,000 to the largest count."""


def main() -> int:
    """Print a line for each count, then where the time went; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("counts", metavar="COUNT", type=positive, nargs="*", default=COUNTS, help="records %(default)s")
    counts = parser.parse_args().counts
    found: dict[int, dict[str, float]] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="stackbench-scaling-") as folder:
            run = make_run(Path(folder), count)
            size = sum(path.stat().st_size for path in record_files(run))
            times = 1 if count > max(LIMITS_S) / 2 else TIMES
            taken = [json.loads(_in_a_process("--whole", run)) for _ in range(times)]
            best = found[count] = min(taken, key=lambda one: one["wall"])
            assert best["recorded"] == count, "a record was not read"
            print(
                f"{count:>7,} records ({size / 1e6:,.0f} MB, {best['rows']:,.0f} rows): {best['wall']:.2f} s, "
                f"CPU {best['cpu']:.2f} s, {best['cpu'] / count * 1e6:.0f} us each, {best['bytes'] / 1e6:,.0f} MB"
            )
            print(f"        of it {_in_a_process('--parts', run)}", flush=True)
    return judge(found)


def _in_a_process(what: str, run: Path) -> str:
    command = [sys.executable, __file__, what, str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def whole(run: Path) -> None:
    """Print, as JSON, what it takes to read, reduce and tabulate the run."""
    for path in record_files(run):
        path.read_bytes()
    student_t(3)  # which imports scipy
    begin, begin_cpu = time.perf_counter(), cpu_seconds()
    report = write_tables(run)
    wall, cpu = time.perf_counter() - begin, cpu_seconds() - begin_cpu
    # Of the processes that read side by side the system tells the largest alone: each is taken to be as large.
    most = 1024 * sum(
        resource.getrusage(who).ru_maxrss * count
        for who, count in ((resource.RUSAGE_SELF, 1), (resource.RUSAGE_CHILDREN, len(os.sched_getaffinity(0))))
    )
    print(json.dumps({"wall": wall, "cpu": cpu, "bytes": most, "recorded": report.recorded, "rows": len(report.pairs)}))


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def parts(run: Path) -> None:
    """Print how the CPU time divides among reading, reducing to rounds, making rows and writing each table."""
    student_t(3)
    marks = [("", cpu_seconds())]
    for path in record_files(run):
        read_record(path)
    marks.append(("reading", cpu_seconds()))
    reduction: Reduction = reduce_run(run, [])
    marks.append(("reading again and reducing", cpu_seconds()))
    report = report_of(Run.open(run).header, reduction, read_published())
    marks.append(("rows", cpu_seconds()))
    for name, content in FILES.items():
        content(report)
        marks.append((name, cpu_seconds()))
    print(", ".join(f"{name} {late - early:.2f} s" for (_, early), (name, late) in pairwise(marks)))


def judge(found: dict[int, dict[str, float]]) -> int:
    """Return 0 where every bar is kept. Growth is judged by CPU time, so that what else the host does has no part."""
    missed = [
        f"too slow: {count:,} records took more than {limit} s"
        for count, limit in LIMITS_S.items()
        if count in found and found[count]["wall"] > limit
    ]
    largest, middle = max(found), min(LIMITS_S)
    if found[largest]["bytes"] > LIMIT_BYTES:
        missed.append(f"too large: {largest:,} records took more than {LIMIT_BYTES / 1e9:.0f} GB")
    if middle in found and found[largest]["cpu"] / largest > LINEAR_WITHIN * found[middle]["cpu"] / middle:
        missed.append(
            f"not linear: a record costs over {LINEAR_WITHIN} times as much among {largest:,} as among {middle:,}"
        )
    print(*missed, sep="\n" if missed else "", end="\n" if missed else "")
    return 1 if missed else 0


def make_run(folder: Path, count: int) -> Path:
    """Write a run of `count` records; each file has its own identity, the rest comes from a few templates."""
    run = Run.create(folder, Plan(suite="scaling", cells=()), "b" * 16)
    ceilings = record_samples.ceilings()
    (run.folder / "records" / f"{stem_of(ceilings)}.json").write_text(ceilings.model_dump_json())
    templates = cycle(
        [_template(benchmark) for benchmark in ("forward", "generation", "train_static", "train_dynamic")]
    )
    number = 1
    while number < count:
        cell_id = f"{number:016x}"
        benchmark, text = next(templates)
        for place in range(min(ROUNDS, count - number)):
            content = text.replace("CELLCELLCELLCELL", cell_id).replace('"round":0', f'"round":{place}')
            path = run.folder / "records" / f"{benchmark}-inductor@cuda-{cell_id}-r{place}.json"
            path.write_text(content, encoding="utf-8")
            number += 1
    return run.folder


def _template(benchmark: str) -> tuple[str, str]:
    packages = {f"package-{number}": f"1.{number}.0" for number in range(PACKAGES)}
    environment: dict[str, Any] = {**record_samples.ENVIRONMENT, "packages": packages}
    count = 50 if benchmark.startswith("train") else 10
    more: dict[str, Any] = {"first_token_ns": 20_000_000} if benchmark == "generation" else {"loss": 9.876543}
    taken = [record_samples.sample(i, 400.0 + i % 7, "timed" if i else "first", **more) for i in range(count)]
    record = record_samples.record(
        benchmark,
        environment=environment,
        samples=taken,
        phases=[{"name": f"phase {i}", "begin_ns": i * 10**9, "end_ns": (i + 1) * 10**9} for i in range(9)],
        memory={"process_bytes": 15 * 10**9, "steady_bytes": 14 * 10**9, "host_bytes": 10**9},
        work={"flops": 281 * 10**12, "bytes": 13 * 10**9, "tokens": 4096},
        proof={"weights_checksum": "9" * 16, "finite": True, "generated": list(range(200))},
        detail={"graphs": [1] * count},
    )
    return benchmark, json.dumps(
        {**record.model_dump(mode="json"), "cell_id": "CELLCELLCELLCELL"}, separators=(",", ":")
    )


if __name__ == "__main__":
    match sys.argv[1:]:  # the first two are how it calls itself
        case ["--whole", folder]:
            whole(Path(folder))
        case ["--parts", folder]:
            parts(Path(folder))
        case _:
            sys.exit(main())
