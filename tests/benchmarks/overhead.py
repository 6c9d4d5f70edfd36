"""What the orchestrator costs: one cell under it against the same `docker run` by hand, and its command's own start.

    python tests/benchmarks/overhead.py [PAIRS]

A pair is the cell forward eager@cpu of the suite smoke, once as `run-all` runs it (work folder, spec, container, record
checked and stored, tables, all removed again) and once as `docker run` with the same image, command, mounts and limits.
Who is first alternates. Bars: the medians differ by less than 0.3 s, and `orchestrator --help` takes less than 1.4
times as long as `python -c 'import click'`. Exit code 1 where one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

from arguments import positive  # noqa: E402 - found by the line above

from orchestrator.base.errors import StackbenchError  # noqa: E402
from orchestrator.base.files import write_text  # noqa: E402
from orchestrator.build.ready import reach_engine  # noqa: E402
from orchestrator.host.devices import look  # noqa: E402
from orchestrator.host.folders import give_away  # noqa: E402
from orchestrator.launchers.arguments import SECCOMP  # noqa: E402
from orchestrator.launchers.docker import DockerLauncher  # noqa: E402
from orchestrator.measure.cell_spec import SPEC_FILE, write_spec  # noqa: E402
from orchestrator.plan.choice import (  # noqa: E402
    RunOptions,
    choose,
)
from orchestrator.runner import run_all  # noqa: E402
from orchestrator.runner.one_round import Session, make_job, run_round  # noqa: E402
from orchestrator.runner.order import Turn  # noqa: E402
from orchestrator.runner.progress import Progress  # noqa: E402

STARTS = 15
CELL_LIMIT_S, START_LIMIT = 0.3, 1.4


class Quiet(Progress):
    """Progress that nobody reads."""

    def say(self, line: str) -> None:
        pass


def main() -> int:
    """Print both comparisons; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", metavar="PAIRS", type=positive, nargs="?", default=9, help="how many (%(default)s)")
    pairs = parser.parse_args().pairs
    installed = Path(sys.executable).with_name("orchestrator")
    orchestrator = [str(installed)] if installed.exists() else [sys.executable, "-m", "orchestrator"]
    helps, clicks = interleaved(STARTS, start(*orchestrator, "--help"), start(sys.executable, "-c", "import click"))
    ratio = statistics.median(helps) / statistics.median(clicks)
    print(
        f"orchestrator --help: {told(helps)}; python -c 'import click': {told(clicks)}; ratio {ratio:.2f}", flush=True
    )
    try:
        with (
            tempfile.TemporaryDirectory(prefix="stackbench-overhead-") as folder,
            session(Path(folder)) as one,
        ):
            turn = next(turn for turn in one.todo if turn.cell.benchmark == "forward")
            under, by_hand = interleaved(pairs, lambda: orchestrated(one, turn), lambda: by_docker_run(one, turn))
    except StackbenchError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return error.exit_code
    for number, (mine, theirs) in enumerate(zip(under, by_hand, strict=True)):
        print(f"pair {number}: orchestrator {mine:.3f} s, docker run {theirs:.3f} s, difference {mine - theirs:+.3f} s")
    difference = statistics.median(under) - statistics.median(by_hand)
    print(
        f"a cell: orchestrator {told(under)}, docker run {told(by_hand)}; difference of the medians {difference:+.3f} s"
    )
    missed = [f"a cell costs more than {CELL_LIMIT_S} s"] if difference > CELL_LIMIT_S else []
    missed += [f"--help takes more than {START_LIMIT:g} times as long"] if ratio > START_LIMIT else []
    for bar in missed:
        print(f"overhead: bar missed: {bar}", file=sys.stderr)
    return 1 if missed else 0


def interleaved(pairs: int, first: Callable[[], float], second: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Return the seconds of both, run in turns, after one turn of each that does not count."""
    first(), second()
    one: list[float] = []
    two: list[float] = []
    for number in range(pairs):
        if number % 2:
            two.append(second())
            one.append(first())
        else:
            one.append(first())
            two.append(second())
    return one, two


def start(*command: str) -> Callable[[], float]:
    """Return a function that runs `command` and returns its wall time in seconds."""

    def run() -> float:
        began = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    return run


@contextmanager
def session(results: Path) -> Iterator[Session]:
    """Make what `run-all` makes before its first cell; the image is built where it is missing."""
    options = RunOptions(
        suite="smoke", stacks=("cpu",), methods=("eager",), benchmarks=("forward",), launcher="docker", results=results
    )
    host = look(options)
    choice = choose(options, gpu=None, engine=host.engine)
    with run_all.made_ready(options, host, choice, reach_engine(choice), Quiet()) as one:
        if one.ready.refused:
            raise StackbenchError(next(iter(one.ready.refused.values())).reason, where="cpu")
        yield one


def orchestrated(one: Session, turn: Turn) -> float:
    """Return the seconds of the cell under the orchestrator."""
    began = time.perf_counter()
    record = run_round(one, turn)
    one.outcomes.write_tables(now=True)
    seconds = time.perf_counter() - began
    assert record.status == "ok", record.reason
    return seconds


def by_docker_run(one: Session, turn: Turn) -> float:
    """Return the seconds of the same container started by hand, in a folder that was made before."""
    launcher, prepared = one.launcher, one.ready.prepared[turn.cell.stack]
    assert isinstance(launcher, DockerLauncher)
    with one.area.cell("by-hand") as folder:
        job = make_job(one, turn, folder)
        # Nobody answers here which samples to measure again, so bench must not wait for it.
        spec = write_spec(job, launcher.places(job)).model_copy(update={"repeats": False})
        write_text(job.work / SPEC_FILE, spec.model_dump_json())
        give_away(job.work, launcher.limits.user)
        arguments = launcher._arguments(prepared.stack, ("-m", "bench", "/work/spec.json"), "cpu", job)  # the very same
        command = docker_run(arguments["container"], arguments["host_config"])
        with job.log.open("wb") as log:
            began = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
            seconds = time.perf_counter() - began
        assert (job.work / "record.json").exists(), job.log.read_text(errors="replace")
    return seconds


def docker_run(container: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Return the SDK's arguments as a command line; what a CPU cell does not use has no option here."""
    assert not host["devices"]
    assert not host["device_requests"]
    command = ["docker", "run", "--rm", "--entrypoint", container["entrypoint"][0], "--user", container["user"]]
    command += ["--workdir", container["working_dir"], "--hostname", container["hostname"], "--no-healthcheck"]
    for name, value in container["environment"].items():
        command += ["--env", f"{name}={value}"]
    command += ["--network", host["network_mode"], "--read-only", *(["--init"] if host["init"] else [])]
    command += [f"--cap-drop={name}" for name in host["cap_drop"]]
    # The command wants the profile's file where the engine wants its content.
    plain = (f"seccomp={SECCOMP}" if option.startswith("seccomp=") else option for option in host["security_opt"])
    command += [f"--security-opt={option}" for option in plain]
    command += [f"--tmpfs={place}:{options}" for place, options in host["tmpfs"].items()]
    command += ["--shm-size", host["shm_size"], "--pids-limit", str(host["pids_limit"])]
    command += ["--memory", str(host["mem_limit"]), "--memory-swap", str(host["memswap_limit"])]
    command += ["--oom-score-adj", str(host["oom_score_adj"]), "--ulimit", "core=0:0"]
    command += ["--cpus", str(host["nano_cpus"] / 1e9), "--log-driver", host["log_config"].type]
    for name, value in host["log_config"].config.items():
        command += ["--log-opt", f"{name}={value}"]
    for mount in host["mounts"]:
        readonly = ",readonly" if mount.get("ReadOnly") else ""
        command += ["--mount", f"type={mount['Type']},source={mount['Source']},target={mount['Target']}{readonly}"]
    return [*command, container["image"], *container["command"]]


def told(seconds: list[float]) -> str:
    """Return the median with the range."""
    return f"{statistics.median(seconds):.3f} s [{min(seconds):.3f}, {max(seconds):.3f}]"


if __name__ == "__main__":
    sys.exit(main())
