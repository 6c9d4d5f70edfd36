"""Types of the arguments of scripts, for argparse."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Collection


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ArgumentTypeError(f"{number} is below one")
    return number


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """Return the type of these names: where any number of them is taken, `choices` refuse none in Python 3.11."""

    def name(word: str) -> str:
        if word not in names:
            raise ArgumentTypeError(f'unknown "{word}"; known: {", ".join(names)}')
        return word

    return name
