"""What a row's samples warn of, each with what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.numbers import counted, significant

if TYPE_CHECKING:
    from orchestrator.rows import Row

LOSS_DIGITS = 2


def warnings(row: Row) -> list[str]:
    """Return a line for each thing about the row's samples that a person should know before trusting the figure."""
    lines = []
    if row.first_off is not None:
        lines.append(f"the first timed sample is {_signed(row.first_off)} off the others: raise `warmup` in the suite")
    if row.drift is not None:
        remedy = "close what else runs here"
        if row.hardware.device == "cuda":
            remedy = "lock the clocks (`nvidia-smi -lgc MHZ`)"
        lines.append(
            f"the later half of the samples is {_signed(row.drift)} off the earlier: let the device settle, that is, "
            f"raise `iterations` or `--rounds`, or {remedy}"
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
    if row.tainted and "tainted" in row.flags:
        lines.append(
            f"{counted(row.tainted, 'timed sample')} tainted ({'; '.join(row.taints)}): run the cell again with the "
            "GPU to itself, cooled, its clocks locked"
        )
    return lines


def taint_note(row: Row) -> str | None:
    """Return how many samples something else disturbed, where there were enough others to make the figure of."""
    if not row.tainted or "tainted" in row.flags:
        return None
    return f"{counted(row.tainted, 'sample')} tainted and left out of the figure ({'; '.join(row.taints)})"


def loss_advice(row: Row) -> str | None:
    """Return how far the row's losses were from eager's; advice, for right methods differ by rounding too."""
    if row.loss_distance is None:
        return None
    return f"largest distance of the loss from eager's {significant(row.loss_distance, LOSS_DIGITS)} (advice, no check)"


def _signed(share: float) -> str:
    return f"{share * 100:+.1f} %"
