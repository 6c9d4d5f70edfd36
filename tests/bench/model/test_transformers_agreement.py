"""Our GPT against transformers in float32, its weights read from the checkpoint that transformers saved."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")
pytest.importorskip("pydantic")

from bench.model.checkpoint import find_tokenizer, load_checkpoint  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.spec import from_dict  # noqa: E402
from orchestrator.plan.checkpoint import inspect_checkpoint  # noqa: E402
from orchestrator.plan.models import from_huggingface  # noqa: E402

LIMIT = 1e-5  # relative error of the logits
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def small(seed):
    """Return sizes of a small random model, the same for each architecture."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    kv_heads, groups = draw.choice([1, 2, 3]), draw.choice([1, 2, 4])
    head = draw.choice([4, 10, 16])
    return {
        "hidden_size": kv_heads * groups * head,
        "intermediate_size": draw.choice([24, 56, 80]),
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": kv_heads * groups,
        "num_key_value_heads": kv_heads,
        "vocab_size": draw.choice([97, 160]),
        "max_position_embeddings": 128,
        "rms_norm_eps": draw.choice([1e-6, 1e-5]),
        "tie_word_embeddings": draw.random() < 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": draw.choice([10000.0, 500000.0])},
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def llama3(seed):
    return small(seed) | {"rope_parameters": {"rope_theta": 10000.0, **LLAMA3}}


def linear(seed):
    return small(seed) | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}}


def wide_heads(seed):
    sizes = small(seed)
    return sizes | {"head_dim": 2 * sizes["hidden_size"] // sizes["num_attention_heads"] + 2}


CASES = {
    **{f"llama-{seed}": ("Llama", small(seed)) for seed in range(5)},
    **{f"llama-wide-heads-{seed}": ("Llama", wide_heads(seed)) for seed in (10, 11)},
    **{f"llama3-{seed}": ("Llama", llama3(seed)) for seed in (20, 21, 22)},
    "llama-linear": ("Llama", linear(30)),
    **{f"mistral-{seed}": ("Mistral", small(seed) | {"sliding_window": None}) for seed in (40, 41)},
    **{f"mistral-window-{seed}": ("Mistral", wide_heads(seed) | {"sliding_window": 9}) for seed in (50, 51)},
    **{f"qwen2-{seed}": ("Qwen2", small(seed)) for seed in range(60, 64)},
    "qwen2-wide-heads": ("Qwen2", wide_heads(65)),
    "qwen2-window": ("Qwen2", small(66) | {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 0}),
}


def make(architecture, sizes, seed=0):
    """Return transformers' model with every parameter random: norms and biases too, or an ignored one would pass."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{architecture}Config")(**sizes)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
    return model


def load(folder):
    """Return our model from a checkpoint folder, by the way that a user's goes."""
    checkpoint = inspect_checkpoint(folder)
    config = from_dict(checkpoint.model.model_dump(mode="json"))
    model = build(config, Operators(), torch.float32, "cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    load_checkpoint(str(folder), dict(model.named_parameters()), config)
    return model


def relative(ours, theirs):
    return ((ours - theirs).double().norm() / theirs.double().norm()).item()


def cached(model, prompt, new):
    """Return the greedy tokens after `prompt` [1, time], and the logits that chose them."""
    time = prompt.shape[1]
    model.make_cache(1, time + new)
    logits = [model(prompt, torch.arange(time))[:, -1]]
    tokens = [logits[0].argmax(-1)]
    for place in range(time, time + new - 1):
        logits.append(model(tokens[-1][:, None], torch.tensor([place]))[:, -1])
        tokens.append(logits[-1].argmax(-1))
    return torch.cat(tokens).tolist(), torch.stack(logits, 1)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_tokens(case, tmp_path):
    architecture, sizes = CASES[case]
    theirs = make(architecture, sizes)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    vocabulary, new = sizes["vocab_size"], 24
    batch = torch.randint(vocabulary, (2, 50))
    prompt = torch.randint(vocabulary, (1, 7))
    with torch.inference_mode():
        error = relative(ours(batch), theirs(batch).logits)
        assert error <= LIMIT
        expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=new)[
            0, 7:
        ].tolist()
        tokens, logits = cached(ours, prompt, new)
        assert tokens == expected
        whole = torch.cat((prompt, torch.tensor([expected])), 1)
        cached_error = relative(logits, theirs(whole).logits[:, 6:-1])
        assert cached_error <= LIMIT
    print(f"{case}: logits {error:.1e}, cached {cached_error:.1e}")


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2"])
def test_sharded_and_single_file_are_the_same(architecture, tmp_path):
    theirs = make(architecture, small(3) | {"num_hidden_layers": 3, "tie_word_embeddings": False})
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = load(tmp_path / "one"), load(tmp_path / "many")
    for (name, a), (_, b) in zip(one.named_parameters(), many.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_old_and_new_rope_keys_are_the_same(tmp_path):
    make("Llama", llama3(1)).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    new = from_huggingface(raw, "m")
    rope = dict(raw.pop("rope_parameters"))
    raw |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    assert from_huggingface(raw, "m") == new
    assert new.rope_scaling == LLAMA3


def test_a_checkpoint_in_bfloat16_is_converted(tmp_path):
    theirs = make("Llama", small(2)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.embedding.weight.dtype == torch.float32
    assert torch.equal(ours.embedding.weight, theirs.model.embed_tokens.weight.float())


def test_damage_is_one_clear_line(tmp_path):
    make("Llama", small(0)).save_pretrained(tmp_path)
    config = from_dict(inspect_checkpoint(tmp_path).model.model_dump(mode="json"))
    parameters = dict(build(config, Operators(), torch.float32, "cpu").named_parameters())

    def refused(word, given):
        with pytest.raises(ValueError, match=word) as caught:
            load_checkpoint(str(tmp_path), given, config)
        assert "\n" not in str(caught.value)

    refused("shape", parameters | {"norm.weight": torch.empty(3)})
    refused("fills the parameter", parameters | {"other": torch.empty(3)})
    refused("no parameter norm.weight", {name: p for name, p in parameters.items() if name != "norm.weight"})
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused("model.safetensors", parameters)
    path.write_bytes(whole.replace(b"model.norm.weight", b"model.nine.weight"))
    refused("model.norm.weight", parameters)
    path.unlink()
    refused("neither", parameters)
    index = tmp_path / "model.safetensors.index.json"
    for content in ("{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {}}'):
        index.write_text(content)
        refused("index.json", parameters)


@pytest.fixture
def sentencepiece_folder(tmp_path):
    """A folder with a real SentencePiece model, of the Llama kind."""
    pytest.importorskip("sentencepiece")
    package = pytest.importorskip("mistral_common")
    file = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    if not file.is_file():
        pytest.skip("this mistral-common has no SentencePiece model of version 1")
    (tmp_path / "tokenizer.model").write_bytes(file.read_bytes())
    return tmp_path


def test_tokenizer(sentencepiece_folder):
    tokenizer = find_tokenizer(str(sentencepiece_folder))
    assert tokenizer is not None
    ids = tokenizer.encode("Hello, my name is")
    assert ids[0] == 1
    assert len(ids) == 6
    assert tokenizer.decode(ids) == "Hello, my name is"
    assert tokenizer.decode([*ids, 10**6]).startswith("Hello, my name is")


def test_no_tokenizer(tmp_path):
    assert find_tokenizer(str(tmp_path)) is None
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\n")
    assert find_tokenizer(str(tmp_path)) is None
    pytest.importorskip("sentencepiece")
    (tmp_path / "tokenizer.model").write_bytes(b"\nnonsense")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        find_tokenizer(str(tmp_path))
