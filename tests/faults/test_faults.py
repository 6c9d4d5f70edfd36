"""The faults of `make faults`, a few times each: nothing is lost, doubled, or left over."""

from __future__ import annotations

import pytest
from catalogue import FAULTS, what_is_here
from listing import Fault, try_fault

SHORT = [
    pytest.param(fault, id=fault.name, marks=[pytest.mark.docker] if "docker" in fault.needs else [])
    for fault in FAULTS
    if fault.short
]


@pytest.mark.parametrize("fault", SHORT)
def test_a_planted_fault_loses_nothing(fault: Fault) -> None:
    lacking = fault.needs - what_is_here()
    if lacking:
        pytest.skip(f"no {', '.join(sorted(lacking))} here")
    assert try_fault(fault, fault.short, seed=1, say=print).problems == []
