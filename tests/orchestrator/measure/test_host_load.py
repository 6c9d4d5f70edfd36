"""Who used the host's CPUs: the reckoning, a thread over files like the kernel's, real processes, and what rows say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_rounds import run, with_seed
from record_samples import ceilings, record, samples, save_run, workload

from orchestrator.analysis.ceilings import ceiling
from orchestrator.analysis.reduce import rows
from orchestrator.measure.host_load import CpuTimes, LoadSampler, load_between, quotas
from orchestrator.records.record import HostLoad
from orchestrator.report.explain import explain
from orchestrator.report.rounds import telemetry
from orchestrator.report.tables import render_tables
from orchestrator.report.words import disturbed, warnings

TICKS = os.sysconf("SC_CLK_TCK")
SECOND = 1_000_000_000


def reading(at_s: float, busy_s: float, own_s: float | None, stolen_s: float = 0.0) -> CpuTimes:
    own = None if own_s is None else round(own_s * TICKS)
    return CpuTimes(round(at_s * SECOND), round(busy_s * TICKS), round(stolen_s * TICKS), own)


def between(readings: list[CpuTimes], begin_s: float, end_s: float, cpus: int = 4) -> HostLoad | None:
    return load_between(readings, cpus, (round(begin_s * SECOND), round(end_s * SECOND)))


def test_the_readings_that_enclose_the_window_count() -> None:
    # Before and after, others take all; within, the cell one CPU, others half a one, other machines a quarter.
    told = [reading(0, 0, 0), reading(1, 4, 0), reading(2, 5.5, 1, 0.25), reading(3, 7, 2, 0.5), reading(4, 11, 2, 0.5)]
    found = between(told, 1.2, 2.8)
    assert found is not None
    assert (found.cpus, found.seconds) == (4, 2.0)
    assert (found.own, found.others, found.stolen) == pytest.approx((1.0, 0.5, 0.25), abs=0.02)
    assert found.taken == pytest.approx(0.1875, abs=0.01)


def test_a_short_window_is_judged_by_what_is_around_it() -> None:
    told = [reading(n / 10, n / 5, n / 10) for n in range(20)]
    found = between(told, 1.01, 1.02)
    assert found is not None
    assert found.seconds >= 0.3
    assert (found.own, found.others) == pytest.approx((1.0, 1.0), abs=0.05)


def test_a_process_that_ended_right_after_its_last_sample() -> None:
    told = [reading(0, 0, 0), reading(1, 2, 1), reading(2, 4, 2), reading(3, 5, None)]
    found = between(told, 0.5, 2.5)
    assert found is not None
    assert (found.seconds, found.own, found.others) == pytest.approx((2.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "told",
    [
        [],
        [reading(2, 0, 0), reading(3, 1, 1)],
        [reading(0, 0, None), reading(3, 1, None)],
        [reading(0.9, 1, 1), reading(1.1, 1.2, 1.2)],
        [reading(0, 0, 1), reading(3, 1, 0)],
        [reading(0, 0, 0), reading(3, 0, 0)],
        [reading(0, 0, 0), reading(3, 99, 1)],
    ],
    ids=["none", "too late", "not the cell's", "too near", "a process gone", "no counters", "more than there are"],
)
def test_what_says_nothing(told: list[CpuTimes]) -> None:
    assert between(told, 1, 2) is None


def kernel(folder: Path) -> Callable[[float, float, float], None]:
    """Files like the kernel's for two CPUs; the cell is process 7. Returns what writes them: busy, stolen, own."""

    def write(busy_s: float, stolen_s: float, own_s: float) -> None:
        busy, stolen, own = (round(value * TICKS) for value in (busy_s, stolen_s, own_s))
        # To the side and then in place, as the kernel's files are never half there.
        for name, text in (
            ("stat", f"cpu  {busy} 0 0 500 9 0 0 {stolen} 0 0\ncpu0 1\ncpu1 1\nintr 1 2\n"),
            ("7/stat", f"7 (a ) name) R 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0 1 0 1 1 1\n"),
            ("7/cmdline", "/usr/bin/python3\0-m\0bench\0spec.json\0"),
        ):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / f"{name}.new").write_text(text)
            (folder / f"{name}.new").replace(folder / name)

    return write


def sampled(
    folder: Path, pids: Callable[[], frozenset[int] | None], write: Callable[[float, float, float], None]
) -> HostLoad | None:
    """What a sampler says of a second in which the cell used half of it, others 0.3 and other machines 0.1."""
    write(0, 0, 0)
    sampler = LoadSampler(pids, folder)
    sampler.start()
    time.sleep(0.5)
    begin = time.monotonic_ns()
    for tenth in range(1, 11):
        write(0.08 * tenth, 0.01 * tenth, 0.05 * tenth)
        time.sleep(0.1)
    end = time.monotonic_ns()
    time.sleep(0.5)  # so that a reading comes after the window, on a busy machine too
    sampler.stop()
    return sampler.load([(begin, (begin + end) // 2), ((begin + end) // 2, end)])


def test_the_thread_reads_the_kernels_files(tmp_path: Path) -> None:
    threads = threading.active_count()
    found = sampled(tmp_path, lambda: frozenset({7, 8}), kernel(tmp_path))
    assert threading.active_count() == threads
    assert found is not None
    assert found.cpus == 2
    assert found.own * found.seconds == pytest.approx(0.5, abs=0.06)
    assert found.others * found.seconds == pytest.approx(0.3, abs=0.06)
    assert found.stolen * found.seconds == pytest.approx(0.1, abs=0.03)


def test_what_a_later_process_did_before_it_was_known_is_not_put_on_that_moment(tmp_path: Path, monkeypatch) -> None:
    """A compile worker that has worked for a minute, and is seen while the samples run."""
    monkeypatch.setattr("orchestrator.measure.host_load.PIDS_EVERY_S", 0.3)
    write, seen = kernel(tmp_path), iter([frozenset({7})])
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "stat").write_text(f"9 (worker) S 7 1 1 0 -1 0 0 0 0 0 {60 * TICKS} 0 0 0 20\n")
    found = sampled(tmp_path, lambda: next(seen, frozenset({7, 9})), write)
    assert found is not None
    assert found.own * found.seconds == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("pids", [None, frozenset(), frozenset({8})], ids=["not told", "none", "another's"])
def test_processes_that_are_not_the_cells_are_believed_nothing(tmp_path: Path, pids: frozenset[int] | None) -> None:
    write = kernel(tmp_path)
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "cmdline").write_bytes(b"/usr/bin/python3\0-m\0http.server\0")
    (tmp_path / "8" / "stat").write_text("8 (x) R 1 1 1 0 -1 0 0 0 0 0 5 0 0 0 20\n")
    assert sampled(tmp_path, lambda: pids, write) is None


def test_without_counters_nothing_is_known(tmp_path: Path) -> None:
    sampler = LoadSampler(lambda: frozenset({7}), tmp_path)
    sampler.start()
    sampler.stop()
    assert sampler.load([(0, 1)]) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the counters are Linux'")
@pytest.mark.parametrize("what", ["stalls", "ceiling"])
def test_a_neighbour_of_a_real_process_is_seen(tmp_path: Path, what: str) -> None:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        found = run(tmp_path, what, change=lambda job: with_seed(job, 2)).host_load
    finally:
        neighbour.kill()
        neighbour.wait()
    assert found is not None
    assert found.cpus == os.cpu_count()
    assert found.others > 0.2
    assert found.own < found.others, "the cell sleeps most of the time"


def groups(folder: Path, path: str, lines: dict[str, str], **files: str) -> tuple[Path, Path]:
    """Files as the kernel's: what a process says of its control groups, and those in the mount."""
    proc = folder / "proc"
    (proc / "7").mkdir(parents=True)
    (proc / "7" / "cgroup").write_text("".join(f"{n}:{names}:{path}\n" for n, names in enumerate(lines.values())))
    for place, text in files.items():
        name = folder / "mount" / place.replace("__", "/").replace("_DOT_", ".")
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(text)
    return proc, folder / "mount"


QUOTAS = [
    ("/", {"a": ""}, {"cpu_DOT_max": "25000 100000\n"}, [0.25]),
    ("/d/c", {"a": ""}, {"d__c__cpu_DOT_max": "max 100000\n", "d__cpu_DOT_max": "150000 50000"}, [3]),
    ("/a", {"a": "", "b": "memory"}, {"unified__a__cpu_DOT_max": "50000 100000"}, [0.5]),
    (
        "/q", {"a": "memory", "b": "cpu"},
        {"cpu__q__cpu_DOT_cfs_quota_us": "25000", "cpu__q__cpu_DOT_cfs_period_us": "100000",
         "cpu__cpu_DOT_cfs_quota_us": "-1", "cpu__cpu_DOT_cfs_period_us": "100000"}, [0.25],
    ),
    # In a container: the path is the host's, and the mount begins with the container's own.
    (
        "/docker/abc", {"a": "cpu,cpuacct"},
        {"cpu,cpuacct__cpu_DOT_cfs_quota_us": "75000", "cpu,cpuacct__cpu_DOT_cfs_period_us": "50000"}, [1.5],
    ),
    ("/", {"a": ""}, {"cpu_DOT_max": "what is this"}, []),
    ("/", {"a": ""}, {"cpu_DOT_max": "1 0"}, []),
    ("/", {"a": ""}, {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("path", "lines", "files", "found"), QUOTAS)
def test_quotas_of_either_version_are_found(
    tmp_path: Path, path: str, lines: dict[str, str], files: dict[str, str], found: list[float]
) -> None:
    proc, mount = groups(tmp_path, path, lines, **files)
    assert sorted({quota.cpus for quota in quotas(7, proc, mount)}) == found


@pytest.fixture
def quota() -> Iterator[float]:
    """This thread, and what it starts, in a control group of a tenth of a CPU, less than a busy host leaves it."""
    group, home = Path(f"/sys/fs/cgroup/cpu/stackbench-test-{os.getpid()}"), Path("/sys/fs/cgroup/cpu/tasks")
    if os.getuid() != 0 or not home.exists():
        pytest.skip("makes a control group of version 1")
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("10000")
        (group / "tasks").write_text(str(threading.get_native_id()))
        yield 0.1
    finally:
        home.write_text(str(threading.get_native_id()))
        group.rmdir()


def test_a_quota_is_named_beside_each_sample_that_it_held_up(tmp_path: Path, quota: float) -> None:
    found = run(tmp_path, "spins")
    assert found.status == "ok"
    assert "tainted" in found.flags
    reasons = {sample.taint for sample in found.samples if sample.phase == "timed"}
    assert all(reason and reason.startswith("throttled by a CPU quota of 0.1 CPUs") for reason in reasons), reasons


def test_without_a_quota_none_is_named(tmp_path: Path) -> None:
    found = run(tmp_path, "spins")
    assert not any("quota" in (sample.taint or "") for sample in found.samples)


def loaded(others: float, stolen: float = 0.0, **changes: Any) -> Any:
    load = {"cpus": 4, "seconds": 5.0, "own": 2.0, "others": others, "stolen": stolen}
    return record(samples=samples(900.0, 450.0, *[450.0] * 8), host_load=load, **changes)


@pytest.mark.parametrize(
    ("device", "others", "told", "tainted"),
    [
        ("cpu", 0.3, False, False),
        ("cpu", 0.5, True, False),
        ("cpu", 1.0, True, True),
        ("cuda", 0.3, False, False),
        ("cuda", 3.0, True, False),
    ],
)
def test_what_a_row_says_of_it(device: str, others: float, told: bool, tainted: bool) -> None:
    (row,) = rows([loaded(others, device=device)], "steady")
    assert ("tainted" in row.flags) == tainted
    lines = [line for line in warnings(row) if "of this host's 4 CPUs" in line]
    assert len(lines) == told


@pytest.mark.parametrize(("own", "told"), [(0.0, False), (2.0, True)])
def test_ranks_that_nobody_saw_are_no_others(own: float, told: bool) -> None:
    load = {"cpus": 4, "seconds": 0.3, "own": own, "others": 3.0, "stolen": 0.0}
    several = workload(devices=2, parallel="tensor")
    (row,) = rows(
        [loaded(3.0, workload=several).model_copy(update={"host_load": HostLoad.model_validate(load)})], "steady"
    )
    assert any("of this host's 4 CPUs" in line for line in warnings(row)) == told
    links = ceilings(workload=workload("ceilings", devices=2), host_load=load)
    assert (disturbed([ceiling(links)]) is not None) == told


def test_other_machines_of_the_hypervisor_are_named() -> None:
    (row,) = rows([loaded(0.2, stolen=0.4)], "steady")
    (line,) = warnings(row)
    assert line.startswith(
        "while it was timed, other processes took 0.20 and other machines 0.40 of this host's 4 CPUs:"
    )


def test_the_most_crowded_round_counts() -> None:
    crowds = [loaded(others, round=number) for number, others in enumerate((0.1, 2.0, 0.4))]
    (row,) = rows(crowds, "steady")
    assert row.evidence.host_load is not None
    assert row.evidence.host_load.others == 2.0


def test_where_it_is_shown(tmp_path: Path) -> None:
    folder = save_run(tmp_path, [loaded(2.0)])
    assert "other processes took 2.0 of this host's 4 CPUs: close" in render_tables(folder)
    whole = "of 4, 2.00 by the cell, 2.00 by others, 0 by other machines, over 5.00 s"
    assert whole in explain(folder, "forward inductor@cuda")
    section = telemetry(loaded(2.0))
    assert section is not None
    assert whole in str(section)
    assert telemetry(record()) is None
    head, line, *_ = render_tables(folder, form="csv").splitlines()
    found = dict(zip(head.split(","), line.split(","), strict=False))
    assert [float(found[f"evidence.host_load.{name}"]) for name in ("cpus", "own", "others", "stolen")] == [4, 2, 2, 0]
