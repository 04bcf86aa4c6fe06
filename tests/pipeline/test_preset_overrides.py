"""What a preset writes: every setting of params.yaml, whatever it held, with its comments."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.import_graph import ROOT
from helpers.params_file import PRESET_TASKS
from ruamel.yaml import YAML

from pipeline.__main__ import run
from pipeline.common.pruning_params import Params, load_params, to_yaml_values
from pipeline.presets import merge, read_preset


@pytest.fixture(autouse=True)
def params_file(cwd):
    """A copy of params.yaml beside the presets, in the current folder."""
    (cwd / "presets").symlink_to(ROOT / "presets")
    return Path(shutil.copy(ROOT / "params.yaml", cwd))


def read(path: Path) -> dict:
    return YAML(typ="safe").load(path)


def test_params_yaml_comes_with_the_defaults():
    assert read(ROOT / "params.yaml") == to_yaml_values(Params())


@pytest.mark.parametrize(("name", "task"), PRESET_TASKS)
def test_the_written_file_holds_the_defaults_and_the_changes_of_the_preset(name, task, params_file):
    run("preset", name, task, "--output", "params.yaml")

    preset = read_preset(name)
    assert read(params_file) == merge(to_yaml_values(Params()), preset.list_changes(task))
    assert load_params(params_file) == preset.make_params(task)


def test_a_preset_writes_the_same_whatever_params_yaml_held(params_file):
    cases = {name: (name, task) for name, task in PRESET_TASKS}  # one task of each

    for name, task in [*cases.values(), *reversed(cases.values())]:
        run("preset", name, task, "--output", "params.yaml")
        assert read(params_file) == merge(
            to_yaml_values(Params()), read_preset(name).list_changes(task)
        )


def test_comments_of_params_yaml_are_kept(params_file):
    comments = {line.partition("#")[2] for line in params_file.read_text().splitlines()}

    run("preset", "qwen3-8b", "boolq", "--output", "params.yaml")

    kept = {line.partition("#")[2] for line in params_file.read_text().splitlines()}
    assert len(comments - kept) == 3, "those of the items of `methods`, which the preset changes"


def test_without_an_output_the_file_is_printed_before_torch_is_imported():
    code = (
        "import sys, pipeline.__main__ as m\n"
        "m.run('preset', 'gemma-3-4b', 'hellaswag')\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stderr == ""
    changes = read_preset("gemma-3-4b").list_changes("hellaswag")
    assert YAML(typ="safe").load(done.stdout) == merge(to_yaml_values(Params()), changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paper-robert", "glue/rte"], "no preset 'paper-robert'; did you mean paper-rob"),
        (["zzz", "glue/rte"], "no preset 'zzz'; known: gemma-3-4b, llama-3-8b, "),
        (["../params"], r"no preset '\.\./params'; "),
        (["paper-roberta-large", "rte"], "large has no task 'rte'; did you mean glue/rte"),
        (["qwen3-8b", "sst2", "0.5"], r"Got unexpected extra argument\(s\) \(0\.5\)"),
        (["qwen3-8b", "xyz"], "preset qwen3-8b has no task 'xyz'; known: arc-challenge, "),
        (["qwen3-8b"], "--output needs a preset and a task"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_one_line_and_leaves_the_file_as_it_was(
    words, message, params_file, capsys
):
    before = params_file.read_text()
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
        run("preset", *words, "--output", "params.yaml")

    assert "\n" not in str(stopped.value)
    assert capsys.readouterr().out == ""
    assert params_file.read_text() == before
