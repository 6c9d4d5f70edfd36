"""A run packed and taken in again, and every way in which a bundle can be bad or hostile."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from committed import FOLDERS
from record_samples import record, samples, save_run, small_run

from orchestrator.base.errors import UsageError
from orchestrator.cli import run as command
from orchestrator.records import bundle as packing
from orchestrator.records.bundle import MANIFEST, pack
from orchestrator.records.store import Run, stem_of
from orchestrator.records.unpack import unpack
from orchestrator.report.tables import write_tables

if TYPE_CHECKING:
    from collections.abc import Callable


REFERENCE = f"references/{'a' * 16}.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = save_run(tmp_path / "results", small_run())
    log = tmp_path / "log.txt"
    log.write_text("all of it\n")
    found = Run.open(folder)
    for one in small_run()[:3]:
        found.save(one, log)
    (folder / "references").mkdir()
    (folder / REFERENCE).write_bytes(b"truth")
    told = {"references": {"a" * 16: {"sha256": hashlib.sha256(b"truth").hexdigest()}}}
    found.save(record(role="reference", cell_id="b" * 16, detail=told))
    (folder / "stacks").mkdir()
    shutil.copy(next(FOLDERS[0].glob("stacks/*")), folder / "stacks")
    (folder / "secret.txt").write_text("mine")
    return found


@pytest.fixture
def bundle(run: Run, tmp_path: Path) -> Path:
    pack(run, tmp_path / "sent.tar.gz")
    return tmp_path / "sent.tar.gz"


def members(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def sealed(files: dict[str, bytes], **more: Any) -> dict[str, bytes]:
    """The same files behind a manifest that fits them; `more` are parts that it has besides or otherwise."""
    name = next(iter(files)).split("/", 1)[0]
    rest = {path: content for path, content in files.items() if not path.endswith(MANIFEST)}
    parts = {
        path.split("/", 1)[1]: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for path, content in rest.items()
    }
    told = {"schema_version": 1, "run": name, "files": {**parts, **more}}
    return {f"{name}/{MANIFEST}": json.dumps(told).encode(), **rest}


def written(tmp_path: Path, files: dict[str, bytes], *more: tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> Path:
    target = tmp_path / "bad.tar.gz"
    with tarfile.open(target, "w:gz", format=form) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for entry in more:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return target


def refused(bundle: Path, tmp_path: Path) -> str:
    results = tmp_path / "elsewhere"
    with pytest.raises(UsageError) as caught:
        unpack(bundle, results, write_tables)
    assert list(results.iterdir()) == []
    assert "\n" not in str(caught.value)
    assert ".making-" not in str(caught.value)
    return str(caught.value)


def test_there_and_back(run: Run, bundle: Path, tmp_path: Path) -> None:
    names = {name.split("/", 1)[1] for name in members(bundle)}
    assert {"run.json", MANIFEST} < names
    assert not any("references" in name or "secret" in name for name in names)
    found = unpack(bundle, tmp_path / "elsewhere", write_tables)
    assert found.folder == tmp_path / "elsewhere" / run.folder.name
    assert found.imported
    assert found.header == run.header.model_copy(update={"imported_utc": found.header.imported_utc})
    assert Run.open(found.folder).header == found.header
    assert len(list((found.folder / "stacks").iterdir())) == 1
    assert list(found.records([])) == list(run.records([]))
    assert (found.folder / "logs" / f"{stem_of(small_run()[0])}.log").read_text() == "all of it\n"
    assert f"| Imported | {found.header.imported_utc}; not measured here |" in (found.folder / "tables.md").read_text()
    assert json.loads((found.folder / "tables.json").read_text())["run"]["imported_utc"] == found.header.imported_utc
    assert not (found.folder / MANIFEST).exists()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [run.folder.name]


def test_a_bundle_is_on_the_disk_before_it_has_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = list[tuple[int, bool]](), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        seen.append((os.fstat(descriptor).st_size, (tmp_path / "x.tar.gz").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    pack(run, tmp_path / "x.tar.gz")
    assert seen == [((tmp_path / "x.tar.gz").stat().st_size, False)]


def test_equal_runs_make_equal_bundles(run: Run, bundle: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == bundle.read_bytes()


def test_references_go_along_when_asked(run: Run, tmp_path: Path) -> None:
    _, left_out = pack(run, tmp_path / "full.tar.gz", references=True)
    assert left_out == ["secret.txt"]
    found = unpack(tmp_path / "full.tar.gz", tmp_path / "elsewhere", write_tables)
    assert (found.folder / REFERENCE).read_bytes() == b"truth"


def test_the_runs_of_the_repository(tmp_path: Path) -> None:
    for folder in FOLDERS:
        pack(Run.open(folder), tmp_path / f"{folder.name}.tar.gz")
        found = unpack(tmp_path / f"{folder.name}.tar.gz", tmp_path / "elsewhere", write_tables)
        assert list(found.records([])) == list(Run.open(folder).records([]))


def test_nothing_is_overwritten(run: Run, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already exists"):
        pack(run, bundle)
    before = sorted(path.name for path in run.folder.parent.iterdir())
    with pytest.raises(UsageError, match="a run of this name already exists"):
        unpack(bundle, run.folder.parent, write_tables)
    assert sorted(path.name for path in run.folder.parent.iterdir()) == before


def test_the_tables_that_came_along_are_not_believed(run: Run, tmp_path: Path) -> None:
    (run.folder / "tables.md").write_text("<script>")
    pack(run, tmp_path / "x.tar.gz")
    assert (
        "<script>"
        not in (unpack(tmp_path / "x.tar.gz", tmp_path / "elsewhere", write_tables).folder / "tables.md").read_text()
    )


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "R/../../x", "R/records/../../x", "R/other.txt", "R/records/x.json", "R/.hidden", "R", "."],
)
def test_names_that_no_bundle_has(bundle: Path, tmp_path: Path, name: str) -> None:
    files = members(bundle)
    top = next(iter(files)).split("/", 1)[0]
    path = name.replace("R", top, 1)
    assert "which its manifest does not name" in refused(written(tmp_path, files, tarfile.TarInfo(path)), tmp_path)
    named = sealed(files, **{path.removeprefix(f"{top}/"): {"sha256": "0" * 64, "bytes": 0}})
    assert "which no bundle has" in refused(written(tmp_path, named), tmp_path)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE],
)
def test_nothing_but_plain_files(bundle: Path, tmp_path: Path, kind: bytes) -> None:
    files = members(bundle)
    top = next(iter(files)).split("/", 1)[0]
    entry = tarfile.TarInfo(f"{top}/NOTES.md")
    entry.type, entry.linkname = kind, "/etc/passwd"
    named = sealed(files, **{"NOTES.md": {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}})
    assert "where its manifest names" in refused(written(tmp_path, named, entry), tmp_path)
    entry.name = f"{top}/{MANIFEST}"
    assert "does not begin with its manifest" in refused(written(tmp_path, {}, entry), tmp_path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for kind, name, says in (
        (tarfile.XHDTYPE, "x", "does not begin with its manifest"),
        (tarfile.REGTYPE, f"x/{MANIFEST}", "more than the limit"),
    ):
        entry = tarfile.TarInfo(name)
        entry.type, entry.size = kind, 8 * 10**9
        target = tmp_path / "bad.tar.gz"
        target.write_bytes(gzip.compress(entry.tobuf(tarfile.USTAR_FORMAT)))
        assert says in refused(target, tmp_path)


def part(size: int) -> dict[str, Any]:
    return {"sha256": "0" * 64, "bytes": size}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"NOTES.md": part(10**7)}, "more than the limit"),
        ({"run.json": part(60_000_000)}, "more than the limit"),
        ({"NOTES.md": part(-1)}, "greater than or equal to 0"),
        ({"NOTES.md": part(10**400)}, "less than or equal to 9223372036854775807"),
        ({f"logs/a-b@c-{n:016x}-r0.log": part(0) for n in range(120_000)}, "manifest.json has "),
        ({f"logs/{'0' * 15}": part(0)}, "which no bundle has"),
        ({f"logs/a-b@c-{n:016x}-r0.log": part(0) for n in range(60_000)}, "files, and a bundle holds at most 50000"),
        ({f"logs/a-b@c-{n:016x}-r0.log": part(8 * 10**6) for n in range(3_000)}, "bytes, and a bundle holds at most"),
        ({f"logs/a-b@c-{n:016x}-r0.log": part(8 * 10**6) for n in range(500)}, "no run shrinks so much"),
        ({f"{n}": 0 for n in range(610_000)}, "has more than 600000 values"),
    ],
)
def test_what_is_too_much_is_refused_before_anything_is_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], says: str
) -> None:
    def never(**_: Any) -> str:
        raise AssertionError

    monkeypatch.setattr("orchestrator.records.store.tempfile.mkdtemp", never)
    assert says in refused(written(tmp_path, sealed(members(bundle), **more)), tmp_path)


def test_a_bundle_that_has_no_room_is_refused_before_anything_is_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "1000 free; make room" in refused(bundle, tmp_path)


def test_a_log_that_shrinks_a_thousandfold_is_sent_all_the_same(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 8_000_000)
    stored = run.save(record(cell_id="d" * 16, samples=samples(9.0, 1.0)), tmp_path / "log")
    pack(run, tmp_path / "x.tar.gz")
    found = unpack(tmp_path / "x.tar.gz", tmp_path / "elsewhere", write_tables)
    assert (found.folder / "logs" / f"{stem_of(stored)}.log").stat().st_size == 8_000_000


@pytest.mark.parametrize("kind", ["logs", "dispatch", "telemetry", "references"])
def test_files_that_no_record_names(bundle: Path, run: Run, tmp_path: Path, kind: str) -> None:
    ending = {"logs": "log", "dispatch": "json", "telemetry": "jsonl", "references": "safetensors"}[kind]
    stem = "c" * 16 if kind == "references" else f"forward-eager@cpu-{'c' * 16}-r0"
    path = f"{kind}/{stem}.{ending}"
    files = members(bundle)
    top = next(iter(files)).split("/", 1)[0]
    assert f"{path} is named by no record" in refused(
        written(tmp_path, sealed({**files, f"{top}/{path}": b""})), tmp_path
    )
    (run.folder / kind).mkdir(exist_ok=True)
    (run.folder / path).write_bytes(b"")
    _, left_out = pack(run, tmp_path / "x.tar.gz", references=True)
    assert f"{path} (is named by no record)" in left_out
    unpack(tmp_path / "x.tar.gz", tmp_path / "elsewhere", write_tables)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b'{"stack": "x"}'])
def test_the_lock_of_a_stack_is_checked_on_both_sides(bundle: Path, run: Run, tmp_path: Path, content: bytes) -> None:
    path = next((run.folder / "stacks").iterdir())
    inside = f"stacks/{path.name}"
    changed = sealed(change(members(bundle), path.name, lambda _: content))
    assert inside in refused(written(tmp_path, changed), tmp_path)
    path.write_bytes(content)
    (run.folder / "stacks" / "other.lock.json").write_bytes(members(bundle)[f"{run.folder.name}/{inside}"])
    _, left_out = pack(run, tmp_path / "x.tar.gz")
    assert sum(line.startswith("stacks/") for line in left_out) == 2
    unpack(tmp_path / "x.tar.gz", tmp_path / "elsewhere", write_tables)


def edit_log(folder: Path) -> str:
    path = next((folder / "logs").iterdir())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return f"logs/{path.name} (is not the file that its record names)"


def edit_reference(folder: Path) -> str:
    (folder / REFERENCE).write_bytes(b"other")
    return f"{REFERENCE} (is not the file that its record names)"


def lengthen_log(folder: Path) -> str:
    path = next((folder / "logs").iterdir())
    path.write_bytes(b"x" * 9_000_000)
    return f"logs/{path.name} (9000000 bytes, more than the limit of 8004096)"


def link_log(folder: Path) -> str:
    path = next((folder / "logs").iterdir())
    path.rename(folder / "logs" / ".kept")
    path.symlink_to(".kept")
    return f"logs/{path.name} (too many levels of symbolic links)"


def damage_record(folder: Path) -> str:
    path = folder / small_stems()[-1]
    path.write_text("{")
    return f"records/{path.name} (not valid JSON)"


def copy_record(folder: Path) -> str:
    path = folder / small_stems()[-1]
    (folder / "records" / f"{path.stem} (1).json").write_bytes(path.read_bytes())
    return f"records/{path.stem} (1).json"


def rename_record(folder: Path) -> str:
    path = folder / small_stems()[-1]
    other = path.with_name(path.name.replace("-r0", "-r77"))
    other.write_bytes(path.read_bytes())
    return f"records/{other.name} (the record of another cell or round has this name)"


def change_workload(folder: Path) -> str:
    path = folder / small_stems()[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), "workload_id": "0" * 16}))
    return f"records/{path.name} (its workload is not the one that its workload_id names)"


@pytest.mark.parametrize(
    "harm",
    [
        edit_log,
        edit_reference,
        lengthen_log,
        link_log,
        damage_record,
        copy_record,
        rename_record,
        change_workload,
    ],
)
def test_what_import_would_refuse_is_left_out_and_named(run: Run, tmp_path: Path, harm: Callable[[Path], str]) -> None:
    named = harm(run.folder)
    _, left_out = pack(run, tmp_path / "x.tar.gz", references=True)
    assert named in left_out
    unpack(tmp_path / "x.tar.gz", tmp_path / "elsewhere", write_tables)


@pytest.mark.parametrize("role", ["row", "reference"])
@pytest.mark.parametrize(
    ("key", "number"),
    [
        *(("norm_eps", number) for number in (b"NaN", b"Infinity", b"-1e999", b"1" + b"0" * 400)),
        *(("first_token_ns", number) for number in (b"1e999", b"9223372036854775808", b"1" + b"0" * 400)),
    ],
)
def test_a_records_number_beyond_bounds_is_refused(
    bundle: Path, tmp_path: Path, role: str, key: str, number: bytes
) -> None:
    def place(content: bytes) -> bytes:
        here = json.loads(content)
        model, sample = here["workload"]["model"], here["samples"][0] if here["samples"] else {}
        (model if key == "norm_eps" else sample)[key] = "@"
        here["samples"] = here["samples"] or [{**samples(9.0, 1.0)[0], **sample}]
        return json.dumps(here).encode().replace(b'"@"', number)

    ending = f"{'b' * 16}-r0.json" if role == "reference" else "-r2.json"
    files = sealed(change(members(bundle), ending, place))
    told = refused(written(tmp_path, files), tmp_path)
    assert f"{key}: must be " in told


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_a_number_that_is_none_reaches_no_table(bundle: Path, tmp_path: Path, number: bytes) -> None:
    def never(name: str) -> None:
        raise AssertionError(name)

    files = change(members(bundle), "run.json", edited(host={"x": "@"}))
    files = change(files, "run.json", lambda text: text.replace(b'"@"', number))
    with contextlib.suppress(UsageError):  # a line for a person is right too
        found = unpack(written(tmp_path, sealed(files)), tmp_path / "elsewhere", write_tables)
        json.loads((found.folder / "tables.json").read_text(), parse_constant=never)


@pytest.mark.parametrize("error", [ValueError("x"), OverflowError("x"), KeyError("x"), RecursionError("x")])
def test_a_run_that_no_tables_can_be_made_of_is_refused(bundle: Path, tmp_path: Path, error: Exception) -> None:
    def fail(_folder: Path) -> None:
        raise error

    with pytest.raises(UsageError, match="no tables can be made of it"):
        unpack(bundle, tmp_path / "elsewhere", fail)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def small_stems() -> list[str]:
    return [f"records/{stem_of(one)}.json" for one in small_run()]


def change(files: dict[str, bytes], ending: str, edit: Callable[[bytes], bytes]) -> dict[str, bytes]:
    path = next(name for name in files if name.endswith(ending))
    return {**files, path: edit(files[path])}


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def test_content_that_is_not_the_manifests(bundle: Path, tmp_path: Path) -> None:
    files = members(bundle)
    changed = change(files, "-r2.json", lambda content: content.replace(b'"ok"', b'"no"'))
    assert "is not the file that the manifest names" in refused(written(tmp_path, changed), tmp_path)
    longer = change(files, "-r2.json", lambda content: content + b" ")
    assert "where its manifest names" in refused(written(tmp_path, longer), tmp_path)
    fewer = {name: content for name, content in files.items() if not name.endswith("-r2.json")}
    assert "where its manifest names" in refused(written(tmp_path, fewer), tmp_path)
    last = dict(list(files.items())[:-1])
    assert "is missing" in refused(written(tmp_path, last), tmp_path)
    more = {**files, f"{next(iter(files)).split('/', 1)[0]}/NOTES.md": b"hello"}
    assert "which its manifest does not name" in refused(written(tmp_path, more), tmp_path)
    manifest, *rest = files.items()
    assert "does not begin with its manifest" in refused(written(tmp_path, dict([*rest, manifest])), tmp_path)


@pytest.mark.parametrize(
    ("ending", "edit", "says"),
    [
        ("-r2.json", edited(surprise=1), "surprise: unknown key"),
        ("-r2.json", edited(round=1), "the record of another cell"),
        ("-r2.json", edited(workload_id="0" * 16), "its workload is not the one"),
        ("-r2.json", edited(stack="../x"), "the record of another cell"),
        ("-r2.json", lambda _: b"{", "not valid JSON"),
        ("-r2.json", lambda text: text.replace(b'"loss":null', b'"loss":NaN', 1), "samples[0].loss: must be a finite"),
        ("run.json", edited(schema_version=2), "schema_version"),
        ("run.json", lambda _: b"[]", "run.json"),
        (".log", lambda _: b"another log", "is not the file that its record names"),
    ],
)
def test_records_and_headers_that_are_none(
    bundle: Path, tmp_path: Path, ending: str, edit: Callable[[bytes], bytes], says: str
) -> None:
    files = sealed(change(members(bundle), ending, edit))
    assert says in refused(written(tmp_path, files), tmp_path)


def test_a_manifest_that_is_none(bundle: Path, tmp_path: Path) -> None:
    files = members(bundle)
    assert "manifest.json: " in refused(written(tmp_path, change(files, MANIFEST, lambda _: b"{}")), tmp_path)
    without = {name: content for name, content in files.items() if not name.endswith(MANIFEST)}
    assert "does not begin with its manifest.json" in refused(written(tmp_path, without), tmp_path)
    headless = sealed({name: content for name, content in files.items() if not name.endswith("run.json")})
    assert "has no run.json" in refused(written(tmp_path, headless), tmp_path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_bundle_cut_short(bundle: Path, tmp_path: Path, part: float) -> None:
    content = bundle.read_bytes()
    target = tmp_path / "cut.tar.gz"
    target.write_bytes(content[: int(len(content) * part)])
    refused(target, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", gzip.compress(b""), gzip.compress(b"hello" * 1000)],
    ids=["empty", "text", "empty in gzip", "text in gzip"],
)
def test_files_that_are_no_bundles(tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "x"
    target.write_bytes(content)
    refused(target, tmp_path)


def test_a_file_that_changes_while_it_is_packed_makes_no_bundle(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, real = next((run.folder / "logs").iterdir()), packing._write

    def write(*arguments: Any) -> None:
        log.write_bytes(log.read_bytes()[::-1])
        real(*arguments)

    monkeypatch.setattr(packing, "_write", write)
    with pytest.raises(UsageError, match="was changed while it was packed; try again"):
        pack(run, tmp_path / "x.tar.gz")
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_bad_record_is_left_out_and_a_run_with_a_bad_header_is_not_sent(run: Run, tmp_path: Path) -> None:
    one = record(cell_id="9" * 16, samples=samples(9.0, 1.0, 1.0, 1.0))
    (run.folder / "records" / f"{stem_of(one)}.json").write_text("{")
    _, left_out = pack(run, tmp_path / "x.tar.gz")
    assert f"records/{stem_of(one)}.json (not valid JSON)" in left_out
    (run.folder / "run.json").write_text("{")
    with pytest.raises(UsageError, match="repair it or move it away"):
        pack(Run(run.folder, run.header), tmp_path / "y.tar.gz")
    assert not (tmp_path / "y.tar.gz").exists()


def test_the_commands(run: Run, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["bundle", str(run.folder)]) == 0
    out, err = capsys.readouterr()
    assert f"{run.folder.name}.tar.gz: " in out
    assert "left out: secret.txt" in err
    words = ["import", f"{run.folder.name}.tar.gz", "--results", "elsewhere"]
    assert command(words) == 0
    assert capsys.readouterr().out == f"elsewhere/{run.folder.name}: 12 records\n"
    assert command(words) == 4
    assert capsys.readouterr().err.count("\n") == 1
    for words in (["import", "nowhere"], ["import", "."], ["bundle", "nowhere"]):
        assert command(words) == 4
        assert capsys.readouterr().err.count("\n") == 1
