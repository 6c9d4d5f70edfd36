from __future__ import annotations

import io
import os
from pathlib import Path

from orchestrator.host.folders import FULL_DISK_BYTES
from orchestrator.measure.keeper import Keeper


def test_a_cell_that_wrote_too_much_is_blamed_where_only_its_end_shows_it(tmp_path: Path) -> None:
    keeper = Keeper(io.BytesIO(), io.BytesIO())
    keeper.do_hello(b"", folder=str(tmp_path / "there"), socket="/nowhere")
    try:
        user = f"{os.getuid()}:{os.getgid()}"
        asked = {"job": "one", "user": user, "references": {}, "cache": None, "most_bytes": 100_000, "most_files": 50}
        made, _ = keeper.do_begin(b"{}", **asked)
        (Path(made["work"]) / "big").write_bytes(bytes(1_000_000))
        said, _ = keeper.do_finish(b"")
    finally:
        keeper.leave()
    assert "it has written" in said["trouble"][1]
    assert (said["files"], said["cached"]) == ({}, False)
    # The disk is not full because its folder is gone.
    assert said["free"] > FULL_DISK_BYTES
