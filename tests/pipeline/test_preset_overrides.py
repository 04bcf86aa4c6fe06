"""What a preset prints, as dvc reads it: every setting, whatever stands in params.yaml."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.cli.parser import get_main_parser
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, to_hydra_overrides
from helpers.import_graph import ROOT
from ruamel.yaml import YAML

from pipeline.__main__ import STAGES, run
from pipeline.common.params import load_params
from pipeline.presets import Preset, defaults, merged, overrides, read_preset

CASES = [
    (path.stem, task)
    for path in sorted((ROOT / "presets").glob("*.yaml"))
    for task in YAML(typ="safe").load(path)["tasks"]
]


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def params_file(tmp_path):
    """A copy of params.yaml, for `dvc exp run` to change."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


def raw_params(path: Path = ROOT / "params.yaml") -> dict:
    return YAML(typ="safe").load(path)


def told(words: list[str]) -> tuple[list[str], list[str]]:
    """What `dvc exp run` takes as -S of these words of a command line, and what as stages."""
    found = get_main_parser().parse_args(["exp", "run", *words])
    return found.set_param, found.targets


def applied(lines: list[str], path: Path) -> None:
    """Change params.yaml as `dvc exp run` does with these lines as its words."""
    settings, stages = told(" ".join(lines).split())
    by_file = to_path_overrides(settings)
    assert (stages, [*by_file]) == ([], ["params.yaml"])
    assert not any(one.is_sweep_override() for one in to_hydra_overrides(by_file["params.yaml"]))
    apply_overrides(path, by_file["params.yaml"])


def printed(preset: Preset, task: str) -> list[str]:
    return overrides(preset.changes(task)) + overrides(preset.rest(task))


def test_the_defaults_are_params_yaml_as_it_comes():
    assert defaults() == raw_params(), "keep both alike, and git checkout what dvc exp run changed"


@pytest.mark.parametrize(("name", "task"), CASES)
def test_dvc_reads_what_is_printed_as_the_preset_says(name, task, params_file):
    preset = read_preset(name)

    applied(printed(preset, task), params_file)

    assert raw_params(params_file) == merged(defaults(), preset.changes(task))
    assert load_params(params_file) == preset.params(task)


def test_a_preset_makes_the_same_params_yaml_whatever_ran_before(params_file):
    before = "-S data.task=files -S data.train=a.csv -S data.text=[a,b] -S methods=[vanilla]"
    applied([before, "-S seed=3"], params_file)
    cases = {name: (name, task) for name, task in CASES}  # one task of each

    for name, task in [*cases.values(), *reversed(cases.values())]:
        preset = read_preset(name)
        applied(printed(preset, task), params_file)
        assert raw_params(params_file) == merged(defaults(), preset.changes(task))


def test_further_settings_behind_a_preset_win(params_file):
    lines = printed(read_preset("qwen3-0.6b"), "glue/sst2")

    applied([*lines, "-S finetune.lr=0.1 -S data.train=a.csv"], params_file)

    params = load_params(params_file)
    assert (params.finetune.lr, params.data.train) == (0.1, "a.csv")


def test_text_that_looks_like_something_else_stays_text(params_file):
    words = "1 1.5 .5 +1 1_000 1e-05 inf true NULL none None on höhe a-b:c a.py:N @b a/b- 1:30"
    for word in words.split():
        applied(overrides({"data.label": word, "data.text": [word, "z"]}), params_file)

        data = raw_params(params_file)["data"]
        assert (data["label"], data["text"]) == (word, [word, "z"])


def test_a_shell_splits_the_printed_overrides_into_words_before_torch_is_imported():
    code = (
        "import sys, pipeline.__main__ as m\n"
        "m.run('preset', 'gemma-3-4b', 'hellaswag')\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        ["bash", "-c", 'printf "%s\\n" $("$0" -c "$1")', sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    preset = read_preset("gemma-3-4b")
    found, stages = told(done.stdout.splitlines())

    assert (done.stderr, stages) == ("", [])
    assert "peft.targets=.*language_model.*" in found
    assert "benchmark.batch_sizes=[1,8]" in found
    assert [f"-S {word}" for word in found] == printed(preset, "hellaswag")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paper-robert", "glue/rte"], "no preset 'paper-robert'; did you mean paper-rob"),
        (["zzz", "glue/rte"], "no preset 'zzz'; known: gemma-3-4b, llama-3-8b, "),
        (["../params"], r"no preset '\.\./params'; "),
        (["paper-roberta-large", "rte"], "large has no task 'rte'; did you mean glue/rte"),
        (["qwen3-8b", "sst2", "0.5"], "preset takes NAME TASK, got 3 arguments"),
        (["qwen3-8b", "xyz"], "preset qwen3-8b has no task 'xyz'; known: arc-challenge, "),
    ],
)  # fmt: skip
def test_a_wrong_name_is_one_line_and_names_a_stage_that_dvc_does_not_find(words, message, capsys):
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
        run("preset", *words)

    assert "\n" not in str(stopped.value)
    settings, stages = told(capsys.readouterr().out.split())
    assert settings == []
    assert stages == ["no-such-preset"]
    assert not {*stages} & {*STAGES}
