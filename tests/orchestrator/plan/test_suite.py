from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_samples import SUITE, write_suite

from orchestrator.base.errors import UsageError
from orchestrator.base.files import read_toml, validate
from orchestrator.base.paths import SUITES
from orchestrator.plan.cell import Device
from orchestrator.plan.suite import Suite, SuiteFile, load_suite, suite_names
from orchestrator.plan.workload import MEASURED, Workload

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'schema_version = 1\nname = "mine"\ndescription = "for a test"\n'


def refused(folder: Path, text: str) -> str:
    path = write_suite(folder, text)
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line.replace(str(path), "FILE")


@pytest.mark.parametrize("name", ["note", "compact", "smoke", "rehearsal"])
def test_every_suite_of_the_repository_has_all_five_benchmarks(name: str) -> None:
    suite = load_suite(name)
    tasks = suite.expand()
    assert suite.name == name
    assert name in suite_names()
    assert [task.workload.benchmark for task in tasks] == list(MEASURED)
    assert suite.ceilings("cuda")[0].workload.benchmark == "ceilings"
    assert all(task.methods is None for task in tasks)
    assert {task.workload.dtype for task in tasks} == {"float32" if name == "smoke" else "bfloat16"}
    assert {task.workload.weights.source for task in tasks if task.workload.weights} == {
        "probe" if name == "smoke" else "hash"
    }


def test_the_note_suite_is_the_published_comparison() -> None:
    by_name: dict[str, Workload] = {task.workload.benchmark: task.workload for task in load_suite("note").expand()}
    forward = by_name["forward"]
    assert forward.model
    assert forward.model.name == "open_llama_7b"
    assert (forward.batch, forward.sequence, forward.ids_below, forward.iterations) == (10, 2048, 32000, 10)
    for name in ("model_inference", "generation"):
        workload = by_name[name]
        assert workload.prompt == (1, 15043, 29892, 590, 1024, 338)
        assert workload.prompt_text == "Hello, my name is"
        assert (workload.batch, workload.new_tokens, workload.temperature, workload.iterations) == (1, 200, 1.0, 10)
        assert workload.sequence is None
    for name, shortest in (("train_static", None), ("train_dynamic", 10)):
        workload = by_name[name]
        assert workload.model
        assert workload.model.name == "open_llama_3b"
        assert (workload.batch, workload.sequence, workload.ids_below, workload.shortest) == (2, 2048, 100, shortest)
        assert (workload.learning_rate, workload.weight_decay) == (6e-4, 0.1)
        # The first call and the warm-up are the five that the note leaves out; 45 count.
        assert (workload.iterations, workload.warmup) == (50, 4)


def test_rehearsal_differs_from_note_in_layers_and_counts_alone() -> None:
    for full, short in zip(load_suite("note").expand(), load_suite("rehearsal").expand(), strict=True):
        a, b = full.workload.model_dump(), short.workload.model_dump()
        for other in ("iterations", "warmup", "new_tokens"):
            del a[other], b[other]
        assert b["model"].pop("layers") == 2
        assert b["model"].pop("name").endswith("_2_layers")
        del a["model"]["layers"], a["model"]["name"]
        assert a == b


AXIS = st.lists(st.integers(1, 200), min_size=1, max_size=4, unique=True)


@settings(max_examples=40, deadline=None)
@given(batches=AXIS, sequences=AXIS, models=st.lists(st.sampled_from(["tiny", "tiny_gqa"]), min_size=1, unique=True))
def test_a_list_is_an_axis(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], sequences: list[int], models: list[str]
) -> None:
    text = f"{HEAD}[[cells]]\nbenchmark = 'forward'\nmodel = {models}\nbatch = {batches}\nsequence = {sequences}\n"
    tasks = load_suite(str(write_suite(tmp_path_factory.mktemp("axis"), text))).expand()
    found = [(t.workload.model.name, t.workload.batch, t.workload.sequence) for t in tasks if t.workload.model]
    assert found == list(itertools.product(models, batches, sequences))
    assert len({task.workload.workload_id for task in tasks}) == len(tasks)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(["model = 'tiny'", "batch = 3", "sequence = [5, 7]", "dtype = 'float32'"]))
def test_ids_do_not_depend_on_the_order_of_keys(tmp_path_factory: pytest.TempPathFactory, order: list[str]) -> None:
    text = HEAD + "[[cells]]\nbenchmark = 'forward'\n" + "\n".join(order)
    tasks = load_suite(str(write_suite(tmp_path_factory.mktemp("order"), text))).expand()
    # Literal ids: they must be the same next year and under another pydantic.
    assert [task.workload.workload_id for task in tasks] == ["edc92d39203da8f7", "f420bedc2a2d46d2"]


def test_defaults_apply_where_a_benchmark_reads_them_and_cells_win(tmp_path: Path) -> None:
    text = (
        HEAD
        + "[defaults]\nbatch = 3\nsequence = 32\nshortest = 4\niterations = 7\nmethods = ['eager']\nrounds = 2\n"
        + "[[cells]]\nbenchmark = ['forward', 'train_dynamic']\nmodel = 'tiny'\n"
        + "[[cells]]\nbenchmark = 'forward'\nmodel = 'tiny'\nbatch = 1\nmethods = ['inductor']\ntimeout_s = 5\n"
    )
    forward, dynamic, other = load_suite(str(write_suite(tmp_path, text))).expand()
    assert (forward.workload.batch, forward.workload.shortest, forward.workload.iterations) == (3, None, 7)
    assert (dynamic.workload.shortest, dynamic.methods, dynamic.rounds) == (4, ("eager",), 2)
    assert (other.workload.batch, other.methods, other.timeout_s) == (1, ("inductor",), 5.0)


def test_fields_that_a_benchmark_does_not_use_are_null() -> None:
    used = {"batch", "sequence", "ids_below"}
    work = load_suite("smoke").expand()[0].workload.model_dump()
    optional = ["shortest", "prompt", "prompt_text", "new_tokens", "temperature", "learning_rate", "weight_decay"]
    assert all(work[key] is None for key in [*optional, "matrix_sizes", "copy_bytes"])
    assert all(work[key] is not None for key in used)


def test_a_suite_without_ceilings_gets_what_suits_the_device(tmp_path: Path) -> None:
    text = SUITE.replace("[ceilings]\nmatrix_sizes = [64]\ncopy_bytes = 1024\n", "")
    suite = load_suite(str(write_suite(tmp_path, text)))
    assert suite.ceilings("cuda")[0].workload.matrix_sizes == (8192, 16384)
    assert max(suite.ceilings("cpu")[0].workload.matrix_sizes or ()) <= 1024


def test_ceilings_are_sustained_and_in_tf32_on_a_gpu_alone(tmp_path: Path) -> None:
    def found(suite: Suite, device: Device) -> list[tuple[object, ...]]:
        tasks = suite.ceilings(device, ["bfloat16", "float32"])
        return [(w.dtype, w.precisions, w.soak_s, w.sustained_s) for w in (task.workload for task in tasks)]

    suite = load_suite(str(write_suite(tmp_path, SUITE)))
    assert found(suite, "cuda") == [("bfloat16", None, 5.0, 20.0), ("float32", ("tf32",), 5.0, 20.0)]
    assert found(suite, "cpu") == [("bfloat16", None, None, None), ("float32", None, None, None)]
    short = load_suite(str(write_suite(tmp_path, SUITE.replace("[ceilings]\n", "[ceilings]\nsustained_s = 0\n"))))
    assert found(short, "cuda") == [("bfloat16", None, None, None), ("float32", ("tf32",), None, None)]


MODEL = "layers = 1\nwidth = 64\nheads = 4\nmlp_width = 32\nvocabulary = 512\nblock_size = 128\n"
CELL = "[[cells]]\nbenchmark = 'forward'\nmodel = 'own'\nbatch = 1\nsequence = 8\n"


def test_own_model_by_dimensions(tmp_path: Path) -> None:
    suite = load_suite(str(write_suite(tmp_path, f"{HEAD}[models.own]\n{MODEL}\n{CELL}")))
    model = suite.models["own"]
    assert (model.kv_heads, model.head_size, model.tied_head, model.rope_base) == (4, 16, False, 10000.0)


def test_own_model_by_config_beside_the_suite(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "intermediate_size": 32,
        "vocab_size": 512,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text(json.dumps(config))
    suite = load_suite(str(write_suite(tmp_path, f"{HEAD}[models.own]\nconfig = 'models/config.json'\n{CELL}")))
    assert suite.models["own"].kv_heads == 2
    assert suite.models["own"].name == "own"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (f"{MODEL}config = 'x.json'", "give exactly one of dimensions, config, checkpoint"),
        ("layers = 1", "missing: width, heads"),
        (MODEL.replace("width = 64", "width = 65", 1), "width 65 is not a multiple of heads 4"),
        (f"{MODEL}kv_heads = 3", "not a multiple of kv_heads 3"),
        (f"{MODEL}head_size = 5", "head_size 5 is odd"),
        (f"{MODEL}wdith = 3", 'models.own.wdith: unknown key (did you mean "width"?)'),
        ("config = 'nowhere.json'", "nowhere.json: no such file"),
        ("checkpoint = 'nowhere'", "nowhere: does not exist"),
    ],
)
def test_bad_models_are_refused(tmp_path: Path, entry: str, says: str) -> None:
    path = write_suite(tmp_path, f"{HEAD}[models.own]\n{entry}\n{CELL}")
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_built_in_name_is_not_taken_twice(tmp_path: Path) -> None:
    line = refused(tmp_path, f"{HEAD}[models.tiny]\n{MODEL}\n{CELL}")
    assert "models.tiny: this name is taken" in line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch = 2", "batch = -2", "FILE: cells[0].batch: must be greater than 0, is -2"),
        ("batch = 2", "batch = 0", "FILE: cells[0].batch: must be greater than 0, is 0"),
        ("batch = 2", "batch = [2, 0]", "FILE: cells[0].batch[1]: must be greater than 0, is 0"),
        ("batch = 2", "batch = []", "FILE: cells[0].batch: "),
        ("batch = 2", 'batch = "2"', 'FILE: cells[0].batch: must be a valid integer, is "2"'),
        ("batch = 2", "batch = 2.0", "FILE: cells[0].batch: must be a valid integer, is 2.0"),
        ("batch = 2", "batch = true", "FILE: cells[0].batch: must be a valid integer, is true"),
        ("batch = 2", f"batch = {10**30}", "FILE: cells[0].batch: must be "),
        (
            "batch = 2",
            f"batch = {[*range(1, 200)]}\nseed = {[*range(200)]}",
            "FILE: cells[0]: more than 10000 workloads",
        ),
        ("batch = 2", f"batch = {2**63}", "FILE: cells[0].batch: must be an integer of at most 64 bits"),
        ("batch = 2", "batch = " + "9" * 5000, "FILE: an integer has thousands of digits"),
        ("[[cells]]", "x." * 200 + "y = 1\n[[cells]]", "FILE: nested too deeply"),
        ("batch = 2", "batch = 1979-05-27", "FILE: a value of a kind that is not used here"),
        ("batch = 2", "", "FILE: cells[0].batch: missing; forward needs it"),
        ("batch = 2", "batches = 2", 'FILE: cells[0].batches: unknown key (did you mean "batch"?)'),
        ("sequence = 64", "sequence = 257", "FILE: cells[0].sequence: 257 is beyond the block size 256 of tiny"),
        ("sequence = 64", "sequence = [64, 300]", "300 is beyond the block size 256 of tiny"),
        ("sequence = 64", "sequence = 64\nshortest = 3", "FILE: cells[0].shortest: forward does not use this key"),
        ("sequence = 64", "sequence = 64\nids_below = 513", "FILE: cells[0].ids_below: 513 is beyond the vocabulary"),
        ("sequence = 64", "sequence = 64\niterations = 3", "FILE: cells[0].iterations: 3 leaves no timed sample"),
        (
            "sequence = 64",
            "sequence = 64\niterations = 9500",
            "FILE: cells[0].iterations: 9500 samples and their tokens do",
        ),
        ("new_tokens = 8", "new_tokens = 254", "254 after a prompt of 3 is beyond the block size 256 of tiny"),
        ("new_tokens = 8", "new_tokens = 8\ntemperature = 0", "temperature: must be greater than 0, is 0"),
        ("new_tokens = 8", "new_tokens = 8\ntemperature = nan", "FILE: cells[1].temperature: must be a finite number"),
        ("new_tokens = 8", "new_tokens = 8\ntimeout_s = inf", "FILE: cells[1].timeout_s: must be "),
        ("prompt = [1, 2, 3]", "prompt = [1, 512]", "FILE: cells[1].prompt: id 512 is not in the vocabulary of tiny"),
        ("prompt = [1, 2, 3]", "prompt = []", "FILE: cells[1].prompt: "),
        ('"forward"', '"forwrad"', 'FILE: cells[0].benchmark: unknown benchmark "forwrad" (did you mean "forward"?)'),
        ('"forward"', '"ceilings"', 'unknown benchmark "ceilings"'),
        ('"tiny"', '"tinny"', 'FILE: cells[0].model: unknown model "tinny" (did you mean "tiny"?)'),
        ("schema_version = 1", "schema_version = 2", "FILE: schema_version: must be less than or equal to 1, is 2"),
        ("schema_version = 1", "", "FILE: schema_version: missing; add this key"),
        ('name = "mine"', 'name = "../mine"', "FILE: name: "),
        ("matrix_sizes = [64]", "matrix_sizes = [-64]", "FILE: ceilings.matrix_sizes[0]: must be greater than 0"),
        ("[ceilings]", "[ceilngs]", 'FILE: ceilngs: unknown key (did you mean "ceilings"?)'),
        ("[[cells]]", "[cells]", "FILE: "),
        ("batch = 2", "batch = ", "FILE: not valid TOML: "),
    ],
)
def test_bad_suites_are_refused_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in SUITE
    assert says in refused(tmp_path, SUITE.replace(old, new, 1))


def test_shortest_above_sequence_is_refused(tmp_path: Path) -> None:
    text = f"{HEAD}[[cells]]\nbenchmark = 'train_dynamic'\nmodel = 'tiny'\nbatch = 1\nsequence = 8\nshortest = 9\n"
    assert "cells[0].shortest: 9 is more than sequence 8" in refused(tmp_path, text)


def test_no_cells_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    assert "cells: " in refused(tmp_path, f"{HEAD}cells = []\n")
    assert "missing" in refused(tmp_path, "")


@pytest.mark.parametrize("name", ["nott", "Note", "note2"])
def test_an_unknown_name_lists_the_suites(name: str) -> None:
    known = "compact, models, note, rehearsal, scaling, scaling_smoke, smoke"
    with pytest.raises(UsageError, match=rf"unknown suite .*known: {known}"):
        load_suite(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    place=st.sampled_from(["suite", "cell", "ceilings", "defaults", "model"]),
    key=st.sampled_from(
        ["batch", "sequence", "name", "cells", "model", "benchmark", "methods", "prompt", "x", "config"]
    ),
    value=JSON,
)
def test_whatever_stands_in_a_file_is_a_suite_or_one_line(place: str, key: str, value: Any) -> None:
    raw = read_toml(SUITES / "rehearsal.toml")
    tables = {
        "suite": raw,
        "cell": raw["cells"][0],
        "ceilings": raw["ceilings"],
        "defaults": raw["defaults"],
        "model": raw["models"]["open_llama_7b_2_layers"],
    }
    tables[place][key] = value
    line = ""
    try:
        validate(SuiteFile, raw, SUITES / "rehearsal.toml")
    except UsageError as error:
        line = str(error)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sequence = 64", "sequence = 64\nmethods = []", "cells[0].methods: must not be empty"),
        ('name = "mine"', 'name = "My Suite"', "name: must be of small letters, digits, - and _, and begin with"),
        ('name = "mine"', "name = '" + "x" * 61 + "'", "name: must have at most 60 characters, is"),
        ('name = "mine"', "name = 7", "name: must be text, is 7"),
        ("[ceilings]", "[ceilings]\nx = 1", "ceilings.x: unknown key"),
    ],
)
def test_what_is_wrong_is_in_plain_words(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_suite(str(write_suite(tmp_path, SUITE.replace(old, new, 1))))
    assert says in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Tuple", "String", "should", "Input", "tuple", "dictionary"))


def test_the_first_few_of_many_errors_are_all_named(tmp_path: Path) -> None:
    wrong = "sequence = -1\nseed = -3\niterations = 0\nwarmup = -1\nbatchh = 4"
    with pytest.raises(UsageError) as caught:
        load_suite(str(write_suite(tmp_path, SUITE.replace("sequence = 64", wrong, 1))))
    says = str(caught.value)
    assert says.count("cells[0].") == 4, says
    assert 'cells[0].batchh: unknown key (did you mean "batch"?); cells[0].' in says
    assert "\n" not in says


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_suite(str(path)).name == "mine"


def test_longrope_ends_at_its_original_context_and_says_why(tmp_path: Path) -> None:
    text = load_suite("models").path.read_text().replace("sequence = 2048", "sequence = 5000")
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="beyond the block size 4096 of phi_4_mini, behind which its rotary scaling"):
        load_suite(str(path))
