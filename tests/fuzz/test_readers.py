"""Every reader of a file that is not ours takes it or refuses it in one line: the corpus, and hypothesis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import targets
from edits import as_json, as_toml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(place for place in CORPUS.glob("*/*") if place.parent.name in targets.TARGETS)
UNSIGNED_64 = 2**64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-UNSIGNED_64, UNSIGNED_64) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
DOCUMENTS = {
    "suite": (targets.SUITE, as_toml),
    "stack": (targets.STACK, as_toml),
    "spec": (json.dumps(targets.SPEC), as_json),
    "record": (targets.SAMPLES[0], as_json),
    "fingerprint": (targets.FINGERPRINT, as_json),
    "config": (targets.CONFIGS[0], as_json),
}
"""Good documents of the targets whose first byte 0 says that the file itself follows."""


def read(name: str, data: bytes) -> None:
    """Let a target read; another error than its refusals gets out."""
    target, line = targets.TARGETS[name], ""
    try:
        target.run(data)
    except target.refusals as error:
        line = str(error)
    assert "\n" not in line or name == "spec", "bench makes a line of it"


def test_every_reader_has_a_corpus() -> None:
    assert {place.parent.name for place in FILES} == set(targets.TARGETS)


@pytest.mark.parametrize("name", list(targets.TARGETS))
def test_the_corpus_is_read_or_refused(name: str) -> None:
    for data in (*targets.TARGETS[name].seeds, *(place.read_bytes() for place in FILES if place.parent.name == name)):
        read(name, data)


@pytest.mark.parametrize("name", list(targets.TARGETS))
@given(data=st.binary(max_size=64))
@FEW
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    read(name, data)


@pytest.mark.parametrize("name", list(DOCUMENTS))
@given(data=st.data())
@FEW
def test_any_value_in_any_place_is_read_or_refused(name: str, data: st.DataObject) -> None:
    template, written = DOCUMENTS[name]
    here: Any = json.loads(template)
    whole = here
    while True:
        key = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else range(len(here))))
        if not isinstance(here[key], (dict, list)) or not here[key] or data.draw(st.booleans()):
            break
        here = here[key]
    here[key] = data.draw(JSON)
    read(name, b"\0" + written(whole))
