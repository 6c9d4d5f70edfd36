"""Pin every requirements file: `make lock`. Needs uv on PATH; asks the package index that uv is set up with.

Each lock holds for Python 3.10 and later, on every platform, with the hash of every file of each release and no
address of any index. Torch is special: the index's Linux build is the CUDA build and asks for a dozen libraries, others
(such as a CPU build in a local folder) have the same version and ask for none. So torch's own libraries stand in a lock
beside it, which is installed only where `import torch` fails without them.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = "3.10"
TORCH_LIBRARY = re.compile(r"(nvidia|cuda)-|triton$")
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Lock:
    """One lock: what it pins, and the locks whose versions it must share."""

    target: str
    sources: tuple[str, ...]
    title: str
    libraries: str | None = None
    """The lock that takes torch's own libraries, where they stand apart."""
    constraints: tuple[str, ...] = ()
    python: str = OLDEST_PYTHON
    arguments: tuple[str, ...] = ()


LOCKS = (
    Lock(
        "images/cpu/requirements.lock",
        ("images/cpu/requirements.in",),
        "the stack `cpu`, but for the libraries of torch's CUDA build",
        libraries="images/cpu/requirements.cuda.lock",
    ),
    Lock(
        "images/cpu/orchestrator.lock",
        ("pyproject.toml",),
        "the orchestrator",
        constraints=("images/cpu/requirements.lock",),
    ),
    Lock(
        "tests/dev.lock",
        ("pyproject.toml",),
        "the orchestrator with what its tests and checks need",
        constraints=("images/cpu/requirements.lock", "images/cpu/orchestrator.lock"),
        arguments=("--extra", "dev", "--extra", "browser"),
    ),
    Lock(
        "tests/torch.lock",
        ("pyproject.toml", "tests/torch.in"),
        "what the tests that need torch need beside the stack `cpu`",
        constraints=("images/cpu/requirements.lock", "tests/dev.lock"),
        arguments=("--extra", "dev"),
    ),
    Lock("tests/oldtorch.lock", ("tests/oldtorch.in",), "the oldest torch that bench must start on"),
)


def main() -> None:
    """Write every lock anew."""
    for lock in LOCKS:
        blocks = compiled(lock)
        apart = [block for block in blocks if lock.libraries and TORCH_LIBRARY.match(name_of(block))]
        write(ROOT / lock.target, [block for block in blocks if block not in apart], lock.title)
        if lock.libraries:
            write(ROOT / lock.libraries, apart, "the libraries that torch's CUDA build cannot be imported without")


def compiled(lock: Lock) -> list[list[str]]:
    """Return uv's answer as blocks: a line with the pin, then lines with its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.txt"
        command = [
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--universal",
            "--python-version",
            lock.python,
            "--generate-hashes",
        ]
        command += [
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--output-file",
            str(answer),
        ]
        for constraint in lock.constraints:
            command += ["--constraint", constraint]
        subprocess.run([*command, *lock.arguments, *lock.sources], cwd=ROOT, check=True)
        blocks: list[list[str]] = []
        for line in answer.read_text().splitlines():
            if line.startswith(" "):
                blocks[-1].append(line)
            elif line and not line.startswith("#"):
                blocks.append([line])
    return blocks


def write(path: Path, blocks: list[list[str]], title: str) -> None:
    """Write the blocks, each with the further hashes that are known of its version, sorted."""
    before = hashes_by_pin(path.read_text()) if path.exists() else {}
    lines = [f"# Made by `make lock`: {title}."]
    for block in blocks:
        pin = pin_of(block)
        hashes = {*HASH.findall("\n".join(block)), *before.get(pin, ()), *local_hashes(*pin)}
        lines.append(block[0].removesuffix("\\").strip() + " \\")
        lines.append(" \\\n".join(f"    --hash=sha256:{value}" for value in sorted(hashes)))
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(blocks)} pins")


def hashes_by_pin(text: str) -> dict[tuple[str, str], set[str]]:
    """Return the hashes that a lock lists, by name and version.

    They are kept as long as the version stays: a wheel found in one machine's local folder must go on being accepted
    when the lock is made anew on another machine.
    """
    known: dict[tuple[str, str], set[str]] = {}
    pin = ("", "")
    for line in text.splitlines():
        if PIN.match(line):
            pin = pin_of([line])
        known.setdefault(pin, set()).update(HASH.findall(line))
    return known


def local_hashes(name: str, version: str) -> set[str]:
    """Return the hashes of that release's wheels in the local folders of PIP_FIND_LINKS."""
    folders = [Path(entry) for entry in os.environ.get("PIP_FIND_LINKS", "").split() if Path(entry).is_dir()]
    pattern = f"{re.sub(r'[-_.]+', '_', name)}-{version}*.whl"
    found = [wheel for folder in folders for wheel in folder.glob(pattern)]
    return {
        hashlib.sha256(wheel.read_bytes()).hexdigest()
        for wheel in found
        if wheel.name.split("-")[1].split("+")[0] == version
    }


def pin_of(block: list[str]) -> tuple[str, str]:
    """Return name and version of a block's first line."""
    match = PIN.match(block[0])
    if match is None:
        raise SystemExit(f"lock: no pin in this line: {block[0]}")
    return match["name"], match["version"]


def name_of(block: list[str]) -> str:
    """Return the package's name."""
    return pin_of(block)[0]


if __name__ == "__main__":
    main()
