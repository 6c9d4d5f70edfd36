"""A run packed and taken in again, and every way in which a bundle can be bad or hostile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from places import COMMITTED
from record_samples import record, samples, save_run, small_run

from orchestrator.base.errors import UsageError
from orchestrator.cli import run as command
from orchestrator.records.bundle import MANIFEST, pack
from orchestrator.records.store import Run, stem_of
from orchestrator.records.unpack import unpack
from orchestrator.report.tables import write_tables

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = save_run(tmp_path / "results", small_run())
    log = tmp_path / "log.txt"
    log.write_text("all of it\n")
    found = Run.open(folder)
    for one in small_run()[:3]:
        found.save(one, log)
    (folder / "references").mkdir()
    (folder / "references" / f"{'a' * 16}.safetensors").write_bytes(b"truth")
    (folder / "secret.txt").write_text("mine")
    return found


@pytest.fixture
def bundle(run: Run, tmp_path: Path) -> Path:
    pack(run, tmp_path / "sent.tar.gz")
    return tmp_path / "sent.tar.gz"


def members(bundle: Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files with a manifest that fits them."""
    name = next(iter(files)).split("/", 1)[0]
    rest = {path: content for path, content in files.items() if not path.endswith(MANIFEST)}
    parts = {
        path.split("/", 1)[1]: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for path, content in rest.items()
    }
    told = {"schema_version": 1, "run": name, "files": parts}
    return {**rest, f"{name}/{MANIFEST}": json.dumps(told).encode()}


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
    assert ".import-" not in str(caught.value)
    return str(caught.value)


def test_there_and_back(run: Run, bundle: Path, tmp_path: Path) -> None:
    names = {name.split("/", 1)[1] for name in members(bundle)}
    assert {"run.json", MANIFEST} < names
    assert not any("references" in name or "secret" in name for name in names)
    found = unpack(bundle, tmp_path / "elsewhere", write_tables)
    assert found.folder == tmp_path / "elsewhere" / run.folder.name
    assert found.header == run.header
    assert list(found.records([])) == list(run.records([]))
    assert (found.folder / "logs" / f"{stem_of(small_run()[0])}.log").read_text() == "all of it\n"
    assert (found.folder / "tables.md").is_file()
    assert not (found.folder / MANIFEST).exists()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [run.folder.name]


def test_equal_runs_make_equal_bundles(run: Run, bundle: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == bundle.read_bytes()


def test_references_go_along_when_asked(run: Run, tmp_path: Path) -> None:
    _, left_out = pack(run, tmp_path / "full.tar.gz", references=True)
    assert left_out == ["secret.txt"]
    found = unpack(tmp_path / "full.tar.gz", tmp_path / "elsewhere", write_tables)
    assert (found.folder / "references" / f"{'a' * 16}.safetensors").read_bytes() == b"truth"


def test_the_runs_of_the_repository(tmp_path: Path) -> None:
    for folder in COMMITTED:
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
    entry = tarfile.TarInfo(name.replace("R", top, 1))
    assert "which no bundle has" in refused(written(tmp_path, files, entry), tmp_path)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE],
)
def test_nothing_but_plain_files(bundle: Path, tmp_path: Path, kind: bytes) -> None:
    files = members(bundle)
    entry = tarfile.TarInfo(f"{next(iter(files)).split('/', 1)[0]}/NOTES.md")
    entry.type, entry.linkname = kind, "/etc/passwd"
    assert "which no bundle has" in refused(written(tmp_path, files, entry), tmp_path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 8 * 10**9
    target = tmp_path / "bad.tar.gz"
    target.write_bytes(gzip.compress(entry.tobuf(tarfile.USTAR_FORMAT)))
    assert "which no bundle has" in refused(target, tmp_path)


@pytest.mark.parametrize("size", [10**8, 7 * 10**9, -1])
def test_a_file_larger_than_any_of_its_kind(bundle: Path, tmp_path: Path, size: int) -> None:
    entry = tarfile.TarInfo(f"{next(iter(members(bundle))).split('/', 1)[0]}/{next(iter(small_stems()))}")
    entry.size = size
    target = tmp_path / "bad.tar.gz"
    target.write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT)))
    assert "more than the limit" in refused(target, tmp_path)


def small_stems() -> list[str]:
    return [f"records/{stem_of(one)}.json" for one in small_run()]


def change(files: dict[str, bytes], ending: str, edit: Callable[[bytes], bytes]) -> dict[str, bytes]:
    path = next(name for name in files if name.endswith(ending))
    return {**files, path: edit(files[path])}


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def test_content_that_is_not_the_manifests(bundle: Path, tmp_path: Path) -> None:
    files = members(bundle)
    changed = change(files, "-r2.json", edited(status="incorrect"))
    assert "is not the file that the manifest names" in refused(written(tmp_path, changed), tmp_path)
    fewer = {name: content for name, content in files.items() if not name.endswith("-r2.json")}
    assert "is missing" in refused(written(tmp_path, fewer), tmp_path)
    more = {**files, f"{next(iter(files)).split('/', 1)[0]}/NOTES.md": b"hello"}
    assert "is not the file that the manifest names" in refused(written(tmp_path, more), tmp_path)


@pytest.mark.parametrize(
    ("ending", "edit", "says"),
    [
        ("-r2.json", edited(surprise=1), "surprise: unknown key"),
        ("-r2.json", edited(round=1), "is the record of another cell"),
        ("-r2.json", edited(workload_id="0" * 16), "its workload is not the one"),
        ("-r2.json", edited(stack="../x"), "cannot be a file's name"),
        ("-r2.json", lambda _: b"{", "no valid JSON"),
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
    assert "has no manifest.json" in refused(written(tmp_path, without), tmp_path)
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


def test_a_run_with_a_bad_record_is_not_sent(run: Run, tmp_path: Path) -> None:
    one = record(cell_id="9" * 16, samples=samples(9.0, 1.0, 1.0, 1.0))
    (run.folder / "records" / f"{stem_of(one)}.json").write_text("{")
    with pytest.raises(UsageError, match="repair it or move it away"):
        pack(run, tmp_path / "x.tar.gz")
    assert not (tmp_path / "x.tar.gz").exists()


def test_the_commands(run: Run, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["bundle", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert f"{run.folder.name}.tar.gz: " in out
    assert "left out: secret.txt" in out
    words = ["import", f"{run.folder.name}.tar.gz", "--results", "elsewhere"]
    assert command(words) == 0
    assert capsys.readouterr().out == f"elsewhere/{run.folder.name}: 11 records\n"
    assert command(words) == 4
    assert capsys.readouterr().err.count("\n") == 1
    for words in (["import", "nowhere"], ["import", "."], ["bundle", "nowhere"]):
        assert command(words) == 4
        assert capsys.readouterr().err.count("\n") == 1
