"""One target under atheris (Python 3.12), for so many seconds: `fuzz_one.py TARGET SECONDS CORPUS FINDINGS`.

What a target must not raise is noted and the search goes on: by its kind and the line of ours that it came from, the
smallest input of each. So are an input that takes longer than LIMIT_S and one after which the process has grown by
GROWTH_BYTES. The last line is a JSON object with the number of executions.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import atheris
from pydantic import BaseModel

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support"), str(HERE)]
with atheris.instrument_imports(include=["orchestrator", "bench"]):
    import targets

# A refusal names the known keys by the schema, which is made again each time: most of what a bad file costs.
BaseModel.model_json_schema = classmethod(functools.cache(BaseModel.model_json_schema.__func__))  # type: ignore[attr-defined, method-assign]

LIMIT_S = 10
GROWTH_BYTES = 500_000_000
LONGEST_BYTES = 4096


class HangError(BaseException):
    """An input that takes too long; no handler of an ordinary exception catches it."""


class Finder:
    """Runs one target on input after input and keeps what it must not do."""

    def __init__(self, name: str, findings: Path) -> None:
        self._name, self._target, self._findings = name, targets.TARGETS[name], findings
        self._sizes = dict[str, int]()
        self.executions, self.refused, self._grown = 0, 0, peak_bytes() + GROWTH_BYTES

    def __call__(self, data: bytes) -> None:
        self.executions += 1
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            self._target.run(data)
        except self._target.refusals:
            self.refused += 1
        except (Exception, HangError) as error:  # noqa: BLE001 - everything else is what is looked for
            self._note(data, f"{type(error).__name__}-{place_of(error)}", traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if peak_bytes() > self._grown:
            self._note(data, "growth", f"the process has grown to {peak_bytes()} bytes")
            self._grown += GROWTH_BYTES

    def _note(self, data: bytes, what: str, said: str) -> None:
        if len(data) >= self._sizes.get(what, LONGEST_BYTES + 1):
            return
        self._sizes[what] = len(data)
        place = self._findings / f"{self._name}-{what}"
        place.with_suffix(".input").write_bytes(data)
        place.with_suffix(".txt").write_text(f"{self._name} {data!r}\n{said}", "utf-8", "backslashreplace")


def place_of(error: BaseException) -> str:
    """Return file and line of the last of our frames."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/orchestrator/" in frame.filename or "/bench/" in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).stem}.{last.name}.{last.lineno}"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    name, seconds, corpus, findings = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    finder, began = Finder(name, findings), time.monotonic()

    def hang(_number: int, _frame: FrameType | None) -> None:
        raise HangError

    def told() -> None:
        took = time.monotonic() - began
        line = {"target": name, "executions": finder.executions, "refused": finder.refused, "seconds": took}
        line["peak_bytes"] = peak_bytes()
        (findings / f"{name}.json").write_text(json.dumps(line))

    signal.signal(signal.SIGALRM, hang)
    atexit.register(told)

    def one(data: bytes) -> None:
        finder(data)
        if time.monotonic() - began > seconds:
            told()
            targets.remove_folders()
            os._exit(0)

    options = [
        sys.argv[0],
        str(corpus),
        f"-max_len={LONGEST_BYTES}",
        "-timeout=60",
        "-rss_limit_mb=4000",
        "-verbosity=0",
    ]
    atheris.Setup(options, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
