"""Signals at the worst instants: they set a flag, and the command ends with the signal's exit code and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from orchestrator.base import interrupt

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

AT_IMPORT = """
import builtins, os, sys
at, number, *arguments = sys.argv[1:]
within, _, again = at.rpartition(" > ")
real = builtins.__import__
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), int(number))
def imported(name, *rest, **more):
    global again
    if within in sys.modules and name == again:
        again = None  # it is imported many times, and a second signal, later than the first, ends the process at once
        os.kill(os.getpid(), int(number))
    return real(name, *rest, **more)
sys.meta_path.insert(0, Finder())
builtins.__import__ = imported
sys.argv = ["orchestrator", *arguments]
from orchestrator.__main__ import main
main()
"""

HELD = """
import logging, os, sys, time
from orchestrator.base import interrupt

class Handler(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), int(sys.argv[1]))

with interrupt.interruptible():
    logging.getLogger().addHandler(Handler())
    logging.getLogger().error("x")  # which holds its lock, and catches what is raised
    try:
        interrupt.check()
    except KeyboardInterrupt as stop:
        interrupt.check()  # what cleans up is left in peace
        sys.exit(stop.exit_code)
"""

TWICE = """
import sys, time
from orchestrator.base import interrupt
with interrupt.interruptible():
    print("ready", flush=True)
    while not interrupt.pending:
        time.sleep(0.01)
    time.sleep(2 * interrupt.ONE_STOP_S)
    print("hanging", flush=True)
    time.sleep(600)
"""

PATIENT = """
import sys, time
from orchestrator.base import interrupt
with interrupt.interruptible():
    print("ready", flush=True)
    try:
        if sys.argv[1] == "thread":
            interrupt.patiently(lambda: time.sleep(600))
        else:
            interrupt.run_process(["sleep", "600"], env={"PATH": "/usr/bin:/bin"})
    except interrupt.Interrupted as stop:
        sys.exit(stop.exit_code)
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("orchestrator.base.interrupt", "plan --launcher local --suite smoke"),
        ("subprocess", "history"),
        ("click.core", "plan --launcher local --suite smoke"),
        ("pydantic", "plan --launcher local --suite smoke"),
        ("orchestrator.plan.choice", "run-all --launcher local --suite smoke --results RESULTS"),
        ("scipy", "report RUN -o PAGE"),
        ("scipy.special", "table RUN"),
        # In the C code of a module that begins, which prints what is raised there and raises another error.
        ("scipy.special._special_ufuncs > numpy._core._multiarray_umath", "table RUN"),
        ("jinja2", "report RUN -o PAGE"),
        ("docker", "build --launcher docker --stack cpu"),
        ("orchestrator.report.tables.history", "history"),
    ],
)
def test_a_signal_inside_an_import(tmp_path: Path, at: str, words: str, number: int) -> None:
    places = {"RUN": "h200-rounds", "PAGE": tmp_path / "page.html", "RESULTS": tmp_path / "results"}
    process = child(AT_IMPORT, at, number, *(places.get(word, word) for word in words.split()))
    out, error = process.communicate()
    assert process.returncode == 128 + number, error
    assert "Traceback" not in out + error
    said = [line for line in (out + error).splitlines() if "interrupted" in line or "stopped" in line]
    assert len(said) == 1


def test_the_table_of_exit_codes_has_every_signal() -> None:
    codes, names = [128 + number for number in SIGNALS], ["Ctrl-C", *(number.name for number in SIGNALS[1:])]
    row = f"| {', '.join(map(str, codes))} | stopped by {', '.join(names)}; everything finished is kept |"
    assert row in (ROOT / "docs" / "running.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_under_the_lock_of_logging_is_raised_once(number: int) -> None:
    process = child(HELD, int(number))
    _, error = process.communicate()
    assert (process.returncode, error) == (128 + number, "")


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_ends_at_once(second: int) -> None:
    process = child(TWICE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "hanging\n"
    process.send_signal(second)
    _, error = process.communicate()
    assert (process.returncode, error) == (128 + second, "")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("waits_for", ["thread", "process"])
def test_a_wait_ends_at_a_signal(waits_for: str, number: int) -> None:
    process = child(PATIENT, waits_for)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, error = process.communicate()
    assert (process.returncode, error) == (128 + number, "")


def test_what_was_waited_for_comes_back_and_what_it_raised_too() -> None:
    assert interrupt.patiently(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interrupt.patiently(lambda: 1 // 0)
    done = interrupt.run_process(["sh", "-c", "printf '\\377'; exit 3"], env=dict(os.environ))
    assert (done.returncode, done.stdout) == (3, "�")
    with pytest.raises(subprocess.TimeoutExpired):
        interrupt.run_process(["sleep", "600"], env=dict(os.environ), timeout_s=0.2)


def test_the_handlers_that_were_there_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interrupt.interruptible(), interrupt.interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in SIGNALS] == before
