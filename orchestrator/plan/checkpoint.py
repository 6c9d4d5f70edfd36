"""Looks at a user's checkpoint folder before anything is started: its model, its identity, what is wrong with it.

Reads `config.json` and the headers of the safetensors files itself, so that neither torch nor safetensors is needed
here. The folder is not trusted: every size is bounded, and whatever does not add up is one clear line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.base.errors import UsageError
from orchestrator.base.files import BeyondBoundsError, Frozen, parse_json
from orchestrator.base.text import one_line
from orchestrator.plan import links
from orchestrator.plan.models import from_huggingface, is_nested
from orchestrator.plan.tensors import HEAD, PREFIXES, expected
from orchestrator.plan.workload import ModelConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER, TOKENIZER_JSON = "tokenizer.model", "tokenizer.json"
SENTENCEPIECE_FIRST_BYTE = b"\n"  # a tiktoken file of the same name is base64 text
MIB = 1 << 20
LIMIT_CONFIG_BYTES = MIB
LIMIT_HEADER_BYTES = 16 * MIB  # a model of 126 layers has some 150 KB in all
LIMIT_INDEX_BYTES = 16 * MIB
LIMIT_FILES = 2000
LIMIT_AXES = 8
LIMIT_NUMBER = 1 << 48  # elements of an axis, bytes of a file
ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # the types that a weight of these models may have
BAD_DOWNLOAD = "fetch the checkpoint again"
OTHER_INPUTS = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
"""Tensors of such a model that its text model does not need."""
CACHED = re.compile("models--.")
"""How a download cache names a repository's folder."""
MANY_PATHS = 8


class Tensor(NamedTuple):
    """A tensor in a safetensors file; `begin` is where its data begin in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int


Tensors = dict[str, Tensor]


class Checkpoint(Frozen):
    """A checkpoint folder that was found whole.

    `fingerprint` is sixteen hex digits over what the folder holds, wherever it lies. `tokenizer` says whether there
    is a SentencePiece `tokenizer.model`. `mount` is the folder that a container must see so that links work (a
    download cache links its snapshots to files beside them), `inside` is the checkpoint's place below it.
    """

    model: ModelConfig
    fingerprint: str
    folder: Path
    tokenizer: bool
    mount: Path
    inside: str
    files: tuple[str, ...] = ()
    """What is read in it, by name."""


def _damaged(what: str, where: Path | str) -> UsageError:
    return UsageError(what, where=str(where), remedy=BAD_DOWNLOAD)


def refuse_unreadable(checkpoint: Checkpoint, uid: int, gid: int) -> None:
    """Raise UsageError where a container's user, in no other group, could not read what we can. -1: owns nothing."""
    mount, folder = checkpoint.mount, checkpoint.folder.resolve()
    closed = links.closed_to(uid, gid, mount, [folder / name for name in checkpoint.files])
    if closed:
        whole = mount == folder or CACHED.match(mount.name) or len(closed) > MANY_PATHS
        command = ["chmod", "-R", "a+rX", str(mount)] if whole else ["chmod", "a+rX", *map(str, closed)]
        what = "cannot be read by the containers' user"
        raise UsageError(what, where=str(closed[0]), remedy=f"`{shlex.join(command)}`")


def inspect_checkpoint(folder: Path) -> Checkpoint:
    """Return what the checkpoint in `folder` is.

    Raises UsageError, one line, for a folder that is not there or cannot be read, no or a bad `config.json`, no
    weights, a truncated or malformed file, and a tensor that is missing, unknown, or of a wrong shape or dtype.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(what, where=str(folder), remedy="name a folder with config.json and model.safetensors")
    config, digest = folder / CONFIG, hashlib.sha256()
    try:
        if not config.is_file():
            raise UsageError(
                f"has no {CONFIG}", where=str(folder), remedy="name the folder of a Hugging Face checkpoint"
            )
        raw = _read(config, LIMIT_CONFIG_BYTES)
        model = from_huggingface(raw, _name(folder.resolve()), file=str(config))
        _add(digest, CONFIG, config.read_bytes())
        names = _weight_files(folder)
        held = {file: _read_header(folder / file, digest) for file in sorted(set(names.values()) or {WEIGHTS})}
        _check_tensors(folder, model, held, names, nested=is_nested(raw))
        files = (CONFIG, *held, *(name for name in (INDEX, TOKENIZER, TOKENIZER_JSON) if (folder / name).is_file()))
        mount, inside = links.mount_of(folder, files)
        return Checkpoint(
            model=model,
            fingerprint=digest.hexdigest()[:16],
            folder=folder,
            tokenizer=_has_tokenizer(folder),
            mount=mount,
            inside=inside,
            files=files,
        )
    except OSError as error:
        where = str(error.filename or folder)
        raise UsageError(f"cannot be read: {error.strerror}", where=where, remedy="check its permissions") from error


def _name(folder: Path) -> str:
    """Return the model's name: the repository's in a download cache (whose folder is a commit's hash), else its own."""
    snapshots, repository = folder.parent, folder.parent.parent.name
    if snapshots.name == "snapshots" and CACHED.match(repository):
        return one_line(repository.removeprefix("models--").replace("--", "/"))
    return one_line(folder.name) or "checkpoint"


def _read(path: Path, limit: int) -> dict[str, Any]:
    """Return what a JSON file of at most `limit` bytes holds."""
    size = path.stat().st_size
    if size > limit:
        raise _damaged(f"has {size} bytes, at most {limit} are read", path)
    return _json(path.read_bytes(), path)


def _json(data: bytes, where: Path) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except BeyondBoundsError as error:
        raise _damaged(_shown(error), where) from error
    except ValueError as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "not in UTF-8"
        raise _damaged(f"is not JSON: {reason}", where) from error
    if not isinstance(value, dict):
        raise _damaged("is not a JSON object", where)
    return value


def _weight_files(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by the index, or nothing when all weights are in one file."""
    if (folder / WEIGHTS).is_file():
        return {}
    path = folder / INDEX
    if not path.is_file():
        raise UsageError(f"has no weights: neither {WEIGHTS} nor {INDEX}", where=str(folder), remedy=_instead(folder))
    names = _read(path, LIMIT_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise _damaged("has no weight_map", path)
    files = set()
    for name, file in names.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file or "\0" in file:
            raise _damaged(f"tensor {_shown(name)} is not in a safetensors file of this folder", path)
        files.add(file)
    if len(files) > LIMIT_FILES:
        raise UsageError(f"names {len(files)} files, at most {LIMIT_FILES} are read", where=str(path))
    for file in sorted(files):
        if not (folder / file).is_file():
            raise _damaged(f"names {_shown(file)}, which is not there", path)
    return names


def _instead(folder: Path) -> str:
    """Return what to do in a folder that has no weights under the usual names."""
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    indices = sorted(path.name for path in folder.glob("*.safetensors.index.json"))
    if indices:
        return f"it has {_shown(indices[0])}: name a copy of that {INDEX}"
    if any("-of-" in name for name in others):
        return f"it has {_shown(others[0])}, and no index: fetch {INDEX} too"
    if others:
        return f"it has {_shown(', '.join(others))}: name a copy of the one to take, or a link to it, {WEIGHTS}"
    if any(folder.glob("pytorch_model*.bin")):
        return "convert it with save_pretrained(safe_serialization=True)"
    return BAD_DOWNLOAD


def _shown(text: object) -> str:
    """Return a name from the file as a message may show it: one line, of bounded length."""
    return repr(str(text)[:120])[1:-1]


def _add(digest: hashlib._Hash, name: str, data: bytes) -> None:
    """Add named bytes so that no two lists of them read the same."""
    digest.update(struct.pack("<QQ", len(name.encode()), len(data)) + name.encode() + data)


def _read_header(path: Path, digest: hashlib._Hash) -> Tensors:
    """Read one file's header, check that the file is as long as it says, and add it to the fingerprint."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1  # noqa: PLR2004 - a 64-bit integer
        if length < 0 or length > size - 8:
            raise _damaged(f"is truncated: {size} bytes do not hold its header", path)
        if length > LIMIT_HEADER_BYTES:
            raise _damaged(f"has a header of {length} bytes, at most {LIMIT_HEADER_BYTES} are read", path)
        data = stream.read(length)
        tensors, end = _tensors(_json(data, path), path, 8 + length)
        held = size - 8 - length
        if held < end:
            raise _damaged(f"is truncated: it holds {held} bytes of tensors of {end}", path)
        if held > end:
            raise _damaged(f"holds {held - end} bytes after its tensors", path)
        _add(digest, path.name, data)
        _add(digest, "first", stream.read(min(MIB, held)))
        stream.seek(size - min(MIB, held))
        _add(digest, "last", stream.read(min(MIB, held)))
    return tensors


def _tensors(raw: dict[str, Any], where: Path, offset: int) -> tuple[Tensors, int]:
    """Return the tensors of a header and where their data ends; they must lie one after another, as saved.

    `offset` is where the data of all begin in the file.
    """
    tensors, spans = Tensors(), []
    for name, entry in raw.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            numbers = [*shape, begin, end]
            sound = isinstance(dtype, str) and all(type(n) is int and 0 <= n <= LIMIT_NUMBER for n in numbers)
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound or len(shape) > LIMIT_AXES:
            raise _damaged(f"tensor {_shown(name)}: its entry is malformed", where)
        if dtype in ELEMENT_BYTES and end - begin != math.prod(shape) * ELEMENT_BYTES[dtype]:
            what = f"tensor {_shown(name)}: its {end - begin} bytes are not those of {dtype} {list(shape)}"
            raise _damaged(what, where)
        tensors[name] = Tensor(dtype, shape, offset + begin)
        spans.append((begin, end, name))
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected or end < begin:
            raise _damaged(f"tensor {_shown(name)}: its data does not follow the one before", where)
        expected = end
    return tensors, expected


def _check_tensors(
    folder: Path, model: ModelConfig, held: dict[str, Tensors], names: dict[str, str], *, nested: bool
) -> None:
    """Check that the files hold the model's tensors, all of them and no others but of other kinds of input."""
    holder = names or {name: file for file, tensors in held.items() for name in tensors}
    known = dict[str, None]()
    for name, shape in expected(model, holder, PREFIXES if nested else PREFIXES[:1]):
        known[name] = None
        if name not in holder:
            raise _missing(name, holder, folder)
        where = str(folder / holder[name])
        if name not in held[holder[name]]:
            raise _damaged(f"has no tensor {name}, though {INDEX} says so", where)
        dtype, found, _ = held[holder[name]][name]
        if found != shape:
            what = f"tensor {name} has shape {list(found)}, {CONFIG} asks for {list(shape)}"
            raise UsageError(what, where=where, remedy="use the config.json that was saved with these weights")
        if dtype not in ELEMENT_BYTES:
            what = f"tensor {name} has dtype {_shown(dtype)}, supported are {', '.join(ELEMENT_BYTES)}"
            raise UsageError(what, where=where, remedy="give a checkpoint that is not quantised")
    _check_others(folder, model, held, holder, known, nested=nested)


def _check_others(
    folder: Path,
    model: ModelConfig,
    held: dict[str, Tensors],
    holder: Mapping[str, str],
    known: Mapping[str, None],
    *,
    nested: bool,
) -> None:
    """Refuse tensors that are not `known`, whose first is the embedding, and that have no good reason to be there."""
    embedding = next(iter(known))
    for file, tensors in held.items():
        for name in sorted(set(tensors) - set(known)):
            # Old checkpoints keep the rotary frequencies, which are computed here; some keep a tied head twice.
            if name.endswith("rotary_emb.inv_freq") or (nested and OTHER_INPUTS.match(name)):
                continue
            if model.tied_head and name.removeprefix("language_model.") == HEAD:
                place, own = folder / holder[embedding], held[holder[embedding]][embedding]
                _check_tied(folder / file, (name, tensors[name]), place, (embedding, own))
                continue
            what = f"tensor {_shown(name)} has no place in the model"
            raise UsageError(what, where=str(folder / file), remedy="use a checkpoint of the plain model")


def _missing(name: str, holder: Mapping[str, str], folder: Path) -> UsageError:
    """Return the line for a tensor that is not there: it may go by another name, as in a larger model's checkpoint."""
    other = next((there for there in sorted(holder) if there.endswith(f".{name}") or name.endswith(f".{there}")), None)
    if other is None:
        return _damaged(f"tensor {name} is missing", folder)
    what = f"tensor {name} is missing, and {_shown(other)} is there: these are the weights of another kind of model"
    remedy = "save the plain causal language model in it with save_pretrained, and name that folder"
    return UsageError(what, where=str(folder), remedy=remedy)


def _check_tied(
    head_file: Path, named_head: tuple[str, Tensor], embedding_file: Path, named_embedding: tuple[str, Tensor]
) -> None:
    """Refuse a head of its own where the configuration says that it is the embedding: which one counts is not known."""
    (head_name, head), (embedding_name, embedding) = named_head, named_embedding
    same = head.dtype in ELEMENT_BYTES and head.shape == embedding.shape
    if same:
        with head_file.open("rb") as one, embedding_file.open("rb") as other:
            one.seek(head.begin)
            other.seek(embedding.begin)
            left = math.prod(head.shape)
            while same and left:
                count = min(left, MIB)
                mine = one.read(count * ELEMENT_BYTES[head.dtype])
                same = _equal(mine, other.read(count * ELEMENT_BYTES[embedding.dtype]), head.dtype, embedding.dtype)
                left -= count
    if not same:
        what = f"tie_word_embeddings is true in {CONFIG}, and tensor {head_name} is not {embedding_name}"
        remedy = f"write tie_word_embeddings: false there to use the head, or save the model again without {head_name}"
        raise UsageError(what, where=str(head_file), remedy=remedy)


def _equal(one: bytes, other: bytes, dtype: str, other_dtype: str) -> bool:
    """Whether these bytes hold the same values, each in its own type."""
    if dtype == other_dtype:
        return one == other
    import numpy as np  # scipy brings it; only an odd checkpoint needs it

    def values(data: bytes, kind: str) -> Any:
        if kind == "BF16":
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[kind])

    return bool(np.array_equal(values(one, dtype), values(other, other_dtype), equal_nan=True))


def _has_tokenizer(folder: Path) -> bool:
    path = folder / TOKENIZER
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(1) == SENTENCEPIECE_FIRST_BYTE
