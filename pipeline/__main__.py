"""Run one stage: `python -m pipeline STAGE [METHOD]`, as dvc.yaml does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import signature

from pipeline.common.errors import PipelineError
from pipeline.common.params import load_params
from pipeline.common.paths import Paths

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
        if command == PRESET:  # which replaces what params.yaml says
            _call(import_module(_home(command)).main, command, arguments)
        else:
            methods = load_params().methods
            if arguments and arguments[0] not in methods:
                allowed = ", ".join(methods)
                raise PipelineError(f"METHOD must be one of {allowed}, got {arguments[0]!r}")
            _call(partial(import_module(_home(command)).main, paths=Paths()), command, arguments)
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


def _call(main: Callable[..., None], command: str, arguments: tuple[str, ...]) -> None:
    parameters = signature(main)
    try:
        parameters.bind(*arguments)
    except TypeError:
        names = [name.upper() for name in parameters.parameters if name != "paths"]
        takes = " ".join(names) or "no arguments"
        raise PipelineError(f"{command} takes {takes}, got {len(arguments)} arguments") from None
    main(*arguments)


if __name__ == "__main__":
    run(*(sys.argv[1:] or [""]))
