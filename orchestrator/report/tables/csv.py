"""The rows as CSV for a spreadsheet: one line for each row and protocol, full precision, an unknown value empty."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.analysis.protocol import Protocol
    from orchestrator.analysis.reduced_run import Pair, Report
    from orchestrator.analysis.rows import Row

# A spreadsheet takes a text that begins so for a formula, and what a container wrote must never become one.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render(report: Report, protocol: Protocol | None = None) -> str:
    """Return a header line and a line for each row: of `protocol`, or of both where it is null."""
    out = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for pair in report.pairs:
        for row in (pair.steady, pair.note):
            if protocol not in (None, row.protocol):
                continue
            line = {name: _cell(value) for name, value in _line(row, pair).items()}
            if writer is None:
                writer = csv.DictWriter(out, fieldnames=list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
    return out.getvalue()


def _line(row: Row, pair: Pair) -> dict[str, Any]:
    workload, hardware, versions, published = row.workload, row.hardware, row.environment, pair.published
    low, high = row.figure.interval or (None, None)
    verdict, compilation, power = row.versus and row.versus.verdict, row.evidence.compiles, row.evidence.power
    ratio_low, ratio_high = (verdict.interval if verdict else None) or (None, None)
    return {
        "protocol": row.protocol,
        "benchmark": row.benchmark,
        "method": row.method,
        "stack": row.stack,
        "cell_id": row.cell_id,
        "workload_id": row.workload_id,
        "model": workload.model.name if workload.model else None,
        "dtype": workload.dtype,
        "batch": workload.batch,
        "sequence": workload.sequence,
        "new_tokens": workload.new_tokens,
        "status": row.status,
        "reason": row.reason,
        "flags": " ".join(row.flags),
        "figure": row.figure.value,
        "headline": row.headline,
        "unit": row.figure.unit,
        "basis": row.figure.basis,
        "complete": row.figure.complete,
        "interval_low": low,
        "interval_high": high,
        "interval_kind": row.figure.interval_kind,
        "interval_level": row.figure.interval_level,
        "device_figure": row.figure.device_value,
        "rounds": row.rounds,
        "rounds_ok": row.rounds_ok,
        "first_call_seconds": row.first_call.seconds,
        "first_call_cache": row.first_call.cache,
        "upfront_seconds": row.first_call.upfront_seconds,
        "first_token_seconds": row.figure.first_token_seconds,
        "next_token_seconds": row.figure.next_token_seconds,
        "process_bytes": row.memory.process_bytes,
        "steady_bytes": row.memory.steady_bytes,
        "reserved_bytes": row.memory.reserved_bytes,
        "host_bytes": row.memory.host_bytes,
        "graphs": row.graphs,
        "recompiled": row.recompiled,
        "launch_compiles": compilation.kernels if compilation else None,
        "graph_breaks": len(compilation.breaks) if compilation else None,
        "warm_first_call_seconds": row.first_call.warm_seconds,
        "break_even": row.break_even.count if row.break_even else None,
        "break_even_of": row.break_even.of if row.break_even else None,
        "against": row.versus.against if row.versus else None,
        "verdict": verdict.outcome if verdict else None,
        "time_ratio": verdict.ratio if verdict else None,
        "time_ratio_low": ratio_low,
        "time_ratio_high": ratio_high,
        "checks_passed": row.evidence.checks.passed if row.evidence.checks else None,
        "checks_failed": row.evidence.checks.failed if row.evidence.checks else None,
        "checks_unchecked": row.evidence.checks.unchecked if row.evidence.checks else None,
        "probe": row.probe.status if row.probe else None,
        "probe_passed": row.probe.passed if row.probe else None,
        "error": row.evidence.error,
        "eager_error": row.evidence.eager_error,
        "error_ratio": row.evidence.error_ratio,
        "launches": row.evidence.dispatch.launches if row.evidence.dispatch else None,
        "graph_replays": row.evidence.dispatch.graph_replays if row.evidence.dispatch else None,
        "not_fused": " ".join(row.evidence.dispatch.missing) if row.evidence.dispatch else None,
        "joules": power.joules if power else None,
        "joules_per": power.per if power else None,
        "watts": power.watts.median if power and power.watts else None,
        "cpus": row.evidence.host_load.cpus if row.evidence.host_load else None,
        "own_cpus": row.evidence.host_load.own if row.evidence.host_load else None,
        "others_cpus": row.evidence.host_load.others if row.evidence.host_load else None,
        "stolen_cpus": row.evidence.host_load.stolen if row.evidence.host_load else None,
        "tainted_samples": row.evidence.tainted,
        "drift": row.evidence.drift,
        "first_off": row.evidence.first_off,
        "loss_distance": row.loss_distance,
        "flops": row.work.flops if row.work else None,
        "bytes": row.work.bytes if row.work else None,
        "share": row.share.share,
        "bound": row.share.bound,
        "device": hardware.device,
        "hardware": hardware.name,
        "driver": hardware.driver,
        "python": versions and versions.python,
        "torch": versions and versions.torch,
        "torch_git": versions and versions.torch_git,
        "cuda": versions and versions.cuda,
        "triton": versions and versions.triton,
        "fingerprint": versions and versions.fingerprint,
        "published_figure": published.figure if published else None,
        "published_status": published.status if published else None,
        "published_corrected": published.corrected if published else None,
        "published_memory_bytes": published.memory_bytes if published else None,
    }


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
