"""What a record says of the variables under which its cell ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.environment import settings

if TYPE_CHECKING:
    import pytest


def test_variables_that_change_what_runs_are_recorded_and_no_place_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_PRINT_AUTOTUNING", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/somewhere")
    monkeypatch.setenv("HOME", "/home/me")
    told = settings()
    assert told["TRITON_PRINT_AUTOTUNING"] == "1"
    assert not {"TRITON_CACHE_DIR", "HOME"} & set(told)


def test_libraries_put_before_all_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/opt/a/libtcmalloc.so.4:/opt/b/shim.so libc.so")
    assert settings()["LD_PRELOAD"] == "libtcmalloc.so.4 shim.so libc.so"
    monkeypatch.setenv("LD_PRELOAD", "")
    assert "LD_PRELOAD" not in settings()
