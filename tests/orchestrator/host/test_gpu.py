from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.build import ready as able
from orchestrator.host import devices
from orchestrator.host.gpu import HostGpu, choose_gpu, gpus
from orchestrator.launchers.gpu_access import driver_libraries, driver_mounts, gpu_grant, raw_devices
from orchestrator.plan.choice import RunOptions
from orchestrator.plan.stack import Gpu, ReadyImage, Stack

IDLE = HostGpu("GPU-a", 0, "H100", "550.54.15", compute_capability="9.0", minor=3)
BUSY = HostGpu("GPU-b", 1, "H100", "550.54.15", compute_capability="9.0", minor=1, processes=(1, 2))
LOADED = HostGpu("GPU-c", 2, "H100", "550.54.15", utilisation=80)


def test_a_host_without_a_driver_has_none() -> None:
    assert isinstance(gpus().found, tuple)


def test_the_idle_one_is_chosen() -> None:
    assert choose_gpu([BUSY, LOADED, IDLE], None, allow_busy=False) is IDLE
    assert choose_gpu([BUSY, IDLE], "GPU-b", allow_busy=True) is BUSY
    assert choose_gpu([BUSY, LOADED], None, allow_busy=True) is LOADED


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        ([], None, "no GPU is here"),
        ([IDLE], "GPU-x", 'no GPU "GPU-x"; known: GPU-a (H100)'),
        ([IDLE, BUSY], "GPU-b", "2 other processes use it"),
        ([LOADED], None, "80 % utilised"),
    ],
)
def test_what_is_refused(found: list[HostGpu], wanted: str | None, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_gpu(found, wanted, allow_busy=False)
    assert words in str(caught.value)


def test_a_gpu_busy_with_another_run_of_ours_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.host.locks.is_free", lambda uuid: uuid != "GPU-b")
    assert devices.pick_gpu([BUSY], RunOptions()) is BUSY
    assert devices.pick_gpu([BUSY, IDLE], RunOptions()) is IDLE
    assert devices.pick_gpu([BUSY, IDLE], RunOptions(gpu="GPU-b")) is BUSY
    with pytest.raises(UsageError):
        devices.pick_gpu([BUSY, LOADED], RunOptions(gpu="GPU-c"))
    assert devices.pick_gpu([], RunOptions()) is None


def stack(gpu: Gpu, mounts: tuple[str, ...] = ()) -> Stack:
    ready = ReadyImage(name="x", mounts=mounts)
    return Stack(schema_version=1, name="x", description="x", methods=("eager",), ready=ready, gpu=gpu)


@pytest.mark.parametrize(
    ("gpu", "host", "words"),
    [
        (Gpu(required=True), None, "there is none to run on"),
        (Gpu(driver="580.1"), IDLE, "needs driver 580.1 or later, and this host has 550.54.15"),
        (Gpu(compute_capability="10.0"), IDLE, "capability 10.0 or higher, and H100 has 9.0"),
        (Gpu(driver="550.54", compute_capability="9.0"), IDLE, None),
    ],
)
def test_a_stack_that_this_host_cannot_run(gpu: Gpu, host: HostGpu | None, words: str | None) -> None:
    reason = able.why_not(stack(gpu), host, "cuda")
    assert reason is None if words is None else words in (reason or "")
    assert able.why_not(stack(gpu), host, "cpu") is None


def test_one_gpu_only_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    request = gpu_grant("request", IDLE, stack(Gpu()))
    assert request.requests[0]["DeviceIDs"] == ["GPU-a"]
    assert request.environment["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    cdi = gpu_grant("cdi", IDLE, stack(Gpu()))
    assert (cdi.requests[0]["Driver"], cdi.requests[0]["DeviceIDs"]) == ("cdi", ["nvidia.com/gpu=GPU-a"])
    there = ["/dev/nvidia1", "/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    monkeypatch.setattr("glob.glob", lambda pattern: [d for d in there if pattern in (d, "/dev/nvidia[0-9]*")])
    raw = gpu_grant("raw", IDLE, stack(Gpu(), mounts=("/usr",)))
    names = [device.partition(":")[0] for device in raw.devices]
    assert "/dev/nvidia3" in names
    assert "/dev/nvidia1" not in names
    assert raw.mounts == ()
    with pytest.raises(UsageError):
        gpu_grant("none", IDLE, stack(Gpu()))


def test_devices_of_a_stack_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("")
    assert raw_devices(IDLE, (f"{tmp_path}/*",)) == (f"{tmp_path}/one", f"{tmp_path}/two")


def test_driver_libraries_are_found_as_files(tmp_path) -> None:
    (tmp_path / "libcuda.so.550").write_text("")
    (tmp_path / "libcuda.so.1").symlink_to("libcuda.so.550")
    assert driver_libraries((str(tmp_path),)) == {"libcuda.so.1": tmp_path / "libcuda.so.550"}


def test_the_driver_has_all_of_its_names_in_one_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, state, tools = tmp_path / "lib", tmp_path / "state", tmp_path / "bin"
    for folder in (place, tools):
        folder.mkdir()
    for name, real in {"libcuda.so.1": "libcuda.so.550.1", "libnvidia-gpucomp.so.550.1": None}.items():
        (place / (real or name)).write_text(name)
        if real:
            (place / name).symlink_to(real)
    monkeypatch.setenv("PATH", str(tools))
    assert driver_mounts(state, (str(tmp_path / "none"),)) == ()
    (folder, inside), *files = driver_mounts(state, (str(place),))
    assert inside == "/usr/local/nvidia/lib64"
    assert files == [
        (str(place / name), f"{inside}/{name}") for name in ("libcuda.so.550.1", "libnvidia-gpucomp.so.550.1")
    ]
    there = {path.name: path.is_symlink() and path.readlink().name for path in Path(folder).iterdir()}
    assert there == {
        **dict.fromkeys(("libcuda.so.550.1", "libnvidia-gpucomp.so.550.1"), False),
        "libcuda.so.1": "libcuda.so.550.1",
        "libcuda.so": "libcuda.so.1",
        "libnvidia-gpucomp.so": "libnvidia-gpucomp.so.550.1",
    }
    assert Path(folder).stat().st_mode & 0o777 == 0o755
    (tools / "nvidia-smi").write_text("#!/bin/sh\n")
    (tools / "nvidia-smi").chmod(0o755)
    assert driver_mounts(state, (str(place),))[-1] == (str(tools / "nvidia-smi"), "/usr/bin/nvidia-smi")
    assert [path.name for path in (state / "driver").iterdir()] == [Path(folder).name]
