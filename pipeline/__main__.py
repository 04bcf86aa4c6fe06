"""Run one stage: `python -m pipeline STAGE ARGUMENTS`, as dvc.yaml does."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

from lightpeft.config import load_params
from lightpeft.errors import LightPeftError

STAGES = ("prepare", "estimate", "prune", "finetune", "evaluate", "benchmark", "report")
COMMANDS = (*STAGES, "table")


def run(command: str, *arguments: str) -> None:
    """Check params.yaml before anything heavy is imported; a user's mistake is one line.

    Raises:
        SystemExit: with that line.
    """
    if command not in COMMANDS:
        sys.exit(f"error: unknown stage {command!r}; known: {', '.join(COMMANDS)}")
    # peft 0.21 asks transformers 5.23 for a name that is on its way out; nobody here can mend it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    try:
        load_params()
        import_module(f"pipeline.{command}").main(*arguments)
    except LightPeftError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run(*(sys.argv[1:] or [""]))
