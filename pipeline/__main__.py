"""Run one stage: `python -m pipeline STAGE ARGUMENTS`, as dvc.yaml does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from inspect import signature

from pipeline.common.errors import PipelineError
from pipeline.common.params import load_params

STAGES = ("prepare", "estimate", "prune", "finetune", "evaluate", "benchmark", "report")
PRESET = "preset"
_OTHERS = {"table": "pipeline.report.table", PRESET: "pipeline.presets"}
COMMANDS = (*STAGES, *_OTHERS)
# No stage, so dvc stops. Printing nothing would have `dvc exp run $(...)` run params.yaml as it is.
NO_PRESET = "no-such-preset"


def run(command: str, *arguments: str) -> None:
    """Check params.yaml before anything heavy is imported; a user's mistake is one line.

    Raises:
        SystemExit: with that line.
    """
    if command not in COMMANDS:
        sys.exit(f"error: unknown stage {command!r}; known: {', '.join(COMMANDS)}")
    os.environ.setdefault("TQDM_MININTERVAL", "5")  # a line now and then, also through a pipe
    # peft 0.21 asks transformers 5.23 for a name that is on its way out; nobody here can mend it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    try:
        if command != PRESET:  # which replaces what params.yaml says
            load_params()
        main = import_module(_home(command)).main
        _check(command, main, arguments)
        main(*arguments)
    except Exception as error:
        if not _is_users(error):
            raise
        if command == PRESET:
            print(NO_PRESET)
        sys.exit(f"error: {error}")


def _is_users(error: Exception) -> bool:
    """Whether an error is a user's mistake; the library's errors are there once it is imported."""
    library = sys.modules.get("lightpeft.core.errors")
    return isinstance(error, PipelineError) or (
        library is not None and isinstance(error, library.LightPeftError)
    )


def _home(command: str) -> str:
    return f"pipeline.stages.{command}" if command in STAGES else _OTHERS[command]


def _check(command: str, main: Callable[..., None], arguments: tuple[str, ...]) -> None:
    wanted = signature(main)
    try:
        wanted.bind(*arguments)
    except TypeError:
        names = " ".join(name.upper() for name in wanted.parameters)
        raise PipelineError(f"{command} takes {names}, got {len(arguments)} arguments") from None


if __name__ == "__main__":
    run(*(sys.argv[1:] or [""]))
