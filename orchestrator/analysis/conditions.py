"""What differs between where two cells ran: hardware, driver, clock, packages, and how they were started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from pydantic import Field

from orchestrator.analysis.ceilings import Hardware, hardware_of
from orchestrator.analysis.protocol import figure_phase
from orchestrator.base.files import Frozen
from orchestrator.records.record import Record, is_row

SAME_CLOCK = 0.01
"""Medians of the clock this near to each other are one clock."""
VENDOR = "NVIDIA "
AND = " and "
"""Between what differs from round to round on one side."""
SHOWN_CHARACTERS = 40


class Ground(Frozen):
    """What a cell ran on and in. Everything but `hardware` is text by name, so that two can be laid side by side."""

    hardware: Hardware
    gpus: tuple[str, ...] = ()
    """UUIDs, in the order of the rounds."""
    facts: dict[str, str] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    clock_mhz: float | None = None


class Difference(Frozen):
    """One thing that differs; null where a side does not have it, or does not say."""

    what: str
    a: str | None
    b: str | None

    def __str__(self) -> str:
        return f"{self.what} {_short(self.a)} / {_short(self.b)}"


def ground_of(record: Record) -> Ground:
    """Return what the record says of where it was made."""
    environment, provenance, telemetry = record.environment, record.provenance, record.telemetry
    facts: dict[str, str | None] = {"bench source": record.bench_source, "the method's file": record.method_source}
    if environment is not None:
        facts.update(
            {
                "Python": environment.python,
                "platform": environment.platform,
                "torch's commit": environment.torch_git,
                "CUDA": environment.cuda,
                "cuDNN": environment.cudnn,
                "compiler": environment.compiler,
                **{f"setting {name}": value for name, value in environment.settings.items()},
            }
        )
    if provenance is not None:
        facts.update(launcher=provenance.launcher, image=provenance.image_id, lock=provenance.lock)
        facts["compile cache"] = provenance.cache
    clock = telemetry.sm_clock_mhz if telemetry else None
    hardware = hardware_of(record)
    facts.update(hardware.settings)
    if is_row(record) and record.samples:
        facts["samples of the figure"] = figure_phase(record.samples)
    return Ground(
        hardware=hardware,
        gpus=() if hardware.uuid is None else (hardware.uuid,),
        facts={name: value for name, value in facts.items() if value is not None},
        packages=environment.packages if environment else {},
        clock_mhz=clock.median if clock else None,
    )


def joined(rounds: Sequence[Ground]) -> Ground:
    """Return one ground for a cell's rounds: the last one's, with every GPU and fact that any of them had.

    Rounds that ended before they could say what they ran on count only where no other does. The clock is the
    median of medians.
    """
    known = [each for each in rounds if each.hardware.name is not None] or rounds
    names = dict.fromkeys(name for each in known for name in each.facts)
    values = {name: dict.fromkeys(each.facts[name] for each in known if name in each.facts) for name in names}
    clocks = [each.clock_mhz for each in known if each.clock_mhz is not None]
    return known[-1].model_copy(
        update={
            "gpus": tuple(dict.fromkeys(gpu for each in known for gpu in each.gpus)),
            "facts": {name: AND.join(found) for name, found in values.items()},
            "clock_mhz": median(clocks) if clocks else None,
        }
    )


def same_device(a: Ground, b: Ground) -> bool:
    """Whether both ran on one model of GPU, or of CPU; false where a side does not say."""
    if a.hardware.device != b.hardware.device or None in (a.hardware.name, b.hardware.name):
        return False
    return _model(a.hardware) == _model(b.hardware)


def differences(a: Ground, b: Ground) -> tuple[Difference, ...]:
    """Return what differs, hardware first. A fact that one side lacks does not differ; a package does."""
    return tuple(_differences(a, b))


def _differences(a: Ground, b: Ground) -> Iterator[Difference]:
    other_model = None not in (a.hardware.name, b.hardware.name) and not same_device(a, b)
    if other_model:
        yield Difference(what="device", a=_model(a.hardware), b=_model(b.hardware))
    # Two GPUs of one model differ by a percent or so in what they do at their power limit.
    pairs = [
        ("the GPU's UUID", *((None, None) if other_model else (AND.join(a.gpus) or None, AND.join(b.gpus) or None))),
        ("driver", a.hardware.driver, b.hardware.driver),
        ("threads", a.hardware.threads, b.hardware.threads),
        *((name, a.facts[name], b.facts[name]) for name in a.facts if name in b.facts),
    ]
    for what, mine, other in pairs:
        if mine is not None and other is not None and mine != other:
            yield Difference(what=what, a=str(mine), b=str(other))
    if a.clock_mhz and b.clock_mhz and abs(a.clock_mhz / b.clock_mhz - 1) > SAME_CLOCK:
        yield Difference(what="clock", a=f"{a.clock_mhz:.0f} MHz", b=f"{b.clock_mhz:.0f} MHz")
    if a.packages and b.packages:
        for name in sorted({*a.packages, *b.packages}):
            if a.packages.get(name) != b.packages.get(name):
                yield Difference(what=name, a=a.packages.get(name), b=b.packages.get(name))


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    parts = value.split(AND)
    return AND.join(part if len(part) <= SHOWN_CHARACTERS else f"{part[: SHOWN_CHARACTERS // 2]}…" for part in parts)


def _model(hardware: Hardware) -> str:
    """Return the device's name without the vendor's, which not every list of figures has."""
    return (hardware.name or f"an unknown {hardware.device}").removeprefix(VENDOR)
