"""The command `lightpeft`: a user's mistake is one line, and torch waits until it is needed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
from helpers.import_graph import ROOT

from lightpeft.cli import run
from lightpeft.core.errors import ModelError


def test_installed_command_is_python_m_lightpeft():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = settings["project"]["scripts"]["lightpeft"].partition(":")
    done = subprocess.run(
        [sys.executable, "-m", "lightpeft", "supprt"], capture_output=True, text=True, cwd=ROOT
    )

    assert import_module("lightpeft.__main__").main is getattr(import_module(module), function)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No such command 'supprt'. Did you")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing command; see lightpeft --help"),
        (["--foo"], r"\w.*; see lightpeft --help"),
        (["support"], "Missing argument 'NAME'.*"),
        (["support", "./nowhere"], r"\./nowhere can't be built: there is no such folder"),
        (["benchmark", "--ratio", "2"], r"--ratio .* got 2\.0"),
    ],
)
def test_mistake_is_one_line(words: list[str], message: str):
    with pytest.raises(SystemExit, match=rf"^error: {message}$"):
        run(*words)


def test_harness_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit, match=r"^error: lightpeft lm-eval needs lm_eval[^\n]*: pip"):
        run("lm-eval", "run")


def test_other_command_lines_keep_their_help(capsys: pytest.CaptureFixture[str]):
    run("support", "--help")
    assert "A model type, a folder, or a Hub id" in capsys.readouterr().out
    run("benchmark", "--help")
    assert "--batch-sizes" in capsys.readouterr().out


def test_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTPEFT_DEBUG", "")
    with pytest.raises(ModelError, match="no such folder"):
        run("--debug", "support", "./nowhere")


def test_torch_is_not_imported_for_help():
    code = (
        "import sys, lightpeft.cli as cli\n"
        "cli.run('--help')\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)

    assert done.stdout.splitlines()[-1] == "[]"
