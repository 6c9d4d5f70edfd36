"""The published figures: what they are, and beside which workloads they may stand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from plan_samples import OF_THE_NOTE
from record_samples import workload

from orchestrator.analysis.published import find_figure, read_published
from orchestrator.base.errors import UsageError
from orchestrator.base.paths import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path

# The note's tables: (figure, GB); None where there is no row, a word where there is no figure.
NOTE: dict[str, dict[str, tuple[float | None, float | None] | None]] = {
    "forward": {"eager": (1.48, 17.4), "inductor": (1.19, 17.3), "thunder": (1.29, 16.4), "tinyllama": (1.25, 18.8)},
    "model_inference": {"eager": (47.3, 13.6), "inductor": (89.9, 13.8), "thunder": (74.2, 13.8), "tinyllama": None},
    "generation": {"eager": (46.7, 13.6), "inductor": (93.8, 13.8), "thunder": (None, None), "tinyllama": None},
    "train_static": {"eager": (548, 24.2), "inductor": (452, 20.9), "thunder": (None, None), "tinyllama": (492, 27.8)},
    "train_dynamic": {"eager": (17.5, None), "inductor": (14.7, None), "thunder": (None, None), "tinyllama": None},
}


@pytest.mark.parametrize("benchmark", OF_THE_NOTE)
def test_the_notes_figures(benchmark: str) -> None:
    published = read_published()
    for method, expected in NOTE[benchmark].items():
        found = find_figure(published, workload(benchmark), method)
        if expected is None:
            assert found is None
            continue
        assert found is not None
        assert found.figure == expected[0]
        assert found.memory_bytes == (None if expected[1] is None else round(expected[1] * 1e9))
        assert (found.status == "unsupported") == (expected[0] is None)


def test_the_wrong_figure_says_so_and_has_its_correction() -> None:
    found = find_figure(read_published(), workload("model_inference"), "thunder")
    assert found is not None
    assert (found.status, found.corrected, found.caveats) == ("incorrect", 45.5, ("wrong_output",))


def test_where_it_comes_from() -> None:
    (note,) = read_published()
    assert (note.gpu, note.driver, note.cuda) == ("A100-SXM4-40GB", "525.125.06", "12.1")
    assert "adc2c556" in note.source
    assert {"versions", "first_call", "memory", "wrong_output", "not_fused", "recompiles"} == set(note.caveats)


@pytest.mark.parametrize(
    ("benchmark", "changes"),
    [
        ("forward", {"batch": 4}),
        ("forward", {"sequence": 1024}),
        ("forward", {"dtype": "float32"}),
        ("generation", {"new_tokens": 100}),
        ("generation", {"prompt": [1, 2]}),
        ("train_dynamic", {"shortest": 20}),
        ("train_dynamic", {"iterations": 20}),
    ],
)
def test_other_workloads_have_none(benchmark: str, changes: dict[str, Any]) -> None:
    assert find_figure(read_published(), workload(benchmark, **changes), "eager") is None


def test_a_model_is_known_by_its_shape() -> None:
    model = workload().model
    assert model is not None
    renamed = model.model_copy(update={"name": "llama_2_7b"})
    assert find_figure(read_published(), workload().model_copy(update={"model": renamed}), "eager") is not None
    smaller = model.model_copy(update={"layers": 2})
    assert find_figure(read_published(), workload().model_copy(update={"model": smaller}), "eager") is None


def test_variants_are_methods_of_their_own() -> None:
    assert find_figure(read_published(), workload(), "tinyllama_full") is None


def _spoilt(folder: Path, change: Any) -> Path:
    content = json.loads(next(PUBLISHED.glob("*.json")).read_text())
    change(content)
    (folder / "mine.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["figures"][0].update(unit="ms"), "the unit must be s"),
        (lambda c: c["figures"][0].update(caveats=["x"]), "no such caveat: x"),
        (lambda c: c["conditions"].pop("forward"), "no conditions for forward"),
        (lambda c: c.update(colour="red"), "colour: unknown key"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, change: Any, line: str) -> None:
    with pytest.raises(UsageError, match=line) as caught:
        read_published(_spoilt(tmp_path, change))
    assert "mine.json" in str(caught.value)


def test_no_folder_no_figures(tmp_path: Path) -> None:
    assert read_published(tmp_path / "nowhere") == ()
