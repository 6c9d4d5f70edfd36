from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_stack
from plan_samples import record

from orchestrator.build import lock as stack_lock
from orchestrator.build.lock import drift_of, facts_of, forget, lock_of, lock_path, mark_drift, remarks
from orchestrator.launchers import Prepared
from orchestrator.records.record import Environment
from orchestrator.records.stack_lock import StackLock

PACKAGES = {"torch": "2.1.0+cu121", "numpy": "1.26.4"}
FACTS = {
    "packages": {},
    "torch": {"version": "2.1.0+cu121", "git": "7bcf", "cuda": "12.1", "arch_list": ["sm_80", "sm_90"]},
    "left_out": ["flash_attn: not compiled, for a reason"],
}


class Launcher:
    """Counts how often it is asked."""

    def __init__(self, output: str = f"noise\n{json.dumps(FACTS)}\n") -> None:
        self.output, self.asked = output, 0

    def facts(self, _prepared: Prepared) -> str:
        self.asked += 1
        return self.output


def prepared(**changes: Any) -> Prepared:
    fields = {
        "fingerprint": "aaaa",
        "python_version": "3.10.12",
        "packages": PACKAGES,
        "image": "stackbench/x:1",
        "image_id": "sha256:" + "1" * 64,
        "lock": "f" * 64,
    }
    return Prepared(make_stack(), "python3", **{**fields, **changes})


def made(tmp_path: Path, **changes: Any) -> StackLock:
    return lock_of(Launcher(), prepared(**changes), tmp_path)  # type: ignore[arg-type]


def test_it_is_written_once_and_says_what_the_stack_is_made_of(tmp_path: Path) -> None:
    launcher = Launcher()
    lock = lock_of(launcher, prepared(), tmp_path)  # type: ignore[arg-type]
    path = lock_path(make_stack(), "stackbench/x:1", tmp_path)
    assert path.name == "stack.lock.json"
    assert json.loads(path.read_text())["packages"] == PACKAGES
    assert lock.torch is not None
    assert (lock.torch.cuda, lock.torch.arch_list) == ("12.1", ("sm_80", "sm_90"))
    assert lock.left_out == ("flash_attn: not compiled, for a reason",)
    changed = prepared(fingerprint="bbbb")
    assert lock_of(launcher, changed, tmp_path) == lock  # type: ignore[arg-type]
    assert launcher.asked == 1
    assert str(tmp_path) not in path.read_text()


def test_what_was_built_again_has_a_new_one(tmp_path: Path) -> None:
    made(tmp_path)
    forget(make_stack(), "stackbench/x:1", tmp_path)
    forget(make_stack(), "stackbench/x:1", tmp_path)
    assert made(tmp_path, fingerprint="bbbb").fingerprint == "bbbb"


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"schema_version": 2}'])
def test_one_that_cannot_be_read_is_written_again(tmp_path: Path, content: str) -> None:
    first = made(tmp_path)
    lock_path(make_stack(), "stackbench/x:1", tmp_path).write_text(content)
    assert made(tmp_path).packages == first.packages


def test_another_image_or_other_mounts_have_their_own(tmp_path: Path) -> None:
    stack = make_stack()
    assert stack.ready is not None
    mounted = stack.model_copy(update={"ready": stack.ready.model_copy(update={"mounts": ("/usr/share/team",)})})
    places = {lock_path(s, image, tmp_path) for s in (stack, mounted) for image in ("a:1", "a:2")}
    assert len(places) == 4


@pytest.mark.parametrize(
    "output", ["", "bench: error", "{", '{"torch": 1}', '{"torch": {"version": null}}', "[]", "{}"]
)
def test_a_bench_that_does_not_say_leaves_torch_unknown(output: str) -> None:
    assert facts_of(output) == (None, ())


def test_no_drift_where_nothing_changed(tmp_path: Path) -> None:
    assert drift_of(made(tmp_path), prepared()) is None
    assert remarks(made(tmp_path), prepared()) == ["fake: built without flash_attn: not compiled, for a reason"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprint": "b", "packages": {**PACKAGES, "numpy": "1.26.5"}}, "numpy 1.26.4 is now 1.26.5"),
        ({"fingerprint": "b", "packages": {"torch": "2.1.0+cu121"}}, "numpy 1.26.4 is gone"),
        ({"fingerprint": "b", "packages": {**PACKAGES, "einops": "0.8"}}, "einops 0.8 is new"),
        ({"fingerprint": "b", "python_version": "3.11.2"}, "Python 3.10.12 is now 3.11.2"),
        ({"fingerprint": "b"}, "its fingerprint differs"),
        ({"image_id": "sha256:" + "2" * 64}, "image 111111111111 is now 222222222222"),
        ({"fingerprint": "b", "packages": {f"p{i}": "1" for i in range(9)}}, "and 5 more"),
    ],
)
def test_drift_is_put_into_words(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    lock = made(tmp_path)
    found = drift_of(lock, prepared(**changes))
    assert found is not None
    assert says in found
    assert found.startswith(f"since it was built ({lock.written_utc[:10]}): ")
    assert any("`orchestrator build --stack fake --again`" in line for line in remarks(lock, prepared(**changes)))


def test_an_image_that_was_made_again_of_the_same_is_no_drift(tmp_path: Path) -> None:
    lock = made(tmp_path, image_content="c" * 64)
    again = prepared(image_id="sha256:" + "2" * 64, image_content="c" * 64)
    assert drift_of(lock, again) is None
    assert drift_of(lock, prepared(image_id="sha256:" + "2" * 64, image_content="d" * 64)) is not None
    # A lock from before the content was known.
    assert drift_of(lock.model_copy(update={"image_content": None}), again) is not None


def environment(**changes: Any) -> Environment:
    fields = {"fingerprint": "aaaa", "python": "3.10.12", "platform": "Linux", "packages": PACKAGES}
    return Environment.model_validate({**fields, **changes})


def test_a_record_of_what_was_built_is_left_as_it_is(tmp_path: Path) -> None:
    lock = made(tmp_path)
    before = record(environment=environment())
    assert mark_drift(before, lock, prepared()) is before
    assert mark_drift(record(), lock, prepared()).flags == ()


def test_a_record_of_something_else_says_so(tmp_path: Path) -> None:
    lock = made(tmp_path)
    other = environment(fingerprint="b", packages={**PACKAGES, "numpy": "1.26.5"})
    marked = mark_drift(record(environment=other, flags=("cold",), detail={"a": 1}), lock, prepared())
    assert marked.flags == ("cold", "drift")
    assert marked.detail["a"] == 1
    assert "numpy 1.26.4 is now 1.26.5" in marked.detail["drift"]
    # A cell that died has no environment to show: what was found at the start counts.
    died = mark_drift(record(status="timeout"), lock, prepared(image_id="sha256:2"))
    assert died.flags == ("drift",)


def test_a_lock_has_no_key_that_could_hold_a_path_or_a_host() -> None:
    assert set(StackLock.model_fields) == {
        *("schema_version", "stack", "written_utc", "image", "image_id", "image_content"),
        *("image_digest", "requirements"),
        *("fingerprint", "python", "packages", "torch", "left_out"),
    }
    assert stack_lock.FOLDER == "stacks"
