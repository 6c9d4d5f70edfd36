"""Kills, signals, and several orchestrators at once."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from scene import TRACEBACK, Ended, Outcome, Problem, Scene, before_its_first_line, said, scene, wait_for, whole

from orchestrator.records.store import Run

METHODS = ("brief", "leaves_a_child")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OVER = "records in "
"""What the last line of a run has."""
START_S = 0.7
"""In which Python and the program's packages start."""
MOST = 8
"""Interruptions of one run; then it is left to finish."""
READERS = {"table": [0], "report": [0], "history": [0], "plan": [0], "bundle": [0], "compare": [0, 2], "import": [0]}
"""Commands that read results, with the codes that they may end with here."""


def kills(launcher: str, chance: Random) -> Iterator[Outcome]:
    """SIGKILL of the orchestrator at a random instant, then the same command again, until the run is finished."""
    while True:
        with scene(launcher, METHODS, rounds=3) as there:
            hows, problems, ended = list[str](), list[Problem](), None
            for _ in range(MOST):
                process, log, began = *there.start(), time.monotonic()
                if slept(process, chance.uniform(0, usual_seconds(launcher))):
                    ended = wait_for(process, log, began)
                    break
                process.kill()
                killed = wait_for(process, log, began)
                hows.append(stage(killed))
                problems += [*no_traceback(killed), *there.kept_records()]
                if there.is_finished:
                    break
            yield Outcome(hows, [*problems, *to_the_end(there, ended)])


def signals(launcher: str, chance: Random) -> Iterator[Outcome]:
    """INT, TERM or HUP at a random instant: everything is tidied up, the code says which, the same command goes on."""
    while True:
        with scene(launcher, METHODS, rounds=3) as there:
            hows, problems, ended = list[str](), list[Problem](), None
            for number in chance.choices(SIGNALS, k=MOST):
                process, log, began = *there.start(), time.monotonic()
                if slept(process, chance.uniform(0, chance.choice([START_S, usual_seconds(launcher)]))):
                    ended = wait_for(process, log, began)
                    break
                process.send_signal(number)
                stopped = wait_for(process, log, began)
                hows.append(f"{signal.Signals(number).name} {stage(stopped)}")
                problems += [*judged(stopped, number, [0]), *there.kept_records(), *there.left_over()]
                if there.is_finished:
                    break
            yield Outcome(hows, [*problems, *to_the_end(there, ended)])


def signals_to_readers(chance: Random) -> Iterator[Outcome]:
    """INT, TERM or HUP at a random instant of a command that reads results."""
    with scene("local", METHODS, rounds=3) as there:
        problems = there.finished(there.run(), {})
        bundle = there.folder / "run.tar.gz"
        problems += said(there.run(there.command("bundle", "-o", str(bundle), "--results", str(there.results))), [0])
        lengths = dict[str, float]()
        for name, codes in READERS.items():
            ended = there.run(reader(there, name, bundle))
            lengths[name] = ended.seconds
            problems += said(ended, codes)
        while True:
            name, number = chance.choice(list(READERS)), chance.choice(SIGNALS)
            process, log, began = *there.start(reader(there, name, bundle)), time.monotonic()
            if slept(process, chance.uniform(0, lengths[name])):
                continue
            process.send_signal(number)
            # With nothing to tidy up, the system's own way to end a process is as good before and after its work.
            wrong = judged(wait_for(process, log, began), number, [*READERS[name], -number])
            how = f"{signal.Signals(number).name} to `{name}`"
            yield Outcome([how], [*problems, *wrong, *there.kept_records(), *there.left_over()])
            problems = []


def reader(there: Scene, name: str, bundle: Path) -> list[str]:
    """Return a command that reads the scene's results; what it writes lies in a place of its own."""
    place, results, run = (
        there.folder / f"read-{len(there.pids)}",
        ["--results", str(there.results)],
        there.runs[0].name,
    )
    more = {
        "report": ["-o", f"{place}.html", *results],
        "plan": there.run_all[4:],
        "bundle": ["-o", f"{place}.tar.gz", *results],
        "compare": [f"{run}:brief", f"{run}:leaves_a_child", *results],
        "import": [str(bundle), "--results", str(place)],
    }
    return there.command(name, *more.get(name, results))


def several_at_once(launcher: str, chance: Random) -> Iterator[Outcome]:
    """Two or three orchestrators in one checkout; in every other try one of them is killed and started again."""
    one_killed = False
    while True:
        one_killed = not one_killed
        with scene(launcher, METHODS) as there:
            started, problems = [], list[Problem]()
            for _ in range(chance.choice([2, 2, 3])):
                started.append((*there.start(), time.monotonic()))
                time.sleep(chance.choice([0, chance.uniform(0, 1)]))
            if one_killed:
                time.sleep(chance.uniform(0, 2))
                killed = started.pop(0)
                killed[0].kill()
                problems += no_traceback(wait_for(*killed))
                started.append((*there.start(), time.monotonic()))
            problems += [problem for each in started for problem in said(wait_for(*each), [0])]
            for _ in [folder for folder in there.runs if not Run.open(folder).finished]:
                problems += said(there.run(), [0])  # a killed one's, which no other has taken up
            problems += [problem for folder in there.runs for problem in whole(folder, {})]
            yield Outcome(["one killed" if one_killed else "none killed"], [*problems, *there.left_over()])


_USUAL = dict[str, float]()


def usual_seconds(launcher: str) -> float:
    """Return how long a whole run takes here, measured once."""
    if launcher not in _USUAL:
        with scene(launcher, METHODS, rounds=3) as there:
            _USUAL[launcher] = there.run().seconds
    return _USUAL[launcher]


def slept(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Sleep, and return whether the process came to its end meanwhile."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is not None


def to_the_end(there: Scene, ended: Ended | None) -> list[Problem]:
    """Finish the run where it is not finished yet, and return what is wrong with it and what is left over."""
    if ended is None and not there.is_finished:
        ended = there.run()
    return there.finished(ended, {}) if ended else [*there.finished_run({}), *there.left_over()]


def stage(ended: Ended) -> str:
    """Return in words how far a run had come."""
    if not ended.output:
        return "before its first line"
    if "started, " not in ended.output:
        return "before its first cell"
    return "after its last cell" if OVER in ended.output else "among its cells"


def no_traceback(ended: Ended) -> list[Problem]:
    return [problem for problem in said(ended, [ended.code or 0]) if problem.kind == "traceback"]


def judged(ended: Ended, number: int, others: list[int]) -> list[Problem]:
    """Return what is wrong with how a command ended that got a signal; `others`: its codes where it was too late."""
    if TRACEBACK.search(ended.output) and before_its_first_line(ended):
        return []  # Python itself was still starting: nothing of the program could hear it
    # Before the program's first line, and after its last, the system's own way to end a process holds.
    by_the_system = [-number] if not ended.output or OVER in ended.output else []
    return said(ended, [128 + number, *others, *by_the_system])
