"""What a compiled method needs is tried before anything runs: a compiler, Python's headers, a folder to load from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench_specs import run_bench, write_spec
from places import ROOT

from bench import environment

PROBE = "from bench import environment as e; print(e.cannot_compile({device!r}))"
NOEXEC = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def without_exec(folder: Path) -> list[str]:
    """Return the words before a command that runs it where `folder` is mounted so that nothing in it is executed."""
    folder.mkdir(exist_ok=True)
    words = [*NOEXEC, f'mount -t tmpfs -o noexec none "{folder}" && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be had here")
    return words


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_whole_toolchain_is_found_whole(device: str) -> None:
    if environment.compiler(device) is None:
        pytest.skip("no compiler here")
    assert environment.cannot_compile(device) is None


@pytest.mark.parametrize(("device", "name"), [("cpu", "g++"), ("cuda", "gcc")])
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, name: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    assert f"there is no {name}; install {name}" in (environment.cannot_compile(device) or "")


def test_the_compiler_that_is_named_is_the_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "clang++", "exit 0")  # which Inductor does not look for by itself
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert environment.compiler() is None
    monkeypatch.setenv("CXX", "nowhere++")
    assert "there is no nowhere++; install g++" in (environment.cannot_compile("cpu") or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "echo 'In file included from x:' >&2; echo 'x:1: fatal error: omp.h: No such file' >&2; exit 1",
            "omp.h: No such",
        ),
        ("echo \"cannot execute 'cc1plus': execvp: No such file or directory\" >&2; exit 1", "cc1plus"),
        ("exit 7", "exit code 7"),
        ("printf '\\377 error' >&2; exit 1", "error"),
    ],
)
def test_a_compiler_that_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: str) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path / "mine++", text)))
    reason = environment.cannot_compile("cpu") or ""
    assert reason.startswith("the C++ compiler mine++ cannot make a library: ")
    assert says in reason


def test_without_pythons_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if environment.compiler() is None:
        pytest.skip("no compiler here")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    assert "Python's headers are missing" in (environment.cannot_compile("cpu") or "")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_folder_that_nothing_can_be_loaded_from_is_an_error_of_the_host(tmp_path: Path, device: str) -> None:
    if environment.compiler(device) is None:
        pytest.skip("no compiler here")
    folder = tmp_path / "noexec"
    command = [*without_exec(folder), "env", f"TMPDIR={folder}", sys.executable, "-c", PROBE.format(device=device)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert "failed to map segment" in done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("method", ["inductor", "inductor_default"])
def test_a_cell_that_cannot_compile_is_unsupported(tmp_path: Path, method: str) -> None:
    write_spec(tmp_path, "forward", method)
    broken = program(tmp_path / "g++", "echo 'x.cpp:1: fatal error: bits/c++config.h: No such file' >&2; exit 1")
    assert run_bench(tmp_path, "spec.json", CXX=str(broken)).returncode == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["status"] == "unsupported"
    assert "bits/c++config.h: No such file" in record["reason"]
    assert record["samples"] == []


@pytest.mark.torch
def test_a_cell_whose_folder_is_mounted_noexec_is_infrastructure(tmp_path: Path) -> None:
    work = tmp_path / "work"
    words = without_exec(work)
    write_spec(tmp_path, "forward", "inductor")
    run = f'cp ../spec.json . && "{sys.executable}" -m bench spec.json && cp record.json ..'
    command = [*words, "env", f"PYTHONPATH={ROOT}", "sh", "-c", f'cd "{work}" && {run}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["status"] == "infrastructure"
    assert "cannot be loaded from the cell's folder (is it mounted noexec, or full?)" in record["reason"]
