"""What the keeper is made of, and what is read back of what it sends. No host is needed for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from telemetry_series import series

from orchestrator.base.errors import UsageError
from orchestrator.base.files import validate
from orchestrator.host import gpu
from orchestrator.host.gpu import Quick, Slow
from orchestrator.launchers.connection import BOOT, Connection, SshSettings, keeper_modules
from orchestrator.launchers.ssh_launcher import cpus_in
from orchestrator.measure.host_load import CpuTimes, LoadSampler
from orchestrator.measure.telemetry import Reading, Recorded, Series


def test_the_keeper_needs_no_package_and_ends_with_its_input(tmp_path: Path) -> None:
    modules = keeper_modules()
    hello = {"id": 1, "do": "hello", "folder": str(tmp_path / "area"), "socket": "/nowhere.sock", "bytes": 0}
    # A Python without any of ours or of others', as a host has it.
    command = [sys.executable, "-I", "-S", "-c", BOOT]
    given = f"{len(modules)}\n".encode() + modules + json.dumps(hello).encode() + b"\n"
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert answer["owner"].count(":") == 2
    assert answer["folder"] == str(tmp_path / "area")
    assert list((tmp_path / "area" / "work").iterdir()) == []


def test_a_series_is_read_back_as_it_was_written() -> None:
    found = series(40, sm_mhz=lambda at: 1000 + at, energy_mj=lambda at: 7 * at)
    found = Series([*found.readings, Reading(10**9, Quick(), Slow(1, 2, 3), frozenset({7}))], {7: "python"})
    again = Recorded(found.content(), {"driver": "555"}, None).series()
    assert (again.readings, again.names, again.settings) == (found.readings, {7: "python"}, {"driver": "555"})


@pytest.mark.parametrize("line", ["[1]", "[1,-1,null,null,null,null,null,null,null,null]", '["1"]', "{}", "["])
def test_nonsense_in_place_of_a_series_is_an_error(line: str) -> None:
    head = series(1).content().splitlines()[0].decode()
    with pytest.raises((ValueError, TypeError, KeyError)):
        Recorded(f"{head}\n{line}\n".encode(), {}, None).series()


def test_the_hosts_load_is_read_back_as_it_was_written() -> None:
    sampler = LoadSampler(lambda: None)
    sampler._cpus = 4
    second = 10**9
    sampler._readings = [CpuTimes(t * second, 100 * t, 0, 50 * t) for t in range(5)]
    said = json.loads(json.dumps(sampler.readings()))
    window = [(second, 3 * second)]
    assert LoadSampler.of_readings(said).load(window) == sampler.load(window)
    assert sampler.load(window) is not None
    with pytest.raises((ValueError, TypeError, KeyError)):
        LoadSampler.of_readings({"cpus": 4, "quota": None, "readings": [[1, 2]]})


def test_cpus_of_a_list_are_counted() -> None:
    assert [cpus_in(one) for one in ("0", "0-15", "0-15,32-35,40")] == [1, 16, 21]


def test_the_cpus_near_a_gpu_are_those_of_its_numa_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"nvmlDeviceGetHandleByUUID": gpu.Answer(1), "nvmlDeviceGetPciInfo": gpu.Answer("00000000:3B:00.0")}
    monkeypatch.setattr(gpu, "ask", lambda function, *_, read=None: answers.get(function, gpu.Answer(0)))
    assert gpu.near_cpus("GPU-1", tmp_path) == (None, "the kernel does not say (No such file or directory)")
    place = tmp_path / "0000:3b:00.0"
    place.mkdir()
    (place / "local_cpulist").write_text("0-15,32-47\n")
    (place / "numa_node").write_text("1\n")
    assert gpu.near_cpus("GPU-1", tmp_path) == ("0-15,32-47", "")
    (place / "numa_node").write_text("-1\n")
    assert gpu.near_cpus("GPU-1", tmp_path) == (None, "the kernel knows no NUMA node of this GPU")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "-oProxyCommand=evil",
            "",
            "ssh://-x",
            " ",
            "ssh://host:99999",
            "ssh://host:port",
            "ssh://host:0",
            "ssh://[::1",
        ),
        *("ssh://user:secret@host", "ssh://host/path", "ssh://user@"),
    ],
)
def test_an_address_that_ssh_would_not_take_as_one_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="address"):
        validate(SshSettings, {"address": address}, Path("hosts.toml"))


@pytest.mark.parametrize(
    ("address", "said", "told"),
    [
        ("ssh://me@a:22", "a: no such thing as a-b", "the host: no such thing as the host-b"),
        ("me@node1", "Node1 says node12", "the host says node12"),
        ("ssh://[fe80::1]:22", "[fe80::1] is away", "[the host] is away"),
    ],
)
def test_no_host_is_named_and_no_word_is_mistaken_for_one(address: str, said: str, told: str) -> None:
    connection = Connection(validate(SshSettings, {"address": address}, Path("hosts.toml")), Path("/nowhere"))
    connection._said.append(said)
    assert f"({told})" in str(connection.lost())
