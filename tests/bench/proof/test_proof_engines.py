"""Engines' cells: right ones pass every check, and each planted fault is found and named, through the same adapter."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import engine_cells  # noqa: E402

from bench.benchmarks import engine as tasks  # noqa: E402
from bench.engine import Scores, plausible  # noqa: E402
from bench.methods import transformers as adapter  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.proof import engine, engine_answers  # noqa: E402
from bench.proof.checks import Checks  # noqa: E402

PROBE = {"dtype": "float32", "weights": {"source": "probe", "seed": 0, "fingerprint": None}}
TEXT = {"new_tokens": 20, "iterations": 3, "warmup": 1, "prompt": [1, 15, 29, 59, 300]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(dispatch, "gather", lambda *arguments: None)
    monkeypatch.setattr(engine, "seen_again", lambda *arguments: 1.0)


def run(folder, engine_class, monkeypatch, **changes):
    monkeypatch.setattr(adapter, "Transformers", engine_class)
    return engine_cells.run(folder, **{**PROBE, **TEXT, **changes})


def checks_of(record):
    return {check["name"]: check for check in record["proof"]["checks"]}


def test_a_right_engine_passes_every_check(tmp_path, monkeypatch):
    record = run(tmp_path, adapter.Transformers, monkeypatch, batch=2)
    assert (record["status"], record["reason"]) == ("ok", None)
    assert {check["status"] for check in record["proof"]["checks"]} == {"passed"}
    assert set(checks_of(record)) == set(engine.ORDER)
    assert record["detail"]["engine"]["cache_dtype"] == "float32"
    assert record["detail"]["startup"]["startup_ns"] > record["detail"]["startup"]["first_call_ns"] > 0
    assert all(0 < s["first_token_ns"] < s["end_ns"] - s["begin_ns"] for s in record["samples"])


def test_a_right_engine_in_bfloat16_passes_on_the_hashs_own_weights(tmp_path, monkeypatch):
    hashed = {"source": "hash", "seed": 0, "fingerprint": None}
    record = run(tmp_path, adapter.Transformers, monkeypatch, dtype="bfloat16", weights=hashed, new_tokens=48)
    assert (record["status"], record["reason"]) == ("ok", None)
    assert "alone" not in checks_of(record)


class Dropped(adapter.Transformers):
    """The fourth token of a text gets lost on its way."""

    def generate(self, *args, **more):
        return [row[:3] + row[4:] for row in super().generate(*args, **more)]


class Early(adapter.Transformers):
    """A text ends where it draws an id that the engine takes for an end."""

    def generate(self, *args, **more):
        return [row[:7] for row in super().generate(*args, **more)]


class Padded(adapter.Transformers):
    """A text ends early and is filled up with one id."""

    def generate(self, *args, **more):
        return [row[:-12] + [0] * 12 for row in super().generate(*args, **more)]


class Kept(adapter.Transformers):
    """The cache of the last prompt is still there: a text goes on where the one before it ended."""

    before = None

    def score(self, rows, prompt, ids):
        whole = rows if self.before is None else [a + b for a, b in zip(self.before, rows, strict=True)]
        found, self.before = super().score(whole, len(whole[0]) - len(rows[0]) + prompt, ids), rows
        return found


class Chunked(adapter.Transformers):
    """The prompt is prefilled in two chunks, and the first one's keys are lost."""

    def run(self, prompts, *args, **more):
        mask = torch.ones(len(prompts), len(prompts[0]), dtype=torch.long)
        mask[:, :2] = 0
        generate = self.model.generate
        # Places as they were: only what the tokens attend to is less.
        places = torch.arange(len(prompts[0])).expand(len(prompts), -1)
        self.model.generate = lambda tokens, attention_mask, **rest: generate(
            tokens, attention_mask=mask, position_ids=places, **rest
        )
        try:
            return super().run(prompts, *args, **more)
        finally:
            self.model.generate = generate


class Changed(adapter.Transformers):
    """Keys and values [batch, heads, time, size] are changed on their way into the cache."""

    def run(self, *args, **more):
        from transformers.cache_utils import DynamicLayer

        update = DynamicLayer.update

        def faulty(layer, k, v, *rest, **others):
            return update(layer, self.changed(k), self.changed(v), *rest, **others)

        DynamicLayer.update = faulty
        try:
            return super().run(*args, **more)
        finally:
            DynamicLayer.update = update


class Coarse(Changed):
    """They are kept in bfloat16, and the engine says that they are not."""

    def changed(self, x):
        return x.bfloat16().to(x.dtype)


class Emptied(Changed):
    """The prompt's first chunk is never computed: its places in the cache hold zeros."""

    def changed(self, x):
        return x if x.shape[2] == 1 else torch.cat([torch.zeros_like(x[:, :, :2]), x[:, :, 2:]], dim=2)


class Top(adapter.Transformers):
    """Only the 40 largest log-probabilities come back."""

    shift = 0

    def top(self, scores):
        values, ids = torch.log_softmax(scores.values, dim=-1).topk(40, dim=-1)
        return Scores(values.roll(self.shift, dims=-1), ids, scores.by)

    def twin(self, *args, **more):
        tokens, scores = super().twin(*args, **more)
        return tokens, self.top(scores)

    def score(self, *args):
        return self.top(super().score(*args))


class Shifted(Top):
    """They stand one place beside their ids."""

    shift = 1


class Lacking(Top):
    """The likeliest id is not among them."""

    def top(self, scores):
        values, ids = torch.log_softmax(scores.values, dim=-1).topk(41, dim=-1)
        return Scores(values[..., 1:], ids[..., 1:], scores.by)


class Asked(adapter.Transformers):
    """The log-probabilities of those ids that bench asks for."""

    def twin(self, prompts, new_tokens, *, ids, **more):
        tokens, scores = super().twin(prompts, new_tokens, ids=ids, **more)
        return tokens, self.at(scores, ids)

    def score(self, rows, prompt, ids):
        return self.at(super().score(rows, prompt, ids), ids)

    def at(self, scores, ids):
        wanted = torch.tensor(ids)
        return Scores(torch.log_softmax(scores.values, dim=-1)[..., wanted], wanted, scores.by)


class Hot(adapter.Transformers):
    """Tokens are drawn over half of the temperature."""

    def run(self, prompts, new_tokens, temperature, seed, **more):
        return super().run(prompts, new_tokens, temperature / 2, seed, **more)


class Reusing(adapter.Transformers):
    """It says that it keeps prefixes."""

    def settings(self):
        return {**super().settings(), "prefix_cache": True}


class Silent(adapter.Transformers):
    """It has no scores to give, and does not say in what it keeps its cache."""

    def score(self, rows, prompt, ids):
        from bench.status import Unsupported

        raise Unsupported("no scores come out of it")

    def settings(self):
        return {**super().settings(), "cache_dtype": None}


class Short(adapter.Transformers):
    """A row of the batch is lost, and of the other one all but three tokens."""

    def generate(self, *args, **more):
        return [row[:3] for row in super().generate(*args, **more)][:1]


class Undefined(adapter.Transformers):
    """Of one step it has no scores."""

    def score(self, *args):
        scores = super().score(*args)
        scores.values[0, 1] = float("nan")
        return scores


class Bare(adapter.Transformers):
    """Scores come without saying of which ids."""

    def score(self, *args):
        return super().score(*args).values


FAULTS = [
    (Dropped, "generation: tokens: sample 0, row 0: 19 of 20 tokens; token 3 is missing"),
    (Early, "generation: tokens: sample 0, row 0: 7 of 20 tokens; it ends early, after token 7"),
    (Padded, "generation: greedy: "),
    (Kept, "resembles the last prompt's cache kept"),
    (Chunked, "resembles the first 2 tokens of the prompt dropped"),
    (Emptied, "resembles nothing in the cache of the first 2 tokens of the prompt"),
    (Coarse, "resembles bfloat16 cache"),
    (Shifted, "resembles log-probabilities shifted by one place"),
    (Lacking, "generation: worst step: its top 40 lack likelier ids"),
    (Hot, "generation: sampler: "),
    (Reusing, "generation: same work: prefix_cache is on"),
    (Short, "generation: tokens: sample 0: 1 texts of 2"),
    (Undefined, "generation: finite: NaN or infinite scores in "),
    (Bare, "its scores are a Tensor, not bench.engine.Scores"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_is_found_and_named(tmp_path, monkeypatch, fault, said):
    record = run(tmp_path, fault, monkeypatch, **({"batch": 2} if fault is Short else {}))
    assert record["status"] == "incorrect", record["reason"]
    assert said in record["reason"]


class Unmarked(adapter.Transformers):
    """It does not say when its first token came."""

    def generate(self, *args, on_token, **more):
        return super().generate(*args, on_token=lambda count: None, **more)


class Stamped(adapter.Transformers):
    """It says so by another clock."""

    def generate(self, *args, on_token, **more):
        return super().generate(*args, on_token=lambda count: on_token(count, 5), **more)


class Nothing(adapter.Transformers):
    """It returns nothing."""

    def generate(self, *args, **more):
        super().generate(*args, **more)


class Clinging(adapter.Transformers):
    """It cannot be closed."""

    def close(self):
        raise RuntimeError("it is in use")


class Broken(Clinging):
    """Nor can it generate."""

    def generate(self, *args, **more):
        raise RuntimeError("a kernel failed")


class Tensors(adapter.Transformers):
    """What it says of itself is no text and no number."""

    def settings(self):
        return {**super().settings(), "cache_tokens": torch.tensor(3)}


class Full(adapter.Transformers):
    """Its cache does not fit, in vLLM's words."""

    def __init__(self, *args):
        raise ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.")


BROKEN = [
    (Unmarked, "incorrect", "generate did not call on_token(1): when the first token came is not known"),
    (Stamped, "incorrect", "on_token(1, at_ns=5) is not a time of this call on CLOCK_MONOTONIC"),
    (Nothing, "incorrect", "generate returned NoneType, not the new tokens of each row"),
    (Clinging, "crashed", "close() raised RuntimeError: it is in use"),
    (Broken, "crashed", "RuntimeError: a kernel failed"),
    (Tensors, "crashed", "settings(): cache_tokens is tensor(3), which is not JSON"),
    (Full, "out_of_memory", "ValueError: No available memory for the cache blocks."),
    (lambda *_: None, "crashed", "load returned NoneType, which has no generate: it has to return an engine"),
]


@pytest.mark.parametrize(("broken", "status", "said"), BROKEN, ids=[said for _, _, said in BROKEN])
def test_an_adapter_that_breaks_its_contract_is_a_row_with_its_reason(tmp_path, monkeypatch, broken, status, said):
    record = run(tmp_path, broken, monkeypatch)
    assert record["status"] == status
    assert record["reason"].startswith(said)


@pytest.mark.parametrize("right", [Top, Asked])
def test_fewer_ids_prove_it_too(tmp_path, monkeypatch, right):
    record = run(tmp_path, right, monkeypatch)
    assert (record["status"], record["reason"]) == ("ok", None)
    assert {check["status"] for check in record["proof"]["checks"]} == {"passed"}


def test_what_an_engine_cannot_show_is_unchecked_and_says_so(tmp_path, monkeypatch):
    record = run(tmp_path, Silent, monkeypatch)
    assert record["status"] == "ok"
    assert record["flags"] == ["unchecked", "cold"]
    found = checks_of(record)
    assert found["same work"]["what"] == "the engine does not say: cache_dtype"
    assert found["repeat"]["what"] == "Unsupported: no scores come out of it"
    assert {found[name]["status"] for name in ("decode", "greedy", "tokens")} == {"passed"}


def test_a_cache_in_another_type_is_refused_by_what_the_engine_reports():
    class Of:
        workload = type("W", (), {"dtype": "bfloat16", "batch": 2})
        prompt, new_tokens = 2, 6

    settings = dict.fromkeys(("weights_dtype", "activation_dtype"), "bfloat16")
    settings |= {"cache_dtype": "fp8_e4m3", "prefix_cache": False, "speculation": False, "cache_tokens": 15}
    checks = Checks()
    engine_answers.same_work(settings, Of, checks)
    assert checks.items[0]["what"] == "cache_dtype is fp8_e4m3, the workload's is bfloat16"
    checks = Checks()
    engine_answers.same_work({**settings, "cache_dtype": "bfloat16"}, Of, checks)
    assert checks.items[0]["what"] == "its cache holds 15 tokens, the batch needs 16"


def test_peaks_of_a_process_without_the_weights_are_not_known(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"0" * 100)
    peaks = {"process_bytes": 99, "steady_bytes": 100, "reserved_bytes": None, "host_bytes": 5}
    known = {"process_bytes": None, "steady_bytes": 100, "reserved_bytes": None, "host_bytes": 5}
    assert plausible(peaks, str(tmp_path)) == known


def test_inputs_are_those_of_other_methods(tmp_path):
    from bench_specs import write_spec

    from bench import cell
    from bench.spec import read_spec

    ours = cell.run(read_spec(write_spec(tmp_path / "eager", "generation", **TEXT)))
    theirs = engine_cells.run(tmp_path / "engine", **TEXT)
    for key in ("inputs_checksum", "weights_checksum", "parameters"):
        assert theirs["proof"][key] == ours["proof"][key]
    assert [s["shape"] for s in theirs["samples"]] == [s["shape"] for s in ours["samples"]]
    assert tasks.EngineTask.inference
