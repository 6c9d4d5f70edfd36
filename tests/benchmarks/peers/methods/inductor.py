"""torch.compile with the note's settings."""

import torch
import torch._inductor.config as inductor


def prepare(model):
    inductor.coordinate_descent_tuning = True
    return torch.compile(model, fullgraph=True)
