"""What a row's samples warn of, each with what to do about it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from orchestrator.base.text import counted, significant

if TYPE_CHECKING:
    from orchestrator.analysis.rows import Row
    from orchestrator.records.record import HostLoad, Record


LOSS_DIGITS = 2
NOTABLE = 0.1
"""The share of the host's CPUs that others may use before a row says so."""


def warnings(row: Row) -> list[str]:
    """Return a line for each thing about the row's samples that a person should know before trusting the figure."""
    lines = []
    if row.evidence.first_off is not None:
        lines.append(
            f"the first timed sample is {_signed(row.evidence.first_off)} off the others: raise `warmup` in the suite"
        )
    if row.evidence.drift is not None:
        remedy = "close what else runs here"
        if row.hardware.device == "cuda":
            remedy = "lock the clocks (`nvidia-smi -lgc MHZ`)"
        lines.append(
            f"the later half of the samples is {_signed(row.evidence.drift)} off the earlier: let the device settle, "
            f"that is, raise `iterations` or `--rounds`, or {remedy}"
        )
    if row.one_compile:
        lines.append(
            "its rounds share a compile cache, so that the interval knows nothing of how compiles differ (one that "
            "tunes by measuring finds another kernel each time): leave `--cache shared` out to have that in it"
        )
    if len(row.gpus) > 1:
        lines.append(
            f"its rounds ran on {len(row.gpus)} GPUs, whose difference is in the interval: run it with `--fresh` on one"
        )
    if row.evidence.host_load is not None and row.evidence.host_load.taken >= NOTABLE:
        took = load_in_words(row.evidence.host_load)
        lines.append(f"while it was timed, {took}: close what else runs here, and run the cell again")
    if row.evidence.tainted and "tainted" in row.flags:
        lines.append(
            f"{counted(row.evidence.tainted, 'timed sample')} tainted ({'; '.join(row.evidence.taints)}): run the cell "
            "again with the GPU to itself, cooled, its clocks locked"
        )
    return lines


def load_in_words(load: HostLoad) -> str:
    """Return what others took of the host's CPUs, and other machines of the hypervisor's."""
    stolen = f" and other machines {significant(load.stolen, 2)}" if load.stolen >= NOTABLE else ""
    return f"other processes took {significant(load.others, 2)}{stolen} of this host's {load.cpus} CPUs"


def cpu_use(load: HostLoad) -> str:
    """Return who used the host's CPUs, all of it."""
    used = f"{significant(load.own, 3)} by the cell, {significant(load.others, 3)} by others"
    stolen = f"{significant(load.stolen, 3)} by other machines"
    return f"of {load.cpus}, {used}, {stolen}, over {significant(load.seconds, 3)} s"


def taint_note(row: Row) -> str | None:
    """Return how many samples something else disturbed, where there were enough others to make the figure of."""
    seen = row.evidence
    if not seen.tainted or "tainted" in row.flags:
        return None
    return f"{counted(seen.tainted, 'sample')} tainted and left out of the figure ({'; '.join(seen.taints)})"


def loss_advice(row: Row) -> str | None:
    """Return how far the row's losses were from eager's; advice, for right methods differ by rounding too."""
    if row.loss_distance is None:
        return None
    return f"largest distance of the loss from eager's {significant(row.loss_distance, LOSS_DIGITS)} (advice, no check)"


def _signed(share: float) -> str:
    return f"{share * 100:+.1f} %"


def command(suite: str, record: Record, rounds: int = 1) -> str:
    """Return the command line that runs the record's cell as it was run, as often as `rounds` says.

    A checkpoint's place is not in the record: the words FOLDER stand for it.
    """
    provenance = record.provenance
    words = ["orchestrator", "run-all", "--suite", suite, "--stack", record.stack]
    if record.workload.benchmark != "ceilings":
        words += ["--method", record.method, "--benchmark", record.workload.benchmark]
    if record.workload.weights is not None and record.workload.weights.source == "checkpoint":
        words += ["--checkpoint", "FOLDER"]
    if provenance is not None and provenance.launcher in ("docker", "local"):
        words += ["--launcher", provenance.launcher]
    if provenance is not None and provenance.cache == "shared":
        words += ["--cache", "shared"]
    if rounds > 1:
        words += ["--rounds", str(rounds)]
    return " ".join(shlex.quote(word) for word in (*words, "--fresh"))


def reproduction(run_id: str, record: Record, rounds: int = 1) -> str:
    """Return the command line that runs a row's cell again from its record and says whether its figure came out."""
    words = ["orchestrator", "reproduce", record.cell_id, "--run", run_id]
    return " ".join(shlex.quote(word) for word in (*words, *(["--rounds", str(rounds)] if rounds > 1 else [])))
