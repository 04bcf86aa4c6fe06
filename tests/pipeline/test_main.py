"""The launcher: bad input is one line and exit code 1, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.import_graph import ROOT

from pipeline.__main__ import run
from pipeline.common.errors import ConfigError


@pytest.fixture
def folder(cwd: Path) -> Path:
    """An empty folder with the project's params.yaml, as the current one."""
    (cwd / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return cwd


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prun"], r"No such command 'prun'\. Did you mean 'prune'\?.*; see {help}"),
        (["prune"], "Missing argument 'METHOD'; see {help}"),
        (["finetune"], "Missing argument 'METHOD'; see {help}"),
        (["prepare", "x"], r"\w.*; see {help}"),
        (["prune", "light", "x"], r"\w.*; see {help}"),
        (["report", "x", "y"], r"\w.*; see {help}"),
        (["table", "x"], r"\w.*; see {help}"),
        (["--foo"], r"\w.*; see {help}"),
        ([], r"\w.*; see {help}"),
        (["prune", "light"], r".*scores\.json does not exist"),
        (["finetune", "best"], "METHOD must be one of light, .*, got 'best'"),
    ],
)
def test_wrong_arguments_and_missing_inputs_are_one_line(folder, words, message):
    message = message.format(help="python -m pipeline --help")
    with pytest.raises(SystemExit, match=rf"^error: {message}$"):
        run(*words)


@pytest.mark.parametrize("words", [["--help"], ["prune", "--help"], ["preset", "--help"]])
def test_help_is_printed_without_params_yaml(cwd, capsys, words):
    run(*words)

    assert "Usage: python -m pipeline" in capsys.readouterr().out


def test_the_traceback_behind_an_error_is_shown_on_request(folder, monkeypatch):
    monkeypatch.setenv("LIGHTPEFT_DEBUG", "")
    with pytest.raises(ConfigError, match="METHOD must be one of"):
        run("--debug", "prune", "best")
    monkeypatch.setenv("LIGHTPEFT_DEBUG", "1")
    with pytest.raises(ConfigError, match="METHOD must be one of"):
        run("prune", "best")


def test_bad_params_stop_a_stage_before_torch_is_imported(folder):
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("ratio: auto", "ratio: 1.2", 1))
    code = (
        "import sys, pipeline.__main__ as m\n"
        "try: m.run('finetune', 'light')\n"
        "except SystemExit as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip

    assert (
        done.stdout == "error: params.yaml: prune.ratio must be auto or in [0, 1), got 1.2 False\n"
    )
    assert done.stderr == ""
