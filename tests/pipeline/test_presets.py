"""Presets: each fits the schema, its task and the tiny twin of its model."""

from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.architectures import ARCHITECTURES
from helpers.import_graph import ROOT
from helpers.params_file import PRESET_TASKS, PRESETS
from helpers.tiny_models import draw_random_scores
from ruamel.yaml import YAML

from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.benchmark.random_models import make_config
from lightpeft.modeling.families import FAMILIES
from lightpeft.planning.make_plan import make_plan
from lightpeft.profiling.random_batches import find_max_batch_length
from pipeline.__main__ import run
from pipeline.common.pruning_params import Params, to_yaml_values
from pipeline.data.catalog.registry import CATALOG
from pipeline.presets import list_presets, merge, read_preset
from pipeline.stages.estimate import make_peft_config
from pipeline.tasks.base import is_decoder
from pipeline.tasks.model_loading import find_head_modules
from pipeline.tasks.registry import SCHEMAS, choose_task

# model.name -> its tiny twin in helpers/architectures.py, and its size where it is published here.
MODELS = {
    "roberta-large": ("roberta", "roberta-large"),
    "facebook/opt-1.3b": ("opt", "opt-1.3b"),
    "facebook/opt-6.7b": ("opt", "opt-6.7b"),
    "meta-llama/Llama-2-7b-hf": ("llama, one key and value per head", "llama-2-7b"),
    "meta-llama/Meta-Llama-3-8B": ("llama, shared keys and values", "llama-3-8b"),
    "Qwen/Qwen3-0.6B-Base": ("qwen3", "qwen3-0.6b"),
    "Qwen/Qwen3-8B-Base": ("qwen3", "qwen3-8b"),
    "google/gemma-3-4b-pt": ("gemma3", "gemma-3-4b"),
    "answerdotai/ModernBERT-base": ("modernbert", "modernbert-base"),
    "answerdotai/ModernBERT-large": ("modernbert", None),
    "smollm2": ("llama, shared keys and values", None),
}
MINE = "about: mine\nsettings: {%s}\ntasks: {docstrings: {%s}}\n"


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def folder(cwd):
    """A folder with no preset and no params.yaml, as the current one."""
    (cwd / "presets").mkdir()
    return cwd


def is_decoder_twin(twin: str) -> bool:
    return is_decoder(ARCHITECTURES[twin].config())


def at(sections: dict, name: str) -> object:
    """What stands at `section.key`, or at `key`."""
    section, _, key = name.rpartition(".")
    return (sections[section] if section else sections)[key]


def kind_of(params: Params) -> type:
    entry, (twin, _) = CATALOG[params.data.task], MODELS[params.model.name]
    return choose_task(SCHEMAS[entry.kind], entry.classes, ARCHITECTURES[twin].config())


@cache
def twin_scores(twin: str, task: type, peft: object) -> object:
    """Random scores of a tiny model with the kind's head, for the PEFT method."""
    torch.manual_seed(0)
    model = task.model_class.from_config(ARCHITECTURES[twin].config()).eval()
    head = find_head_modules(model, set()) if task.new_head else []
    return draw_random_scores(model, config=make_peft_config(peft, task, head))


def test_the_presets_are_of_the_paper_and_of_todays_models():
    assert list_presets() == PRESETS
    models = {read_preset(name).make_params(task).model.name for name, task in PRESET_TASKS}
    assert models == set(MODELS)
    paper = [task for name, task in PRESET_TASKS if name == "paper-roberta-large"]
    assert sorted(paper) == sorted(t for t in CATALOG if t.startswith(("glue/", "super_glue/")))


@pytest.mark.parametrize("name", PRESETS)
def test_settings_hold_only_what_differs_from_the_defaults(name):
    preset, defaults = read_preset(name), to_yaml_values(Params())

    for section, values in preset.settings.items():
        for key, value in values.items() if isinstance(values, dict) else [(None, values)]:
            default = defaults[section] if key is None else defaults[section][key]
            assert value != default, f"{section}.{key}"


@pytest.mark.parametrize(("name", "task"), PRESET_TASKS)
def test_a_plan_can_be_made_for_the_tiny_twin(name, task):
    params = read_preset(name).make_params(task)
    twin, _ = MODELS[params.model.name]
    assert ARCHITECTURES[twin].config().model_type in FAMILIES

    scores = twin_scores(twin, kind_of(params), params.peft)
    plan = make_plan(
        scores, params.prune.make_config("light", seed=params.seed, decoder=is_decoder_twin(twin))
    )

    assert not plan.keeps_base_intact
    assert any(cut.kept for cut in plan.ranks.values())


def test_gemmas_vision_tower_carries_no_lora_and_takes_no_cut_from_the_language_model():
    params = read_preset("gemma-3-4b").make_params("hellaswag")
    scores = twin_scores("gemma3", kind_of(params), params.peft)
    plan = make_plan(scores, params.prune.make_config("light", seed=0, decoder=True))

    assert {name.split(".")[1] for name in plan.ranks} == {"language_model"}
    assert {len(cut.kept) for name, cut in plan.neurons.items()} == {32}


@pytest.mark.parametrize(("name", "task"), PRESET_TASKS)
def test_rows_fit_the_positions_of_the_model(name, task):
    params = read_preset(name).make_params(task)
    shape = MODELS[params.model.name][1]
    if shape is not None:
        most = find_max_batch_length(make_config(shape), MODEL_SIZES[shape].kind)
        assert params.benchmark.length <= most
        assert params.data.max_length <= most


@pytest.mark.parametrize(("name", "task"), PRESET_TASKS)
def test_estimation_is_short_and_on_batches_of_the_same_size(name, task):
    params = read_preset(name).make_params(task)

    assert params.estimate.steps <= 0.25 * params.finetune.steps
    assert params.estimate.batch_size == params.finetune.batch_size
    assert params.estimate.batch_size * params.estimate.steps <= 800 * 32
    assert 9 <= params.finetune.steps / params.finetune.evaluate_every <= 21


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("paper-")])
def test_the_papers_setting_is_the_line_of_the_docs(name):
    preset = read_preset(name)
    text = (ROOT / "docs" / "presets.md").read_text()
    line = text.split("## The paper's setting")[1].split("```")[1].removeprefix("bash\ndvc exp run")
    expected = dict(word.split("=") for word in line.replace("\\", "").replace("-S", "").split())

    changes = preset.list_changes(next(iter(preset.tasks)))
    actual = {key: str(at(changes, key)) for key in expected}
    assert actual == expected
    assert preset.settings["estimate"]["lr"] == preset.settings["finetune"]["lr"] == 3e-4


def test_all_presets_are_listed_with_their_tasks(capsys):
    run("preset")

    listed = capsys.readouterr().out
    for name, task in PRESET_TASKS:
        about = read_preset(name).about
        assert f"{name}: {about}\n" in listed
        assert task in listed.split(f"{name}: ")[1].split(":")[0]


def test_a_preset_alone_lists_its_tasks(capsys):
    run("preset", "paper-roberta-large")

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*read_preset("paper-roberta-large").tasks]
    rte = "1,560 batches of 32, 390 of them estimation, up to 256 tokens"
    assert next(line for line in lines if line.startswith("glue/rte")).endswith(rte)


def test_a_preset_of_ones_own_with_one_task_needs_no_task(folder, capsys):
    text = MINE % ("seed: 7, model: {name: a/b-1.x}", "peft: {targets: [query, key]}")
    (folder / "presets" / "mine.yaml").write_text(text)

    run("preset", "mine")

    printed = YAML(typ="safe").load(capsys.readouterr().out)
    changed = {"seed": 7, "model": {"name": "a/b-1.x"}, "peft": {"targets": ["query", "key"]}}
    assert printed == merge(to_yaml_values(Params()), changed)


@pytest.mark.parametrize("text", ["prune: [", "", "seed: 1", "prune: {ratio: 0.1}"])
def test_a_preset_overrides_all_settings_and_needs_no_good_params_yaml(folder, capsys, text):
    (folder / "presets" / "mine.yaml").write_text(MINE % ("", ""))
    (folder / "params.yaml").write_text(text)

    run("preset", "mine")

    assert YAML(typ="safe").load(capsys.readouterr().out) == to_yaml_values(Params())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINE % ("prune: {head: 0.1}", ""), "unknown key prune.head; did you mean prune.heads"),
        (MINE % ("", "finetune: {steps: 9}"), "finetune.steps counts the estimation's steps"),
        (MINE % ("speed: {up: 2}", ""), "preset mine for docstrings: unknown key speed; "),
        (MINE % ("seed: {up: 2}", ""), "seed must be an integer from 0"),
        (MINE % ("data: {train: null}", ""), "data.train must be auto or a name, got None"),
        (MINE % ("1: 2, data: {3: 4}", ""), "unknown key"),
        (MINE % ("data: {train: my rows.csv, task: files}", ""), "data.train is not for"),
        ("about: mine\nsettings: {}\n", "must hold about, settings and tasks, got about, settings"),
        ("about: 1\nsettings: {}\ntasks: {a: {}}\n", "about must be a line of text, got 1"),
        ("about: mine\nsettings: {}\ntasks: {}\n", "tasks must be names with their settings"),
        ("about: mine\nsettings: {}\ntasks: {1: {}}\n", "tasks must be names with their settings"),
        ("1: mine\n", "must hold about, settings and tasks, got 1"),
        ("about: mine\nsettings: {}\ntasks: {a: 1}\n", "must hold settings by section, got 1"),
        ("- a\n", "must hold sections, got list"),
    ],
)
def test_a_wrong_preset_of_ones_own_is_one_line(text, message, folder, capsys):
    (folder / "presets" / "mine.yaml").write_text(text)

    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run("preset", "mine")
    assert capsys.readouterr().out == ""


def test_a_folder_without_presets_is_one_line(folder):
    (folder / "presets").rmdir()

    with pytest.raises(SystemExit, match=r"^error: presets does not exist; run from"):
        run("preset")
    assert not Path("presets").exists()
