"""A training step's proof: gradients block by block are autograd's, right methods pass, each planted fault is named."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bench_specs import write_spec  # noqa: E402

from bench import benchmarks, cell, methods  # noqa: E402
from bench import spec as config  # noqa: E402
from bench.model import weights  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.observe.clock import Clock  # noqa: E402
from bench.operators import Operators, attention, loss, widen  # noqa: E402
from bench.proof import backward, training, training_truth  # noqa: E402
from bench.proof import layerwise as layerwise_module  # noqa: E402
from bench.proof.checks import Checks, first_failed  # noqa: E402
from bench.proof.layerwise import Layerwise  # noqa: E402
from bench.proof.reference_file import Reference  # noqa: E402
from bench.spec import Workload, read_spec  # noqa: E402

PLAIN = dataclasses.replace(
    config.named("tiny"), layers=2, width=48, heads=4, kv_heads=4, head_size=12, mlp_width=96, vocabulary=211
)
MODELS = {
    "untied": PLAIN,
    "tied": dataclasses.replace(PLAIN, tied_head=True),
    "grouped": dataclasses.replace(PLAIN, kv_heads=2),
    "biased": dataclasses.replace(PLAIN, qkv_bias=True),
    "windowed": dataclasses.replace(PLAIN, sliding_window=5),
    "large": dataclasses.replace(PLAIN, vocabulary=9000),  # with LONG, too large for more gradients in the cell
}
LONG = {"model": "large", "benchmark": "train_dynamic", "time": 250}
ALL = {"finite", "gradients", "loss", "optimizer", "steps"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def eager(**operators):
    module = methods.load("eager")
    return SimpleNamespace(**{**vars(module), "operators": lambda: Operators(**operators)})


def make(
    model="untied", dtype="float32", benchmark="train_static", seed=0, *, method=None, rate=6e-4, batch=2, time=16
):
    method = method or eager()
    shortest = 4 if benchmark == "train_dynamic" else None
    workload = Workload(
        benchmark, MODELS[model], {"source": "hash", "seed": seed}, dtype, seed, 6, 2, batch=batch, sequence=time,
        shortest=shortest, ids_below=100, learning_rate=rate, weight_decay=0.1,
    )  # fmt: skip
    gpt = build(MODELS[model], method.operators(), getattr(torch, dtype), "cpu")
    context = benchmarks.Context(workload, gpt, method, Clock("cpu"), "cpu", None, lambda: weights.fill(gpt, seed))
    context.refill()
    return context, benchmarks.load(benchmark).build(context)


def make_reference(context, task):
    common = {"stack": "cpu", "dtype": "float", "weights_checksum": weights.checksum(context.model)}
    tensors, facts = training.make(context, task)
    return Reference(tensors, {**common, **facts})


@functools.cache
def eagers_own(model, dtype, benchmark, seed, *, rate, batch, time):
    """The reference of a workload, made once for all tests."""
    return make_reference(*make(model, dtype, benchmark, seed, rate=rate, batch=batch, time=time))


def check(context, task, **changes):
    """What the checks say after three timed steps; the reference is eager's own on the same workload."""
    workload = context.workload
    reference = eagers_own(
        next(name for name, shape in MODELS.items() if shape == workload.model), workload.dtype, workload.benchmark,
        workload.seed, rate=workload.learning_rate, batch=workload.batch, time=workload.sequence,
    )  # fmt: skip
    for index in range(changes.get("timed", 3)):
        inputs = task.inputs(index)
        task.keep(index, inputs, task.call(inputs))
    checks = Checks()
    result = training.check(context, task, changes.get("reference", reference), checks)
    return checks, result


def verdicts(checks):
    return {item["name"]: item["status"] for item in checks.items}


def assert_right(checks):
    assert [item for item in checks.items if item["status"] != "passed"] == []
    assert set(verdicts(checks)) - {"samples"} == ALL


def assert_named(checks, name, *words):
    failure = first_failed(checks.items)
    assert failure is not None
    assert failure["name"] == name, failure
    for word in words:
        assert word in failure["what"], failure


# Gradients


@pytest.mark.parametrize("model", MODELS)
def test_gradients_block_by_block_are_autograds(model):
    context, task = make(model, "float64", "train_dynamic", batch=3)
    tokens, targets = task.inputs(0)
    assert bool((targets == -1).any())
    found = {}
    layered = Layerwise(context.model, torch.float64)
    found_loss = backward.gradients(layered, tokens, targets, lambda name, g: found.update({name: g.clone()}), chunk=7)
    true = loss(context.model(tokens), targets)
    true.backward()
    assert found_loss == pytest.approx(float(true.detach()), rel=1e-12)
    parameters = dict(context.model.named_parameters())
    assert set(found) == set(parameters)
    for name, parameter in parameters.items():
        # The operators' float32 parts are autograd's too, but for attention, which is written out.
        assert float((found[name] - parameter.grad).norm() / parameter.grad.norm()) < 1e-12, name


def test_gradients_work_in_inference_mode_and_leave_the_model_alone():
    context, task = make("untied", "bfloat16")
    before = weights.checksum(context.model)
    with torch.inference_mode():
        training.make(context, task)
    assert before == weights.checksum(context.model)
    assert all(parameter.grad is None for parameter in context.model.parameters())


# Right methods


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("benchmark", ["train_static", "train_dynamic"])
def test_eager_is_right(dtype, benchmark):
    for seed, model in zip(range(5), itertools.cycle(MODELS), strict=False):
        checks, result = check(*make(model, dtype, benchmark, seed))
        assert_right(checks)
        assert result["reference"]["error"] == pytest.approx(result["reference"]["eager_error"], rel=1e-3)


def in_float32(operator):
    return lambda *parts: operator(*(widen(part) if torch.is_tensor(part) else part for part in parts)).to(parts[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_rounding_orders_are_right(dtype):
    plain = Operators()
    wide = {name: in_float32(getattr(plain, name)) for name in ("norm", "rotary", "swiglu")}
    for operators in ({"attention": layerwise_module.attention}, wide, {"loss": lambda x, t: loss(widen(x), t)}):
        assert_right(check(*make(dtype=dtype, method=eager(**operators)))[0])


def test_gradients_that_are_cleared_at_the_start_of_a_step_are_right():
    context, task = make()
    real = task.call
    clear, task.optimizer.zero_grad = task.optimizer.zero_grad, lambda **_: None
    task.call = lambda inputs: (clear(set_to_none=False), real(inputs))[1]
    assert_right(check(context, task)[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_inductor_compiled_is_right_and_compiled_once(dtype):
    method = methods.load("inductor_default")
    if method.refuse(make()[0].workload, "cpu"):
        pytest.skip("this torch cannot compile here")
    from torch._dynamo.utils import counters

    counters.clear()
    context, task = make(dtype=dtype, method=method)
    assert_right(check(context, task)[0])
    assert counters["stats"]["unique_graphs"] == 1


# What cannot be said


def test_without_a_reference_gradients_and_loss_are_unchecked():
    checks, result = check(*make(), reference=None)
    unchecked = {"gradients": "unchecked", "loss": "unchecked"}
    assert verdicts(checks) == {**dict.fromkeys(ALL, "passed"), **unchecked}
    assert result == {}


def test_a_reference_of_other_weights_is_no_reference():
    other = make_reference(*make(seed=1))
    checks, _ = check(*make(seed=0), reference=other)
    assert {item["what"] for item in checks.items if item["status"] == "unchecked"} == {
        "ValueError: the reference was made with other weights"
    }


def test_a_learning_rate_that_bfloat16_hides_wholly_is_unchecked():
    checks, _ = check(*make(dtype="bfloat16", rate=1e-45))
    assert verdicts(checks) == {**dict.fromkeys(ALL, "passed"), "steps": "unchecked"}


def test_without_a_way_to_fill_the_weights_again_nothing_is_checked():
    context, task = make()
    checks, _ = check(dataclasses.replace(context, refill=None), task)
    assert set(verdicts(checks).values()) == {"unchecked"}


# Planted faults


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dropped_weight_decay(dtype):
    context, task = make(dtype=dtype)
    task.optimizer.param_groups[0]["weight_decay"] = 0.0
    assert_named(check(context, task)[0], "optimizer", "weight decay was dropped")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("hidden", [True, False])
def test_an_optimizer_step_skipped_every_second_iteration(dtype, parity, hidden):
    context, task = make(dtype=dtype)
    turn = itertools.count(parity)
    call, step = task.call, task.optimizer.step

    def without(inputs):
        value = loss(context.model(inputs[0]), inputs[1])
        value.backward()
        task.optimizer.zero_grad()
        return float(value.detach())

    if hidden:  # it is called, and does nothing
        task.optimizer.step = lambda: step() if next(turn) % 2 else None
    else:
        task.call = lambda inputs: call(inputs) if next(turn) % 2 else without(inputs)
    checks, _ = check(context, task)
    failed = {item["name"]: item["what"] for item in checks.items if item["status"] == "failed"}
    assert "steps" in failed
    # Three steps were timed before, so the fourth call is the first that is looked at.
    steps = "1, 3, 5" if parity else "2, 4"
    assert all(f"not stepped at steps {steps} of 5" in what for name, what in failed.items() if name != "gradients")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_layers_gradients_that_are_zero(dtype):
    context, task = make(dtype=dtype)
    for parameter in context.model.blocks[1].parameters():
        parameter.register_hook(torch.zeros_like)
    assert_named(check(context, task)[0], "gradients", "blocks.1.norm_attention.weight is zero, 7 of 17 are")


def test_a_layers_gradients_that_are_zero_at_later_steps_alone():
    context, task = make(dtype="bfloat16")
    for parameter in context.model.blocks[1].parameters():
        turn = itertools.count()
        parameter.register_hook(lambda g, turn=turn: g * 0 if next(turn) == 5 else g)
    assert_named(check(context, task)[0], "steps", "blocks.1.norm_attention.weight is zero at step 3 of 5")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_layer_that_the_optimizer_does_not_know(dtype):
    context, task = make(dtype=dtype)
    lost, real = context.model.blocks[0].up.weight, task.call
    task.optimizer = torch.optim.SGD([p for p in task.parameters if p is not lost], lr=6e-4, weight_decay=0.1)
    assert_named(check(context, task)[0], "gradients", "gradients of earlier steps were added")  # nothing clears them
    task.call = lambda inputs: (setattr(lost, "grad", None), real(inputs))[1]
    assert_named(check(context, task)[0], "optimizer", "the first is blocks.0.up.weight[0]")


def test_a_layer_without_gradients():
    context, task = make()
    context.model.blocks[0].down.weight.requires_grad_(False)
    assert_named(check(context, task)[0], "gradients", "blocks.0.down.weight is missing, 1 of 17 are")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_accumulated_by_mistake(dtype):
    context, task = make(dtype=dtype)
    task.optimizer.zero_grad = lambda **_: None
    assert_named(check(context, task)[0], "gradients", "gradients of earlier steps were added")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_stale_batch(dtype):
    context, task = make(dtype=dtype)
    real, kept = task.call, [task.inputs(5)]
    task.call = lambda inputs: (kept.append(inputs), real(kept.pop(0)))[1]
    assert_named(check(context, task)[0], "gradients", "the step used the inputs of the call before")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_gradient_that_is_no_number(dtype):
    context, task = make(dtype=dtype)
    turn = itertools.count()

    def spoil(gradient):
        if next(turn) == 4:
            gradient[3, 5] = float("nan")
        return gradient

    context.model.blocks[1].gate.weight.register_hook(spoil)
    assert_named(check(context, task)[0], "finite", "gradient of blocks.1.gate.weight at step 2 of 5 is not finite")


def test_weights_that_were_lost_while_timing():
    context, task = make()
    call, turn = task.call, itertools.count()

    def spoil(inputs):
        if next(turn) == 2:
            with torch.no_grad():
                context.model.norm.weight[7] = float("inf")
        return call(inputs)

    task.call = spoil
    again = task.proof
    for index in range(3):
        task.call(task.inputs(index))
    assert again(1.0) == {"finite": False}
    task.call = call
    checks, _ = check(context, task)
    assert_named(checks, "finite", "embedding.weight is not finite after the last timed step")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_wrong_learning_rate(dtype):
    context, task = make(dtype=dtype)
    task.optimizer.param_groups[0]["lr"] = 1.2e-3
    assert_named(check(context, task)[0], "optimizer", "the learning rate is 0.0012, the workload's is 0.0006")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_learning_rate_that_the_step_itself_doubles(dtype):
    class Hasty(torch.optim.SGD):
        def step(self):
            self.param_groups[0]["lr"] *= 2
            super().step()
            self.param_groups[0]["lr"] /= 2

    context, task = make(dtype=dtype)
    task.optimizer = Hasty(task.parameters, lr=6e-4, weight_decay=0.1)
    checks, _ = check(context, task)
    assert_named(checks, "optimizer", "the learning rate is 2, not 1")
    assert verdicts(checks)["steps"] == "failed"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_two_steps_in_one(dtype):
    context, task = make(dtype=dtype)
    clear = task.optimizer.zero_grad
    task.optimizer.zero_grad = lambda **_: (task.optimizer.step(), clear())
    assert_named(check(context, task)[0], "optimizer", "stepped 2 times in one step")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x, t: loss(x, t.clamp(min=0)), "targets that are to be ignored count in the loss"),
        (lambda x, t: loss(x, t) * (t != -1).sum() / t.numel(), "divided by all targets"),
    ],
)
def test_a_loss_over_ignored_targets(dtype, wrong, words):
    context, task = make(dtype=dtype, benchmark="train_dynamic", batch=4, time=30, method=eager(loss=wrong))
    checks, _ = check(context, task)
    assert_named(checks, "gradients", words)
    assert verdicts(checks)["loss"] == "failed"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_of_another_scale(dtype):
    context, task = make(dtype=dtype)
    for parameter in context.model.parameters():
        parameter.register_hook(lambda gradient: gradient * 2)
    assert_named(check(context, task)[0], "gradients", "they are 2", "times the right ones")


def test_noise_of_two_percent_in_one_gradient():
    context, task = make(dtype="float32")
    context.model.blocks[0].qkv.weight.register_hook(lambda g: g * (1 + 0.02 * torch.randn_like(g)))
    assert_named(check(context, task)[0], "gradients", "1 of 17 are off, most of all blocks.0.qkv.weight")


def test_a_loss_that_is_not_the_steps_own():
    context, task = make(dtype="float32")
    real = task.call
    task.call = lambda inputs: real(inputs) * 1.001
    checks, _ = check(context, task)
    assert_named(checks, "loss", "the reference's is")
    assert [name for name, status in verdicts(checks).items() if status == "failed"] == ["loss"]


@pytest.mark.parametrize("benchmark", ["train_static", "train_dynamic"])
def test_a_cell_with_a_fault_leaves_an_incorrect_record(tmp_path, monkeypatch, benchmark):
    plain = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda p, weight_decay, **named: plain(p, **named))
    record = cell.run(read_spec(write_spec(tmp_path, benchmark)))
    assert record["status"] == "incorrect"
    assert record["reason"].startswith(f"{benchmark}: optimizer: ")
    assert record["reason"].endswith("weight decay was dropped")
    assert {item["name"] for item in record["proof"]["checks"]} == ALL


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_cell_without_a_fault_is_fully_checked(tmp_path, dtype):
    record = cell.run(read_spec(write_spec(tmp_path, "train_dynamic", dtype=dtype)))
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
    assert [item["name"] for item in record["proof"]["checks"]] == [
        name for name in training.ORDER if name != "samples" or dtype != "bfloat16"
    ]


# Every timed sample, and later calls


def at(task, wrong, when):
    """The task, whose calls of which `when(number, tokens)` is true are `wrong(real, inputs)`."""
    real, number = task.call, itertools.count()
    task.call = lambda inputs: wrong(real, inputs) if when(next(number), inputs[0]) else real(inputs)


def half_a_batch(real, inputs):
    return real(tuple(part[:1] for part in inputs))


def no_step(real, inputs):
    return 5.4


def half_the_length(real, inputs):
    return real(tuple(part[:, : part.shape[1] // 2] for part in inputs))


@pytest.mark.parametrize("benchmark", ["train_static", "train_dynamic"])
@pytest.mark.parametrize("wrong", [half_a_batch, no_step, half_the_length])
@pytest.mark.parametrize("samples", [range(1), range(1, 6), range(4, 5), range(6)])
def test_a_step_that_is_wrong_while_it_is_timed(benchmark, wrong, samples):
    context, task = make(benchmark=benchmark)
    at(task, wrong, lambda number, _: number in samples)
    checks, _ = check(context, task, timed=6)
    assert_named(checks, "samples", "its loss is", "6 were compared")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("timed", [3, 4])
def test_gradients_that_are_kept_at_every_second_step(dtype, parity, timed):
    context, task = make(dtype=dtype)
    clear, number = task.optimizer.zero_grad, itertools.count()
    task.optimizer.zero_grad = lambda **more: clear(**more) if next(number) % 2 == parity else None
    assert_named(check(context, task, timed=timed)[0], "gradients")


@pytest.mark.parametrize("wrong", [half_a_batch, half_the_length])
@pytest.mark.parametrize("end", [max, min])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_step_that_is_wrong_at_the_longest_or_the_shortest_shape(wrong, end, dtype):
    context, task = make(benchmark="train_dynamic", dtype=dtype)
    length = end(task.inputs(index)[0].shape[1] for index in range(6))
    at(task, wrong, lambda _, tokens: tokens.shape[1] == length)
    failed = {item["name"] for item in check(context, task)[0].items if item["status"] == "failed"}
    assert failed & {"gradients", "samples"}
    assert "gradients" in failed


def without_the_first_key(when):
    """Attention that misses it from the middle on, at lengths of which `when` is true."""

    def attend(q, k, v, mask, **more):
        time = k.shape[1]
        if when(time):
            mask = torch.full((time, time), float("-inf"), dtype=q.dtype).triu(1)
            mask[time // 2 :, 0] = float("-inf")
        return attention(q, k, v, mask, **more)

    return eager(attention=attend)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("method", [eager(), eager(attention=layerwise_module.attention)])
def test_of_a_large_model_too_the_longest_and_the_shortest_batch_are_compared(method, dtype):
    context, task = make(dtype=dtype, method=method, **LONG)
    assert not training_truth.small(context)
    checks, _ = check(context, task)
    assert verdicts(checks) == dict.fromkeys(ALL, "passed")
    shapes = [task.inputs(index)[0].shape for index in range(6)]
    longest, shortest = (end(range(6), key=lambda index: shapes[index]) for end in (max, min))
    compared = ", ".join(f"sample {index} of shape {list(shapes[index])}" for index in (longest, shortest))
    said = next(item["what"] for item in checks.items if item["name"] == "gradients")
    assert said.endswith(f"; compared: {compared}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("end", [max, min])
def test_attention_that_is_wrong_at_the_longest_or_the_shortest_shape_of_a_large_model(end, dtype):
    lengths = [make(**LONG)[1].inputs(index)[0].shape[1] for index in range(6)]
    assert lengths[0] != end(lengths)
    method = without_the_first_key(lambda time: time == end(lengths))
    checks, _ = check(*make(dtype=dtype, method=method, **LONG))
    step = 1 if end is max else 6
    where = f"in step {step}, sample {lengths.index(end(lengths))} of shape [2, {end(lengths)}]"
    assert_named(checks, "gradients", "are off", where)


def test_a_padded_batch_is_compared_where_the_longest_has_no_padding():
    context, task = make(**LONG)
    of_lengths = {0: (9, 9), 1: (7, 5), 2: (8, 3), 3: (4, 4)}

    def inputs(index):
        lengths = of_lengths.get(index, (6, 6))
        targets = torch.zeros(2, max(lengths), dtype=torch.long)
        for row, length in enumerate(lengths):
            targets[row, length:] = -1
        return targets, targets

    task.inputs = inputs
    assert training_truth.chosen_samples(context, task) == [0, 3, 1]
    of_lengths[4] = (9, 8)
    assert training_truth.chosen_samples(context, task) == [4, 3]


@pytest.mark.parametrize("which", range(1, 5))
def test_a_later_step_without_any_gradient(which):
    context, task = make(dtype="bfloat16")

    def stepped_alone(real, inputs):
        task.optimizer.step()
        return 5.4

    at(task, stepped_alone, lambda number, _: number == 3 + which)
    name = "optimizer" if which == 4 else "steps"
    assert_named(check(context, task)[0], name, f"is missing at step {which + 1} of 5")
