"""params.yaml: the shipped file loads, and every mistake is one line that helps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml
from helpers.import_graph import ROOT
from pydantic import ValidationError
from ruamel.yaml import YAML

from lightpeft.core.config import SEARCHED
from pipeline.common.errors import ConfigError
from pipeline.common.pruning_params import Params, load_params
from pipeline.common.validation import find_section_class

SHIPPED = ROOT / "params.yaml"


def written(folder: Path, changes: dict[str, Any]) -> Path:
    """The shipped file with some keys set; a value of `...` removes the key."""
    raw = YAML(typ="safe").load(SHIPPED)
    for path, value in changes.items():
        *sections, key = path.split("/")
        parent = raw
        for section in sections:
            parent = parent[section]
        if value is ...:
            del parent[key]
        else:
            parent[key] = value
    file = folder / "params.yaml"
    with file.open("w") as out:
        YAML().dump(raw, out)
    return file


def error_of(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_params(file)
    message = str(caught.value)
    assert "\n" not in message
    assert "params.yaml" in message
    return message


def test_shipped_file_is_valid():
    params = load_params(SHIPPED)

    assert params.methods == ["light", "vanilla", "random"]
    assert params.prune.heads is None, "auto is read as None"


def test_every_key_is_explained_on_its_line():
    lines = SHIPPED.read_text().splitlines()
    for name in Params.model_fields:
        section = find_section_class(Params, name)
        start = next(n for n, line in enumerate(lines) if line.startswith(f"{name}:"))
        if section is None:
            # Above a list: on its line, dvc's -S name=[] would break the file.
            assert "#" in lines[start] or lines[start - 1][:1] == "#", f"{name} has no comment"
            continue
        for key in section.model_fields:
            line = next(line for line in lines[start:] if re.match(rf"  {key}:", line))
            assert "#" in line, f"{name}.{key} has no comment"


def test_sections_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_params(SHIPPED).prune.ratio = 0.5


def test_file_reads_the_same_after_dvc_rewrote_it(tmp_path: Path):
    file = written(tmp_path, {})
    file.write_text(SHIPPED.read_text())
    with modify_yaml(file) as raw:
        raw["finetune"]["lr"] = 1e-5
        raw["data"]["text"] = ["one", "two"]
        raw["benchmark"]["batch_sizes"] = [4, 8]

    text = file.read_text()
    assert "lr: 1e-05" in text
    assert "  - one\n" in text
    params, shipped = load_params(file), load_params(SHIPPED)
    assert params.finetune.lr == 1e-5
    assert params.data.text == ["one", "two"]
    assert params.benchmark.batch_sizes == [4, 8]
    assert params.estimate == shipped.estimate
    assert params.prune == shipped.prune


@pytest.mark.parametrize(
    "overrides",
    [
        ["estimate.stop={stable: 0.9, patience: 3}"],
        ["estimate.stop.stable=0.9", "estimate.stop.patience=3"],
    ],
)
def test_dvc_can_set_the_stop_whole_or_by_key(tmp_path: Path, overrides: list[str]):
    file = written(tmp_path, {})

    apply_overrides(file, overrides)

    stop = load_params(file).estimate.stop
    assert (stop.stable, stop.patience) == (0.9, 3)


def test_an_empty_list_set_by_dvc_names_its_key(tmp_path: Path):
    file = tmp_path / "params.yaml"
    file.write_text(SHIPPED.read_text())

    apply_overrides(file, ["methods=[]"])

    assert error_of(file).startswith("params.yaml: methods must be a list of light, vanilla, ")


@pytest.mark.parametrize("key", ["ratio", "heads", "neurons", "modules", "ranks"])
@pytest.mark.parametrize("value", [1, 1.2, -0.1, float("nan"), float("inf"), True, "abc", None])
def test_wrong_ratio_names_key_value_and_bounds(tmp_path: Path, key: str, value: object):
    message = error_of(written(tmp_path, {f"prune/{key}": value}))

    assert re.search(rf"prune\.{key} must be (auto or )?in \[0, 1\), got ", message)
    assert message.endswith(repr(value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", -1, "seed must be an integer from 0 to 2147483647, got -1"),
        ("seed", 1.0, "seed must be an integer .*, got 1.0"),
        ("seed", 2**31, "seed must be an integer .*, got 2147483648"),
        ("methods", "light", "methods must be a list of light, vanilla, .*, got 'light'"),
        ("methods", ["light", "best"], "methods must be a list of .*, got 'best'"),
        ("methods", [], "methods must be a list of"),
        ("methods", ["vanilla", "peft:ia4"], "methods must be .*, peft:ia3, .*, got 'peft:ia4'"),
        ("baselines", [], r"baselines must be method -> its settings, got \[\]"),
        ("baselines/ia4", {}, r"unknown key baselines\.ia4; did you mean baselines\.ia3\?"),
        ("baselines/full/r", 8, r"unknown key baselines\.full\.r; known: lr"),
        ("baselines/ia3", {"task_type": "CAUSAL_LM"}, r"baselines\.ia3\.task_type is set by the"),
        (
            "baselines/lora",
            {"init_lora_weights": "pissa_niter_4"},
            r"baselines\.lora\.init_lora_weights must be true, .*, got 'pissa_niter_4'",
        ),
        ("peft/non_linearity", "gelu", "peft.non_linearity .* must be relu for lora, got gelu"),
        ("baselines/full/lr", 0, r"baselines\.full\.lr must be a number > 0, got 0"),
        (
            "model",
            "minilm",
            "model must be a section with the keys name, revision, dtype, got 'minilm'",
        ),
        ("model", None, "model must be a section with the keys name, revision, dtype, got None"),
        ("model/dtype", "half", "model.dtype must be one of auto, float32, .*, got 'half'"),
        ("model/name", "", "model.name must be a name, got ''"),
        ("data/text", [], "data.text must be one column or two"),
        ("data/text", ["a", "b", "c"], "data.text must be one column or two"),
        ("data/text", ["a", "a"], "data.text must be one column or two, got"),
        ("data/text", 5, "data.text must be auto, a column, or a list of two columns, got 5"),
        ("data/max_length", 4, "data.max_length must be an integer >= 8, got 4"),
        ("peft/method", "ia3", "peft.method must be one of lora, bottleneck, got 'ia3'"),
        ("peft/placement", "top", "peft.placement must be one of houlsby, .*, got 'top'"),
        (
            "peft/placement",
            "parallel",
            "peft.placement is for peft.method: bottleneck and must be houlsby for lora, got",
        ),
        ("peft/scaling", 0, "peft.scaling must be a number > 0, got 0"),
        ("peft/r", 0, "peft.r must be an integer >= 1, got 0"),
        ("peft/r", "8", "peft.r must be an integer >= 1, got '8'"),
        ("peft/rslora", "yes", "peft.rslora must be true or false, got 'yes'"),
        (
            "peft/targets",
            [],
            "peft.targets must be all-linear, a regex of .*, or a list of .*, got",
        ),
        (
            "peft/targets",
            3,
            "peft.targets must be all-linear, a regex of .*, or a list of .*, got 3",
        ),
        (
            "peft/targets",
            "layer.(0|1",
            r"peft.targets must be all-linear, a regex of .*, got 'layer\.\(0\|1'",
        ),
        ("estimate/steps", 1, "estimate.steps must be an integer >= 2, got 1"),
        ("estimate/lr", 0, "estimate.lr must be a number > 0, got 0"),
        ("estimate/lr", "1e-3", "estimate.lr must be a number > 0, got '1e-3'"),
        ("estimate/mask_lr", -1, "estimate.mask_lr must be auto or a number > 0, got -1"),
        ("estimate/l1", float("nan"), "estimate.l1 must be a number >= 0, got nan"),
        (
            "baselines/prefix_tuning",
            {"num_layers": 3},
            "baselines.prefix_tuning.num_layers is that of model.name; remove it",
        ),
        ("estimate/stop/stable", 1.2, r"estimate.stop.stable must be in \(0, 1\], got 1.2"),
        ("estimate/stop", 3, "estimate.stop must be a section with the keys stable, patience, got"),
        ("prune/align", 8.0, "prune.align must be auto or an integer >= 1, got 8.0"),
        (
            "prune/head_granularity",
            "head",
            "prune.head_granularity must be one of kv_group, query_h",
        ),
        ("prune/criterion", "best", "prune.criterion must be one of auto, mask, .*, got 'best'"),
        ("prune/target", 2.0, "prune.target must be a section with the keys training_speedup, .*"),
        (
            "prune/target/training_speedup",
            1.0,
            "prune.target.training_speedup must be none or a number > 1, got 1.0",
        ),
        (
            "prune/target/parameters",
            "auto",
            r"prune.target.parameters must be none or in \(0, 1\), got 'auto'",
        ),
        ("finetune/schedule", "flat", "finetune.schedule must be one of linear, cosine, got 'fla"),
        ("evaluate/bootstrap", 0, "evaluate.bootstrap must be an integer >= 10, got 0"),
        ("benchmark/batch_sizes", [0], "benchmark.batch_sizes must be a list of .*, got 0"),
        ("benchmark/batch_sizes", 32, "benchmark.batch_sizes must be a list of .*, got 32"),
        ("benchmark/rounds", 2, "benchmark.rounds must be an integer >= 3, got 2"),
        ("methods", ["light"], r"methods must include vanilla, .*, got \['light'\]"),
        ("methods", ["vanilla", "vanilla"], "methods must not repeat"),
        ("prune/modules", 0.0, "prune.modules must be more than 0 with the method freeze, which"),
        (
            "prune/target/parameters",
            0.9,
            "prune.modules must be a number with the method freeze and a prune.target",
        ),
        ("prune/cost", "measured", "prune.cost must be flops where prune.target sets no speed-up"),
        ("data/task", "files", "data.train must be a file's path when data.task is files, got"),
        (
            "data/train",
            "a.csv",
            "data.train is not for data.task: docstrings, which is b",
        ),
        ("finetune/steps", 100, "finetune.steps counts the estimation's steps .*, got 100"),
        (
            "finetune/early_stopping",
            2,
            "finetune.early_stopping needs finetune.best_checkpoint: ",
        ),
    ],
)
def test_wrong_value_names_key_value_and_what_is_allowed(
    tmp_path: Path, path: str, value: object, message: str
):
    methods = {} if path == "methods" else {"methods": ["light", "vanilla", "freeze"]}
    file = written(tmp_path, methods | {path: value})

    assert re.search(f"^params.yaml: {message}", error_of(file))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("prune/ratoi", r"unknown key prune\.ratoi; did you mean prune\.ratio\?"),
        ("finetune/learning_rate", r"unknown key finetune\.learning_rate; "),
        ("prune/xyz", r"unknown key prune\.xyz; known: layers, heads, neurons, "),
        (
            "prune/head_unit",
            r"prune\.head_unit is now prune\.head_granularity: kv_group \(was group",
        ),
        ("prune/module_order", r"prune\.module_order is now prune\.module_criterion$"),
        (
            "prune/target/speedup",
            r"unknown key prune\.target\.speedup; .*prune\.target\.training_s",
        ),
        ("prune/seed", r"unknown key prune\.seed"),
        (
            "estimate/stop/patient",
            r"unknown key estimate\.stop\.patient; did you mean estimate\.stop\.patience\?",
        ),
        ("sed", r"unknown key sed; did you mean seed\?"),
    ],
)
def test_unknown_key_names_the_nearest_right_one(tmp_path: Path, path: str, message: str):
    assert re.search(message, error_of(written(tmp_path, {path: 1})))


def test_a_compiled_training_has_no_cache(tmp_path: Path):
    changes = {"finetune/cache_frozen": True, "finetune/compile": "blocks"}
    message = error_of(written(tmp_path, changes))

    assert message.endswith("finetune.cache_frozen: true needs finetune.compile: off, got blocks")


def test_a_target_has_one_key(tmp_path: Path):
    changes = {"prune/target/flops": 0.5, "prune/target/memory": 0.7}
    message = error_of(written(tmp_path, changes))

    assert message.endswith("prune.target must set one key at most, got memory: 0.7, flops: 0.5")


def test_dvc_sets_a_target_as_an_experiment_does(tmp_path: Path):
    file = tmp_path / "params.yaml"
    file.write_text(SHIPPED.read_text())
    apply_overrides(file, ["prune.target.training_speedup=2.0", "prune.heads=0.25"])

    params = load_params(file)

    assert params.prune.target.training_speedup == 2.0
    config = params.prune.make_config("light", seed=0, decoder=False)
    assert (config.target.quantity, config.target.value) == ("training_speedup", 2.0)
    assert config.model_fields_set & {*SEARCHED} == {"heads"}


@pytest.mark.parametrize("path", ["prune/ratio", "prune", "model/revision", "prune/target/flops"])
def test_a_missing_key_takes_its_default(tmp_path: Path, path: str):
    assert load_params(written(tmp_path, {path: ...})) == Params()


def test_misspelt_key_is_not_reported_as_missing(tmp_path: Path):
    message = error_of(written(tmp_path, {"prune/ratio": ..., "prune/ratios": 0.3}))

    assert message == "params.yaml: unknown key prune.ratios; did you mean prune.ratio?"


@pytest.mark.parametrize("key", [1, 0.5, True])
@pytest.mark.parametrize("section", ["", "prune/"])
def test_key_that_is_no_text_is_unknown(tmp_path: Path, key: object, section: str):
    file = written(tmp_path, {f"{section}KEY": 1})
    file.write_text(file.read_text().replace("KEY", str(key).lower()))

    assert "unknown key" in error_of(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "word",
        "a: [1",
        "a:\n\t- b",
        "seed: 0\nseed: 1",
        "a: !!python/object/apply:os.getcwd []",
        "\x00",
        "a: &a [*a]",
    ],
)
def test_file_that_is_no_mapping_is_one_line(tmp_path: Path, text: str):
    file = tmp_path / "params.yaml"
    file.write_text(text)

    error_of(file)


def test_file_that_is_not_text_and_a_folder_in_its_place_are_one_line(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xff\x80")
    assert "is not readable YAML" in error_of(path)
    path.unlink()
    path.mkdir()
    assert "is not readable YAML" in error_of(path)


def test_missing_file_says_where_to_run(tmp_path: Path):
    assert "does not exist; run from the folder" in error_of(tmp_path / "params.yaml")


def test_reading_params_imports_nothing_heavy():
    program = (
        "import sys; from pipeline.common.pruning_params import load_params; load_params()\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )

    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
