"""A user's own methods: files outside the checkout, each with the functions that `bench/methods/__init__.py` lists."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder, os_errors, read_bytes, write_bytes
from orchestrator.base.text import one_line
from orchestrator.plan.cell import Plan
from orchestrator.plan.stack import METHOD_NAME

FOLDER = "methods"
"""In a run's folder: the files of own methods as they were measured; in bench's: where a cell loads any method from."""
FUNCTIONS = ("refuse", "operators", "compile_model", "compile_step", "settings", "expects")
LIMIT_BYTES = 1_000_000
READABLE_FILE = 0o644


@dataclass(frozen=True)
class OwnMethod:
    """One file of a folder named by `--methods`, as it was when it was read: that is what is hashed and what runs."""

    path: Path
    content: bytes

    @property
    def name(self) -> str:
        """The method's name: its file's."""
        return self.path.stem

    @property
    def sha256(self) -> str:
        """Of the file; a part of the identity of every cell that it runs."""
        return hashlib.sha256(self.content).hexdigest()


def find_methods(folders: Sequence[Path]) -> dict[str, OwnMethod]:
    """Return the methods in `folders` by name; a bad name or file, or a folder without any, is a UsageError.

    As in bench, a file whose name begins with `_` is not a method. No code of a file is run here.
    """
    found: dict[str, OwnMethod] = {}
    for folder in folders:
        with os_errors(folder):
            paths = sorted(path for path in folder.iterdir() if path.suffix == ".py" and not path.name.startswith("_"))
        if not paths:
            raise UsageError("no NAME.py in it", where=str(folder), remedy="name a folder with a file for each method")
        for path in paths:
            first = found.setdefault(path.stem, _read(path))
            if first.path.resolve() != path.resolve():
                what = f'"{path.stem}" is also the name of the method in {first.path}'
                raise UsageError(what, where=str(path), remedy="rename one of them")
    return found


def check_new(own: Mapping[str, OwnMethod], known: Collection[str]) -> None:
    """Raise the UsageError for an own method that has the name of one that is there already."""
    for name in own:
        if name in known:
            what = f'"{name}" is the name of a method of bench'
            raise UsageError(what, where=str(own[name].path), remedy="rename the file")


def put_methods(own: Mapping[str, OwnMethod], plan: Plan, folder: Path) -> None:
    """Write those of the methods that the plan has cells of into `folder`, readable by everybody."""
    for name in sorted(own.keys() & {cell.method for cell in plan.cells}):
        make_folder(folder)
        write_bytes(folder / f"{name}.py", own[name].content)
        (folder / f"{name}.py").chmod(READABLE_FILE)


def _read(path: Path) -> OwnMethod:
    if not METHOD_NAME.fullmatch(path.stem) or not path.stem.isidentifier():
        remedy = "use a-z, 0-9 and underscores, a letter first, at most 80"
        raise UsageError(f'"{path.stem}" is not a valid method name', where=str(path), remedy=remedy)
    content = read_bytes(path, limit=LIMIT_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except SyntaxError as error:
        what = f"not valid Python: line {error.lineno or 1}: {one_line(error.msg)}"
        raise UsageError(what, where=str(path), remedy="correct the syntax there") from error
    except (ValueError, RecursionError, MemoryError) as error:
        what = f"not valid Python: {one_line(str(error)) or type(error).__name__}"
        raise UsageError(what, where=str(path), remedy="correct the syntax there") from error
    defined = _names(tree)
    missing = [name for name in FUNCTIONS if name not in defined]
    if missing and "*" not in defined:
        remedy = f"a method has {', '.join(FUNCTIONS)}; `eager` in bench/methods is the shortest example"
        raise UsageError(f"has no function {missing[0]}", where=str(path), remedy=remedy)
    return OwnMethod(path, content)


def _names(tree: ast.AST) -> set[str]:
    """Return every name that is defined, assigned or imported anywhere in the file."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found
