"""What the proof is built from: verdicts, sketches, the reference's file, a forward layer by layer, tests of draws."""

from __future__ import annotations

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")

from bench import spec as config  # noqa: E402
from bench.model import hashing, weights  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.observe.sketch import flat, sketch  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.proof import reference_file as reference  # noqa: E402
from bench.proof import sampler  # noqa: E402
from bench.proof.checks import Checks, first_failed  # noqa: E402
from bench.proof.layerwise import Layerwise, highest  # noqa: E402
from bench.status import Incorrect  # noqa: E402

TINY = config.named("tiny")
MODELS = {
    "plain": TINY,
    "gqa": config.named("tiny_gqa"),
    "windowed": dataclasses.replace(TINY, sliding_window=5),
}


def test_a_broken_check_is_unchecked_and_the_others_stand():
    checks = Checks()
    with checks.guard("a", "b"):
        checks.judge("a", passed=True)
        raise RuntimeError("first line\nsecond line")
    with checks.guard("c"):
        raise Incorrect("row 3")
    checks.at_most("d", float("nan"), 1.0, "no number")
    assert [item["status"] for item in checks.items] == ["passed", "unchecked", "failed", "failed"]
    assert checks.items[1]["what"] == "RuntimeError: first line"
    assert first_failed(checks.items) == checks.items[2]
    json.dumps(checks.items, allow_nan=False)


def test_a_failure_is_never_judged_away():
    checks = Checks()
    checks.judge("a", passed=True, value=1.0)
    checks.judge("a", passed=False, value=2.0)
    checks.judge("a", passed=True, value=3.0)
    checks.unchecked("a", "why")
    assert [(item["status"], item["value"]) for item in checks.items] == [("failed", 2.0)]


@pytest.mark.parametrize("take", [sketch, flat])
def test_a_sketch_is_linear_and_keeps_the_norm(take):
    x, y = (torch.randn(40, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    assert torch.allclose(take(x) - take(y), take(x - y), atol=1e-9)
    assert float(take(x - y).norm() / (x - y).norm()) == pytest.approx(1, abs=0.25 if take is flat else 0.05)
    one = torch.zeros(3000, 4096)
    one[:, 17] = 1
    assert 0.6 < float(flat(one).norm() / one.norm()) < 1.5  # a single column does not fall into one bucket


def test_a_sketch_of_several_pieces_at_once_is_that_of_one_after_another(monkeypatch):
    x = torch.randn(11 * 1024 + 7, dtype=torch.float64)
    monkeypatch.setattr("bench.observe.sketch.PIECE", 1024)
    one = flat(x)
    monkeypatch.setattr("bench.observe.sketch.PIECES", {"cpu": 8})
    assert torch.allclose(flat(x), one, rtol=1e-12)


def test_short_axes_are_kept():
    x = torch.randn(3, 256)
    assert torch.equal(sketch(x), x)
    assert torch.equal(flat(x, 1000), x.flatten())


def test_the_reference_file_comes_back_and_a_changed_one_does_not(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(2).bfloat16(), "e": torch.empty(0, 3)}
    path = tmp_path / "reference-x.safetensors"
    sha256, size = reference.write(path, tensors, {"eager_error": 0.5})
    found = reference.read(path, sha256)
    assert (size, found.sha256, found.facts) == (path.stat().st_size, sha256, {"eager_error": 0.5})
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        reference.read(path, sha256)
    path.write_bytes(content[:40])
    with pytest.raises(ValueError, match="cannot be read"):
        reference.read(path, None)


@pytest.mark.parametrize(
    "header",
    [
        "[]", "{}", "7", '{"__metadata__": []}', '{"__metadata__": {"facts": "[1]"}}', "[" * 5000,
        '{"__metadata__": {"facts": "{}"}, "a": []}',
        '{"__metadata__": {"facts": "{}"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
        '{"__metadata__": {"facts": "{}"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}',
        '{"__metadata__": {"facts": "{}"}, "a": {"dtype": "F32", "shape": [-2], "data_offsets": [-8, 4]}}',
        '{"__metadata__": {"facts": "{}"}, "a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}}',
        '{"__metadata__": {"facts": "{}"}, "a": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}}',
    ],
)  # fmt: skip
def test_a_damaged_header_of_a_reference_is_one_line(tmp_path, header):
    text = header.encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(ValueError, match="x cannot be read"):
        reference.read(tmp_path / "x", None)


def test_the_file_is_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    reference.write(tmp_path / "x", {"a": torch.arange(6.0).view(2, 3)}, {})
    assert torch.equal(safetensors.load_file(tmp_path / "x")["a"], torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fill", [weights.fill, weights.fill_probe])
def test_layer_by_layer_is_the_model(name, fill):
    model = build(MODELS[name], Operators(), torch.float64, "cpu")
    fill(model, 0)
    tokens = hashing.integers("x", 0, (3, 20), 512, "cpu")
    with torch.inference_mode(), highest():
        exact, found = model(tokens), Layerwise(model, torch.float64)
        assert float((found.head(found.forward(tokens)) - exact).norm() / exact.norm()) < 1e-14
        short = build(MODELS[name], Operators(), torch.bfloat16, "cpu")
        fill(short, 0)
        wide = Layerwise(short, torch.float32)
        assert float((wide.head(wide.forward(tokens)) - exact).norm() / exact.norm()) < 1e-5


def test_probe_weights_fit_bfloat16_and_are_the_hash_times_powers_of_two():
    model, plain = (build(TINY, Operators(), torch.float32, "cpu") for _ in range(2))
    weights.fill_probe(model, 3)
    weights.fill(plain, 3)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, mine.bfloat16().float())
        ratio = (mine / theirs)[theirs != 0].log2()
        assert torch.equal(ratio, ratio.round())
    assert weights.checksum(model) != weights.checksum(plain)


def logits(rows, spread=1.3, vocabulary=500, seed=0):
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def draw(x, temperature=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.softmax(x / temperature, -1), 1, generator=generator)[:, 0]


def test_right_draws_raise_no_alarm_and_their_bounds_are_honest():
    found = [sampler.look(x, draw(x, 0.8, s), 0.8, str(s)).p_value[0] for s in range(200) for x in [logits(64, seed=s)]]
    assert min(found) > 1e-4
    assert sum(p < 0.1 for p in found) < 60


@pytest.mark.parametrize("count", [400])
@pytest.mark.parametrize(
    "wrong",
    {
        "temperature": lambda x: draw(x, 1.0),
        "greedy": lambda x: x.argmax(-1),
        "shifted": lambda x: (draw(x, 0.7) + 1) % 500,
        "half": lambda x: draw(x[:, :250], 0.7),
        "top 50": lambda x: draw(x.masked_fill(x < x.topk(50)[0][:, -1:], float("-inf")), 0.7),
        "one random number": lambda x: torch.cat([draw(row[None], 0.7, 5) for row in x]),
    }.items(),
    ids=lambda item: item[0],
)
def test_wrong_draws_are_found(count, wrong):
    x = logits(1).expand(count, -1)
    assert sampler.look(x, wrong[1](x), 0.7, "x").p_value[0] < sampler.ALARM


def test_how_many_draws_are_needed_is_neither_bold_nor_wasteful():
    x = logits(1)
    needed = sampler.draws_needed(x[0], 0.7)
    assert 100 < needed < 400
    for seed in range(50):
        ones = draw(x.expand(int(needed) + 1, -1), 1.0, seed)
        assert sampler.look(x, ones, 0.7, "x").p_value[0] < sampler.ALARM
    assert sampler.draws_needed(torch.zeros(500), 0.7) > 1e9
