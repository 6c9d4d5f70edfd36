"""Where compilers keep what they made: a cell starts with an empty folder unless its spec says shared."""

from __future__ import annotations

import os
from pathlib import Path

from bench.spec import Spec


def folder(spec: Spec) -> Path:
    """The cell's own `cache/`, or the folder that its spec names."""
    return spec.folder / (spec.cache_folder or "cache")


def use(spec: Spec) -> None:
    """Point the compilers at the cell's cache; to be called before torch is imported."""
    temporary = folder(spec) / "tmp"  # Inductor keeps precompiled headers there, whatever its cache folder is
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder(spec) / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder(spec) / "triton")


def state(spec: Spec) -> str:
    """`warm` when an earlier process left something in the cache, else `cold`."""
    place = folder(spec)
    return "warm" if place.is_dir() and any(path.is_file() for path in place.rglob("*")) else "cold"
