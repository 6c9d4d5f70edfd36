from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.plan.models import MODELS, named_models, resolve_model
from orchestrator.runner.estimate import parameters

if TYPE_CHECKING:
    from pathlib import Path


def test_the_notes_models_have_their_published_numbers_of_parameters() -> None:
    models = named_models()
    assert round(parameters(models["open_llama_7b"]) / 1e9, 4) == 6.7384
    assert round(parameters(models["open_llama_3b"]) / 1e9, 4) == 3.4265
    assert all(name == model.name for name, model in models.items())


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r'unknown model "tinny" \(did you mean "tiny"\?\); known: open_llama_7b, '):
        resolve_model("tinny", named_models())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    raw = json.loads(MODELS.read_text())
    raw["tiny"]["layers"] = -1
    path = tmp_path / "models.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match=r"models.json: tiny.layers: must be greater than 0, is -1"):
        named_models(path)
    path.write_text("[]")
    with pytest.raises(UsageError, match="not a JSON object"):
        named_models(path)
