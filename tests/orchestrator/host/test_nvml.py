"""NVML answers oddly: each command goes on, and says what NVML said. A C library stands for the driver's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.host import devices, gpu
from orchestrator.host.gpu import Gpus, HostGpu, ask, choose_gpu, gpus, selected, visible
from orchestrator.plan.choice import RunOptions

SUPPORT = Path(__file__).parents[2] / "support"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
HERE = [HostGpu(f"GPU-{uuid}", index, "RTX 3090", "555.85") for index, uuid in enumerate(("1a-x", "1a-y", "2b-z"))]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler to make the library with")
    folder = tmp_path_factory.mktemp("nvml")
    command = [
        COMPILER,
        "-shared",
        "-fPIC",
        "-w",
        "-o",
        str(folder / "libnvidia-ml.so.1"),
        str(SUPPORT / "fake_nvml.c"),
    ]
    subprocess.run(command, check=True)
    return folder


def output(library: Path, tmp_path: Path, *words: str, code: int = 0, **variables: str) -> str:
    """Return what the command prints."""
    surroundings = {key: value for key, value in os.environ.items() if key != gpu.VISIBLE}
    surroundings |= {"LD_LIBRARY_PATH": str(library), "DOCKER_HOST": f"unix://{tmp_path}/none.sock", **variables}
    command = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("", "suite note on RTX 3090, "),
        ("bytes", "suite note on \ufffd\ufffd\ufffd1, "),
        ("escape", "suite note on RTX ]0;x 3090, "),
        ("noname", "suite note on NVIDIA GPU, "),
        ("driver", "on RTX 3090 (NVML: driver: Unknown Error), "),
        ("badtext", "on RTX 3090 (NVML: driver: NVMLError), "),
        ("supports nothing", "suite note on RTX 3090, "),
        ("huge", "suite note on RTX 3090, "),
        ("shutdown", "suite note on RTX 3090, "),
        ("lostfirst", "on RTX 3090 (NVML: GPU 0: GPU is lost"),
        ("nouuid", "on RTX 3090 (NVML: GPU 0: Unknown Error), "),
        (
            "lost",
            "on the CPU, stacks cpu, in plain processes (no Docker Engine answers): no GPU can be asked (NVML: GPU 0:",
        ),
        ("count", "no GPU can be asked (NVML: GPUs: Unknown Error)"),
        ("mismatch", "no GPU can be asked (NVML: RM has detected an NVML/RM version mismatch. (the driver was updated"),
        ("notloaded", "no GPU can be asked (NVML: Driver Not Loaded"),
        ("nopermission", "no GPU can be asked (NVML: Insufficient Permissions"),
        ("none", ": no GPU is here"),
    ],
)
def test_the_first_line_names_the_gpu_or_what_nvml_said(library: Path, tmp_path: Path, fault: str, says: str) -> None:
    assert says in output(library, tmp_path, "plan", FAKENVML=fault).splitlines()[0]


@pytest.mark.parametrize(
    ("allowed", "words", "says"),
    [
        ("1", (), "on RTX 3090 (CUDA_VISIBLE_DEVICES=1 leaves GPU 1 of 2), "),
        ("GPU-11111111-b", (), "(CUDA_VISIBLE_DEVICES=GPU-11111111-b leaves GPU 1 of 2), "),
        (
            "",
            (),
            ': CUDA_VISIBLE_DEVICES="" leaves none of 2 GPUs',
        ),
        ("-1", (), "CUDA_VISIBLE_DEVICES=-1 leaves none of 2 GPUs"),
        ("MIG-GPU-1/7/0", (), "leaves none of 2 GPUs (a slice of a GPU by MIG is not one)"),
        ("1", ("--gpu", "0"), "on RTX 3090 (by --gpu; CUDA_VISIBLE_DEVICES is not asked), "),
        ("", ("--gpu", "11111111-B"), "on RTX 3090 (by --gpu; CUDA_VISIBLE_DEVICES is not asked), "),
    ],
)
def test_what_cuda_visible_devices_leaves_is_said(
    library: Path, tmp_path: Path, allowed: str, words: tuple[str, ...], says: str
) -> None:
    assert says in output(library, tmp_path, "plan", *words, CUDA_VISIBLE_DEVICES=allowed).splitlines()[0]


def test_a_gpu_that_was_asked_for_and_cannot_be_had_is_one_line(library: Path, tmp_path: Path) -> None:
    line = output(library, tmp_path, "plan", "--gpu", "0", code=4, FAKENVML="mismatch")
    assert "--gpu: no GPU can be asked (NVML: RM has detected" in line
    line = output(library, tmp_path, "plan", "--gpu", "GPU-1", code=4)
    assert '"GPU-1" is the beginning of several UUIDs; known: GPU-11111111-aaaa (RTX 3090), ' in line


@pytest.mark.parametrize(("words", "blamed"), [(("--gpus", "0,9"), "--gpus"), (("--hosts", "lab.toml"), "lab: gpus")])
def test_a_wrong_gpu_is_blamed_on_what_names_it(
    library: Path, tmp_path: Path, words: tuple[str, ...], blamed: str
) -> None:
    entry = '[[hosts]]\nname = "lab"\nlauncher = "local"\ngpus = ["9"]\n'
    (tmp_path / "lab.toml").write_text(f"schema_version = 1\n{entry}", encoding="utf-8")
    words = tuple(str(tmp_path / word) if word == "lab.toml" else word for word in words)
    assert f'{blamed}: no GPU "9"; known: ' in output(library, tmp_path, "plan", *words, code=4)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"FAKENVML": "mismatch"}, "warn  GPU                 NVML: RM has detected an NVML/RM version mismatch."),
        ({"FAKENVML": "lostfirst"}, "warn  GPU                 NVML: GPU 0: GPU is lost"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 'warn  GPU                 CUDA_VISIBLE_DEVICES="" leaves none of 2 GPUs'),
        ({"FAKENVML": "driver"}, "ok    GPU 1               GPU-11111111-bbbb RTX 3090, 25.8 GB, driver unknown"),
    ],
)
def test_the_doctor_says_it_too(library: Path, tmp_path: Path, variables: dict[str, str], says: str) -> None:
    assert says in output(library, tmp_path, "doctor", **variables)


@pytest.mark.parametrize(
    ("allowed", "left"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 2 , 1", [2, 1]),
        ("1gpu,02", [1, 2]),
        ("1,7,0", [1]),
        ("7,1", []),
        ("1,-1,0", [1]),
        ("0,0", []),
        ("", []),
        ("-1", []),
        ("none", []),
        ("9" * 5000, []),
        ("GPU-2", [2]),
        ("GPU-2b-z,GPU-1a-x", [2, 0]),
        ("GPU-1a", []),
        ("GPU-2b,GPU-1a,GPU-1a-x", [2]),
        ("GPU-2b,0", [2]),
        ("GPU-2b,GPU-2b", []),
        ("0,GPU-2b", [0]),
        ("MIG-1a", []),
    ],
)
def test_cudas_own_rules(allowed: str, left: list[int]) -> None:
    assert [found.index for found in visible(HERE, allowed)] == left


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [("0", [0]), ("2", [2]), ("GPU-2", [2]), ("1A-Y", [1]), ("gpu-1a", [0, 1]), ("", []), ("7", []), ("9" * 5000, [])],
)
def test_a_number_or_the_beginning_of_a_uuid_names_a_gpu(wanted: str, indices: list[int]) -> None:
    assert [found.index for found in selected(HERE, wanted)] == indices


def test_the_one_that_is_picked_is_visible_or_named() -> None:
    hidden = [HostGpu("GPU-a", 0, "H100", "550", visible=False), HostGpu("GPU-b", 1, "H100", "550")]
    assert devices.pick_gpu(hidden, RunOptions()) is hidden[1]
    assert devices.pick_gpu(hidden, RunOptions(gpu="0")) is hidden[0]
    assert devices.pick_gpu(hidden[:1], RunOptions()) is None
    assert choose_gpu(hidden, None, allow_busy=False) is hidden[1]
    with pytest.raises(UsageError, match="because; leave it out"):
        choose_gpu(hidden[:1], None, allow_busy=False, why_none="because")


@pytest.mark.parametrize(
    "error",
    [
        OSError("gone"),
        ValueError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        RecursionError("deep"),
        KeyError(1),
    ],
)
def test_whatever_a_call_raises_is_not_known_and_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def call(*_arguments: object) -> None:
        raise error

    calls = ("nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount", "nvmlDeviceGetUUID")
    monkeypatch.setattr(gpu, "pynvml", SimpleNamespace(**dict.fromkeys(calls, call)))
    answer = ask("nvmlDeviceGetUUID", 0)
    assert answer == ("\ufffd", None, "") if isinstance(error, UnicodeDecodeError) else answer.why
    found = gpus()
    assert found.found == ()
    assert found.trouble
    assert "\n" not in found.why_none


def test_the_reason_survives_an_error_that_cannot_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise OSError

    def call() -> None:
        raise Silent

    monkeypatch.setattr(gpu, "pynvml", SimpleNamespace(nvmlInit=call))
    assert ask("nvmlInit") == (None, "Silent", "Silent")
    assert ask("nvmlWhatIsNotThere").kind == "AttributeError"
    assert Gpus().why_none == "no GPU is here"
