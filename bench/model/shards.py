"""Tensors of which each rank holds a part (torch's DTensor), and plain ones, by the same names.

By what they offer, not by their class: old torches have no DTensor, and a cell of one device need not load it.
"""

from __future__ import annotations

from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor: of parts gathered from all ranks, which must all ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of this rank, a view; of a plain tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_part(tensor: Tensor) -> bool:
    """Whether other ranks hold other parts of it."""
    return hasattr(tensor, "to_local")
