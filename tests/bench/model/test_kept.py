"""What a layer keeps for the backward: what autograd really saves, beside what a plan expects."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from bench.model.gpt import build  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.spec import named  # noqa: E402
from orchestrator.plan.memory import kept_of_layer  # noqa: E402
from orchestrator.plan.models import named_models  # noqa: E402

pytestmark = pytest.mark.torch

TOKENS = 128  # so many that no expert's weights are gathered token by token
NARROWER, NARROWED = 4, ("width", "mlp_width", "heads", "kv_heads")
FAMILIES = ("open_llama_3b", "llama_3_1_8b", "qwen3_8b", "gemma_3_4b", "phi_4_mini", "qwen3_30b_a3b")


def saved_bytes(name: str, layers: int) -> int:
    """Return the bytes of all tensors that one forward in bfloat16 saves, each storage once, without the weights."""
    config = named(name)
    sizes = {key: getattr(config, key) // NARROWER for key in NARROWED}
    if config.experts is not None:
        sizes["experts"] = dataclasses.replace(config.experts, count=16, width=config.experts.width // NARROWER)
    model = build(
        dataclasses.replace(config, layers=layers, vocabulary=TOKENS, block_size=TOKENS, **sizes),
        Operators(),
        torch.bfloat16,
        "cpu",
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = dict[int, tuple[int, object]]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that its address is no other's
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.arange(TOKENS)[None])
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_keeps_what_a_plan_expects(name: str) -> None:
    one_layer = (saved_bytes(name, 2) - saved_bytes(name, 1)) / (2 * TOKENS)
    model = named_models()[name]
    sizes = {key: getattr(model, key) // NARROWER for key in NARROWED}
    if model.experts is not None:
        sizes["experts"] = model.experts.model_copy(update={"count": 16, "width": model.experts.width // NARROWER})
    expected = kept_of_layer(model.model_copy(update=sizes), sparse=model.experts is not None)
    assert one_layer == pytest.approx(expected, rel=0.025)
