"""Why a program ended, as far as the end of what it printed says it: the line that a reader needs first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.base.text import COLOUR, printable

MOST_LINES = 400
SHOWN, SHOWN_BESIDE = 240, 120
"""Characters of the line that says why, and of the one beside it."""
TRACEBACK = "Traceback (most recent call last):"
CAUSE = "The above exception was the direct cause of the following exception:"
SIGNAL = re.compile(r"(Killed|Terminated|Aborted|Segmentation fault|Bus error|Illegal instruction)( \(core dumped\))?")
"""What a shell says of a program that a signal ended; the program itself may have said more before."""
AFTER_THE_REASON = re.compile(
    r"""(
    \s+(File\ "|at\ |\d+:\ |\d*\ *\||[~^]|\S+\.go:\d)                 # a frame, a source line, a caret
    | [+|│╰=*^~\s-]+$ | (note|hint):\s | \[notice\]                   # rules, advice
    | (During\ handling|The\ above)\b.*\bexception\b
    | (CUDA|HIP)\ kernel\ errors\ might\ be | For\ debugging\ consider | Compile\ with\ `TORCH | Device-side\ assertion
    | Set\ TORCH | You\ can\ suppress\ this | Search\ for\ `
    | Exception\ raised\ from\ | frame\ \#\d | \#\d+\ | stack\ backtrace:  # frames of C++ and Rust
    | goroutine\ \d+\ \[ | [\w./*()-]+\([\w\s.,{}?*]*\)$ | created\ by\  # of Go
    | (Current\ )?[Tt]hread\ 0x | Extension\ modules:                 # of Python's faulthandler
    | exit\ (status|code)\ \d | Command\ exited | collect2:\ | compilation\ terminated
    | g?make(\[\d+\])?:\ | ninja:\ build\ stopped | error:\ command\ .*\ failed\ with\ exit
    )""",
    re.VERBOSE,
)
"""How lines begin that are printed after the one that says why: whoever reads only those learns nothing."""
ALARM = re.compile(
    r"\b(error|fatal|panic(ked)?|killed|aborted|terminated|cannot|can't|could not|unable|not found|no such|denied"
    r"|failed|undefined|out of memory|segmentation fault|core dumped|bus error|illegal instruction)\b|what\(\):",
    re.IGNORECASE,
)


def telling(output: str) -> str:
    """Return what the end of a program's output says about why it ended, on one line; empty where it printed nothing.

    That is its last line. What is printed after the reason (frames, advice, how other programs pass a failure on) does
    not count. Of Python's exceptions it is the line with the name, and beside it stands what one was caused by.
    """
    text = COLOUR.sub("", output)
    lines = [line for line in map(str.rstrip, map(printable, text.splitlines()[-MOST_LINES:])) if line]
    if not lines:
        return ""
    kept = [line for line in lines if not AFTER_THE_REASON.match(line)]
    alarms = [line for line in kept if ALARM.search(line) and not SIGNAL.fullmatch(line)]
    raised = _exceptions(lines)
    if raised:
        place, exception = raised[-1]
        after = [line for line in lines[place + 1 :] if line in kept]
        later = [line for line in after if ALARM.search(line)]
        caused = len(raised) > 1 and CAUSE in lines[raised[-2][0] : place]
        found = [*later[-1:], exception, *([raised[-2][1]] if caused else after[-1:])]
    else:
        found = [(kept or lines)[-1], *alarms[-1:]]
    first, *others = dict.fromkeys(found)
    return _cut(first, SHOWN) + (f" ({_cut(others[0], SHOWN_BESIDE)})" if others else "")


def _exceptions(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Return of each traceback the number of the line that names the exception, and that line."""
    found = []
    for number, line in enumerate(lines):
        if line.endswith(TRACEBACK):
            before = line.removesuffix(TRACEBACK)  # of a rank, or the rule of a group of exceptions
            for later, text in enumerate(lines[number + 1 :], number + 1):
                own = text.removeprefix(before)
                if not own[:1].isspace() and not own.startswith("+"):
                    found.append((later, own))
                    break
    return found


def _cut(line: str, length: int) -> str:
    """Return a line without blanks around it; of a long one the beginning, and a little of its end."""
    line = " ".join(line.split())
    end = length // 4
    return line if len(line) <= length else f"{line[: length - end - 3].rstrip()} … {line[-end:].lstrip()}"
