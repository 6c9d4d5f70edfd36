"""A bench that does what its spec's method is called: real processes that behave, hang, die, lie."""

# ruff: noqa: S108, PERF203 - it looks around in a container of its own

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

FINGERPRINT = {"fingerprint": "0123456789abcdef", "python": "3.11.0", "packages": {"nothing": "1.0"}}


def main() -> int:
    if sys.argv[1:] == ["--fingerprint"]:
        print(json.dumps(FINGERPRINT))
        return 0
    folder = Path(sys.argv[1]).parent
    spec = json.loads(Path(sys.argv[1]).read_text())
    event(folder, "phase", name="environment")
    event(folder, "phase", name="first call")
    print("the log's only line", flush=True)
    return BEHAVIOURS[spec["method"]](folder, spec)


def event(folder: Path, kind: str, **more: Any) -> None:
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"t_ns": time.monotonic_ns(), "event": kind, **more}) + "\n")


def record(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    begin = time.monotonic_ns()
    samples = [
        {
            "index": index,
            "phase": "first" if index == 0 else "timed",
            "shape": [2, 64],
            "begin_ns": begin + index * 10**9,
            "end_ns": begin + index * 10**9 + 10**8,
            "device_ns": None,
        }
        for index in range(5)
    ]
    return {
        "schema_version": 1,
        "written_by": "bench",
        "status": "ok",
        "reason": None,
        "flags": ["unchecked", "cold"],
        "started_utc": "2026-01-01T00:00:00+00:00",
        "samples": [] if spec["workload"]["benchmark"] in ("ceilings", "reference") else samples,
        **{key: spec[key] for key in ("cell_id", "workload_id", "round", "stack", "method", "workload", "device")},
        "bench_source": spec["bench_source"],
        "method_source": spec["method_source"],
        **changes,
    }


def write(folder: Path, content: dict[str, Any]) -> int:
    (folder / "record.part").write_text(json.dumps(content))
    (folder / "record.part").rename(folder / "record.json")
    return 0


def good(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec))


def on_gpu(folder: Path, spec: dict[str, Any]) -> int:
    nothing = {"uuid": None, "memory_bytes": None, "compute_capability": None, "driver": None}
    gpu = {"name": "NVIDIA H100", **nothing, "power_limit_watts": 1.0, "power_default_watts": 1.0, "ecc": False}
    environment = {**FINGERPRINT, "platform": "Linux", "gpu": gpu}
    return write(folder, record(spec, environment=environment))


def checked(folder: Path, spec: dict[str, Any]) -> int:
    checks = [{"name": name, "status": "passed", "what": "all of it"} for name in ("rows", "repeat")]
    return write(folder, record(spec, flags=["cold"], proof={"checks": checks}))


def reference(folder: Path, spec: dict[str, Any]) -> int:
    for workload_id in spec["subject_ids"]:
        (folder / f"reference-{workload_id}.safetensors").write_bytes(f"reference of {workload_id}".encode())
    return write(folder, record(spec, detail={"references": {name: {"seconds": 1.5} for name in spec["subject_ids"]}}))


def reference_link(folder: Path, spec: dict[str, Any]) -> int:
    for workload_id in spec["subject_ids"]:
        (folder / f"reference-{workload_id}.safetensors").symlink_to("/etc/passwd")
    return write(folder, record(spec))


def reference_none(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, detail={"references": {spec["subject_ids"][0]: {"sha256": "0" * 64}}}))


def reference_crash(folder: Path, spec: dict[str, Any]) -> int:
    return 3


TOLD = ("role", "workload", "beside", "reference", "reference_sha256")


def tells_spec(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, detail={"spec": {k: spec[k] for k in TOLD}}))


def says_probe(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, role="probe"))


def wrong_on_the_probe(folder: Path, spec: dict[str, Any]) -> int:
    if spec["role"] == "probe":
        return write(folder, record(spec, status="incorrect", reason="forward: rows: row 3"))
    return write(folder, record(spec))


def wrong(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, status="incorrect", reason="row 3"))


def dispatch(listing: bytes) -> dict[str, Any]:
    empty = {"groups": [], "top": [], "expected": [], "missing": [], "graph_replays": None}
    found = hashlib.sha256(listing).hexdigest()
    return {"kind": "operators", "what": "a call", "launches": 1, "listing_sha256": found, **empty}


def lists(folder: Path, spec: dict[str, Any]) -> int:
    (folder / "dispatch.json").write_bytes(b"{}")
    return write(folder, record(spec, dispatch=dispatch(b"{}")))


def lists_another(folder: Path, spec: dict[str, Any]) -> int:
    (folder / "dispatch.json").write_bytes(b"{}")
    return write(folder, record(spec, dispatch=dispatch(b"[]")))


def small_memory(folder: Path, spec: dict[str, Any]) -> int:
    if spec["workload"].get("sequence") == 64:
        return write(folder, record(spec, status="out_of_memory", reason="no room", samples=[]))
    return write(folder, record(spec))


def by_gpu(folder: Path, spec: dict[str, Any]) -> int:
    """Each sample of GPU 0, 1, 2 takes 0.1, 0.11, 0.12 s by its record."""
    made = record(spec)
    number = int(os.environ["CUDA_VISIBLE_DEVICES"].rpartition("-")[2])
    samples = [{**one, "end_ns": one["begin_ns"] + 10**8 + number * 10**7} for one in made["samples"]]
    return write(folder, {**made, "samples": samples})


def crashes_on_0(folder: Path, spec: dict[str, Any]) -> int:
    return by_gpu(folder, spec) if int(os.environ["CUDA_VISIBLE_DEVICES"].rpartition("-")[2]) else 3


def slow(folder: Path, spec: dict[str, Any]) -> int:
    time.sleep(1.5)
    return write(folder, record(spec))


def real(name: str) -> Any:
    """A module of the real bench that needs no torch."""
    place = Path(__file__).parents[4].joinpath("bench", *name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"bench.{name}", place)
    module = importlib.util.module_from_spec(spec)
    if "." in name:
        sys.modules[f"bench.{name.partition('.')[0]}"] = ModuleType("bench." + name.partition(".")[0])
    sys.modules[f"bench.{name}"] = module
    spec.loader.exec_module(module)
    return module


def stalls(folder: Path, spec: dict[str, Any]) -> int:
    """Samples of 20 ms (with seed 2 of 250), with seed 0 one of them held up; asks as bench does what to repeat."""
    real("observe.compiles")  # which the last of these imports
    events, repeats = real("record").Events(folder), real("repeats")
    (folder / "pid").write_text(str(os.getpid()))
    seed, samples = spec["workload"]["seed"], []
    held_up, taken = [0.3] if seed == 0 else [], 0.25 if seed == 2 else 0.02

    def take(index: int, phase: str) -> None:
        begin = time.monotonic_ns()
        time.sleep(taken + (held_up.pop() if index == 4 and held_up else 0))
        end = time.monotonic_ns()
        told = {"index": index, "phase": phase, "shape": [2, 64], "begin_ns": begin, "end_ns": end, "device_ns": None}
        samples.append(told)
        events.sample(index, 10)

    for index in range(10):
        take(index, "first" if index == 0 else "warmup" if index == 1 else "timed")
    whole = record(spec, samples=samples)
    whole.setdefault("detail", {})
    for index, phase, _ in repeats.asked(folder, whole, events) if spec["repeats"] else ():
        take(index, phase)
    return write(folder, whole)


def ceiling(folder: Path, spec: dict[str, Any]) -> int:
    """Calls of two seconds in all, as a ceiling's record has them."""
    begin = time.monotonic_ns()
    time.sleep(2)
    rate = {"kind": "matrix_product", "size": 64, "work": 1, "durations_ns": [10**9, 10**9]}
    return write(folder, record(spec, rates=[{**rate, "begin_ns": begin, "end_ns": time.monotonic_ns()}]))


def sound(
    folder: Path,
    spec: dict[str, Any],
    device: Any = lambda wall: None,
    change: Any = lambda reported: reported,
    clock: Any = time.monotonic_ns,
) -> int:
    """Ten samples of 60 ms in their phases, reported and recorded as bench does.

    `device` makes a duration of a wall time, `change` the record of what was reported; `clock` is the events'.
    """
    real("observe.compiles")
    writer, repeats = real("record"), real("repeats")
    writer.monotonic_ns = clock
    events = writer.Events(folder)
    samples: list[dict[str, Any]] = []
    for index in range(10):
        if index == 2:
            events.phase("samples")
        begin = time.monotonic_ns()
        time.sleep(0.06)
        end = time.monotonic_ns()
        phase = "first" if index == 0 else "warmup" if index == 1 else "timed"
        taken = {"index": index, "phase": phase, "shape": [2, 64], "begin_ns": begin, "end_ns": end}
        samples.append({**taken, "device_ns": device(end - begin)})
        events.sample(index, 10)
    checks = [{"name": "rows", "status": "passed", "value": 1.0, "limit": 4.0, "what": "all of it"}]
    whole = record(spec, samples=samples, flags=["cold"], proof={"checks": checks}, detail={})
    list(repeats.asked(folder, whole, events) if spec["repeats"] else ())
    events.phase("memory")
    events.phase("proof")
    time.sleep(0.1)
    events.phase("record")
    return write(folder, change(whole))


def clock_at_half_speed(folder: Path, spec: dict[str, Any]) -> int:
    true, began = time.monotonic_ns, time.monotonic_ns()
    time.monotonic_ns = lambda: began + (true() - began) // 2  # type: ignore[assignment]
    return sound(folder, spec, clock=time.monotonic_ns)


def clock_ahead(folder: Path, spec: dict[str, Any]) -> int:
    true, began = time.monotonic_ns, time.monotonic_ns()
    time.monotonic_ns = lambda: began + 3 * (true() - began)  # type: ignore[assignment]
    return sound(folder, spec, clock=time.monotonic_ns)


def held_up(folder: Path, spec: dict[str, Any]) -> int:
    """By a busy host or a slow disk: every third event is written 0.4 s after bench has read its clock."""
    number = 0

    def late() -> int:
        nonlocal number
        now, number = time.monotonic_ns(), number + 1
        time.sleep(0.4 * (number % 3 == 0))
        return now

    return sound(folder, spec, clock=late)


def stopped(folder: Path, spec: dict[str, Any]) -> int:
    """Nothing of it runs for a second in the middle of its samples, as while its container is paused."""
    me = os.getpid()
    subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -STOP {me}; sleep 1; kill -CONT {me}"])
    return sound(folder, spec, lambda wall: wall - 40_000)


def rewrites(folder: Path, spec: dict[str, Any]) -> int:
    def faster(reported: dict[str, Any]) -> dict[str, Any]:
        short = [{**s, "end_ns": s["begin_ns"] + (s["end_ns"] - s["begin_ns"]) // 3} for s in reported["samples"]]
        return {**reported, "samples": short}

    return sound(folder, spec, change=faster)


def leaves_out(folder: Path, spec: dict[str, Any]) -> int:
    return sound(folder, spec, change=lambda reported: {**reported, "samples": reported["samples"][:-1]})


def claims_sustained(folder: Path, spec: dict[str, Any]) -> int:
    return sound(folder, spec, change=lambda reported: _adds_fast_ones(reported, "sustained"))


def adds_repeats(folder: Path, spec: dict[str, Any]) -> int:
    return sound(folder, spec, change=lambda reported: _adds_fast_ones(reported, "repeat"))


def _adds_fast_ones(reported: dict[str, Any], phase: str) -> dict[str, Any]:
    last = reported["samples"][-1]
    more = {**last, "phase": phase, "begin_ns": last["end_ns"], "end_ns": last["end_ns"] + 1000}
    return {**reported, "samples": [*reported["samples"], *[more] * 20]}


def good_device(folder: Path, spec: dict[str, Any]) -> int:
    return sound(folder, spec, lambda wall: wall - 40_000)


def device_beyond(folder: Path, spec: dict[str, Any]) -> int:
    return sound(folder, spec, lambda wall: 2 * wall)


def device_misses(folder: Path, spec: dict[str, Any]) -> int:
    return sound(folder, spec, lambda wall: wall // 10)


def judges_its_clocks(folder: Path, spec: dict[str, Any]) -> int:
    def claims(reported: dict[str, Any]) -> dict[str, Any]:
        own = [{"name": name, "status": "passed", "what": "trust me"} for name in ("clocks", "as reported")]
        return {**reported, "proof": {"checks": reported["proof"]["checks"] + own}}

    return sound(folder, spec, lambda wall: 2 * wall, claims)


def plants_links(folder: Path, spec: dict[str, Any]) -> int:
    """Asks, with a link where the answer will be: it must be replaced, and not written through."""
    (folder / "victim").write_text("untouched")
    (folder / "repeat-1.json").symlink_to(folder / "victim")
    event(folder, "samples", ask=1, rows=[], more=False)
    for _ in range(500):
        if not (folder / "repeat-1.json").is_symlink():
            break
        time.sleep(0.01)
    answer = (folder / "repeat-1.json").read_text()
    return write(folder, record(spec, detail={"victim": (folder / "victim").read_text(), "answer": answer}))


DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


def daemons(folder: Path, spec: dict[str, Any]) -> int:
    """Leaves processes behind that got away from its session: a daemon, one without our variables, a child of one."""
    ways = {"daemon": [], "bare-daemon": ["env", "-i"]}
    for name, before in ways.items():
        place = folder / name
        subprocess.run([*before, sys.executable, "-c", DAEMON, str(place)], check=True)
        while not (place.exists() and place.read_text()):
            time.sleep(0.01)
        (folder.parent / name).write_text(place.read_text())
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (folder.parent / "other-session").write_text(str(child.pid))
    return write(folder, record(spec))


def daemons_then_hang(folder: Path, spec: dict[str, Any]) -> int:
    daemons(folder, spec)
    (folder / "record.json").unlink()
    return hang(folder, spec)


def spins(folder: Path, spec: dict[str, Any]) -> int:
    """Samples that keep a CPU busy, a tenth of a second each where it is let."""
    samples = []
    for index in range(8):
        begin, until = time.monotonic_ns(), time.process_time() + 0.1
        while time.process_time() < until:
            pass
        phase = "first" if index == 0 else "timed"
        end = time.monotonic_ns()
        said = {"index": index, "phase": phase, "shape": [2, 64], "begin_ns": begin, "end_ns": end, "device_ns": None}
        samples.append(said)
    return write(folder, record(spec, samples=samples))


def fills_the_disk(folder: Path, spec: dict[str, Any]) -> int:
    """Writes without end, into a file that nobody sees any more too where its seed is 1."""
    with (folder / "big").open("wb") as file:
        if spec["workload"]["seed"] == 1:
            (folder / "big").unlink()
        while True:
            file.write(bytes(2**20))
            file.flush()


def fills_the_disk_at_its_end(folder: Path, spec: dict[str, Any]) -> int:
    (folder / "big").write_bytes(bytes(30_000_000))
    return write(folder, record(spec))


def makes_a_hole(folder: Path, spec: dict[str, Any]) -> int:
    """Writes little, by the disk's own count, under many names."""
    with (folder / "sparse").open("wb") as file:
        file.truncate(2**30)
    (folder / "data").write_bytes(bytes(3_000_000))
    for number in range(20):
        (folder / f"link-{number}").hardlink_to(folder / "data")
    return write(folder, record(spec))


def makes_files(folder: Path, spec: dict[str, Any]) -> int:
    number = 0
    while True:
        number += 1
        (folder / f"{number // 100}").mkdir(exist_ok=True)
        (folder / f"{number // 100}" / f"{number}").touch()


def nests(folder: Path, spec: dict[str, Any]) -> int:
    """Hides what it writes deeper than a path can say."""
    for _ in range(3000):
        Path("d" * 20).mkdir()
        os.chdir("d" * 20)
    with Path("hidden").open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    time.sleep(600)
    return 0


def prints_without_end(folder: Path, spec: dict[str, Any]) -> int:
    while True:
        print("x" * 2**20)


def strange_events(folder: Path, spec: dict[str, Any]) -> int:
    """Says in its events what its file `say` in the folder above holds, and then does as always; or fails (seed 1)."""
    with (folder / "events.jsonl").open("ab") as file:
        file.write((folder.parent / "say").read_bytes())
    time.sleep(0.3)
    return fails(folder, spec) if spec["workload"]["seed"] == 1 else write(folder, record(spec))


def dumps_core(folder: Path, spec: dict[str, Any]) -> int:
    os.abort()


def says_its_bounds(folder: Path, spec: dict[str, Any]) -> int:
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("CORE", "FSIZE")}
    return write(folder, record(spec, detail={**limits, "oom": Path("/proc/self/oom_score_adj").read_text().strip()}))


def hang(folder: Path, spec: dict[str, Any]) -> int:
    event(folder, "sample", index=2, of=10)
    # A grandchild that outlives its parent unless the whole group is killed.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder.parent / "grandchild").write_text(str(child.pid)) if os.access(folder.parent, os.W_OK) else None
    time.sleep(600)
    return 0


def waits(folder: Path, spec: dict[str, Any]) -> int:
    """Ends well as soon as a test has made the file `go` in its folder."""
    (folder / "pid").write_text(str(os.getpid()))
    while not (folder / "go").exists():
        time.sleep(0.02)
    return write(folder, record(spec, detail={"pid": os.getpid()}))


def hang_after_record(folder: Path, spec: dict[str, Any]) -> int:
    write(folder, record(spec))
    time.sleep(600)
    return 0


def killed(folder: Path, spec: dict[str, Any]) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def fails(folder: Path, spec: dict[str, Any]) -> int:
    print("cannot open /home/somebody/secret/model.bin", file=sys.stderr)
    return 3


def raises(folder: Path, spec: dict[str, Any]) -> int:
    import nowhere  # noqa: F401

    return 0


def fails_after_record(folder: Path, spec: dict[str, Any]) -> int:
    write(folder, record(spec))
    return 9


def silent(folder: Path, spec: dict[str, Any]) -> int:
    return 0


def link(folder: Path, spec: dict[str, Any]) -> int:
    (folder / "elsewhere.json").write_text(json.dumps(record(spec)))
    (folder / "record.json").symlink_to("elsewhere.json")
    return 0


def pipe(folder: Path, spec: dict[str, Any]) -> int:
    os.mkfifo(folder / "record.json")
    (folder / "events.jsonl").unlink()
    os.mkfifo(folder / "events.jsonl")
    return 0


def big(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, detail={"much": "x" * 9_000_000}))


def garbage(folder: Path, spec: dict[str, Any]) -> int:
    (folder / "events.jsonl").write_bytes(b'\xff\x00{"event":"phase"}\n[[[[\n' + b"[" * 100_000 + b"\n")
    (folder / "record.json").write_bytes(b"\x00\xff not a record")
    return 0


def other_cell(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, cell_id="f" * 16))


def other_workload(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, workload={**spec["workload"], "seed": 7}))


def judges_itself(folder: Path, spec: dict[str, Any]) -> int:
    told = record(spec)
    told["samples"][2]["taint"] = "somebody else's fault"
    return write(folder, told)


def blames_others(folder: Path, spec: dict[str, Any]) -> int:
    load = {"cpus": 4, "seconds": 1.0, "own": 0.1, "others": 3.9, "stolen": 0.0}
    return write(folder, record(spec, host_load=load))


def pretends(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, written_by="orchestrator"))


def not_able(folder: Path, spec: dict[str, Any]) -> int:
    return write(folder, record(spec, status="unsupported", reason="no C++ compiler", samples=[]))


COMPILED = {"graphs": 1, "recompiles": 0, "ledger": [], "breaks": []}


def compiles(folder: Path, spec: dict[str, Any]) -> int:
    """Fills the cache in its first process; in one that makes the first call alone says what it found there."""
    cache = folder / "cache"
    if not spec["only_first"]:
        cache.mkdir()
        (cache / "graph").write_text("x")
        return write(folder, record(spec, compiles={**COMPILED, "cache_hits": 0, "cache_misses": 3}))
    print("second process", flush=True)
    there = {"cache_hits": 3 if (cache / "graph").exists() else 0, "cache_misses": 0}
    made = record(spec, compiles={**COMPILED, **there}, flags=["unchecked", "warm"])
    return write(folder, {**made, "samples": made["samples"][:1]})


def compiles_once(folder: Path, spec: dict[str, Any]) -> int:
    return fails(folder, spec) if spec["only_first"] else compiles(folder, spec)


def compiles_for_ages(folder: Path, spec: dict[str, Any]) -> int:
    """Its second process says times that are 64 bits each, and more between them."""
    if not spec["only_first"]:
        return compiles(folder, spec)
    made = record(spec, compiles={**COMPILED, "cache_hits": 3, "cache_misses": 0})
    first = {**made["samples"][0], "begin_ns": -(2**63), "end_ns": 2**63 - 1}
    return write(folder, {**made, "samples": [first]})


def compiles_and_keeps_nothing(folder: Path, spec: dict[str, Any]) -> int:
    """Has folders for a cache, and no file in them."""
    (folder / "cache" / "empty").mkdir(parents=True)
    return write(folder, record(spec, compiles={**COMPILED, "cache_hits": None, "cache_misses": None}))


def compiles_and_hides(folder: Path, spec: dict[str, Any]) -> int:
    """Leaves its first record for the second process's."""
    return 0 if spec["only_first"] else compiles(folder, spec)


def compiles_then_hangs(folder: Path, spec: dict[str, Any]) -> int:
    return hang(folder, spec) if spec["only_first"] else compiles(folder, spec)


def takes_memory(folder: Path, spec: dict[str, Any]) -> int:
    held = []
    while True:
        held.append(bytearray(32 * 2**20))


def looks_around(folder: Path, spec: dict[str, Any]) -> int:
    """Tries everything that a container must not be able to do, and says in the record what it could."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    could = []
    for place in ("/x", "/stackbench/bench/x", "/etc/x", "/references/x", spec["reference"] or "/references/y"):
        try:
            Path(place).write_text("x")
            could.append(f"write {place}")
        except OSError:
            pass
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1)
        could.append("network")
    except OSError:
        pass
    Path("/tmp/runs").write_text("#!/bin/sh\nexit 0\n")
    Path("/tmp/runs").chmod(0o755)
    told = {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "capabilities": status["CapEff"].strip() + status["CapBnd"].strip(),
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "could": could,
        "tmp_runs": subprocess.run(["/tmp/runs"], check=False).returncode,
        "socket": Path("/var/run/docker.sock").exists(),
        "host": socket.gethostname(),
        "init": Path("/proc/1/comm").read_text().strip(),
        "home": os.environ["HOME"],
        "caches": [os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TRITON_CACHE_DIR"]],
        "checkpoint": sorted(path.name for path in Path(spec["checkpoint"]).iterdir()) if spec["checkpoint"] else None,
        "cache": spec["cache_folder"],
        "reference": Path(spec["reference"]).read_text() if spec["reference"] else None,
        "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    }
    if spec["cache_folder"]:
        (Path(spec["cache_folder"]) / "kept").write_text("x")
    return write(folder, record(spec, detail=told))


BEHAVIOURS = {
    function.__name__: function
    for function in (
        *(
            good,
            on_gpu,
            reference,
            slow,
            by_gpu,
            crashes_on_0,
            small_memory,
            hang,
            hang_after_record,
            killed,
            fails,
            raises,
            wrong,
            fails_after_record,
            silent,
            link,
            pipe,
            big,
        ),
        *(reference_link, reference_none, reference_crash, tells_spec, says_probe, wrong_on_the_probe, ceiling),
        *(
            sound,
            held_up,
            stopped,
            clock_at_half_speed,
            clock_ahead,
            rewrites,
            leaves_out,
            claims_sustained,
            adds_repeats,
            good_device,
            device_beyond,
            device_misses,
        ),
        *(judges_its_clocks, stalls, plants_links, judges_itself, blames_others, checked),
        *(lists, lists_another, garbage, other_cell, other_workload, pretends, not_able, takes_memory, looks_around),
        *(spins, fills_the_disk, fills_the_disk_at_its_end, makes_a_hole, makes_files, nests, prints_without_end),
        *(waits, strange_events, daemons, daemons_then_hang, dumps_core, says_its_bounds),
        *(
            compiles,
            compiles_once,
            compiles_and_keeps_nothing,
            compiles_and_hides,
            compiles_then_hangs,
            compiles_for_ages,
        ),
    )
}
BEHAVIOURS["torch"] = good

if __name__ == "__main__":
    sys.exit(main())
