"""The hosts file of `--hosts`: which hosts a run uses, how cells are started there, and on which of their GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from orchestrator.base.errors import UsageError
from orchestrator.base.files import Frozen, Json, Positive, read_toml, validate
from orchestrator.plan.suite import Name, Seconds

HostLauncher = Literal["docker", "local", "ssh", "slurm"]
MOST_GPUS = 100_000
"""Of all hosts of a file together: a schedule for many more is not made in seconds."""
T = TypeVar("T", bound=BaseModel)
HERE: tuple[HostLauncher, ...] = ("docker", "local")
"""Those whose cells run on the host of this process."""
ONE_ENTRY = "keep one entry, whose gpus name all that are wanted"
How = Literal["docker", "pyxis", "local"]
"""How cells run, on whichever host: in containers of Docker or of pyxis, or as plain processes."""


class Cost(Frozen):
    """What a host's GPUs cost, in whatever money; for `plan` alone."""

    per_gpu_hour: Annotated[float, Field(ge=0, le=1e9)]


class HostEntry(Frozen):
    """One `[[hosts]]`. `name` is for people and stands in no record; `ssh`, `slurm` are settings of those launchers."""

    name: Name
    launcher: HostLauncher = "docker"
    gpus: Literal["all"] | Positive | tuple[str, ...] = "all"
    """All that CUDA_VISIBLE_DEVICES leaves; of `slurm` how many each node has; or numbers and beginnings of UUIDs."""
    nodes: Positive = 1
    """Of `slurm`: nodes of the allocation."""
    gpu_model: str | None = None
    """The GPUs' name, for a plan that is made before anything is reached."""
    start_s: Seconds = 600.0
    """How long it may take until the host is ready, a wait in a queue included."""
    cost: Cost | None = None
    ssh: dict[str, Json] | None = None
    slurm: dict[str, Json] | None = None

    @property
    def settings(self) -> dict[str, Json]:
        """The launcher's own table, as it stands in the file."""
        return (self.ssh if self.launcher == "ssh" else self.slurm) or {}

    def settings_as(self, model: type[T]) -> T:
        """Return them as the launcher knows them; UsageError with the key and the reason where they cannot be meant."""
        return validate(model, self.settings, Path(f"{self.name}: [hosts.{self.launcher}]"))

    @property
    def gpus_at_most(self) -> int | None:
        """How many GPUs it brings; None where only the host itself can say."""
        if isinstance(self.gpus, int):
            return self.nodes * self.gpus
        return None if self.gpus == "all" else len(self.gpus)

    @model_validator(mode="after")
    def _fits(self) -> HostEntry:
        for table in ("ssh", "slurm"):
            if getattr(self, table) is not None and self.launcher != table:
                raise ValueError(f"[hosts.{table}] is of the launcher {table}, and this one's is {self.launcher}")
        if self.launcher == "slurm" and not isinstance(self.gpus, int):
            raise ValueError("gpus of the launcher slurm must be a number: that of each node")
        if self.launcher in HERE and isinstance(self.gpus, int):
            raise ValueError('gpus must be "all" or a list of numbers and beginnings of UUIDs')
        if self.nodes > 1 and self.launcher != "slurm":
            raise ValueError("nodes are of the launcher slurm: give each host an entry of its own")
        return self


class HostsFile(Frozen):
    """The whole file."""

    schema_version: Literal[1]
    hosts: Annotated[tuple[HostEntry, ...], Field(min_length=1, max_length=4096)]


def load_hosts(path: Path) -> tuple[HostEntry, ...]:
    """Return the entries of a hosts file; what is wrong with it is a UsageError with file, key and reason."""
    found = validate(HostsFile, read_toml(path), path).hosts
    names = [entry.name for entry in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f'two hosts are called "{twice}"', where=str(path), remedy="rename one of them")
    if (number := sum(entry.gpus_at_most or 0 for entry in found)) > MOST_GPUS:
        raise UsageError(f"{number} GPUs in all", where=str(path), remedy=f"at most {MOST_GPUS} are scheduled")
    here = [entry.name for entry in found if entry.launcher in HERE]
    if len(here) > 1:
        what = f"{' and '.join(here)} are all this host"
        raise UsageError(what, where=str(path), remedy=ONE_ENTRY)
    by_address = dict[tuple[str, str], str]()
    for entry in found:
        address, config = (str(entry.settings.get(key, "")) for key in ("address", "config"))
        if entry.launcher == "ssh" and address:
            first = by_address.setdefault((address.removeprefix("ssh://"), config), entry.name)
            if first != entry.name:
                raise UsageError(f"{first} and {entry.name} are one host, {address}", where=str(path), remedy=ONE_ENTRY)
    return found


def named_here(gpus: str, launcher: Literal["docker", "local"]) -> tuple[HostEntry, ...]:
    """Return the entry that `--gpus` stands for: this host, with `all` or with GPUs named and parted by commas."""
    named = tuple(dict.fromkeys(part.strip() for part in gpus.split(",") if part.strip()))
    if not named:
        raise UsageError("no GPU is named", where="--gpus", remedy="write all, or numbers or UUIDs parted by commas")
    return (HostEntry(name="here", launcher=launcher, gpus="all" if named == ("all",) else named),)
