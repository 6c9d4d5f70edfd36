"""Every command and every example of README and docs/ works: it is run, dry where it would run cells or build."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from documents import PAGES, Fence, fences, inline_code
from places import RESULTS, ROOT
from record_samples import proof, record, samples, save_run

from orchestrator.base.paths import STATE_VARIABLE
from orchestrator.cli import orchestrator, run
from orchestrator.plan.hosts import load_hosts
from orchestrator.plan.methods import engines, find_methods
from orchestrator.plan.planner import make_plan
from orchestrator.plan.stack import find_stacks, load_stack
from orchestrator.plan.suite import load_suite
from orchestrator.records import unpacked
from orchestrator.records.store import Run
from orchestrator.runner.slurm import settings_of

FENCES = [fence for page in PAGES for fence in fences(page)]
PROMISED = [
    line
    for fence in FENCES
    for line in fence.text.splitlines()
    if " compare " in line and "verdict" in line.partition("#")[2]
]
"""Examples of `compare` that say that they have verdicts."""
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = set(re.findall(r"^  ([a-z-]+):$", COMPOSE[COMPOSE.index("\nservices:") :], re.MULTILINE))
MODULES = "".join(
    path.read_text(encoding="utf-8") for name in ("bench", "orchestrator") for path in (ROOT / name).rglob("*.py")
)
"""Some are called by `python -m`, and read options of their own."""
RUN_ANSWERS = {"compare": {0, 1, 2}, "doctor": {0, 1}}
"""Exit codes that say something of the runs or of this host, not of the command."""
ONLY_PARSED = {"build", "compose-gpu", "reproduce"}
PLACEHOLDER = re.compile(r"[A-Z]{3,}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to be in: a home with stacks, results with the committed runs and one of this host, no Docker Engine."""
    folder = tmp_path_factory.mktemp("place")
    results = folder / "results"
    rows = [
        record(method=method, stack="cpu", device="cpu", cell_id=cell * 16, samples=samples(9, 1, 1, 1), proof=proof())
        for cell, method in zip("ab", ("eager", "inductor"), strict=True)
    ]
    results.mkdir()
    own = save_run(results, rows)
    Run.open(own).update(run_id=own.name)
    for committed in RESULTS.iterdir():
        if committed.is_file():
            shutil.copy(committed, results)
        elif not committed.name.startswith("2"):
            (results / committed.name).symlink_to(committed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Where a bundle was last read is kept beside what it holds, and other tests read the committed ones meanwhile.
        patch.setattr(unpacked, "STATE", folder / "state")
        patch.setenv(STATE_VARIABLE, str(folder / "state"))
        patch.setenv("HOME", str(folder))
        patch.setenv("DOCKER_HOST", f"unix://{folder}/none.sock")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder


def words(line: str) -> list[str]:
    return [
        str(Path(word).expanduser()) if word.startswith("~/") else word for word in shlex.split(line, comments=True)
    ]


def is_open(arguments: Sequence[str]) -> bool:
    """Whether a reader has to fill something in."""
    return any(PLACEHOLDER.fullmatch(word) for word in arguments)


def parse(arguments: Sequence[str]) -> click.Command:
    """Refuse a command line that click would refuse; nothing is run."""
    command = orchestrator.commands[arguments[0]]
    command.make_context(arguments[0], list(arguments[1:]))
    return command


def planned(arguments: Sequence[str]) -> list[str]:
    """Return `plan` with those options of `run-all` that it has."""
    known = {name: option for option in orchestrator.commands["run-all"].params for name in option.opts}
    plan = {name for option in orchestrator.commands["plan"].params for name in option.opts}
    left, kept = list(arguments[1:]), ["plan"]
    while left:
        option = left.pop(0)
        taken = [option] if getattr(known[option], "is_flag", False) else [option, left.pop(0)]
        kept += taken if option in plan else []
    return kept


def check_orchestrator(arguments: list[str]) -> None:
    command = parse(arguments)
    if arguments[0] in ONLY_PARSED or is_open(arguments):
        return
    answers = RUN_ANSWERS.get(arguments[0], {0})
    if arguments[0] == "run-all":
        arguments = planned(arguments)
    if any("--results" in option.opts for option in command.params):
        arguments = [*arguments, "--results", "taken" if arguments[0] == "import" else "results"]
    assert run(arguments) in answers


def check_make(arguments: list[str]) -> None:
    targets = [word for word in arguments if "=" not in word]
    assert targets
    assert set(targets) <= TARGETS
    for name, _, value in (word.partition("=") for word in arguments if "=" in word):
        assert name == "ARGS"
        if targets == ["run"]:
            check_orchestrator(["run-all", *shlex.split(value)])


def check_docker(arguments: list[str]) -> None:
    assert arguments.pop(0) == "compose"
    while arguments[0] == "-f":
        assert (ROOT / arguments[1]).is_file() or Path(arguments[1]).is_file()
        arguments = arguments[2:]
    verb, *left = arguments
    assert verb in ("up", "down", "run", "build")
    if verb == "run" and "--volume" in left:
        place = left.index("--volume")
        source, target, access = left[place + 1].split(":")
        assert (source[0], target[0], access) == (".", "/", "ro")
        del left[place : place + 2]
    named = [word for word in left if word[:1] != "-"]
    if verb == "run" and named[1:]:  # what the service is to do instead of its own command
        parse(left[left.index(named[0]) + 1 :])
        named = named[:1]
    assert set(named) <= SERVICES


def check_python(arguments: list[str]) -> None:
    assert arguments[0] == "-m"
    subprocess.run([sys.executable, *arguments[:2], "--help"], check=True, capture_output=True)


def check_uv(arguments: list[str]) -> None:
    assert arguments[:3] == ["pip", "compile", "--generate-hashes"]
    assert Path(arguments[3]).is_file()


CHECKS = {
    "orchestrator": check_orchestrator,
    "make": check_make,
    "docker": check_docker,
    "python": check_python,
    "uv": check_uv,
}


def check_line(line: str) -> None:
    """Run one line of a fence of commands, or as much of it as starts nothing."""
    found = words(line)
    if ">" in found:
        found, (target,) = found[: found.index(">")], found[found.index(">") + 1 :]
        Path(target).touch()
    if found:
        CHECKS[found[0].removeprefix(".venv/bin/")](found[1:])


def files_of(page: Path, place: Path) -> None:
    """Put a page's files where its commands look for them: a suite here, a stack in a folder that has its name."""
    stack: dict[str, str] = {}
    for fence in fences(page):
        if fence.title == "suite.toml":
            (place / fence.title).write_text(fence.text)
        elif fence.title is not None:
            stack[fence.title] = fence.text
            (place / fence.title).write_text(fence.text)
        if fence.title == "stack.toml":
            name = re.search('^name = "(.*)"', fence.text, re.MULTILINE)
            assert name
            folder = place / "stacks" / name[1]
            folder.mkdir(parents=True, exist_ok=True)
            for title, text in {"requirements.lock": "", **stack}.items():
                (folder / title).write_text(text)
            stack = {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_fences(page: Path, place: Path) -> None:
    files_of(page, place)
    for fence in fences(page):
        for line in fence.text.splitlines() if fence.language == "sh" else ():
            print(f"{fence}: {line}")
            check_line(line)


@pytest.mark.parametrize("line", PROMISED)
def test_an_example_that_promises_verdicts_has_one_of_every_cell(line: str, place: Path) -> None:
    assert run([*words(line)[1:], "--results", "results"]) in {0, 1}


def test_the_first_screen_promises_verdicts() -> None:
    assert any(fence.page.name == "README.md" and line in fence.text for fence in FENCES for line in PROMISED)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.language != "sh"], ids=str)
def test_examples(fence: Fence, place: Path) -> None:
    files_of(fence.page, place)
    if fence.title == "suite.toml":
        make_plan(load_suite("suite.toml"), find_stacks([ROOT / "images"]), device="cpu")
    elif fence.title == "hosts.toml":
        assert load_hosts(Path("hosts.toml"))
    elif fence.title == "stack.toml":
        name = re.search('^name = "(.*)"', fence.text, re.MULTILINE)
        assert name
        assert load_stack(place / "stacks" / name[1]).name == name[1]
    elif fence.title == "hosts.toml":
        found = load_hosts(place / fence.title)
        assert [settings_of(entry) for entry in found if entry.launcher == "slurm"] or fence.page.stem != "slurm"
    elif fence.title == "Dockerfile":
        assert {line.split()[0] for line in fence.text.splitlines()} <= {"ARG", "FROM", "COPY", "RUN"}
    elif fence.title == "requirements.in":
        assert all(re.fullmatch(r"[a-z][a-z0-9-]*", line) for line in fence.text.splitlines())
    elif fence.language == "python":
        (place / "mine.py").write_text(fence.text)
        assert "mine" in engines(find_methods([place]))
    elif fence.language == "json":
        json.loads(fence.text)
    else:
        raise AssertionError(f"{fence}: no test knows a block of this kind: ```{fence.language}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_lines(page: Path) -> None:
    options = {name for command in orchestrator.commands.values() for option in command.params for name in option.opts}
    for code in inline_code(page):
        program, *arguments = code.split()
        if program == "orchestrator" and arguments:
            command = orchestrator.commands[arguments[0]]
            own = {name for option in command.params for name in option.opts}
            assert {word for word in arguments if word[:2] == "--"} <= own, code
        elif program == "make" and arguments:
            assert arguments[0] in TARGETS, code
        elif program[:2] == "--" and len(program) > 2:
            assert program in options or f'"{program}"' in MODULES, code
        elif program == "docker" and arguments[:1] == ["compose"] and arguments[1:] and not PLACEHOLDER.search(code):
            check_docker(arguments)


@pytest.mark.parametrize(
    "line",
    [
        "orchestrator tabel",
        "orchestrator table --from",
        "orchestrator table no-such-run",
        "orchestrator run-all --suite none.toml",
        'make run ARGS="--nothing"',
        "make nothing",
        "docker compose up nothing",
        "python -m orchestrator.nothing",
        "curl x",
    ],
)
def test_a_command_that_does_not_work_is_found(line: str, place: Path) -> None:
    with pytest.raises((AssertionError, KeyError, click.ClickException, subprocess.CalledProcessError)):
        check_line(line)
