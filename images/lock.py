"""Pin every requirements file: `make lock`; see that every lock still holds: `make lock-check`.

Needs uv on PATH; asks the package index that uv is set up with, and downloads no wheel. A lock has the hash of every
file of each release and no address of any index. Most hold for Python 3.10 and later, on every platform; those of CUDA
stacks for the Python that their libraries have wheels for, on Linux.

In the stacks `cpu`, `transformers`, `litgpt` and `vllm-cpu` torch is special: the index's Linux build is the CUDA
build and asks for a dozen libraries, others (such as a CPU build in a local folder) have the same version and ask for
none. So torch's own libraries stand in a lock beside it, which is installed only where `import torch` fails without
them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.build import wheels

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = "3.10"
LINUX = "x86_64-manylinux_2_28"
OVERRIDES = ("--override", "images/overrides.txt")
LINUX_2_31, LINUX_2_34 = "x86_64-manylinux_2_31", "x86_64-manylinux_2_34"
"""For engines that have no wheels for older C libraries. Debian 12 and Ubuntu 24.04 have newer ones still."""
REASON_CHARACTERS = 500
UNPRINTABLE = re.compile(r"[^ -~]+")
TORCH_LIBRARY = re.compile(r"(nvidia|cuda)-|triton==")


@dataclass(frozen=True)
class Lock:
    """One lock: what it pins, and the locks whose versions it must share."""

    target: str
    sources: tuple[str, ...]
    title: str
    libraries: str | None = None
    """The lock that takes torch's own libraries, where they stand apart."""
    constraints: tuple[str, ...] = ()
    pythons: tuple[str, ...] = (OLDEST_PYTHON,)
    """It is made for the first and holds for all of them; with no platform, for later ones too."""
    platform: str | None = None
    """None: every platform, and wheels that lie in a local folder beside the index's. Else that one's wheels alone."""
    local: bool = False
    """With a platform too, wheels that lie in a local folder hold beside the index's."""
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broken:
    """Why a lock does not hold any more."""

    target: str
    reason: str

    def __str__(self) -> str:
        return f"{self.target}: {self.reason}"


def of_stack(name: str, title: str, pythons: tuple[str, ...], platform: str = LINUX, **more: Any) -> Lock:
    """Return the lock of a stack for one platform; `more` are further fields."""
    folder = f"images/{name}"
    sources = (f"{folder}/requirements.in",)
    return Lock(f"{folder}/requirements.lock", sources, title, pythons=pythons, platform=platform, **more)


def of_engine(name: str, platform: str = LINUX, arguments: tuple[str, ...] = ()) -> Lock:
    """Return the lock of an engine's stack that runs on the CPU too: a CPU build of torch does, where there is one."""
    title = f"the stack `{name}`, but for the libraries of torch's CUDA build"
    apart = f"images/{name}/requirements.cuda.lock"
    return of_stack(name, title, ("3.11", "3.12"), platform, local=True, libraries=apart, arguments=arguments)


LOCKS = (
    Lock(
        "images/cpu/requirements.lock",
        ("images/cpu/requirements.in",),
        "the stack `cpu`, but for the libraries of torch's CUDA build",
        libraries="images/cpu/requirements.cuda.lock",
        arguments=OVERRIDES,
    ),
    Lock(
        "images/orchestrator.lock",
        ("pyproject.toml",),
        "the orchestrator",
        constraints=("images/cpu/requirements.lock",),
    ),
    of_stack("thunder", "the stack `thunder`", ("3.10",)),
    of_stack("tinyllama", "the stack `tinyllama`, but for what is compiled", ("3.10", "3.11")),
    Lock(
        "images/tinyllama/flash-attn.lock",
        ("images/tinyllama/flash-attn.in",),
        "flash-attn, which exists as source only; its dependencies are in requirements.lock",
        pythons=("3.10", "3.11"),
        arguments=("--no-deps",),
    ),
    Lock(
        "images/tinyllama/builder.lock",
        ("images/tinyllama/builder.in",),
        "what compiling flash-attn needs besides the stack `tinyllama`",
        constraints=("images/tinyllama/requirements.lock",),
        pythons=("3.10", "3.11"),
        platform=LINUX,
    ),
    of_stack("thunder-next", "the stack `thunder-next`", ("3.12",), arguments=OVERRIDES),
    of_stack("fused-next", "the stack `fused-next`", ("3.12",), arguments=OVERRIDES),
    of_engine("transformers"),
    of_engine("litgpt"),
    of_stack("vllm", "the stack `vllm`", ("3.12",), LINUX_2_34),
    of_stack("sglang", "the stack `sglang`", ("3.12",), LINUX_2_34),
    of_engine("vllm-cpu", LINUX_2_31, ("--override", "images/vllm-cpu/overrides.in")),
    Lock("images/uv.lock", ("images/uv.in",), "uv, which brings a stack's Python where there is no container"),
    Lock(
        "tests/dev.lock",
        ("pyproject.toml",),
        "the orchestrator with what its tests and checks need",
        constraints=("images/cpu/requirements.lock", "images/orchestrator.lock"),
        arguments=("--extra", "dev", "--extra", "browser"),
    ),
    Lock(
        "tests/torch.lock",
        ("pyproject.toml", "tests/torch.in"),
        "what the tests that need torch need beside the stack `cpu`",
        constraints=("images/cpu/requirements.lock", "tests/dev.lock"),
        arguments=("--extra", "dev"),
    ),
    Lock("tests/docs.lock", ("tests/docs.in",), "what builds the site of docs/"),
    Lock("tests/oldtorch.lock", ("tests/oldtorch.in",), "the oldest torch that bench must start on"),
    Lock(
        "tests/fuzz.lock",
        ("pyproject.toml", "tests/fuzz.in"),
        "the orchestrator with the fuzzer",
        constraints=("images/orchestrator.lock",),
        pythons=("3.12",),
        platform=LINUX,
    ),
)


def main() -> None:
    """Write every lock again, or with `--check` say which no longer holds."""
    if sys.argv[1:] == ["--check"]:
        broken = [found for lock in LOCKS for found in check(lock)]
        for found in broken:
            print(f"lock: {found}", file=sys.stderr)
        sys.exit(1 if broken else 0)
    if sys.argv[1:]:
        sys.exit("usage: python -m images.lock [--check]")
    for lock in LOCKS:
        blocks = compiled(lock)
        apart = [block for block in blocks if lock.libraries and TORCH_LIBRARY.match(block[0])]
        kept = [block for block in blocks if block not in apart]
        write(ROOT / lock.target, kept, lock.title, local=lock.local or lock.platform is None)
        if lock.libraries:
            write(ROOT / lock.libraries, apart, "the libraries that torch's CUDA build cannot be imported without")


def check(lock: Lock) -> list[Broken]:
    """Return what is wrong with a lock: how it differs from what the index resolves to under the lock's own pins."""
    broken = []
    own = [lock.target, *([lock.libraries] if lock.libraries else [])]
    locked: dict[tuple[str, str], set[str]] = {}
    for name in own:
        locked.update({pin: hashes for pin, hashes in hashes_by_pin((ROOT / name).read_text()).items() if pin[0]})
    for python in lock.pythons:
        try:
            blocks = compiled(lock, python, constraints=own)
        except subprocess.CalledProcessError as error:
            reason = " ".join(UNPRINTABLE.sub(" ", str(error.stderr)).split())[-REASON_CHARACTERS:]
            broken.append(Broken(lock.target, f"does not resolve for Python {python}: {reason}"))
            continue
        found = {pin_of(block): set(wheels.HASH.findall("\n".join(block))) for block in blocks}
        complaint = difference(locked, found)
        if complaint:
            broken.append(Broken(lock.target, f"for Python {python}: {complaint}"))
        else:
            print(f"{lock.target}: {len(found)} pins hold for Python {python}", flush=True)
    return broken


def difference(locked: dict[tuple[str, str], set[str]], found: dict[tuple[str, str], set[str]]) -> str | None:
    """Return how a lock differs from what the index offers, or None: the same pins, and files with its hashes."""
    missing = [f"{name}=={version}" for name, version in found if (name, version) not in locked]
    if missing:
        return f"it lacks {', '.join(missing)}; run `make lock`"
    idle = [f"{name}=={version}" for name, version in locked if (name, version) not in found]
    if idle:
        return f"nothing asks for {', '.join(idle)}; run `make lock`"
    changed = [f"{name}=={version}" for (name, version), hashes in found.items() if not hashes & locked[name, version]]
    return f"the index has no file with the lock's hash of {', '.join(changed)}" if changed else None


def compiled(lock: Lock, python: str | None = None, constraints: list[str] | None = None) -> list[list[str]]:
    """Return uv's answer as blocks: a line with the pin, then lines with its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.txt"
        command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
        # uv looks for a Python of the version asked for, and does without where there is none.
        command.append("--no-python-downloads")
        command += ["--no-emit-index-url", "--no-emit-find-links", "--output-file", str(answer)]
        command += ["--python-version", python or lock.pythons[0]]
        if lock.platform is None:
            command.append("--universal")
        else:
            # A release without a wheel for this Python does not count, and none is built only to read what it needs.
            command += ["--python-platform", lock.platform, "--only-binary", ":all:"]
        for constraint in (*lock.constraints, *(constraints or ())):
            command += ["--constraint", constraint]
        run = subprocess.run(
            [*command, *lock.arguments, *lock.sources], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if run.returncode:
            if constraints is None:
                sys.exit(f"lock: {lock.target}: {run.stderr.strip()}")
            raise subprocess.CalledProcessError(run.returncode, command, stderr=run.stderr)
        blocks: list[list[str]] = []
        for line in answer.read_text().splitlines():
            if line.startswith(" "):
                blocks[-1].append(line)
            elif line and not line.startswith("#"):
                blocks.append([line])
    return blocks


def write(path: Path, blocks: list[list[str]], title: str, *, local: bool = True) -> None:
    """Write the blocks, each with the further hashes that are known of its version, sorted."""
    before = hashes_by_pin(path.read_text()) if path.exists() else {}
    lines = [f"# Made by `make lock`: {title}."]
    for block in blocks:
        pin = pin_of(block)
        hashes = {*wheels.HASH.findall("\n".join(block)), *before.get(pin, ()), *(local_hashes(*pin) if local else ())}
        lines.append(block[0].removesuffix("\\").strip() + " \\")
        lines.append(" \\\n".join(f"    --hash=sha256:{value}" for value in sorted(hashes)))
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(blocks)} pins")


def hashes_by_pin(text: str) -> dict[tuple[str, str], set[str]]:
    """Return the hashes that a lock lists, by name and version.

    They are kept as long as the version stays: a wheel found in one machine's local folder must go on being accepted
    when the lock is made again on another machine.
    """
    known: dict[tuple[str, str], set[str]] = {}
    pin = ("", "")
    for line in text.splitlines():
        if wheels.PIN.match(line):
            pin = pin_of([line])
        known.setdefault(pin, set()).update(wheels.HASH.findall(line))
    return known


def local_hashes(name: str, version: str) -> set[str]:
    """Return the hashes of that release's wheels in the local folders of pip's sources."""
    found = wheels.releases(wheels.local_sources())
    return {wheels.sha256(wheel) for wheel, release in found if release == wheels.release(name, version)}


def pin_of(block: list[str]) -> tuple[str, str]:
    """Return name and version of a block's first line."""
    match = wheels.PIN.match(block[0])
    if match is None:
        raise SystemExit(f"lock: no pin in this line: {block[0]}")
    return match[1], match[2]


if __name__ == "__main__":
    main()
