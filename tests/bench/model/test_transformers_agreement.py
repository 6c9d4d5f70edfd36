"""Our GPT against transformers in float32, its weights read from the checkpoint that transformers saved."""

from __future__ import annotations

import json
import random
import sys
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

LIMIT = 1e-5  # relative error of the logits, and of each parameter's gradient
SEEDS = 20
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0}


class Draw(random.Random):
    """What makes the sizes of a small random model."""

    def __init__(self, family, seed):
        super().__init__(f"{family}/{seed}")
        kv_heads, groups = self.choice([(1, 2), (1, 4), (2, 1), (2, 2), (3, 1), (3, 4)])
        head = self.choice([8, 10, 16])  # in a width below 16 rounding alone makes gradients differ by 1e-5
        self.sizes = {
            "hidden_size": kv_heads * groups * head,
            "intermediate_size": self.choice([24, 56, 80]),
            "num_hidden_layers": self.choice([1, 2, 3]),
            "num_attention_heads": kv_heads * groups,
            "num_key_value_heads": kv_heads,
            "vocab_size": self.choice([97, 160]),
            "max_position_embeddings": 128,
            "rms_norm_eps": self.choice([1e-6, 1e-5]),
            "tie_word_embeddings": self.coin(),
            "rope_parameters": {"rope_type": "default", "rope_theta": self.choice([10000.0, 500000.0])},
            "bos_token_id": 1,
            "eos_token_id": None,
            "pad_token_id": 0,
        }

    def coin(self):
        return self.random() < 0.5

    def wide(self):
        """Return a head size of its own, as often as not."""
        size = self.sizes["hidden_size"] // self.sizes["num_attention_heads"]
        return {"head_dim": 2 * size + 2 if self.coin() else size}

    def scaled(self):
        """Return rotary settings of any kind."""
        more = {"attention_factor": 1.25} if self.coin() else {"truncate": False, "beta_fast": 8.0}
        kinds = [{}, LINEAR, LLAMA3, YARN, YARN | more, {"rope_type": "dynamic", "factor": 2.0}]
        return {"rope_parameters": self.sizes["rope_parameters"] | self.choice(kinds)}

    def kinds(self):
        """Return each layer's kind."""
        return [self.choice(["full_attention", "sliding_attention"]) for _ in range(self.sizes["num_hidden_layers"])]


def llama(draw):
    return draw.wide() | draw.scaled()


def mistral(draw):
    return draw.wide() | draw.scaled() | {"sliding_window": draw.choice([None, 9])}


def qwen2(draw):
    window = {"use_sliding_window": True, "sliding_window": 11}
    layers = draw.choice([{"max_window_layers": draw.choice([0, 1])}, {"layer_types": draw.kinds()}])
    return draw.scaled() | draw.choice([{}, window | layers])


def qwen3(draw):
    return qwen2(draw) | draw.wide()


def gemma2(draw):
    caps = {"attn_logit_softcapping": draw.choice([2.0, None]), "final_logit_softcapping": draw.choice([1.5, None])}
    kinds = {"layer_types": draw.kinds()} if draw.coin() else {}
    return draw.wide() | caps | kinds | {"query_pre_attn_scalar": draw.choice([7, 16]), "sliding_window": 9}


def gemma3(draw):
    rope = {
        "full_attention": {"rope_theta": 1e6, **draw.choice([{"rope_type": "default"}, LINEAR])},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    kinds = {"sliding_window_pattern": draw.choice([2, 3])} if draw.coin() else {"layer_types": draw.kinds()}
    sizes = {"query_pre_attn_scalar": draw.choice([7, 16]), "sliding_window": 9, "rope_parameters": rope}
    return draw.wide() | kinds | sizes | {"final_logit_softcapping": draw.choice([1.5, None])}


def phi3(draw):
    size = draw.sizes["hidden_size"] // draw.sizes["num_attention_heads"]
    share = draw.choice([1.0, 0.5]) if size % 4 == 0 else 1.0
    pairs = int(size * share) // 2
    rope = {"rope_theta": 1e4, "partial_rotary_factor": share, "rope_type": "default"}
    if draw.coin():
        factors = {f"{kind}_factor": [1 + draw.random() for _ in range(pairs)] for kind in ("short", "long")}
        rope |= {"rope_type": "longrope", **factors}
    sizes = {"rope_parameters": rope, "original_max_position_embeddings": 64, "max_position_embeddings": 256}
    return sizes | {"sliding_window": draw.choice([None, 9])}


def experts(draw, key):
    active = draw.choice([2, 3])  # of one alone the weight is 1, and what the router learns is rounding
    return {key: draw.choice([active, 5, 8]), "num_experts_per_tok": active}


def mixtral(draw):
    return mistral(draw) | experts(draw, "num_local_experts")


def qwen_experts(draw):
    layers = {"decoder_sparse_step": draw.choice([1, 2]), "mlp_only_layers": draw.choice([[], [0]])}
    return experts(draw, "num_experts") | layers | {"moe_intermediate_size": 24, "norm_topk_prob": draw.coin()}


def qwen3_moe(draw):
    window = draw.choice([{}, {"use_sliding_window": True, "sliding_window": 9}])
    return draw.wide() | draw.scaled() | window | qwen_experts(draw)


def qwen2_moe(draw):
    return draw.scaled() | qwen_experts(draw) | {"shared_expert_intermediate_size": 40, "qkv_bias": draw.coin()}


FAMILIES = {
    "Llama": llama,
    "Mistral": mistral,
    "Qwen2": qwen2,
    "Qwen3": qwen3,
    "Gemma2": gemma2,
    "Gemma3": gemma3,
    "Phi3": phi3,
    "Mixtral": mixtral,
    "Qwen3Moe": qwen3_moe,
    "Qwen2Moe": qwen2_moe,
}
CASES = {f"{family}-{seed}": (family, seed) for family in FAMILIES for seed in range(SEEDS)}


def sizes_of(family, seed=0):
    """Return the configuration of a small random model of a family."""
    draw = Draw(family, seed)
    return draw.sizes | FAMILIES[family](draw)


def make(architecture, sizes, seed=0):
    """Return transformers' model with every parameter random: norms and biases too, or an ignored one would pass."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{architecture}{'Text' if architecture == 'Gemma3' else ''}Config")(**sizes)
    config._attn_implementation = config._experts_implementation = "eager"  # others leave out Gemma 2's caps
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5).sub_(1.0 if architecture.startswith("Gemma") else 0.0)
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


def next_token_loss(logits, tokens):
    return Operators().loss(logits[:, :-1], tokens[:, 1:])


def old_keys(raw):
    """Return a configuration of transformers 5 as transformers 4 wrote it."""
    raw = dict(raw)
    raw["torch_dtype"] = raw.pop("dtype")
    rope = dict(raw.pop("rope_parameters"))
    if "full_attention" in rope:
        raw["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    raw["rope_theta"] = rope.pop("rope_theta")
    if (share := rope.pop("partial_rotary_factor", None)) is not None:
        raw["partial_rotary_factor"] = share
    if rope.get("rope_type") != "default":
        raw["rope_scaling"] = rope
    return raw


@pytest.mark.parametrize("case", CASES)
def test_logits_greedy_tokens_and_gradients(case, tmp_path):
    family, seed = CASES[case]
    sizes = sizes_of(family, seed)
    theirs = make(family, sizes, seed)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert from_huggingface(old_keys(raw), "m") == from_huggingface(raw, "m")
    vocabulary, new = sizes["vocab_size"], 24
    batch = torch.randint(1, vocabulary, (2, 50))  # theirs learns nothing of id 0, which pads
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
    next_token_loss(ours(batch), batch).backward()
    next_token_loss(theirs(batch).logits, batch).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    wanted = dict(load(tmp_path / "gradients").named_parameters())
    errors = {name: relative(one.grad, wanted[name]) for name, one in ours.named_parameters() if wanted[name].any()}
    worst = max(errors, key=errors.get)
    print(f"{case}: logits {error:.1e}, cached {cached_error:.1e}, gradient of {worst} {errors[worst]:.1e}")
    assert errors[worst] <= LIMIT


@pytest.mark.parametrize("architecture", ["Llama", "Phi3", "Qwen3Moe"])
def test_sharded_and_single_file_are_the_same(architecture, tmp_path):
    theirs = make(
        architecture,
        sizes_of(architecture) | {"num_hidden_layers": 3, "tie_word_embeddings": False, "layer_types": None},
    )
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = load(tmp_path / "one"), load(tmp_path / "many")
    for (name, a), (_, b) in zip(one.named_parameters(), many.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_text_model_of_several_inputs_is_taken(tmp_path):
    vision = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    text = sizes_of("Gemma3") | {"num_hidden_layers": 3}
    text.pop("layer_types", None)
    config = transformers.Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    torch.manual_seed(0)
    theirs = transformers.Gemma3ForConditionalGeneration(config).to(torch.float32).eval()
    theirs.save_pretrained(tmp_path)
    ours, tokens = load(tmp_path), torch.randint(90, (2, 20))
    with torch.inference_mode():
        assert relative(ours(tokens), theirs(tokens).logits) <= LIMIT


def test_a_checkpoint_in_bfloat16_is_converted(tmp_path):
    theirs = make("Llama", sizes_of("Llama", 2)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.embedding.weight.dtype == torch.float32
    assert torch.equal(ours.embedding.weight, theirs.model.embed_tokens.weight.float())


def test_damage_is_one_clear_line(tmp_path):
    make("Llama", sizes_of("Llama")).save_pretrained(tmp_path)
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


@pytest.fixture
def byte_pairs(tmp_path):
    """A tokenizer of byte pairs, as those families have that come without SentencePiece; what it begins with is 0."""
    package = pytest.importorskip("tokenizers")
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(vocab_size=300, special_tokens=["<begin>"], show_progress=False)
    made.train_from_iterator(["Hello, my name is", "hello my names are others"] * 3, trainer)
    made.post_processor = package.processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    return made, tmp_path


def test_a_tokenizer_json_is_as_its_package_reads_it(byte_pairs):
    theirs, folder = byte_pairs
    ours = find_tokenizer(str(folder))
    assert ours is not None
    for text in ("Hello, my name is", "naïve 文 \n\ttabs", ""):
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids
        assert ids[0] == 0
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ours.encode("my name")) == "my name"
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: is not a tokenizer"):
        find_tokenizer(str(folder)).encode("a")


def test_a_tokenizer_json_does_not_count_without_its_package(byte_pairs, monkeypatch):
    assert find_tokenizer(str(byte_pairs[1])) is not None
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert find_tokenizer(str(byte_pairs[1])) is None
