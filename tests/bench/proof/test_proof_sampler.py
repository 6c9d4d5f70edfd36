"""The draws on a probe: wrong samplers by their kind, right ones by both ways of drawing."""

from __future__ import annotations

import bench_specs
import pytest

torch = pytest.importorskip("torch")

from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench.model import sampling  # noqa: E402
from bench.proof import generation, sampler  # noqa: E402
from bench.proof.checks import Checks  # noqa: E402

# Of many texts at once: as many draws in fewer calls.
MANY = {**PROBE, **TEXT, "batch": 16}
DRAWS = {name: getattr(sampler, name) for name in ("FIRST_DRAWS", "ALL_DRAWS", "LEAST_EXPECTED")}
RIGHT = {"generation": sampling.exponential, "model_inference": sampling.multinomial}
NAMES = {"generation": "exponential", "model_inference": "multinomial"}
# Blocks of 1024, the last of them partial, as 32000's is.
WIDE = {**bench_specs.MODELS["tiny"], "vocabulary": 2304}


def without(*ids):
    """Some ids are never drawn."""

    def masked(logits):
        wrong = logits.clone()
        wrong[:, list(ids)] = float("-inf")
        return wrong

    return masked


def top_p(part):
    def masked(logits):
        ordered, order = (logits.float() / generation.TEMPERATURE).softmax(-1).sort(-1, descending=True)
        cut = ordered.cumsum(-1) - ordered > part
        return logits.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), float("-inf"))

    return masked


def top_k(count):
    return lambda logits: logits.masked_fill(logits < logits.topk(count)[0][:, -1:], float("-inf"))


FAULTS = {
    "never the last id": (without(-1), "sampler: ", "id 511: drawn 0 times"),
    "never the first id": (without(0), "sampler: ", "id 0: drawn 0 times"),
    "never the first of a block of 32": (without(480), "sampler: ", "id 480: drawn 0 times"),
    "top-p 0.99": (top_p(0.99), "sampler: ", "least likely ids"),
    "top-k 200": (top_k(200), "sampler: ", ""),
    "top-k 50": (top_k(50), "sampler: ", ""),
    "temperature up by 2 %": (lambda logits: logits / 1.02, "temperature: ", "as at 0.5"),
    "temperature down by 2 %": (lambda logits: logits * 1.02, "temperature: ", "as at 0.4"),
    "temperature ignored": (lambda logits: logits * generation.TEMPERATURE, "temperature: ", ""),
}
WIDE_FAULTS = {
    "never the last of a block of 1024": (without(1023), "sampler: ", "id 1023: drawn 0 times"),
    "never the first of a block of 1024": (without(2048), "sampler: ", "id 2048: drawn 0 times"),
    "the last partial block missing": (without(*range(2048, 2304)), "sampler: ", ""),
}


def cell_of(folder, monkeypatch, benchmark, *, wrong=None, **changes):
    """A probe's cell whose sampler takes `wrong` logits where it is sharp: the texts are drawn rightly."""

    def draw(logits, temperature):
        return RIGHT[benchmark](wrong(logits) if wrong and float(temperature) != 1 else logits, temperature)

    monkeypatch.setattr(sampling, NAMES[benchmark], draw)
    for name, value in DRAWS.items():
        monkeypatch.setattr(sampler, name, value)
    return run(folder, benchmark, **{**MANY, **changes})


# What is wrong is so before it is drawn: of the other way of drawing one fault of each check is enough.
@pytest.mark.parametrize(
    ("benchmark", "fault"),
    [
        *(("generation", fault) for fault in (*FAULTS, *WIDE_FAULTS)),
        *(("model_inference", fault) for fault in ("never the last id", "temperature up by 2 %")),
    ],
)
def test_a_wrong_sampler_is_found_and_named(tmp_path, monkeypatch, benchmark, fault):
    wrong, check, what = {**FAULTS, **WIDE_FAULTS}[fault]
    monkeypatch.setitem(bench_specs.MODELS, "wide", WIDE)
    record = cell_of(tmp_path, monkeypatch, benchmark, wrong=wrong, model="wide" if fault in WIDE_FAULTS else "tiny")
    assert record["status"] == "incorrect"
    assert record["reason"].startswith(f"{benchmark}: {check}")
    assert what in record["reason"]


@pytest.mark.parametrize("benchmark", ["generation", "model_inference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["tiny", "tiny_gqa", "wide"])
def test_a_right_sampler_passes_and_its_power_is_there(tmp_path, monkeypatch, benchmark, dtype, model):
    monkeypatch.setitem(bench_specs.MODELS, "wide", WIDE)
    record = cell_of(tmp_path, monkeypatch, benchmark, dtype=dtype, model=model)
    found = {item["name"]: item for item in record["proof"]["checks"]}
    assert (record["status"], record["reason"]) == ("ok", None)
    assert (found["sampler"]["status"], found["temperature"]["status"]) == ("passed", "passed"), found


@pytest.mark.parametrize(("temperature", "draws"), [(1.0, 1), (1.015, 2)])
def test_more_draws_are_made_where_the_first_ones_are_suspicious(tmp_path, monkeypatch, temperature, draws):
    looks = []
    look = sampler.Sharp.look

    def looked(self, logits, tokens, at):
        looks.append(tokens.numel())
        return look(self, logits, tokens, at)

    monkeypatch.setattr(sampler.Sharp, "look", looked)
    cell_of(tmp_path, monkeypatch, "generation", wrong=lambda logits: logits / temperature)
    assert looks == [3_008, 16_000][:draws]


def test_the_head_is_what_it_was_before(tmp_path, monkeypatch):
    seen = []
    judge = sampler.Seen.judge

    def judged(self, checks):
        seen.append(proof.weight.clone())
        judge(self, checks)

    init = generation.Proof.__init__

    def keep(self, *arguments):
        nonlocal proof
        proof = self
        init(self, *arguments)
        seen.append(self.weight.clone())

    proof = None
    monkeypatch.setattr(generation.Proof, "__init__", keep)
    monkeypatch.setattr(sampler.Seen, "judge", judged)
    run(tmp_path, "generation", **PROBE, **TEXT)
    assert torch.equal(*seen)


def test_a_step_with_a_head_of_its_own_is_unchecked(tmp_path, monkeypatch):
    def copied(target):
        model = target.__closure__[0].cell_contents
        head = model.head.weight.clone()
        model.head.forward = lambda x: torch.nn.functional.linear(x, head)
        return target

    import planted

    from bench import methods

    monkeypatch.setattr(methods, "load", lambda _: planted.method(step=copied))
    record = run(tmp_path, "generation", **PROBE, **TEXT)
    found = {item["name"]: item for item in record["proof"]["checks"]}
    assert (record["status"], found["sampler"]["status"]) == ("ok", "unchecked")
    assert "does not read the head" in found["sampler"]["what"]


@pytest.mark.parametrize("vocabulary", [64, 512, 2304, 32000, 32003, 128256])
def test_the_sharp_distribution_is_one_and_has_every_border(vocabulary):
    sharp = sampler.Sharp(vocabulary, "cpu")
    assert float(sharp.log_p.exp().sum()) == pytest.approx(1)
    assert {"id 0", f"id {vocabulary - 1}"} <= set(sharp.sets)
    assert all(f"id {edge + d}" in sharp.sets for edge in range(1024, vocabulary, 1024) for d in (-1, 0))
    hidden = torch.linspace(-1, 2, 64)
    rows = sharp.head(hidden, torch.ones(64), 0.5)
    assert torch.allclose(torch.log_softmax(rows @ hidden.double() / 0.5, -1), sharp.log_p)


def test_the_bound_of_a_count_is_one():
    n, p = 4000, 0.005
    drawn = torch.distributions.Binomial(n, torch.tensor(p)).sample((20_000,)).tolist()
    bounds = [sampler.count_bound(int(count), n, p) for count in drawn]
    for level in (0.5, 0.1, 0.01):
        assert sum(bound < level for bound in bounds) < level * len(bounds)
    assert sampler.count_bound(0, n, p) < 1e-6 < sampler.count_bound(10, n, p)
    assert sampler.count_bound(3, n, 0.0) == 0.0


def test_equal_draws_of_right_tokens_raise_no_alarm_at_many_seeds():
    sharp, checks = sampler.Sharp(512, "cpu"), Checks()
    logits = (0.5 * sharp.log_p).expand(2, -1)
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(torch.softmax(logits / 0.5, -1), 4000, replacement=True, generator=generator)
        sharp.look(logits, drawn.T, 0.5).judge(checks)
    assert {item["status"] for item in checks.items} == {"passed"}
