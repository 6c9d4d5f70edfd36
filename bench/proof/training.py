"""Is a training step right? Its gradients against the reference, its update against the optimizer's own arithmetic.

The very call that was timed takes five more steps from the first weights: four at the workload's learning rate, the
gradients of the first compared with the reference's, and one at a learning rate of 1, where even bfloat16 shows weight
decay. One or two more, from the first weights again, have their gradients compared too: where shapes vary, the first is
over the longest batch, and the next over the shortest. Each step's new weights must be legal roundings of what its own
gradient asks for, so that a step left out or an update that is not SGD's is found whatever the precision hides. The
loss curve over many steps is not a check: it hardly shows weight decay or a layer that does not learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.model import weights
from bench.operators import reference_dtype
from bench.parallel import ALONE, Team
from bench.proof.checks import Checks, finite
from bench.proof.gradients import FACTOR, WHOLE, Truth, length
from bench.proof.layerwise import highest
from bench.proof.optimizer import FULL, Move, Watch, sketches, together, watching
from bench.proof.reference_file import Reference
from bench.proof.team import of_gradients
from bench.proof.training_truth import CURVE, chosen_samples, make_one, small

ORDER = ("finite", "gradients", "optimizer", "steps", "loss", "samples")
STEPS = 4
# Relative distance of such a sample's loss from eager's, in float32 and better. On a CPU right methods are below 5.4e-5
# and faults are above 1.7e-2; products in TF32 reach 1.2e-2, logits in bfloat16 2.8e-3: neither is float32.
OFF_CURVE = 1e-3


@torch.inference_mode(mode=False)
@torch.enable_grad()
def make(context: Context, task: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The reference of a training workload; `context` is eager's, in the workload's precision, freshly filled.

    What `make_one` gives of the first of the chosen samples; of the others the same, under `also/SAMPLE/`. Of a small
    model in float32 and better also the losses of eager's first CURVE steps (facts["curve"]).
    """
    first, *others = chosen_samples(context, task)
    tensors, facts = make_one(context, task, first)
    facts["also"] = {}
    for sample in others:
        more, facts["also"][str(sample)] = make_one(context, task, sample)
        tensors.update({f"also/{sample}/{name}": tensor for name, tensor in more.items()})
    if small(context) and getattr(torch, context.workload.dtype) in FULL and context.refill is not None:
        with highest():
            steps = range(min(CURVE, context.workload.iterations))
            facts["curve"] = [finite(task.call(task.inputs(index))) for index in steps]
        context.refill()
    return tensors, facts


def check(context: Context, task: Any, reference: Reference | None, checks: Checks) -> dict[str, Any]:
    """Judge ORDER; return the record's `reference` where the gradients were compared.

    The weights are filled again in place, so that compiled code and CUDA graphs stay valid, and left wherever the
    last step takes them. Every shape that it uses was timed before. To be called in the grad mode of the timed steps.
    """
    result: dict[str, Any] = {}
    with checks.guard(*ORDER):
        if context.refill is None:
            raise ValueError("the first weights cannot be filled in again")
        dtype = getattr(torch, context.workload.dtype)
        # A step that clears the gradients when it begins leaves some behind, and is right.
        leftover = sketches(dict(context.model.named_parameters()), reference_dtype(dtype))
        context.refill()
        filled = weights.checksum(context.model)
        steps = take_steps(context, task)
        judge_finite(steps, checks)
        truth = None
        with checks.guard("gradients", "loss"):
            if reference is None:
                raise ValueError("there is no reference")
            if reference.facts["weights_checksum"] != filled:
                raise ValueError("the reference was made with other weights")
            truth = Truth(reference, dtype)
            compared = [Compared(1, steps[0], truth), *take_others(context, task, reference, truth)]
            judge_finite([*steps, *(one.step for one in compared[1:])], checks)
            explain = partial(known_mistake, context, task, leftover)
            judge_gradients(compared, explain, checks, context.team)
            result["reference"] = reference.recorded(compared[0].error)
            for one in compared:
                judge_loss(one, checks)
        judge_optimizer(task, steps, truth, checks)
        judge_steps(task, steps, truth, checks)
        judge_samples(task, reference if truth else None, checks)
    if task.lost is not None:
        checks.judge("finite", passed=False, what=f"{task.lost} is not finite after the last timed step")
    return result


@dataclass(frozen=True)
class Step:
    """One untimed call: what was seen of its optimizer, and its loss (None: not a number)."""

    watch: Watch
    loss: float | None

    @property
    def skipped(self) -> bool:
        """Nothing changed, though something had to."""
        whole = together(self.watch.moves)
        return self.watch.steps == 0 or (whole.changed == 0 and whole.bound > 0)


@dataclass(frozen=True)
class Compared:
    """A step from the first weights, the `number`-th since timing, and the truth about its batch."""

    number: int
    step: Step
    truth: Truth

    @property
    def batch(self) -> str:
        """Which one, in words."""
        return f"sample {self.truth.facts['sample']} of shape {self.truth.facts['shape']}"

    @property
    def lacking(self) -> str | None:
        """Which gradients there are not, in words; None where all can be compared."""
        found, truth = self.step.watch.sketches, self.truth
        if self.step.watch.steps == 0:
            return "the optimizer was not stepped, so there are no gradients to see"
        absent = [name for name in truth.names if name not in found]
        zero = [name for name in truth.alive if name in found and not bool(found[name].any())]
        if not absent and not zero:
            return None
        how = "is missing" if absent else "is zero"
        return f"the gradient of {(absent or zero)[0]} {how}, {len(absent or zero)} of {len(truth.names)} are"

    @property
    def error(self) -> float | None:
        """Of all gradients together, relative; None where one is lacking."""
        if self.lacking:
            return None
        return finite(length(self.truth.distances(self.step.watch.sketches).values()) / self.truth.norm)


def take_steps(context: Context, task: Any) -> list[Step]:
    """STEPS steps at the workload's learning rate, the first over the reference's sample, then one at a rate of 1."""
    first, *ends = chosen_samples(context, task)
    rest = (i % context.workload.iterations for i in range(1, STEPS + 1))
    samples = [first, *ends, *rest][: STEPS + 1]
    groups = task.optimizer.param_groups
    steps, before = [], [group["lr"] for group in groups]
    try:
        for number, sample in enumerate(samples):
            last = number == STEPS
            for group in groups if last else ():
                group["lr"] = 1.0
            rate = 1.0 if last else task.rate
            steps.append(take_step(context, task, sample, rate, compared=number == 0))
    finally:
        for group, rate in zip(groups, before, strict=True):
            group["lr"] = rate
    return steps


def take_step(context: Context, task: Any, sample: int, rate: float, *, compared: bool) -> Step:
    """One call of the timed callable under watch; with sketches of its gradients if they are to be compared."""
    dtype = reference_dtype(getattr(torch, context.workload.dtype)) if compared else None
    inputs = task.inputs(sample)
    with watching(context.model, task.optimizer, rate, task.decay, dtype, team=context.team) as watch:
        output = task.call(inputs)
    return Step(watch, task.loss(output))


def judge_finite(steps: list[Step], checks: Checks) -> None:
    """Gradients, weights and losses are numbers; the first that is not is named."""
    bad = []
    for number, step in enumerate(steps, 1):
        for name, move in step.watch.moves.items():
            if not move.finite:
                kind = "new weight" if move.sums and finite(move.sums[0]) is not None else "gradient"
                bad.append(f"the {kind} of {name} at step {number} of {len(steps)}")
        if step.loss is None:
            bad.append(f"the loss at step {number} of {len(steps)}")
    what = f"{bad[0]} is not finite, and {len(bad) - 1} more" if bad else f"all the numbers of {len(steps)} steps"
    checks.judge("finite", not bad, value=len(bad), limit=0, what=what)


def take_others(context: Context, task: Any, reference: Reference, truth: Truth) -> list[Compared]:
    """Later calls, from the first weights again: of the same sample where the reference knows no other.

    A mistake of every second call shows in one of two calls that lie an odd number of calls apart.
    """
    assert context.refill is not None
    known = [Truth(reference, truth.dtype, sample) for sample in reference.facts["also"]]
    found = []
    for number, one in enumerate(known or [truth], STEPS + 2):
        context.refill()
        step = take_step(context, task, one.facts["sample"], task.rate, compared=True)
        found.append(Compared(number, step, one))
    return found


def judge_gradients(
    compared: Sequence[Compared], explain: Callable[[Compared], str | None], checks: Checks, team: Team = ALONE
) -> None:
    """Each parameter's gradient, and all together, against the reference's, up to the first batch where some are off.

    Where any rank's are off all ranks look for the reason, which takes them all.
    """
    largest: dict[str, float] = {}
    for one in compared:
        lacking = one.lacking
        errors = {} if lacking else one.truth.ratios(one.step.watch.sketches)
        over = [name for name, ratio in errors.items() if not ratio <= FACTOR]
        worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name], default=WHOLE)
        said = team.all(None if lacking else bool(over))
        why = explain(one) if any(said) and None not in said else None
        if lacking or over:
            names = [name for name in over if name != WHOLE]
            what = lacking or f"{len(names)} of {len(one.truth.names)} are off, most of all {worst}"
            what = "; ".join(filter(None, [f"{what}, in step {one.number}, {one.batch}", why]))
            checks.judge("gradients", passed=False, value=errors.get(worst), limit=FACTOR, what=what)
        largest[f"{worst} in {one.batch}"] = errors.get(worst, math.inf)
        if any(told is not False for told in said):  # of the same gradients as the others
            break
    worst = max(largest, key=lambda place: largest[place])
    batches = ", ".join(dict.fromkeys(one.batch for one in compared))
    what = f"error in units of eager's; the largest is that of {worst}; compared: {batches}"
    checks.judge("gradients", passed=True, value=largest[worst], limit=FACTOR, what=what)


def known_mistake(context: Context, task: Any, leftover: Mapping[str, Tensor], one: Compared) -> str | None:
    """Which known mistake makes wrong gradients, or None; takes two steps more to find a stale batch.

    `leftover` are sketches of what was there before the first step.
    """
    truth, found = one.truth, one.step.watch.sketches
    if shared := of_gradients(context, task.inputs(truth.facts["sample"]), truth, found):
        return shared
    if leftover and truth.right({name: found[name] - leftover.get(name, 0) for name in found}):
        return "gradients of earlier steps were added"
    if mistake := truth.mistake(found):
        return mistake
    assert context.refill is not None
    for _ in range(2):
        context.refill()
        again = take_step(context, task, truth.facts["sample"], task.rate, compared=True)
    return "the step used the inputs of the call before" if truth.right(again.watch.sketches) else None


def judge_samples(task: Any, reference: Reference | None, checks: Checks) -> None:
    """The timed samples' losses against eager's, where the reference has them."""
    curve = reference.facts.get("curve") if reference else None
    if not curve:
        return  # of a large model, or of half precision: what that hides, the probe shows
    found = [(index, loss) for index, loss in task.losses if index < len(curve)][: len(curve)]
    off = {index: abs(loss - curve[index]) / abs(curve[index]) for index, loss in found}
    worst = max(off, key=lambda index: math.inf if math.isnan(off[index]) else off[index])
    what = f"sample {worst}: its loss is {dict(found)[worst]:.6g}, eager's {curve[worst]:.6g}; {len(off)} were compared"
    checks.at_most("samples", off[worst], OFF_CURVE, what)


def judge_loss(one: Compared, checks: Checks) -> None:
    """The loss of a compared step; loose, since right ones differ by eager's error and more."""
    truth, loss = one.truth, math.nan if one.step.loss is None else one.step.loss
    known = f"the reference's is {truth.facts['loss']:.6g}, eager's {truth.facts['eager_loss']:.6g}"
    what = f"{loss:.6g} of {one.batch}, {known}"
    checks.at_most("loss", abs(loss - truth.facts["loss"]), truth.loss_limit(), what)


def judge_optimizer(task: Any, steps: list[Step], truth: Truth | None, checks: Checks) -> None:
    """The step at a learning rate of 1, unless the optimizer itself was given another rate than the workload's."""
    watch = steps[-1].watch
    still = unfed(steps, truth, len(steps) - 1)
    whole = together(watch.moves)
    share = whole.illegal / max(1, whole.elements)
    what = f"{whole.elements} elements are legal roundings of w - lr (g + wd w) at lr 1"
    wrong = [group["lr"] for group in task.optimizer.param_groups if float(group["lr"]) != task.rate]
    if wrong:
        what = f"the learning rate is {float(wrong[0]):.6g}, the workload's is {task.rate:.6g}"
    elif watch.steps != 1 or steps[-1].skipped:
        what = stepped(steps, len(steps) - 1)
    elif still:
        what = still
    elif whole.illegal:
        what = "; ".join(filter(None, [illegal(watch.moves), cause(whole, 1.0, task.decay)]))
    passed = not wrong and watch.steps == 1 and whole.illegal == 0 and not still
    checks.judge("optimizer", passed, value=share if watch.moves else None, limit=0, what=what)


def judge_steps(task: Any, steps: list[Step], truth: Truth | None, checks: Checks) -> None:
    """The four steps at the workload's learning rate: each moves what it must, and nothing elsewhere."""
    dtype = task.workload.dtype
    faults, changed, hidden = [], [], False
    for number, step in enumerate(steps[:STEPS]):
        moves = step.watch.moves
        whole = together(moves)
        changed.append(whole.changed)
        hidden |= whole.bound == 0
        place = f"at step {number + 1} of {len(steps)}"
        still = unfed(steps, truth, number)
        if step.watch.steps != 1 or step.skipped:
            faults.append(stepped(steps, number))
        elif still:
            faults.append(still)
        elif whole.illegal:
            why = cause(whole, task.rate, task.decay) if dtype in {"float32", "float64"} else None
            faults.append("; ".join(filter(None, [f"{place} {illegal(moves)}", why])))
    what = f"elements changed by each step: {', '.join(map(str, changed))} of {whole.elements}"
    if hidden and not faults:
        checks.unchecked("steps", f"at this learning rate no weight has to change in {dtype}; {what}")
    else:
        checks.judge("steps", not faults, value=len(faults), limit=0, what=faults[0] if faults else what)


def unfed(steps: list[Step], truth: Truth | None, number: int) -> str:
    """Which parameters that learn, in any step or in truth, had no gradient in step `number` (from 0), in words."""
    watch = steps[number].watch
    alive = {name for step in steps for name, move in step.watch.moves.items() if move.fed}
    alive.update(truth.alive if truth else ())
    still = [name for name, move in watch.moves.items() if name in alive and not move.fed]
    if not still:
        return ""
    how = "is missing" if still[0] in watch.missing else "is zero"
    place = f"at step {number + 1} of {len(steps)}"
    return f"the gradient of {still[0]} {how} {place}, {len(still)} of {len(watch.moves)} are"


def stepped(steps: list[Step], number: int) -> str:
    """How often the optimizer really stepped, seen from step `number`, which did not once."""
    if steps[number].watch.steps > 1:
        return f"the optimizer was stepped {steps[number].watch.steps} times in one step"
    missing = [str(index) for index, step in enumerate(steps, 1) if step.skipped]
    return f"the optimizer was not stepped at steps {', '.join(missing)} of {len(steps)}"


def illegal(moves: Mapping[str, Move]) -> str:
    """How many new weights are wrong, and the first place."""
    bad = {name: move for name, move in moves.items() if move.illegal}
    name, move = next(iter(bad.items()))
    count, of = (sum(getattr(one, key) for one in moves.values()) for key in ("illegal", "elements"))
    where = "" if move.rank is None else f" of rank {move.rank}'s part"
    return (
        f"{count} of {of} new weights are not a rounding of w - lr (g + wd w), the first is {name}[{move.first}]{where}"
    )


def cause(move: Move, rate: float, decay: float) -> str | None:
    """The known mistake that makes this update, by its regression on gradient and weight; needs exact weights."""
    if move.coefficients is None:
        return None
    a, b = move.coefficients[0] / rate, move.coefficients[1] / (rate * decay) if decay else 1.0
    near = 0.1
    if abs(a) < near and (abs(b) < near or not decay):
        return "the update was dropped"
    if decay and abs(b) < near < abs(a):
        return "weight decay was dropped" + ("" if abs(a - 1) < near else f", and the learning rate is {a * rate:.4g}")
    if abs(a - b) < near * abs(a) or not decay:
        found, wanted = f"{a * rate:.4g}", f"{rate:.4g}"
        return f"the learning rate is {found}, not {wanted}" if found != wanted else None
    return f"the update is {a * rate:.4g} g + {b * rate * decay:.4g} w, not {rate:.4g} g + {rate * decay:.4g} w"
