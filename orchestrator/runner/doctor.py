"""What this host has, line by line: ok, warn or fail, each with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_OK, StackbenchError, UsageError
from orchestrator.base.files import check_writable
from orchestrator.base.paths import IMAGES, RESULTS, STATE
from orchestrator.base.text import (
    counted,
    json_document,
    on_stderr,
    scaled,
    show,
    size_in_words,
    terminal_width,
    wrapped,
)
from orchestrator.build.image import BASE_VARIABLE, bring, has_image, image_tag, why_not_here
from orchestrator.build.ready import why_not
from orchestrator.host import docker_engine as engine
from orchestrator.host import locks
from orchestrator.host.gpu import Gpus, HostGpu, gpus, selected
from orchestrator.launchers.docker import DockerLauncher, try_ways
from orchestrator.launchers.trial import works
from orchestrator.launchers.work_area import work_area
from orchestrator.plan.memory import likely_bytes
from orchestrator.plan.stack import Stack, find_stacks
from orchestrator.plan.suite import load_suite, suite_names
from orchestrator.plan.workload import describe

State = Literal["ok", "warn", "fail"]
COMPILERS = ("g++", "clang++", "c++")
LITTLE_DISK_BYTES = 10 * 10**9
WIDTH = 18


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    state: State
    what: str
    finding: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.state:<4}  {self.what:<{WIDTH}}  {self.finding}"
        return f"{text}; {self.remedy}" if self.remedy else text


@dataclass
class Doctor:
    """What the checks share."""

    stacks: Mapping[str, Stack]
    gpus: Gpus
    client: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the engine says of itself."""
    images: set[str] = field(default_factory=set)
    """Stacks whose image the engine has."""

    @property
    def found(self) -> list[HostGpu]:
        """The GPUs that a run may take."""
        return selected(self.gpus.found, None)


def doctor(stack_folders: Sequence[Path] = (), form: str = "text") -> int:
    """Print a line for each thing that a run needs; return 1 where one is broken, else 0.

    As `json`: `checks`, a list of `name`, `state` (ok, warn or fail), `value` (what was found) and `remedy` (or null).
    """
    doc = Doctor(find_stacks([IMAGES, *stack_folders]), gpus())
    lines = []
    for check in CHECKS:
        for line in check(doc):
            lines.append(line)
            if form == "text":
                show("\n".join(wrapped(str(line), terminal_width(), indent=WIDTH + 8)))
    code = EXIT_BAD_ROWS if any(line.state == "fail" for line in lines) else EXIT_OK
    if form == "json":
        checks = [
            {"name": line.what, "state": line.state, "value": line.finding, "remedy": line.remedy or None}
            for line in lines
        ]
        document = {"schema_version": 1, "exit_code": code, "checks": checks}
        show(json_document(document))
    return code


def _python(_doc: Doctor) -> Iterator[Line]:
    yield Line("ok", "orchestrator", f"Python {sys.version.split()[0]}")


def _engine(doc: Doctor) -> Iterator[Line]:
    try:
        doc.client = engine.connect()
        with engine.engine_errors():
            info = doc.info = doc.client.info()
    except StackbenchError as error:
        yield Line("warn", "Docker Engine", str(error))
        return
    memory = size_in_words(int(info.get("MemTotal") or 0))
    finding = f"{info.get('ServerVersion')}, {info.get('NCPU')} CPUs, {memory}, {info.get('Driver')}"
    yield Line("ok", "Docker Engine", f"{finding}{', rootless' if engine.is_rootless(info) else ''}")
    if not info.get("SwapLimit", True):
        yield Line("warn", "memory limit", "swap is not limited, a cell may swap", "enable swap accounting")


def _gpus(doc: Doctor) -> Iterator[Line]:
    here = doc.gpus
    if here.trouble:
        yield Line("warn", "GPU", f"NVML: {here.trouble}", "check the NVIDIA driver with nvidia-smi")
    elif not here.found:
        yield Line("ok", "GPU", "none: run-all uses the CPU and the suite smoke")
    if here.found and here.allowed is not None:
        yield Line("ok" if doc.found else "warn", "GPU", here.choice, "run-all uses another only by --gpu")
    for gpu in here.found:
        driver = f"driver {gpu.driver or 'unknown'}"
        finding = f"{gpu.uuid} {gpu.name}, {size_in_words(gpu.memory_bytes)}, {driver}"
        if gpu.busy:
            yield Line("warn", f"GPU {gpu.index}", f"{finding}: {gpu.busy}", "run-all refuses it without --allow-busy")
        else:
            yield Line("ok", f"GPU {gpu.index}", finding)


def _suites(doc: Doctor) -> Iterator[Line]:
    """Say which suites fit into the memory of the GPU that a run takes first."""
    room = doc.found[0].memory_bytes if doc.found else None
    if room is None:
        return
    fit = []
    for name in suite_names():
        held = [(likely_bytes(one.workload), one.workload) for one in load_suite(name).expand()]
        over = [one for one in held if one[0] > room]
        if not over:
            fit.append(name)
            continue
        needed, most = max(over, key=lambda one: one[0])
        finding = f"{len(over)} of {counted(len(held), 'workload')} may not fit into the GPU's {scaled(room, 'B')}"
        finding += f", most of all {most.benchmark} of {describe(most)} with {scaled(needed, 'B')}"
        yield Line("warn", f"suite {name}", finding, f"`orchestrator plan --suite {name}` names each")
    if fit:
        yield Line("ok", "suites", f"expected to fit into the GPU's {scaled(room, 'B')}: {', '.join(fit)}")


def _stacks(doc: Doctor) -> Iterator[Line]:
    gpu = doc.found[0] if doc.found else None
    for stack in doc.stacks.values():
        device: Literal["cuda", "cpu"] = "cuda" if stack.gpu.required or (gpu and stack.gpu.access != "none") else "cpu"
        reason = why_not(stack, gpu, device)
        lacking = None
        if doc.client is not None:
            try:
                lacking = why_not_here(doc.client, stack)
                if has_image(doc.client, stack):
                    doc.images.add(stack.name)
            except StackbenchError as error:
                yield Line("fail", f"stack {stack.name}", str(error))
                continue
        if reason:
            yield Line("warn", f"stack {stack.name}", reason, "its rows will say skipped")
        elif lacking:
            pull = bring(image_tag(stack)) if stack.ready else "`docker pull`"
            another = "" if stack.ready else f", or name another in {BASE_VARIABLE}"
            yield Line("warn", f"stack {stack.name}", lacking, f"{pull} or `docker load` brings it{another}")
        elif doc.client is None:
            yield Line("ok", f"stack {stack.name}", f"on the {device}, as a plain process")
        elif stack.name in doc.images:
            yield Line("ok", f"stack {stack.name}", f"on the {device}, image {image_tag(stack)}")
        elif stack.ready:
            finding = f"on the {device}, image {image_tag(stack)} is missing"
            yield Line("warn", f"stack {stack.name}", finding, f"{bring(image_tag(stack))} brings it")
        else:
            size = size_in_words(stack.build.download_bytes if stack.build else None)
            yield Line("ok", f"stack {stack.name}", f"on the {device}, image not here yet (download: {size})")


def _trial(doc: Doctor) -> Iterator[Line]:
    if doc.client is None:
        return
    said: list[str] = []
    with work_area() as area:
        # Of a stack whose image is not here only the folders are looked at.
        for stack in sorted(doc.stacks.values(), key=lambda stack: stack.name not in doc.images):
            try:
                launcher = DockerLauncher(
                    doc.client, area.bench, images={stack.name: image_tag(stack)}, say=said.append
                )
                wrote = works(launcher, stack)
            except StackbenchError as error:
                yield Line("fail", "trial container", error.what, error.remedy)
                return
            yield from (Line("warn", "trial container", line) for line in said)
            if wrote:
                yield Line("ok", "trial container", f"of {stack.name}: wrote into its work folder")
                return
            said.clear()
    yield Line("warn", "trial container", "no image of a stack is here to try with", "`orchestrator build`")


def _access(doc: Doctor) -> Iterator[Line]:
    if not doc.found or doc.client is None:
        return
    able = [stack for stack in doc.stacks.values() if stack.gpu.access != "none" and stack.name in doc.images]
    if not able:
        yield Line("warn", "GPU access", "no image of a stack for the GPU is here to try with", "`orchestrator build`")
        return
    for stack in able:
        with work_area() as area:
            launcher = DockerLauncher(doc.client, area.bench, doc.found[0], images={stack.name: image_tag(stack)})
            answers = try_ways(launcher, stack, every=True)
            wanted = stack.gpu.access
            works = [way for way, answer in answers.items() if answer is None and wanted in ("auto", way)]
            lacks = launcher.driver_lacks(stack, works[0]) if works else []
        finding = ", ".join(f"{way}: {'works' if answer is None else answer}" for way, answer in answers.items())
        if works:
            yield Line("ok", "GPU access", f"{stack.name}: {wanted if wanted != 'auto' else works[0]} ({finding})")
            for what in lacks:
                yield Line("warn", "driver", f"{stack.name}: {what}", "compilers of this stack may need it")
        else:
            remedy = "install the NVIDIA container toolkit, or name devices and mounts in its stack.toml"
            yield Line("fail", "GPU access", f"{stack.name}: {finding}", remedy)


def _compiler(doc: Doctor) -> Iterator[Line]:
    found = next((path for name in (os.environ.get("CXX"), *COMPILERS) if name and (path := shutil.which(name))), None)
    if found:
        yield Line("ok", "C++ compiler", found)
    elif doc.client is not None:
        yield Line("ok", "C++ compiler", "none here, needed for plain processes only; images bring their own")
    else:
        yield Line("warn", "C++ compiler", "none: inductor rows on the CPU will be unsupported", "install g++")


def _disk(doc: Doctor) -> Iterator[Line]:
    places = {"repository": STATE.parent}
    if doc.client is not None:
        places["images"] = Path(str(doc.info.get("DockerRootDir") or "/"))
    for name, place in places.items():
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue  # an engine elsewhere, or a folder that is not ours to see
        found = f"{size_in_words(free)} free ({name})"
        little = Line("warn", "disk", found, "an image takes several GB: make room")
        yield little if free < LITTLE_DISK_BYTES else Line("ok", "disk", found)


def _locks(_doc: Doctor) -> Iterator[Line]:
    try:
        with locks.hold("doctor", purpose="doctor", say=on_stderr):
            held = "free" if locks.is_free(None) else "held"
            yield Line("ok", "locks", f"{locks.lock_folder()}, the CPU's is {held}")
    except UsageError as error:
        yield Line("fail", "locks", str(error))


def _results(_doc: Doctor) -> Iterator[Line]:
    for name, folder in (("results", RESULTS), ("state", STATE)):
        line = Line("ok", name, f"{folder} can be written to")
        try:
            check_writable(folder)
        except UsageError as error:
            line = Line("fail", name, str(error))
        yield line


def _leftovers(doc: Doctor) -> Iterator[Line]:
    if doc.client is None:
        return
    try:
        with engine.engine_errors():
            found = engine.left_over(doc.client)
    except StackbenchError as error:
        yield Line("fail", "containers", str(error))
        return
    if found:
        yield Line("warn", "containers", f"{counted(len(found), 'container')} left over", "run-all removes them")
    else:
        yield Line("ok", "containers", "none left over")


CHECKS = (
    _python,
    _engine,
    _gpus,
    _suites,
    _stacks,
    _trial,
    _access,
    _compiler,
    _disk,
    _locks,
    _results,
    _leftovers,
)
