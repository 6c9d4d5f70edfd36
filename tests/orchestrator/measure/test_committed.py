"""The committed GPU records, judged by today's rules as far as they have what these need: all rows stay as they are.

Older records have no `seen_again`, no energy of a ceiling's calls and no times at which the orchestrator saw an event.
"""

from __future__ import annotations

from collections import Counter

from committed import FOLDERS
from places import ROOT

from orchestrator.analysis.reduce import rows
from orchestrator.measure.validity import Seen, Sighting, checks_of, spans_of
from orchestrator.records.checks import CLOCKS, REPORTED, held_to_list
from orchestrator.records.record import Record
from orchestrator.records.store import read_record


def judged_again(record: Record) -> Record:
    sightings = [Sighting(phase.begin_ns, phase.begin_ns, phase.begin_ns) for phase in record.phases]
    lasting = any(sample.phase == "sustained" for sample in record.samples)
    return held_to_list(record, checks_of(record, Seen(record.phases, sightings, spans_of(record), lasting)))


def test_committed_rows_stay_ok_and_keep_their_shares() -> None:
    made: Counter[tuple[str, str]] = Counter()
    shares: list[float] = []
    for run in FOLDERS:
        records = [read_record(path) for path in sorted(run.glob("records/*.json"))]
        for was in records:
            assert held_to_list(was) is was
            now = judged_again(was)
            assert (now.status, now.reason, now.flags) == (was.status, was.reason, was.flags), (run.name, was.cell_id)
            made.update((check.name, check.status) for check in (now.proof.checks if now.proof else ()))
        for row in (*rows(records, "steady"), *rows(records, "note")):
            assert row.status == "ok", (run.name, row.name)
            assert row.share.share is not None, (run.name, row.name, row.share.reason)
            shares.append(row.share.share)
    assert made[CLOCKS, "passed"] == made[REPORTED, "passed"] == 190
    assert len(shares) == 2 * 72
    assert max(shares) < 1
    said = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
    assert f"The largest share of the committed rows is {max(shares):.2f}." in " ".join(said.split())
