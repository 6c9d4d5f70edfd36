"""A checkpoint folder, looked at without torch: files written by hand, whole, damaged and hostile."""

from __future__ import annotations

import json
import math
import os
import shlex
import struct
import subprocess

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.plan.checkpoint import LIMIT_HEADER_BYTES, inspect_checkpoint, refuse_unreadable

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 10,
}
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1}


def shapes(layers=2):
    yield "model.embed_tokens.weight", (10, 8)
    for i in range(layers):
        place = f"model.layers.{i}"
        yield f"{place}.self_attn.q_proj.weight", (8, 8)
        yield f"{place}.self_attn.k_proj.weight", (4, 8)
        yield f"{place}.self_attn.v_proj.weight", (4, 8)
        yield f"{place}.self_attn.o_proj.weight", (8, 8)
        yield f"{place}.mlp.gate_proj.weight", (12, 8)
        yield f"{place}.mlp.up_proj.weight", (12, 8)
        yield f"{place}.mlp.down_proj.weight", (8, 12)
        yield f"{place}.input_layernorm.weight", (8,)
        yield f"{place}.post_attention_layernorm.weight", (8,)
    yield "model.norm.weight", (8,)
    yield "lm_head.weight", (10, 8)


def make_header(tensors, dtype="F32"):
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return entries, end


def save(path, entries, data):
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def write(path, tensors, dtype="F32"):
    entries, end = make_header(tensors, dtype)
    save(path, entries, bytes(i % 251 for i in range(end)))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG))
    write(place / "model.safetensors", dict(shapes()))
    return place


@pytest.fixture
def sharded(folder):
    (folder / "model.safetensors").unlink()
    tensors = list(shapes())
    parts = {"a.safetensors": dict(tensors[:9]), "b.safetensors": dict(tensors[9:])}
    for file, part in parts.items():
        write(folder / file, part)
    names = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def change_index(folder, **names):
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"].update(names)
    path.write_text(json.dumps(content))


def refused(folder, *words):
    with pytest.raises(UsageError) as caught:
        inspect_checkpoint(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    for word in words:
        assert word in line, line
    return line


def test_a_whole_checkpoint(folder):
    found = inspect_checkpoint(folder)
    assert (found.model.name, found.model.kv_heads, found.model.head_size) == ("model", 1, 4)
    assert (found.folder, found.tokenizer, found.mount, found.inside) == (folder, False, folder.resolve(), ".")
    assert len(found.fingerprint) == 16
    int(found.fingerprint, 16)


def test_a_sharded_checkpoint(sharded):
    assert inspect_checkpoint(sharded).model.layers == 2


def test_bfloat16(folder):
    write(folder / "model.safetensors", dict(shapes()), "BF16")
    inspect_checkpoint(folder)


def test_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path):
    first = inspect_checkpoint(folder).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert inspect_checkpoint(moved).fingerprint == first
    data = bytearray((moved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "model.safetensors").write_bytes(data)
    second = inspect_checkpoint(moved).fingerprint
    (moved / "config.json").write_text(json.dumps(CONFIG | {"rms_norm_eps": 1e-6}))
    assert len({first, second, inspect_checkpoint(moved).fingerprint}) == 3


def test_tokenizer_is_sentencepiece_only(folder):
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\n")
    assert not inspect_checkpoint(folder).tokenizer
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    assert inspect_checkpoint(folder).tokenizer


def test_tensors_that_are_computed_here_may_be_there(folder):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}
    write(folder / "model.safetensors", dict(shapes()) | extra)
    inspect_checkpoint(folder)


def tied(folder, embedding, head, shape=(10, 8)):
    """A checkpoint whose configuration says that the head is the embedding, and that has both: (dtype, values)."""
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    entries, data = {}, b""
    sizes = {**dict(shapes()), "lm_head.weight": shape}
    for name, size in sizes.items():
        dtype, value = {"model.embed_tokens.weight": embedding, "lm_head.weight": head}.get(name, ("F32", bytes))
        count = math.prod(size)
        part = value(count * BYTES[dtype]) if value is bytes else value
        entries[name] = {"dtype": dtype, "shape": list(size), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    save(folder / "model.safetensors", entries, data)
    return folder


NUMBERS = [0.5 * i - 11 for i in range(80)]  # exact in every type
F64, F32, F16 = (struct.pack(f"<80{code}", *NUMBERS) for code in "dfe")
BF16 = b"".join(F32[4 * i + 2 : 4 * i + 4] for i in range(80))
NOT_A_NUMBER = struct.pack("<80f", float("nan"), *NUMBERS[1:])


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        (("F32", F32), ("F32", F32)),
        (("F32", NOT_A_NUMBER), ("F32", NOT_A_NUMBER)),
        (("BF16", BF16), ("BF16", BF16)),
        (("BF16", BF16), ("F32", F32)),
        (("F64", F64), ("F16", F16)),
    ],
)
def test_a_tied_head_that_is_the_embedding_is_accepted(folder, embedding, head):
    assert inspect_checkpoint(tied(folder, embedding, head)).model.tied_head


@pytest.mark.parametrize(
    ("embedding", "head", "shape"),
    [
        (("F32", F32), ("F32", F32[:-4] + b"\1\2\3\4"), (10, 8)),
        (("F32", F32), ("BF16", BF16[2:] + BF16[:2]), (10, 8)),
        (("F32", F32), ("F32", F32), (8, 10)),
        (("F32", F32), ("I8", bytes(80)), (10, 8)),
    ],
)
def test_a_tied_head_that_differs_is_refused(folder, embedding, head, shape):
    tied(folder, embedding, head, shape)
    refused(folder, "tie_word_embeddings is true", "lm_head.weight is not model.embed_tokens.weight", "false there")


def test_tied_tensors_in_two_files_are_compared(sharded):
    (sharded / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    refused(sharded, "b.safetensors: tie_word_embeddings is true")
    entries, end = make_header(dict(list(shapes())[9:]))
    begin, size = entries["lm_head.weight"]["data_offsets"][0], 10 * 8 * 4
    content = bytes(begin) + bytes(i % 251 for i in range(size))  # as `write` fills the first tensor of a file
    assert len(content) == end
    save(sharded / "b.safetensors", entries, content)
    assert inspect_checkpoint(sharded).model.tied_head


def test_a_download_cache_of_links(folder, tmp_path):
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    found = inspect_checkpoint(snapshot)
    assert (found.mount, found.inside) == ((tmp_path / "cache").resolve(), "snapshots/abc")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to((blobs / "config.json").resolve())
    refused(snapshot, "link", "cp -rL")


OTHERS = (-1, -1)


def cached(folder, place):
    """Move the checkpoint into a download cache's layout; return its snapshot."""
    repository = place / "models--org--Tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / f"{number:040}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040}")
    return snapshot


def remedy_of(folder, user=OTHERS):
    with pytest.raises(UsageError) as caught:
        refuse_unreadable(inspect_checkpoint(folder), *user)
    assert "cannot be read by the containers' user; `" in str(caught.value)
    return caught.value.remedy.strip("`")


def run_remedy(folder):
    """Do what the line says, by a shell; after it all is well."""
    command = remedy_of(folder)
    subprocess.run(["sh", "-c", command], check=True)
    refuse_unreadable(inspect_checkpoint(folder), *OTHERS)
    return command


def test_what_a_containers_user_cannot_read_is_refused_and_the_remedy_helps(folder):
    refuse_unreadable(inspect_checkpoint(folder), *OTHERS)
    (folder / "model.safetensors").chmod(0o600)
    refuse_unreadable(inspect_checkpoint(folder), os.getuid(), -1)
    assert run_remedy(folder) == f"chmod -R a+rX {folder}"
    (folder / "model.safetensors").chmod(0o640)
    refuse_unreadable(inspect_checkpoint(folder), -1, (folder / "model.safetensors").stat().st_gid)
    run_remedy(folder)
    folder.chmod(0o700)
    run_remedy(folder)


@pytest.mark.parametrize("closed", ["blobs/*", "blobs", "snapshots", "snapshots/*", "."])
@pytest.mark.parametrize("place", ["hub", "a hub; with $(blanks) and 'quotes'"])
def test_in_a_download_cache_the_remedy_names_the_repository(folder, tmp_path, place, closed):
    snapshot = cached(folder, tmp_path / place)
    refuse_unreadable(inspect_checkpoint(snapshot), *OTHERS)
    for path in [*(tmp_path / place / "models--org--Tiny").glob(closed)] if closed != "." else [snapshot.parents[1]]:
        path.chmod(0o600 if path.is_file() else 0o700)
    assert shlex.split(run_remedy(snapshot)) == ["chmod", "-R", "a+rX", str(snapshot.parents[1])]


def test_no_more_than_the_checkpoint_is_opened(folder):
    """A link into a neighbour shows the container the folder above both, which has other things in it."""
    other = folder.parent / "weights"
    other.mkdir()
    folder.parent.chmod(0o755)
    (folder.parent / "secret").touch(0o600)
    (folder / "model.safetensors").rename(other / "w")
    (folder / "model.safetensors").symlink_to("../weights/w")
    (other / "w").chmod(0o600)
    other.chmod(0o700)
    assert run_remedy(folder) == f"chmod a+rX {other} {other / 'w'}"
    assert (folder.parent / "secret").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["tokenizer.model", "model.safetensors"])
def test_links_of_several_steps_are_followed_as_a_container_does(folder, tmp_path, name):
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    snapshot = cached(folder, tmp_path / "hub")
    target = (snapshot / name).readlink()
    (snapshot / name).unlink()
    (snapshot / name).symlink_to("step")
    (snapshot / "step").symlink_to(target)
    assert inspect_checkpoint(snapshot).mount == snapshot.parents[1]
    (snapshot / "step").unlink()
    (snapshot / "step").symlink_to((snapshot / target).resolve())
    refused(snapshot, name, "link that a container cannot follow", "cp -rL")
    (snapshot / "step").unlink()
    (snapshot / "step").symlink_to(target)
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "blobs")
    blobs.symlink_to(tmp_path / "blobs")
    refused(snapshot, "link that a container cannot follow", "cp -rL")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("models--org--Tiny/snapshots/" + "0" * 40, "org/Tiny"),
        ("models--gpt2/snapshots/main", "gpt2"),
        ("snapshots/" + "0" * 40, "0" * 40),
        ("models--org--Tiny/other", "other"),
        ("Tiny\x1b[31m", "Tiny [31m"),
    ],
)
def test_a_model_is_named_by_its_repository(folder, tmp_path, place, name):
    target = tmp_path / "hub" / place
    target.parent.mkdir(parents=True)
    folder.rename(target)
    assert inspect_checkpoint(target).model.name == name


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "not a folder")


def test_bad_config(folder):
    path = folder / "config.json"
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"hidden_size": ' + b"1" * 9999 + b"}"):
        path.write_bytes(content)
        refused(folder, "config.json")
    path.write_bytes(b" " * (2 << 20))
    refused(folder, "config.json", "bytes")
    path.unlink()
    refused(folder, "no config.json")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    (folder / "pytorch_model.bin").touch()
    refused(folder, "no weights", "save_pretrained")
    (folder / "model.fp16.safetensors").touch()
    line = refused(folder, "no weights", "it has model.fp16.safetensors: name a copy", "model.safetensors")
    assert "fetch" not in line
    (folder / "model-00001-of-00002.safetensors").touch()
    refused(folder, "no weights", "it has model-00001-of-00002.safetensors, and no index: fetch model.safetensors")
    (folder / "model.fp16.safetensors.index.json").touch()
    refused(folder, "it has model.fp16.safetensors.index.json: name a copy of that model.safetensors.index.json")


def test_missing_tensor_and_wrong_shape(folder):
    tensors = dict(shapes())
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    write(folder / "model.safetensors", tensors)
    refused(folder, "tensor model.layers.1.self_attn.k_proj.weight is missing")
    write(folder / "model.safetensors", dict(shapes()) | {"model.norm.weight": (9,)})
    refused(folder, "model.norm.weight", "[9]", "[8]")


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model.", "_orig_mod.", "base_model.model."])
def test_tensors_by_another_name_are_named(folder, prefix):
    write(folder / "model.safetensors", {prefix + name: shape for name, shape in shapes()})
    line = refused(folder, "embed_tokens.weight is missing", f"and {prefix}model.embed_tokens.weight is there", "save")
    assert "fetch" not in line


def test_tensors_without_their_prefix_are_named(folder):
    write(folder / "model.safetensors", {name.removeprefix("model."): shape for name, shape in shapes()})
    refused(folder, "tensor model.embed_tokens.weight is missing, and embed_tokens.weight is there")


def test_tensor_without_a_place(folder):
    write(folder / "model.safetensors", dict(shapes()) | {"model.layers.0.self_attn.q_proj.bias": (8,)})
    refused(folder, "q_proj.bias", "no place")


def test_dtype_that_is_no_weight(folder):
    write(folder / "model.safetensors", dict(shapes()), "I8")
    refused(folder, "I8", "quantised")


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1])
def test_truncated(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, "model.safetensors", "truncated")


def test_bytes_too_many(folder):
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    refused(folder, "1 bytes after")


def test_header_beyond_the_limit(folder):
    path = folder / "model.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", LIMIT_HEADER_BYTES + 1))
        stream.truncate(LIMIT_HEADER_BYTES + 100)
    refused(folder, "header of")
    path.write_bytes(b"\xff" * 64)
    refused(folder, "truncated")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"dtype": "F32", "shape": [10, 8], "data_offsets": [0]},
        {"dtype": "F32", "shape": [10, 8], "data_offsets": [0, -320]},
        {"dtype": "F32", "shape": [10, 8], "data_offsets": [0, "320"]},
        {"dtype": "F32", "shape": [10, 8], "data_offsets": [False, 320]},
        {"dtype": "F32", "shape": [10, 8], "data_offsets": [0, 10**4000]},
        {"dtype": "F32", "shape": [10, 8], "data_offsets": [4, 324]},
        {"dtype": "F32", "shape": [10, 9], "data_offsets": [0, 320]},
        {"dtype": "F32", "shape": [1 << 40] * 8, "data_offsets": [0, 320]},
        {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 320]},
        {"dtype": "F32", "shape": 10, "data_offsets": [0, 320]},
        {"dtype": 7, "shape": [10, 8], "data_offsets": [0, 320]},
        {"dtype": "F8\n\x1b[31m" + "x" * 9999, "shape": [10, 8], "data_offsets": [0, 320]},
    ],
)
def test_hostile_entries(folder, entry):
    entries, end = make_header(dict(shapes()))
    entries["model.embed_tokens.weight"] = entry
    save(folder / "model.safetensors", entries, bytes(end))
    line = refused(folder, "model.safetensors", "model.embed_tokens.weight")
    assert "\x1b" not in line


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b"\xff\xff", b'{"a":' * 50_000, b'{"\\n' + b"x" * 5000 + b'": 1}']
)
def test_hostile_headers(folder, header):
    save(folder / "model.safetensors", header, b"")
    refused(folder, "model.safetensors")


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/passwd", "a.bin", "", 3, None, "a\0.safetensors", ".."])
def test_index_that_leads_elsewhere(sharded, file):
    change_index(sharded, **{"lm_head.weight": file})
    refused(sharded, "lm_head.weight", "not in a safetensors file")


def test_index_that_is_wrong(sharded):
    change_index(sharded, **{"lm_head.weight": "c.safetensors"})
    refused(sharded, "c.safetensors", "not there")
    change_index(sharded, **{"lm_head.weight": "a.safetensors"})
    refused(sharded, "a.safetensors", "no tensor lm_head.weight")
    (sharded / "model.safetensors.index.json").write_text("{}")
    refused(sharded, "weight_map")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(folder):
    (folder / "model.safetensors").chmod(0)
    refused(folder, "cannot be read")


def test_model_of_a_million_layers_costs_nothing(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 10**9}))
    refused(folder, "model.layers.2.", "missing")
