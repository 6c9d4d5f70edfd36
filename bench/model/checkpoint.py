"""A user's Hugging Face checkpoint folder: its safetensors into the GPT's fused layout, and its tokenizer.

The only module that needs safetensors and sentencepiece, and only once a checkpoint is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bench.spec import ModelConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.model"
SENTENCEPIECE_FIRST_BYTE = b"\n"  # field 1 of the protocol buffer; a tiktoken file of the same name is base64 text


def load_checkpoint(folder: str, parameters: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Copy the checkpoint in `folder` into `parameters`, in place, one tensor at a time.

    `parameters` maps the GPT's own names to its tensors, of any dtype and device. Raises ValueError, one line, for
    a folder without weights, a missing tensor, a wrong shape, a damaged file, and a parameter that nothing fills.
    """
    from safetensors import SafetensorError, safe_open

    place = Path(folder)
    files = _files(place)
    filled: set[str] = set()
    with ExitStack() as stack, torch.no_grad():
        opened: dict[str, Any] = {}
        for ours, pieces in _layout(config):
            if ours not in parameters:
                raise ValueError(f"the model has no parameter {ours}, which the checkpoint's configuration asks for")
            first_row = 0
            for theirs, rows in pieces:
                file = files.get(theirs) or files.get("")
                if file is None:
                    raise ValueError(f"{place.name}/{INDEX}: tensor {theirs} is missing")
                try:
                    if file not in opened:
                        opened[file] = stack.enter_context(safe_open(place / file, framework="pt", device="cpu"))
                    tensor = opened[file].get_tensor(theirs)
                except (SafetensorError, OSError) as error:
                    raise ValueError(f"{place.name}/{file}: tensor {theirs}: {_line(error)}") from error
                whole = parameters[ours]
                target = whole if rows is None else whole[first_row : first_row + rows]
                if tensor.shape != target.shape:
                    shapes = f"has shape {list(tensor.shape)}, the model needs {list(target.shape)}"
                    raise ValueError(f"{place.name}/{file}: tensor {theirs} {shapes}")
                target.copy_(tensor)
                first_row += rows or 0
            filled.add(ours)
    if config.tied_head:
        filled.add("head.weight")  # a state_dict names it beside the embedding that it is
    if left := sorted(set(parameters) - filled):
        raise ValueError(f"{place.name}: nothing in the checkpoint fills the parameter {left[0]}")


def _files(folder: Path) -> dict[str, str]:
    """Return which file holds each tensor; a checkpoint of a single file is that file at the key ''."""
    if (folder / WEIGHTS).is_file():
        return {"": WEIGHTS}
    try:
        names = json.loads((folder / INDEX).read_bytes())["weight_map"]
        pairs = list(names.items())
    except FileNotFoundError as error:
        raise ValueError(f"{folder.name}: neither {WEIGHTS} nor {INDEX} is there") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder.name}/{INDEX}: cannot be read: {_line(error)}") from error
    for name, file in pairs:
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise ValueError(f"{folder.name}/{INDEX}: tensor {name} is not in a file of this folder")
    return dict(pairs)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _layout(config: ModelConfig) -> Iterator[tuple[str, list[tuple[str, int | None]]]]:
    """Yield each of the GPT's parameters with the checkpoint's tensors that make it up, in order.

    A tensor comes with the number of rows that it fills, None for the whole parameter.
    """
    yield "embedding.weight", [("model.embed_tokens.weight", None)]
    q_rows, kv_rows = config.heads * config.head_size, config.kv_heads * config.head_size
    fused = [("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)]
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield f"{ours}.norm_attention.weight", [(f"{theirs}.input_layernorm.weight", None)]
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            yield f"{ours}.qkv.{kind}", [(f"{theirs}.self_attn.{part}.{kind}", rows) for part, rows in fused]
        yield f"{ours}.out.weight", [(f"{theirs}.self_attn.o_proj.weight", None)]
        yield f"{ours}.norm_mlp.weight", [(f"{theirs}.post_attention_layernorm.weight", None)]
        for part in ("gate", "up", "down"):
            yield f"{ours}.{part}.weight", [(f"{theirs}.mlp.{part}_proj.weight", None)]
    yield "norm.weight", [("model.norm.weight", None)]
    if not config.tied_head:
        yield "head.weight", [("lm_head.weight", None)]


class Tokenizer:
    """A SentencePiece model: text to token ids and back."""

    def __init__(self, file: Path) -> None:
        """Read `file`. Raises ValueError, one line, if it is not a SentencePiece model."""
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor()
        try:
            self._model.Load(str(file))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{file.name}: is not a SentencePiece model: {_line(error)}") from error

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, the beginning-of-sequence id first where the model has one."""
        begin = self._model.bos_id()
        return ([begin] if begin >= 0 else []) + list(self._model.Encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`. An id beyond the tokenizer's pieces, as in a padded vocabulary, reads unknown."""
        size, unknown = self._model.GetPieceSize(), self._model.unk_id()
        known = [number if 0 <= number < size else unknown for number in map(int, ids)]
        return str(self._model.Decode(known))


def find_tokenizer(folder: str) -> Tokenizer | None:
    """Return the checkpoint's SentencePiece tokenizer, None where there is none (other formats are not read)."""
    file = Path(folder) / TOKENIZER
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        if stream.read(1) != SENTENCEPIECE_FIRST_BYTE:
            return None
    return Tokenizer(file)
