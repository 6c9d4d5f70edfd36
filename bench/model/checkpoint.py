"""A user's Hugging Face checkpoint folder: its safetensors into the GPT's fused layout, and its tokenizer.

The only module that needs safetensors, sentencepiece and tokenizers, and only once a checkpoint is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.spec import ModelConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER, TOKENIZER_JSON = "tokenizer.model", "tokenizer.json"
PREFIXES = ("model.", "language_model.model.", "model.language_model.")
"""How the names of a text model's tensors begin: alone, and in a model of several kinds of input, old and new."""
SENTENCEPIECE_FIRST_BYTE = b"\n"  # field 1 of the protocol buffer; a tiktoken file of the same name is base64 text


class Piece(NamedTuple):
    """A tensor of the files that fills a parameter, or the part `to` of it; `rows`: those of the tensor, else all."""

    name: str
    to: slice | int | None = None
    rows: slice | None = None


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

        def read(file: str, name: str | None) -> Any:
            """The tensor, or the names of all."""
            try:
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(place / file, framework="pt", device="cpu"))
                return opened[file].keys() if name is None else opened[file].get_tensor(name)
            except (SafetensorError, OSError) as error:
                which = "" if name is None else f" tensor {name}:"
                raise ValueError(f"{place.name}/{file}:{which} {_line(error)}") from error

        names = set(files) if "" not in files else set(read(files[""], None))
        for ours, pieces in layout(config, names):
            if ours not in parameters:
                raise ValueError(f"the model has no parameter {ours}, which the checkpoint's configuration asks for")
            for piece in pieces:
                file = files.get(piece.name) or files.get("")
                if file is None:
                    raise ValueError(f"{place.name}/{INDEX}: tensor {piece.name} is missing")
                _copy(read(file, piece.name), parameters[ours], piece, f"{place.name}/{file}")
            filled.add(ours)
    if config.tied_head:
        filled.add("head.weight")  # a state_dict names it beside the embedding that it is
    if left := sorted(set(parameters) - filled):
        raise ValueError(f"{place.name}: nothing in the checkpoint fills the parameter {left[0]}")


def _copy(tensor: torch.Tensor, target: torch.Tensor, piece: Piece, where: str) -> None:
    """Copy what a piece takes of its tensor to where it belongs."""
    tensor = tensor if piece.rows is None else tensor[piece.rows]
    target = target if piece.to is None else target[piece.to]
    if tensor.shape != target.shape:
        shapes = f"has shape {list(tensor.shape)}, the model needs {list(target.shape)}"
        raise ValueError(f"{where}: tensor {piece.name} {shapes}")
    target.copy_(tensor)


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


def layout(config: ModelConfig, names: Container[str]) -> Iterator[tuple[str, list[Piece]]]:
    """Yield each of the GPT's parameters with the pieces of the files, whose tensors are `names`, that make it up.

    What a family calls its tensors, and which it joins, is seen from the names.
    """
    begin = next((one for one in PREFIXES if f"{one}embed_tokens.weight" in names), PREFIXES[0])
    yield "embedding.weight", [Piece(f"{begin}embed_tokens.weight")]
    for layer in range(config.layers):
        for ours, pieces in _block(config, f"{begin}layers.{layer}", names, sparse=config.has_experts(layer)):
            yield f"blocks.{layer}.{ours}", pieces
    yield "norm.weight", [Piece(f"{begin}norm.weight")]
    if not config.tied_head:
        heads = [f"{begin.removesuffix('model.')}lm_head.weight", "lm_head.weight"]
        yield "head.weight", [Piece(next((head for head in heads if head in names), heads[-1]))]


def _block(
    config: ModelConfig, place: str, names: Container[str], *, sparse: bool
) -> Iterator[tuple[str, list[Piece]]]:
    """Yield a block's parameters, named within it, with their pieces; the block's tensors are at `place`."""
    attention, mlp = f"{place}.self_attn", f"{place}.mlp"
    yield "norm_attention.weight", [Piece(f"{place}.input_layernorm.weight")]
    if f"{attention}.qkv_proj.weight" in names:
        yield "qkv.weight", [Piece(f"{attention}.qkv_proj.weight")]
    else:
        ends = [config.heads * config.head_size, (config.heads + config.kv_heads) * config.head_size]
        parts = dict(zip("qkv", (slice(ends[0]), slice(*ends), slice(ends[1], None))))  # noqa: B905  (Python 3.10's zip)
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            yield f"qkv.{kind}", [Piece(f"{attention}.{part}_proj.{kind}", to) for part, to in parts.items()]
    if config.qk_norm:
        yield "norm_q.weight", [Piece(f"{attention}.q_norm.weight")]
        yield "norm_k.weight", [Piece(f"{attention}.k_norm.weight")]
    yield "out.weight", [Piece(f"{attention}.o_proj.weight")]
    if config.post_norms:
        yield "norm_after_attention.weight", [Piece(f"{place}.post_attention_layernorm.weight")]
        yield "norm_mlp.weight", [Piece(f"{place}.pre_feedforward_layernorm.weight")]
        yield "norm_after_mlp.weight", [Piece(f"{place}.post_feedforward_layernorm.weight")]
    else:
        yield "norm_mlp.weight", [Piece(f"{place}.post_attention_layernorm.weight")]
    if sparse:
        yield from _experts(config, place, names)
        return
    if f"{mlp}.gate_up_proj.weight" in names:
        yield "gate.weight", [Piece(f"{mlp}.gate_up_proj.weight", rows=slice(config.mlp_width))]
        yield "up.weight", [Piece(f"{mlp}.gate_up_proj.weight", rows=slice(config.mlp_width, None))]
    else:
        yield from ((f"{part}.weight", [Piece(f"{mlp}.{part}_proj.weight")]) for part in ("gate", "up"))
    yield "down.weight", [Piece(f"{mlp}.down_proj.weight")]


def _experts(config: ModelConfig, place: str, names: Container[str]) -> Iterator[tuple[str, list[Piece]]]:
    """Yield the parameters of a block's experts: Mixtral's names, or Qwen's."""
    assert config.experts is not None
    mixtral = f"{place}.block_sparse_moe.gate.weight" in names
    mlp = f"{place}.block_sparse_moe" if mixtral else f"{place}.mlp"
    parts = {"gate": "w1", "up": "w3", "down": "w2"} if mixtral else {p: f"{p}_proj" for p in ("gate", "up", "down")}
    yield "experts.router.weight", [Piece(f"{mlp}.gate.weight")]
    for ours, theirs in parts.items():
        every = range(config.experts.count)
        yield f"experts.{ours}", [Piece(f"{mlp}.experts.{expert}.{theirs}.weight", expert) for expert in every]
    if config.experts.shared_width is not None:
        yield "experts.shared_router.weight", [Piece(f"{mlp}.shared_expert_gate.weight")]
        for part in ("gate", "up", "down"):
            yield f"experts.shared_{part}.weight", [Piece(f"{mlp}.shared_expert.{part}_proj.weight")]


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


class JsonTokenizer:
    """A `tokenizer.json`: text to ids and back, by the package `tokenizers`, which is loaded where it is needed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._model: Any = None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with those special ones that the file puts around it.

        Raises ValueError, one line, if the file is not a tokenizer's.
        """
        return list(self._read().encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, without special ones."""
        return str(self._read().decode(list(map(int, ids))))

    def _read(self) -> Any:
        if self._model is None:
            import tokenizers

            try:
                self._model = tokenizers.Tokenizer.from_file(str(self.file))
            except Exception as error:  # the package raises nothing more precise
                raise ValueError(f"{self.file.name}: is not a tokenizer: {_line(error)}") from error
        return self._model


def find_tokenizer(folder: str) -> Tokenizer | JsonTokenizer | None:
    """Return the checkpoint's tokenizer, SentencePiece's where there are two; None where there is none.

    A `tokenizer.json` counts where the stack has the package `tokenizers`; without it the workload's ids are taken.
    """
    file = Path(folder) / TOKENIZER
    if file.is_file():
        with file.open("rb") as stream:
            if stream.read(1) == SENTENCEPIECE_FIRST_BYTE:
                return Tokenizer(file)
    file = Path(folder) / TOKENIZER_JSON
    return JsonTokenizer(file) if file.is_file() and find_spec("tokenizers") else None
