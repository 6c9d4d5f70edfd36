"""A step of SGD, element by element: whatever torch rounds is legal, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bench.proof import optimizer  # noqa: E402


def sgd(dtype, learning_rate, decay, *, foreach=False, size=50_007):
    generator = torch.Generator().manual_seed(1)
    weight, gradient = (torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    weight.mul_(0.02)
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient
    torch.optim.SGD([parameter], lr=learning_rate, weight_decay=decay, foreach=foreach).step()
    return weight, gradient, parameter.detach()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("learning_rate", "decay"), [(1.0, 0.1), (6e-4, 0.1), (0.01, 0.0)])
@pytest.mark.parametrize("foreach", [False, True])
def test_every_step_of_sgd_is_legal(dtype, learning_rate, decay, foreach):
    move = optimizer.compare(*sgd(dtype, learning_rate, decay, foreach=foreach), learning_rate, decay)
    assert (move.illegal, move.first, move.finite) == (0, None, True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_single_rounding_is_legal(dtype):
    weight, gradient, _ = sgd(dtype, 1.0, 0.1)
    fused = (weight.double() - (gradient.double() + 0.1 * weight.double())).to(dtype)
    assert optimizer.compare(weight, gradient, fused, 1.0, 0.1).illegal == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_element_that_is_off_is_found_in_its_place(dtype):
    weight, gradient, after = sgd(dtype, 1.0, 0.1)
    after[40_000] *= 1.05
    move = optimizer.compare(weight, gradient, after, 1.0, 0.1)
    assert (move.illegal, move.first) == (1, 40_000)


def test_coefficients_are_learning_rate_and_decay():
    step = sgd(torch.float32, 0.5, 0.1)
    right, wrong = optimizer.compare(*step, 0.5, 0.1), optimizer.compare(*step, 0.25, 0.1)
    assert (right.changed, right.bound) == (50_007, pytest.approx(50_007, abs=20))
    assert right.coefficients is None
    assert wrong.coefficients == pytest.approx((0.5, 0.05), rel=1e-4)
    assert (wrong.first, wrong.illegal) == (0, pytest.approx(50_007, abs=20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_whatever_is_not_finite_is_illegal(dtype, value, place):
    step = [tensor.clone() for tensor in sgd(dtype, 1.0, 0.1)]
    step[place][7] = value
    move = optimizer.compare(*step, 1.0, 0.1)
    assert (move.illegal, move.first, move.finite) == (1, 7, False)


def test_a_gradient_of_zeros_is_distinguished():
    weight, gradient, _ = sgd(torch.float32, 1.0, 0.0)
    assert not optimizer.compare(weight, torch.zeros_like(weight), weight, 1.0, 0.0).fed
    gradient[:-1] = 0
    assert optimizer.compare(weight, gradient, weight, 1.0, 0.0).fed


def test_weights_before_may_lie_elsewhere_when_the_device_is_full(monkeypatch):
    class Full(torch.nn.Parameter):
        def detach(self):
            return SimpleNamespace(clone=self.full, to=lambda device, copy: ("copied to", device, copy))

        def full(self):
            raise torch.cuda.OutOfMemoryError

    assert optimizer.copy(Full(torch.ones(2))) == ("copied to", "cpu", True)
