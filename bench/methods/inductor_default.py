"""torch.compile as most people call it: no arguments but the whole graph, no tuning, no CUDA graphs.

Generation is the exception: its small steps are compiled with `reduce-overhead`, as public decoders do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.methods import inductor
from bench.spec import Workload

refuse, operators = inductor.refuse, inductor.operators


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile; Inductor's configuration stays as it is."""
    return inductor.settings_with(workload, graphs=workload.new_tokens is not None, configuration={})


expects = partial(inductor.expects, settings=settings)
compile_model = compile_step = partial(inductor.compile_model, settings=settings)
