"""Reading, reducing and tabulating 1,000, 10,000 and 100,000 records: at most 5 s for 10,000, and growing linearly.

    python tests/benchmarks/scaling.py [COUNT ...]

Records are as large as the note's own (50 or 10 samples, 80 packages, about 9 KB), four rounds to a cell. They are
made in a temporary folder (1 GB at 100,000), which is removed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

import record_samples  # noqa: E402 - found by the line above

from orchestrator.plan.cell import Plan  # noqa: E402
from orchestrator.records.store import Run, record_files, stem_of  # noqa: E402
from orchestrator.report.tables import write_tables  # noqa: E402

COUNTS = (1_000, 10_000, 100_000)
ROUNDS = 4
PACKAGES = 80
MIDDLE, LIMIT_S = 10_000, 5.0
LINEAR_WITHIN = 1.3
"""CPU time for each record may grow by this factor from the middle to the largest count."""


def main(counts: list[int]) -> int:
    """Print a line for each count; return 1 where a bar is missed."""
    wall: dict[int, float] = {}
    cpu: dict[int, float] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="stackbench-scaling-") as folder:
            run = make_run(Path(folder), count)
            size = sum(path.stat().st_size for path in record_files(run))
            begin, begin_cpu = time.perf_counter(), time.process_time()
            report = write_tables(run)
            wall[count], cpu[count] = time.perf_counter() - begin, time.process_time() - begin_cpu
            assert report.recorded == count, "a record was not read"
        what = f"{count:>7,} records ({size / 1e6:,.0f} MB, {len(report.pairs):,} rows)"
        print(
            f"{what}: {wall[count]:.2f} s, CPU {cpu[count]:.2f} s, {cpu[count] / count * 1e6:.0f} us each", flush=True
        )
    return judge(wall, cpu)


def judge(wall: dict[int, float], cpu: dict[int, float]) -> int:
    """Return 0 where 10,000 records are fast enough and each of the largest count costs as much as one of them.

    Growth is judged by CPU time, so that what else the host does has no part in it.
    """
    bad = 0
    if wall.get(MIDDLE, 0.0) > LIMIT_S:
        print(f"too slow: {MIDDLE:,} records took more than {LIMIT_S} s")
        bad = 1
    largest = max(cpu)
    if MIDDLE in cpu and cpu[largest] / largest > LINEAR_WITHIN * cpu[MIDDLE] / MIDDLE:
        print(f"not linear: a record costs over {LINEAR_WITHIN} times as much among {largest:,} as among {MIDDLE:,}")
        bad = 1
    return bad


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
    sys.exit(main([int(argument) for argument in sys.argv[1:]] or list(COUNTS)))
