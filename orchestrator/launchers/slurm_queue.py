"""Asking Slurm: its commands, each with a time limit, and what its answers say of jobs, steps and nodes."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.text import one_line

COMMAND_S = 30.0
FRESH_S = 1.0
"""How old an answer may be: however many cells ask, Slurm is asked once in this time."""
CONFIGURES = ("SLURM_CONF", "SLURM_CONF_SERVER")
OF_OTHERS = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|PMI|PMIX)_")
"""Variables by which a job that we run in ourselves would change what is asked for."""
GONE = "GONE"
"""The state of a job that Slurm knows nothing of any more."""
WAITS = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNS = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT", "COMPLETING"})
ENDINGS: Mapping[str, str] = {
    "CANCELLED": "was cancelled from outside",
    "TIMEOUT": "came to Slurm's time limit",
    "DEADLINE": "came to Slurm's deadline",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "was given a node that did not boot",
    "PREEMPTED": "gave way to another job",
    "OUT_OF_MEMORY": "used more memory than Slurm gives it",
    "FAILED": "failed",
    "COMPLETED": "ended",
    "REVOKED": "was revoked",
    "COMPLETING": "is ending",
    GONE: "is not known to Slurm any more",
}
UNKNOWN_JOB = "Invalid job id"
ENDED_ALREADY = (UNKNOWN_JOB, "already completing or completed")


class JobState(NamedTuple):
    """What Slurm says of a job. `name` is Slurm's own word, `reason` why it waits, `nodes` where it runs."""

    name: str
    reason: str = ""
    nodes: str = ""

    @property
    def over(self) -> bool:
        """Whether the job has ended, however."""
        return self.name not in WAITS and self.name not in RUNS

    @property
    def ending(self) -> bool:
        """Whether it runs no longer, and Slurm does not say yet how it ended."""
        return self.name == "COMPLETING"

    @property
    def told(self) -> str:
        """How it ended, as the end of a sentence that begins with the job."""
        return ENDINGS.get(self.name, f"is in Slurm's state {self.name}")


def environment() -> dict[str, str]:
    """Return our variables less those of a job that we may run in: jobs get them, and the commands read them."""
    return {name: value for name, value in os.environ.items() if name in CONFIGURES or not OF_OTHERS.match(name)}


def call(*command: str, timeout_s: float = COMMAND_S, cwd: str | None = None) -> str:
    """Return what one of Slurm's commands prints; InfrastructureError with its last words where it fails."""
    try:
        done = subprocess.run(  # noqa: S603  (Slurm's own commands)
            command,
            env=environment(),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        remedy = "run the command where Slurm's commands are, as on a login node"
        raise InfrastructureError("there is no such command here", where=command[0], remedy=remedy) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(one_line(str(error))[:200], where=command[0]) from error
    if done.returncode != 0:
        lines = (line.removeprefix(f"{command[0]}: ") for line in done.stderr.splitlines())
        said = [line for line in lines if line.strip()] or [f"exit code {done.returncode}"]
        raise InfrastructureError(one_line(" / ".join(said[-2:]))[:400], where=command[0])
    return done.stdout


def submit(script: str, *arguments: str, array: int | None = None, options: Sequence[str] = ()) -> str:
    """Submit a script and return the job's id; with `array` so many elements, numbered from 0.

    `options` are sbatch's, beside those that stand in the script.
    """
    more = (*options, *(() if array is None else (f"--array=0-{array - 1}",)))
    return call("sbatch", "--parsable", *more, script, *arguments).strip().partition(";")[0]


def cancel(*jobs: str, signal: str | None = None) -> None:
    """End jobs or steps (`12`, `12_3`, `12.4`); those that have ended already are no error."""
    if not jobs:
        return
    try:
        call("scancel", "--quiet", *((f"--signal={signal}",) if signal else ()), *jobs)
    except InfrastructureError as error:
        if not any(words in error.what for words in ENDED_ALREADY):
            raise


class Queue:
    """What Slurm says of the jobs that are watched, asked for all of them together and no more often than needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._states: dict[str, JobState] = {}
        self._steps: dict[str, dict[str, str]] = {}
        self._asked = self._answered = self._failed_for = 0.0
        self._accounting: bool | None = None
        self.trouble = ""
        """Why Slurm could not be asked last; empty where it answered."""

    def watch(self, *jobs: str) -> None:
        """Ask for these jobs too from here on."""
        with self._lock:
            self._watched.update(jobs)
            self._asked, self._failed_for, self._answered = 0.0, 0.0, self._answered or time.monotonic()

    def drop(self, *jobs: str) -> None:
        """Ask for these jobs no longer."""
        with self._lock:
            self._watched.difference_update(jobs)

    def state(self, job: str) -> JobState | None:
        """Return what Slurm says of a watched job; None where it has not said anything yet."""
        self._ask()
        return self._states.get(job)

    def steps(self, job: str) -> Mapping[str, str]:
        """Return the steps of a watched job that run now: their ids by name."""
        self._ask()
        return self._steps.get(job, {})

    def silent_s(self) -> float:
        """Return for how long Slurm has not answered; 0 where it answered when it was asked last."""
        return time.monotonic() - self._answered if self.trouble else 0.0

    def _ask(self) -> None:
        with self._lock:
            began = time.monotonic()
            # A controller that is away keeps each question for long: whoever asks must not wait time after time.
            if began - self._asked < max(FRESH_S, self._failed_for) or not self._watched:
                return
            try:
                found = queued(self._watched)
                missing = self._watched - found.keys()
                self._states.update(found)
                if missing:
                    self._states.update(self._ended(missing))
                running = {job for job in self._watched if job in found and not found[job].over}
                self._steps = running_steps(running) if running else {}
                self.trouble, self._answered, self._failed_for = "", time.monotonic(), 0.0
            except InfrastructureError as error:
                self.trouble, self._failed_for = str(error), time.monotonic() - began
            self._asked = time.monotonic()

    def _ended(self, jobs: Iterable[str]) -> dict[str, JobState]:
        """Return how jobs ended that are not listed: by accounting where it is on, else by the controller."""
        if self._accounting is None:
            self._accounting = accounting_is_on()
        found = accounted(jobs) if self._accounting else {}
        # Accounting may lag behind: what it says of a job that ran a moment ago is that it still runs.
        known = {job: state for job, state in found.items() if state.over}
        return known | {job: controlled(job) for job in jobs if job not in known}


def queued(jobs: Iterable[str]) -> dict[str, JobState]:
    """Return the states of those of the jobs that `squeue` lists."""
    try:
        # Alone, a job that is not known any more is an error; beside others it is only not listed.
        said = call(
            "squeue",
            "--noheader",
            "--all",
            "--array",
            "--states=all",
            f"--jobs={','.join(sorted(jobs))}",
            "--format=%i|%T|%N|%r",
        )
    except InfrastructureError as error:
        if UNKNOWN_JOB in error.what:
            return {}
        raise
    return parse_queue(said)


def parse_queue(said: str) -> dict[str, JobState]:
    """Return the states by job of what `squeue` printed as `%i|%T|%N|%r`."""
    rows = [line.strip().split("|", 3) for line in said.splitlines()]
    return {row[0]: JobState(row[1], row[3], row[2]) for row in rows if len(row) == 4}  # noqa: PLR2004


def accounting_is_on() -> bool:
    """Whether `sacct` knows jobs that have ended."""
    found = re.search(r"^AccountingStorageType\s*=\s*(\S+)", call("scontrol", "show", "config"), re.MULTILINE)
    return found is not None and "slurmdbd" in found[1]


def accounted(jobs: Iterable[str]) -> dict[str, JobState]:
    """Return the states of those of the jobs that accounting knows; nothing where it does not answer."""
    try:
        said = call(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            f"--jobs={','.join(sorted(jobs))}",
            "--format=JobID,State,NodeList",
        )
    except InfrastructureError:
        return {}
    return parse_accounts(said)


def parse_accounts(said: str) -> dict[str, JobState]:
    """Return the states by job of what `sacct --parsable2` printed as JobID, State, NodeList."""
    rows = [line.strip().split("|") for line in said.splitlines()]
    # `CANCELLED by 1000` says who; a `+` at the end that the word was too long.
    return {
        row[0]: JobState(row[1].split(" ")[0].rstrip("+"), nodes=row[2])
        for row in rows
        if len(row) == 3 and row[1]  # noqa: PLR2004
    }


def controlled(job: str) -> JobState:
    """Return what the controller says of a job; GONE where it knows none, as some minutes after its end."""
    try:
        said = call("scontrol", "show", "job", "--oneliner", job)
    except InfrastructureError as error:
        if UNKNOWN_JOB in error.what:
            return JobState(GONE)
        raise
    return parse_job(said)


def parse_job(said: str) -> JobState:
    """Return the state in a line of `scontrol show job --oneliner`.

    The job's own name stands in it, before the state, and may say anything: the last of each key counts.
    """
    found = {key: re.findall(rf" {key}=(\S+)", said) for key in ("JobState", "Reason", "NodeList")}
    if not found["JobState"]:
        raise InfrastructureError("no state in what it says of a job", where="scontrol")
    last = {key: values[-1] if values else "" for key, values in found.items()}
    return JobState(last["JobState"], last["Reason"], last["NodeList"])


def running_steps(jobs: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return, by job, the ids of the steps that run now, by their names."""
    said = call("squeue", "--noheader", "--steps", f"--jobs={','.join(sorted(jobs))}", "--format=%i|%j")
    found: dict[str, dict[str, str]] = {}
    for line in said.splitlines():
        step, _, name = line.strip().partition("|")
        found.setdefault(step.rpartition(".")[0], {})[name] = step
    return found


def hostnames(nodes: str) -> list[str]:
    """Return the nodes that an expression as `gpu[1-3]` names."""
    return call("scontrol", "show", "hostnames", nodes).split()


def node_trouble(node: str) -> str | None:
    """Return why a node cannot run steps, in words; None where it can."""
    said = call("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T|%E").strip().splitlines()
    if not said:
        return f"Slurm knows no node {node}"
    state, _, reason = said[0].partition("|")
    down = state.endswith("*") or re.match(r"(down|fail|reboot|power)", state)
    return f"node {node} is {state.rstrip('*')}{'' if reason in ('', 'none') else f' ({reason})'}" if down else None


def steps_of(job: str, name: str) -> Sequence[str]:
    """Return the ids of the job's running steps of that name."""
    return [step for called, step in running_steps([job]).get(job, {}).items() if called == name]
