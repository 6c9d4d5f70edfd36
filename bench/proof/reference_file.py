"""A reference's file: tensors and facts in the safetensors format, written and read with torch alone."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.proof.checks import finite

CODES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32}
NAMES = {dtype: code for code, dtype in CODES.items()}
LIMIT_BYTES = 2_000_000_000
HEADER_LIMIT = 16_000_000


@dataclass(frozen=True)
class Reference:
    """What rows are compared with. `facts` are plain JSON; `sha256` is None where the cell made it itself."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    sha256: str | None = None

    def recorded(self, error: float | None) -> dict[str, Any]:
        """The record's `reference`; `error` is that of what was timed."""
        known = {"stack": self.facts.get("stack"), **{key: self.facts[key] for key in ("dtype", "eager_error")}}
        return {"sha256": self.sha256, "error": finite(error), **known}


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[str, int]:
    """Write the file beside its place and rename it; return its SHA-256 and its bytes."""
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts, sort_keys=True, allow_nan=False)}}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items()):
        part = tensor.detach().to("cpu").contiguous()
        begin, end = end, end + part.numel() * part.element_size()
        header[name] = {"dtype": NAMES[part.dtype], "shape": list(part.shape), "data_offsets": [begin, end]}
        parts.append(part)
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    if end + len(text) + 8 > LIMIT_BYTES:
        raise ValueError(f"a reference of {end} bytes is beyond the limit of {LIMIT_BYTES}")
    whole, beside = hashlib.sha256(), path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text, *map(_content, parts)):
            whole.update(piece)
            file.write(piece)
    beside.replace(path)
    return whole.hexdigest(), end + len(text) + 8


def read(path: Path, sha256: str | None, device: str = "cpu") -> Reference:
    """Read and verify; ValueError in one line where the file is not the one that was promised, or damaged."""
    if path.stat().st_size > LIMIT_BYTES:
        raise ValueError(f"reference: {path.name} is beyond the limit of {LIMIT_BYTES} bytes")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"reference: {path.name} has SHA-256 {found[:16]}…, the spec says {sha256[:16]}…")
    try:
        size = int.from_bytes(content[:8], "little")
        if not 0 < size <= min(HEADER_LIMIT, len(content) - 8):
            raise ValueError("its header is cut off")  # noqa: TRY301  (one message for everything that is wrong)
        header = json.loads(content[8 : 8 + size])
        facts = json.loads(header.pop("__metadata__")["facts"])
        if not isinstance(facts, dict):
            raise TypeError("its facts are no object")  # noqa: TRY301
        buffer, tensors = bytearray(content[8 + size :]), {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            dtype = CODES[entry["dtype"]]
            count = (end - begin) // dtype.itemsize
            if count == 0:
                tensors[name] = torch.empty(entry["shape"], dtype=dtype, device=device)
                continue
            whole = torch.frombuffer(buffer, dtype=dtype, count=count, offset=begin)
            tensors[name] = whole.view(entry["shape"]).to(device)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"reference: {path.name} cannot be read: {error}") from error
    return Reference(tensors, facts, found)


def _content(tensor: Tensor) -> bytes:
    # Not by numpy, which need not be installed.
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size()) if tensor.numel() else b""
