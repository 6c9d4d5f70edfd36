"""From what a cell raised to its status."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from bench.status import DEVICE_FAILED, Incorrect, Infrastructure, Unsupported, classify, exception_for  # noqa: E402


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def raises(call) -> Exception:
    with pytest.raises(RuntimeError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unsupported("why"), "unsupported"),
        (Infrastructure("why"), "infrastructure"),
        (Incorrect("why"), "incorrect"),
        (ModuleNotFoundError("x", name="apex"), "unsupported"),
        (MemoryError(), "out_of_memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (raised(RuntimeError("backend"), MemoryError()), "out_of_memory"),
        (RuntimeError("Triton Error: CUDA out of memory"), "out_of_memory"),
        (raises(lambda: torch.empty(2**48, dtype=torch.uint8)), "out_of_memory"),
        (raises(lambda: torch.empty(2**40, 2**40)), "out_of_memory"),
        *((RuntimeError(f"CUDA error: {words}\nCompile with ..."), "infrastructure") for words in DEVICE_FAILED),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "crashed"),
        # Triton 2.1 to 3, Inductor around it, and the loader.
        (AssertionError("libcuda.so cannot found!\n"), "infrastructure"),
        (RuntimeError("backend='inductor' raised:\nAssertionError: libcuda.so cannot found!\n"), "infrastructure"),
        (OSError("libcuda.so.1: cannot open shared object file: No such file or directory"), "infrastructure"),
        (ImportError("libnvidia-ml.so.1: cannot open shared object file: No such file"), "infrastructure"),
        (ImportError("libmine.so: cannot open shared object file: No such file"), "crashed"),
        (ValueError("x"), "crashed"),
    ],
)
def test_what_was_raised_has_one_status(error: Exception, status: str) -> None:
    assert classify(error)[0] == status


@pytest.mark.parametrize("status", ["unsupported", "infrastructure", "incorrect", "out_of_memory", "crashed"])
def test_what_is_raised_for_a_status_has_it(status: str) -> None:
    found, reason = classify(exception_for(status)("words"))
    assert (found, reason.endswith("words")) == (status, True)


def test_a_missing_library_of_the_driver_has_its_remedy() -> None:
    said = classify(AssertionError("libcuda.so cannot found!"))[1]
    assert said.endswith("libcuda.so cannot found! (`orchestrator doctor` names what of the driver a container lacks)")
