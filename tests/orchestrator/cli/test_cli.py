from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from plan_samples import SUITE, record, stack, write_stack, write_suite

from orchestrator import cli
from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.paths import REPOSITORY
from orchestrator.plan.choice import RunOptions
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.records.store import Run

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = (
    "plan",
    "build",
    "run-all",
    "table",
    "doctor",
    "compose-gpu",
    "explain",
    "compare",
    "bundle",
    "import",
    "reproduce",
    "history",
    "report",
    "runs",
    "schema",
)
HEAVY = ("torch", "docker", "scipy", "pydantic", "rich", "jinja2", "requests", "numpy", "pynvml")


def command(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "orchestrator"]
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command in this process and return its one line, after checking that it was one and exit 4."""

    def run(*arguments: str | Path) -> str:
        code = cli.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert code == 4, (out, err)
        assert err.startswith("orchestrator: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in out + err
        return err.removeprefix("orchestrator: ").rstrip("\n")

    return run


@pytest.mark.parametrize("arguments", [("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = f"""
import sys
from orchestrator.cli import run
assert run({list(arguments)!r}) == 0
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
"""
    done = command(code=code)
    assert done.returncode == 0, done.stderr
    assert "Usage: orchestrator" in done.stdout


def test_help_names_every_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("run-all", "--rounds", "0"),
        ("run-all", "--rounds", "x"),
        ("run-all", "--launcher", "podman"),
        ("run-all", "--timeout", "-1"),
        ("run-all", "--timeout", "nan"),
        ("run-all", "--timeout", "inf"),
        ("run-all", "--max-minutes", "0"),
        ("run-all", "--sutie", "note"),
        ("run-all", "surplus"),
        ("plan", "--cache", "warm"),
        ("table", "--protocol", "other"),
        ("table", "--format", "html"),
        ("explain",),
        ("table", "one", "--run", "another"),
        ("runs", "--format", "csv"),
    ],
)
def test_wrong_usage_is_exit_4_and_one_line(refused: Callable[..., str], arguments: tuple[str, ...]) -> None:
    if not arguments and not hasattr(click.exceptions, "NoArgsIsHelpError"):
        pytest.skip("an older click shows its help and is content")
    assert "--help`" in refused(*arguments)


def test_wrong_usage_through_the_real_command() -> None:
    done = command("plan", "--stack", "cpuu", "--launcher", "local")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith('orchestrator: --stack: unknown stack "cpuu" (did you mean "cpu"?); known: ')
    assert done.stderr.count("\n") == 1


BOTH = pytest.mark.parametrize("name", ["plan", "run-all"])


@BOTH
@pytest.mark.parametrize(
    "case",
    [
        ("--stack", "cpuu", '--stack: unknown stack "cpuu"'),
        ("--method", "egaer", 'unknown method "egaer" (did you mean "eager"?)'),
        ("--benchmark", "forwards", 'unknown benchmark "forwards" (did you mean "forward"?)'),
        ("--suite", "smoek", 'unknown suite "smoek" (did you mean "smoke"?)'),
        ("--suite", "nowhere.toml", "nowhere.toml: no such file or directory; check the path"),
        ("--stacks", "nowhere", "nowhere: no such file or directory; check the path"),
        ("--checkpoint", "nowhere", "nowhere: does not exist"),
        ("--gpu", "GPU-none", "--gpu"),
    ],
)
def test_names_that_nothing_has(
    refused: Callable[..., str], tmp_path: Path, name: str, case: tuple[str, str, str]
) -> None:
    option, value, says = case
    line = refused(name, "--launcher", "local", "--results", tmp_path / "results", option, value)
    assert line.startswith(says)
    assert not list((tmp_path / "results").glob("*"))


@BOTH
@pytest.mark.parametrize(
    "case",
    [
        ("batch = 2", "bacth = 2", 'cells[0].bacth: unknown key (did you mean "batch"?)'),
        ("batch = 2", "batch = -2", "cells[0].batch: must be greater than 0, is -2"),
        ("sequence = 64", "sequence = 4096", "cells[0].sequence: 4096 is beyond the block size 256 of tiny"),
        ("[[cells]]", "[[cells", "not valid TOML: "),
    ],
)
def test_bad_suites(refused: Callable[..., str], tmp_path: Path, name: str, case: tuple[str, str, str]) -> None:
    old, new, says = case
    path = write_suite(tmp_path, SUITE.replace(old, new, 1))
    line = refused(name, "--launcher", "local", "--results", tmp_path / "results", "--suite", path)
    assert line.startswith(f"{path}: {says}")


@BOTH
def test_a_stack_file_that_is_no_toml(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    place = write_stack(tmp_path / "stacks", "mine")
    (place / "stack.toml").write_text("name: mine")
    line = refused(name, "--launcher", "local", "--results", tmp_path / "results", "--stacks", tmp_path / "stacks")
    assert line.startswith(f"{place / 'stack.toml'}: not valid TOML: ")


@BOTH
def test_a_checkpoint_without_weights(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    line = refused(name, "--launcher", "local", "--results", tmp_path / "results", "--checkpoint", tmp_path)
    assert line.startswith(f"{tmp_path}: has no config.json")


@pytest.mark.parametrize("arguments", [("plan", "--launcher", "local"), ("run-all", "--launcher", "local"), ("table",)])
def test_a_results_folder_that_is_a_file(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = tmp_path / "results"
    path.write_text("kept")
    assert "name a folder, not a file" in refused(*arguments, "--results", path)
    assert path.read_text() == "kept"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_results_folder_that_takes_nothing(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(path: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    line = refused("run-all", "--launcher", "local", "--results", tmp_path)
    assert os.strerror(number).lower() in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_results_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "permission denied" in refused("run-all", "--launcher", "local", "--results", tmp_path)


@BOTH
def test_an_engine_that_does_not_answer(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    line = refused(name, "--launcher", "docker", "--results", tmp_path)
    assert "Docker" in line
    assert "--launcher local" in line


def test_plan_shows_cells_time_download_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.build.ready.has_python", lambda *_: False)
    assert cli.run(["plan", "--launcher", "local", "--suite", "smoke", "--results", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "forward eager@cpu" in out
    assert "expected: " in out
    assert "to download at most: " in out
    assert not (tmp_path / "r").exists()


def test_options_arrive_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RunOptions] = []

    def run_all(options: RunOptions) -> int:
        given.append(options)
        return 2

    fake = type(sys)("orchestrator.runner.run_all")
    fake.__dict__["run_all"] = run_all
    monkeypatch.setitem(sys.modules, "orchestrator.runner.run_all", fake)
    assert cli.run(["run-all"]) == 2
    assert given.pop() == RunOptions()
    line = (
        "run-all --suite s --stack a --stack b --stacks f --method m --benchmark b --gpu G --allow-busy --fresh"
        " --rerun --launcher local --rounds 3 --cache shared --checkpoint c --results r --timeout 9"
        " --max-minutes 1.5 --budget 45m"
    )
    assert cli.run(line.split()) == 2
    assert given.pop() == RunOptions(
        suite="s",
        stacks=("a", "b"),
        stack_folders=(Path("f"),),
        methods=("m",),
        benchmarks=("b",),
        gpu="G",
        allow_busy=True,
        fresh=True,
        rerun=True,
        launcher="local",
        rounds=3,
        cache="shared",
        checkpoint=Path("c"),
        results=Path("r"),
        timeout_s=9.0,
        max_minutes=1.5,
        budget_s=2700.0,
    )


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("bad", where="x", remedy="mend it"), 4, "x: bad; mend it"),
        (InfrastructureError("engine\nfell over"), 1, "engine fell over"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is kept"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 4, "/x: no space left on device; make room"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(cli.orchestrator.commands["plan"], "callback", fail)
    assert cli.run(["plan"]) == code
    # click ends the line in which ^C stands.
    assert capsys.readouterr().err.lstrip("\n").startswith(f"orchestrator: {says}")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    run = Run.create(tmp_path / "results", make_plan(load_suite("smoke"), {"cpu": stack()}, device="cpu"), "5" * 16)
    run.save(record(cell_id="ab" * 8))
    return run.folder.parent


@pytest.mark.parametrize("form", ["markdown", "json", "csv"])
@pytest.mark.parametrize("protocol", ["note", "steady"])
def test_table_of_the_newest_run(results: Path, capsys: pytest.CaptureFixture[str], form: str, protocol: str) -> None:
    assert cli.run(["table", "--results", str(results), "--format", form, "--protocol", protocol]) == 0
    assert "forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "begins"), [("report", b"<!doctype html>"), ("picture", b"<svg "), ("bundle", b"\x1f\x8b")]
)
@pytest.mark.parametrize("piped", [True, False])
def test_a_dash_is_standard_output_and_nothing_else_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, begins: bytes, piped: bool
) -> None:
    run = str(REPOSITORY / "results" / "h200-pinned-forward.tar.gz")
    line = [sys.executable, "-m", "orchestrator", name, run, "-o"]
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    if piped:
        got = subprocess.run([*line, "-"], cwd=tmp_path, capture_output=True, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run([*line, "-"], cwd=tmp_path, stdout=out, check=True)
        got = (tmp_path / "out").read_bytes()
    assert not (tmp_path / "-").exists()
    subprocess.run([*line, "file"], cwd=tmp_path, check=True)
    assert got.startswith(begins)
    assert got == (tmp_path / "file").read_bytes()
    with (tmp_path / "file").open("ab") as more:
        subprocess.run([*line, "-"], cwd=tmp_path, stdout=more, check=True)
    assert (tmp_path / "file").read_bytes() == 2 * got


def test_table_of_no_run(refused: Callable[..., str], results: Path, tmp_path: Path) -> None:
    assert "no run here" in refused("table", "--results", tmp_path / "nowhere")
    assert 'no run "x"; known: ' in refused("table", "x", "--results", results)


@pytest.mark.parametrize("bad", [b"{", b"[]", b"", b"\xff", b'{"end_ns": 1' + b"0" * 400 + b"}", b" " * 20_000_000])
def test_a_record_that_cannot_be_read_is_named_and_the_rest_is_kept(
    results: Path, capsys: pytest.CaptureFixture[str], bad: bytes
) -> None:
    good = next(results.glob("*/records/*.json"))
    path = good.with_name(good.name.replace("-r0", "-r1"))
    path.write_bytes(bad)
    name = next(results.iterdir()).name
    for command in (["table"], ["report"], ["explain", "abab"], ["compare", "published", name], ["history"]):
        assert cli.run([*command, "--results", str(results)]) in (0, 3), command
        shown = "".join(capsys.readouterr())
        if command == ["report"]:
            shown = (results / name / "report.html").read_text()
        assert shown.count(f"records/{path.name}: ") == 1, command
        assert "eager" in shown or command[0] == "compare"


def test_explain_where_no_round_can_be_read(refused: Callable[..., str], results: Path) -> None:
    path = next(results.glob("*/records/*.json"))
    path.write_text("{")
    run = path.parents[1].name
    assert f"records/{path.name}: not valid JSON" in refused("explain", "abab", "--run", run, "--results", results)


def test_explain_by_the_beginning_of_the_id(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "abab", "--results", str(results)]) == 0
    assert "eager@cpu" in capsys.readouterr().out


def test_explain_of_an_unknown_cell(refused: Callable[..., str], results: Path) -> None:
    refused("explain", "ffff", "--run", next(results.iterdir()), "--results", results)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    line = f"{sys.executable} -m orchestrator plan --suite note --launcher local | head -n 1"
    done = subprocess.run(["sh", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["plan", "run-all"])
def test_a_method_that_bench_does_not_have_is_refused(
    command: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    write_stack(tmp_path / "stacks", "mine", methods=("eager", "inductr"))
    given = (
        "--stacks",
        tmp_path / "stacks",
        "--stack",
        "mine",
        "--launcher",
        "local",
        "--suite",
        write_suite(tmp_path),
    )
    says = refused(command, *given, "--results", tmp_path / "results")
    place = tmp_path / "stacks" / "mine" / "stack.toml"
    assert says.startswith(f'{place}: methods: unknown method "inductr" (did you mean "inductor"?); known: eager, ')
