"""What is fuzzed: every reader of a file that is not ours, from bytes. Each may refuse by UsageError and nothing else.

A target's first byte says what the others are: the file itself, or choices of edits in a good one.
"""

from __future__ import annotations

import atexit
import functools
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edits import Chooser, as_json, as_toml, edited
from record_samples import record, save_run, small_run

from bench.spec import read_spec
from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.files import read_json
from orchestrator.build.lock import facts_of
from orchestrator.launchers import installed
from orchestrator.measure.supervise import believe
from orchestrator.measure.watch import Watch
from orchestrator.plan.checkpoint import inspect_checkpoint
from orchestrator.plan.models import from_huggingface
from orchestrator.plan.stack import load_stack
from orchestrator.plan.suite import load_suite
from orchestrator.records.bundle import MANIFEST, pack
from orchestrator.records.runs import find_run, resumable
from orchestrator.records.store import Run, read_record, record_files
from orchestrator.records.unpack import unpack
from orchestrator.report.explain import explain
from orchestrator.report.tables import EXPORTERS, render_tables, write_tables

Refusals = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Target:
    """One reader. `seeds` are inputs to begin with; `share` is how much of the time it gets."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    refusals: Refusals = (UsageError,)
    share: float = 1.0


MADE = list[Path]()


@functools.cache
def folder(name: str) -> Path:
    """Return a folder of this process alone, in memory where there is room for one."""
    base = Path("/dev/shm")  # noqa: S108
    made = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=base if base.is_dir() else None))
    MADE.append(made)
    return made


def remove_folders() -> None:
    """Remove the folders of this process."""
    for made in MADE:
        shutil.rmtree(made, ignore_errors=True)


atexit.register(remove_folders)

# Suites, stacks, specs.

SUITE = json.dumps(
    {
        "schema_version": 1, "name": "mine", "description": "x", "references": True,
        "defaults": {"timeout_s": 60.0, "rounds": 2, "dtype": "bfloat16"},
        "models": {"a": {"layers": 2, "width": 64, "heads": 4, "mlp_width": 172, "vocabulary": 512, "block_size": 128}},
        "ceilings": {"matrix_sizes": [64], "copy_bytes": 1024},
        "cells": [
            {"benchmark": ["forward", "train_static"], "model": "a", "batch": [1, 2], "sequence": 64, "iterations": 8},
            {"benchmark": "generation", "model": "tiny", "prompt": [1, 2], "new_tokens": 4, "temperature": 0.5},
        ],
    }
)  # fmt: skip
STACK = json.dumps(
    {
        "schema_version": 1, "name": "mine", "description": "x", "methods": ["eager", "inductor"],
        "ready": {"name": "image:1", "python": "/usr/bin/python3", "mounts": ["/usr"]},
        "gpu": {"required": True, "access": "raw", "devices": ["/dev/null"], "driver": "525"},
        "environment": {"MINE": "yes"},
        "deviations": [{"package": "torch", "wanted": "2", "here": "3", "reason": "x"}],
    }
)  # fmt: skip


def suite(data: bytes) -> None:
    choose, place = Chooser(data[1:]), folder("suite") / "suite.toml"
    place.write_bytes(data[1:] if data[:1] < b"\x40" else as_toml_document(SUITE, choose))
    load_suite(str(place))


def stack(data: bytes) -> None:
    choose, place = Chooser(data[1:]), folder("stack")
    (place / "stack.toml").write_bytes(data[1:] if data[:1] < b"\x40" else as_toml_document(STACK, choose))
    load_stack(place)


def as_toml_document(template: str, choose: Chooser) -> bytes:
    document = edited(template, choose)
    return as_toml(document if isinstance(document, dict) else {"x": document})


SPEC = {
    **dict.fromkeys(("cell_id", "workload_id", "stack", "method", "bench_source"), "x"),
    "round": 0, "device": "cpu", "workload": record().workload.model_dump(mode="json"), "cache": "cold", "role": "row",
    "subject_ids": ["a"], "repeats": True, "threads": None,
}  # fmt: skip


def spec(data: bytes) -> None:
    choose, place = Chooser(data[1:]), folder("spec") / "spec.json"
    place.write_bytes(data[1:] if data[:1] < b"\x40" else as_json(edited(json.dumps(SPEC), choose)))
    read_spec(place)


# What a cell leaves, and what is made of it.

SAMPLES = tuple(one.model_dump_json() for one in small_run()[:4])
IDENTITY = ("cell_id", "workload_id", "round", "stack", "method", "device", "bench_source")


def bench_record(data: bytes) -> None:
    """What a process left as its record: believed or not, never more than a complaint."""
    choose, place = Chooser(data[1:]), folder("record") / "record.json"
    template = SAMPLES[choose.number(len(SAMPLES))] if data[:1] >= b"\x40" else ""
    content = as_json(edited(template, choose)) if template else data[1:]
    place.write_bytes(content)
    believe(place, {"cell_id": record().cell_id})
    read_record(place)


@functools.cache
def stored_run() -> Run:
    return Run.open(save_run(folder("run") / "results", small_run()[:2]))


def tables(data: bytes) -> None:
    """A stored record, edited: the run's tables in every form, and its explanation."""
    choose, run = Chooser(data), stored_run()
    place = choose.one_of(record_files(run.folder))
    good = place.read_bytes()
    try:
        place.write_bytes(as_json(edited(good.decode(), choose)))
        for form in EXPORTERS:
            render_tables(run.folder, form=form)
        explain(run.folder, place.stem)
    finally:
        place.write_bytes(good)


EVENTS = json.dumps(
    [
        {"t_ns": 1, "event": "phase", "name": "first call"},
        {"t_ns": 2, "event": "sample", "index": 1, "of": 10},
        {"t_ns": 3, "event": "samples", "ask": 1, "rows": [[0, "timed", 1, 2, None, [2, 64], False]], "more": False},
    ]
)


def events(data: bytes) -> None:
    choose, place = Chooser(data[1:]), folder("events") / "events.jsonl"
    place.write_bytes(b"")
    watch = Watch(place, lambda _event: None)
    parts = [data[1:]]
    if data[:1] >= b"\x40":
        document = edited(EVENTS, choose)
        lines = [as_json(line) for line in document] if isinstance(document, list) else [as_json(document)]
        whole = b"\n".join(lines) + b"\n"
        cut = choose.number(len(whole))
        parts = [whole[:cut], whole[cut:]]
    for part in parts:
        with place.open("ab") as file:
            file.write(part)
        watch.look()
        watch.question.answer(place.parent, lambda samples: {"repeat": [sample.index for sample in samples]})
    watch.where()


FINGERPRINT = json.dumps(
    {"fingerprint": "a", "python": "3.11", "packages": {"torch": "2"}, "torch": {"version": "2"}, "left_out": ["x"]}
)


def fingerprint(data: bytes) -> None:
    """What a stack's Python prints about itself."""
    choose = Chooser(data[1:])
    text = (data[1:] if data[:1] < b"\x40" else as_json(edited(FINGERPRINT, choose))).decode("utf-8", "replace")
    facts_of(text)
    installed(0, text, "x")


# What somebody sent.


def run_file(data: bytes) -> None:
    choose, run = Chooser(data[1:]), stored_run()
    place = folder("header")
    (place / "records").mkdir(exist_ok=True)
    good = run.header.model_dump_json()
    (place / "run.json").write_bytes(data[1:] if data[:1] < b"\x40" else as_json(edited(good, choose)))
    found = Run.open(place)
    resumable(place.parent, run.plan, "x", "local")
    find_run(place.parent, place.name)
    for form in EXPORTERS:
        render_tables(found.folder, form=form)


@functools.cache
def good_bundle() -> tuple[tuple[str, bytes], ...]:
    place = folder("bundle") / "good.tar.gz"
    small = save_run(folder("bundle") / "results", small_run()[:2])
    log = folder("bundle") / "log.txt"
    log.write_text("a line\n")
    run = Run.open(small)
    for one in small_run()[:2]:
        run.save(one, log)
    pack(run, place)
    with tarfile.open(place) as tar:
        return tuple((entry.name, tar.extractfile(entry).read()) for entry in tar)  # type: ignore[union-attr]


def bundle(data: bytes) -> None:
    choose, place, results = Chooser(data[1:]), folder("bundle") / "sent.tar.gz", folder("bundle") / "taken"
    kind = data[:1]
    if kind < b"\x20":
        place.write_bytes(data[1:])
    else:
        content = data[1:] if kind < b"\x40" else edited_tar(choose)
        place.write_bytes(gzip.compress(content, 1))
    try:
        unpack(place, results, write_tables if kind >= b"\xe0" else lambda _folder: None)
    finally:
        shutil.rmtree(results, ignore_errors=True)


def edited_tar(choose: Chooser) -> bytes:
    """Return the good bundle with files whose JSON is edited, and headers that lie; its manifest mostly fits."""
    files = [list(each) for each in good_bundle()]
    for number in {choose.number(len(files)): None for _ in range(choose.number(3))}:
        file = files[number]
        if file[0].endswith(".json"):
            file[1] = (
                as_json(edited(file[1].decode("utf-8", "replace") or "{}", choose)) if file[1][:1] == b"{" else b""
            )
        else:
            file[1] = choose.take(choose.number(64))
    if choose.number(4):
        name = files[0][0].partition("/")[0]
        parts = {
            path.partition("/")[2]: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for path, content in files
            if not path.endswith(MANIFEST)
        }
        files[-1][1] = json.dumps({"schema_version": 1, "run": name, "files": parts}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            if not choose.number(16):
                entry.name = choose.one_of(
                    ["../x", "/x", "a/../b", f"{path}/x", path.upper(), "x" * 90, "", "run.json"]
                )
            if not choose.number(16):
                entry.type = bytes([choose.number(256)])
            tar.addfile(entry, io.BytesIO(content))
    whole = bytearray(out.getvalue())
    for _ in range(choose.number(3)):
        whole[choose.number(min(len(whole), 65536))] = choose.number(256)
    return bytes(whole)


# Models.

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"sliding_window": None},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "Qwen3ForCausalLM": {"head_dim": 4, "layer_types": ["full_attention"]},
    "Gemma2ForCausalLM": {"head_dim": 4, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "Gemma3ForConditionalGeneration": {
        "text_config": {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8}
    },
    "Phi3ForCausalLM": {
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0]},
        "original_max_position_embeddings": 16,
    },
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3MoeForCausalLM": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "mlp_only_layers": [0],
    },
}
CONFIGS = tuple(
    json.dumps(
        {
            "architectures": [name], "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2,
            "num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 32, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0}, **own,
        }
    )
    for name, own in ARCHITECTURES.items()
)  # fmt: skip


def config(data: bytes) -> None:
    choose, place = Chooser(data[1:]), folder("config") / "config.json"
    place.write_bytes(data[1:] if data[:1] < b"\x40" else as_json(edited(choose.one_of(CONFIGS), choose)))
    from_huggingface(read_json(place), "x", file=str(place))


def _header() -> dict[str, Any]:
    shapes = {
        "model.embed_tokens.weight": [32, 8], "model.norm.weight": [8],
        **{f"model.layers.0.{name}layernorm.weight": [8] for name in ("input_", "post_attention_")},
        **{f"model.layers.0.self_attn.{name}_proj.weight": [8, 8] for name in "qkvo"},
        **{f"model.layers.0.mlp.{name}_proj.weight": [16, 8] for name in ("gate", "up")},
        "model.layers.0.mlp.down_proj.weight": [8, 16],
    }  # fmt: skip
    header, end = dict[str, Any](), 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * functools.reduce(lambda a, b: a * b, shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    return header


HEADER = json.dumps(_header())
DATA_BYTES = max(entry["data_offsets"][1] for entry in _header().values())
INDEX = json.dumps({"weight_map": dict.fromkeys(_header(), "a.safetensors")})


def safetensors(data: bytes) -> None:
    """A checkpoint's folder: the header of its weights, or the index of several files."""
    choose, place = Chooser(data[1:]), folder("checkpoint")
    (place / "config.json").write_text(CONFIGS[0])
    kind, index = data[:1], place / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    header = HEADER.encode() if kind >= b"\xc0" else as_json(edited(HEADER, choose))
    weights = len(header).to_bytes(8, "little") + header + bytes(DATA_BYTES)
    if kind < b"\x40":
        weights = data[1:]
    weights = weights[: len(weights) - choose.number(3)] if choose.number(8) == 1 else weights
    for name in ("model.safetensors", "a.safetensors"):
        (place / name).unlink(missing_ok=True)
    (place / ("a.safetensors" if kind >= b"\xc0" else "model.safetensors")).write_bytes(weights)
    if kind >= b"\xc0":
        index.write_bytes(as_json(edited(INDEX, choose)))
    inspect_checkpoint(place)


BENCH_REFUSES: Refusals = (OSError, ValueError, KeyError, TypeError)
"""What bench's own command turns into a line."""
EDITS = tuple(bytes([0x80, count, *range(count * 7, count * 7 + 24)]) for count in range(4))
TARGETS = {
    "suite": Target(suite, (b"\0" + as_toml(json.loads(SUITE)), *EDITS)),
    "stack": Target(stack, (b"\0" + as_toml(json.loads(STACK)), *EDITS)),
    "spec": Target(spec, (b"\0" + json.dumps(SPEC).encode(), *EDITS), BENCH_REFUSES),
    "record": Target(bench_record, (b"\0" + SAMPLES[0].encode(), *EDITS)),
    "tables": Target(tables, EDITS, share=2.0),
    "events": Target(events, (b"\0" + b"\n".join(as_json(line) for line in json.loads(EVENTS)) + b"\n", *EDITS), ()),
    "fingerprint": Target(fingerprint, (b"\0" + FINGERPRINT.encode(), *EDITS), (InfrastructureError,)),
    "run": Target(run_file, (b"\0{}", *EDITS)),
    "bundle": Target(bundle, (b"\x20", b"\xff\0\1", *EDITS)),
    "config": Target(config, (b"\0" + CONFIGS[0].encode(), *EDITS)),
    "safetensors": Target(
        safetensors,
        (b"\0" + len(HEADER).to_bytes(8, "little") + HEADER.encode() + bytes(DATA_BYTES), *EDITS, b"\xc0\1"),
    ),
}
