"""Own methods: which files are methods, and one line for each that is none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from plan_samples import smoke_cell

from orchestrator.base.errors import UsageError
from orchestrator.base.paths import BENCH
from orchestrator.plan.cell import Plan
from orchestrator.plan.methods import FUNCTIONS, check_new, find_methods, put_methods

EAGER = (
    "from bench.methods import eager\n"
    "refuse, operators, settings, expects = eager.refuse, eager.operators, eager.settings, eager.expects\n"
    "compile_model = compile_step = eager.compile_model\n"
)


def write(folder: Path, name: str, text: str = EAGER) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return folder


def refused(*folders: Path) -> str:
    with pytest.raises(UsageError) as raised:
        find_methods(folders)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_each_file_is_a_method_named_by_it_and_known_by_its_hash(tmp_path: Path) -> None:
    write(write(tmp_path, "mine"), "other", EAGER + "# more\n")
    write(tmp_path, "_shared", "nothing of a method")
    (tmp_path / "notes.txt").write_text("no method")
    found = find_methods([tmp_path, tmp_path / "."])
    assert list(found) == ["mine", "other"]
    assert found["mine"].sha256 == hashlib.sha256(EAGER.encode()).hexdigest() != found["other"].sha256


def test_what_was_read_is_what_is_written_and_only_what_is_used(tmp_path: Path) -> None:
    found = find_methods([write(write(tmp_path / "in", "mine"), "unused")])
    write(tmp_path / "in", "mine", "changed meanwhile")
    cells = (smoke_cell(), smoke_cell(method="mine"))
    put_methods(found, Plan(suite="smoke", cells=cells), tmp_path / "out" / "methods")
    (kept,) = (tmp_path / "out" / "methods").iterdir()
    assert (kept.name, kept.read_text(), kept.stat().st_mode & 0o777) == ("mine.py", EAGER, 0o644)


@pytest.mark.parametrize("path", sorted((BENCH / "methods").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_method_of_bench_under_another_name_is_one(path: Path, tmp_path: Path) -> None:
    assert "mine" in find_methods([write(tmp_path, "mine", path.read_text())])


def test_names_that_come_by_a_star_are_not_missed(tmp_path: Path) -> None:
    assert "mine" in find_methods([write(tmp_path, "mine", "from bench.methods.eager import *\n")])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def f(:\n", "not valid Python: line 1: "),
        ("x = 1\n\ny = (\n", "not valid Python: line 3: '(' was never closed"),
        ("x = '\0'\n", "not valid Python: "),
        ("(" * 300, "not valid Python: line 1: too many nested parentheses"),
        (EAGER.replace("expects", "expect"), "has no function expects; a method has refuse, operators, "),
        ("", "has no function refuse"),
    ],
)
def test_a_file_that_is_no_method_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    said = refused(write(tmp_path, "mine", text))
    assert said.startswith(f"{tmp_path / 'mine.py'}: {line}")


def test_a_file_is_not_run_to_see_what_it_is(tmp_path: Path) -> None:
    find_methods([write(tmp_path, "mine", EAGER + f"open({str(tmp_path / 'ran')!r}, 'w')\nimport no_such_package\n")])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["Mine", "my-method", "2fast", "for two", "m" * 81])
def test_a_name_that_is_none_is_one_line(name: str, tmp_path: Path) -> None:
    assert f'"{name}" is not a valid method name; use a-z' in refused(write(tmp_path, name))


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    assert "no such file or directory" in refused(tmp_path / "gone")
    assert "no NAME.py in it; name a folder with a file for each method" in refused(tmp_path)
    file = write(tmp_path, "mine") / "mine.py"
    assert "name a folder, not a file" in refused(file)
    assert f'"mine" is also the name of the method in {file}; rename one' in refused(
        tmp_path, write(tmp_path / "b", "mine")
    )


def test_a_method_of_bench_cannot_be_replaced(tmp_path: Path) -> None:
    own = find_methods([write(tmp_path, "eager")])
    with pytest.raises(UsageError, match=r'eager\.py: "eager" is the name of a method of bench; rename the file'):
        check_new(own, ["eager", "inductor"])
    check_new(own, ["inductor"])


def test_the_functions_of_a_method_are_those_that_bench_lists() -> None:
    listed = (BENCH / "methods" / "__init__.py").read_text().partition("has six functions:")[2].partition("\n\nA ")[0]
    assert tuple(line.strip().partition("(")[0] for line in listed.strip().splitlines()) == FUNCTIONS
