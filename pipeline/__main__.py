"""Command line: `python -m pipeline STAGE [METHOD]`, as dvc.yaml runs it; see `--help`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from lightpeft.core.command_line import describe_os_error, exit_on_signals, raise_hidden_exit
from pipeline.common.ranks import (
    count_processes,
    is_launched,
    leave_with_error,
    read_requested_processes,
)

if __name__ == "__main__":  # before the other imports, which take a moment
    exit_on_signals(
        "the same command goes on from here"
        if sys.argv[1:2] == ["predict"]
        else "dvc repro goes on from here, and finetune from its last checkpoint",
        quiet=is_launched(),
    )

import typer

from lightpeft.core.errors import LightPeftError
from lightpeft.core.library_warnings import ignore_peft_deprecation
from pipeline import presets
from pipeline.common.errors import ConfigError, PipelineError
from pipeline.common.files import write_text
from pipeline.common.library_errors import name_keys
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.common.text import join_lines
from pipeline.common.training_checks import check_training

STAGES = ("prepare", "estimate", "prune", "finetune", "evaluate", "benchmark", "report", "export")
SHARED_STAGES = ("estimate", "finetune")  # these run in several processes
DEBUG = "LIGHTPEFT_DEBUG"
_EXPECTED = (PipelineError, LightPeftError)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="A method of params.yaml.")]


@app.callback()
def _configure(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback behind an error.", envvar=DEBUG)
    ] = False,
) -> None:
    """Prune a model and its PEFT modules early, fine-tune, evaluate and compare.

    `dvc repro` runs the stages in the order below; each reads its settings from params.yaml.
    """
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def prepare(
    preview: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, metavar="N", help="Show the first N rows of train, and write nothing."
        ),
    ] = None,
) -> None:
    """Read a task, tokenize its rows, split them, and write a data card."""
    run_stage("prepare", preview=preview)


@app.command()
def estimate() -> None:
    """Train briefly with a mask on every head and neuron, and score what could be pruned."""
    run_stage("estimate")


@app.command()
def prune(method: MethodName) -> None:
    """Turn the scores into a method's pruning plan, and count what it costs."""
    run_stage("prune", method)


@app.command()
def finetune(method: MethodName) -> None:
    """Prune the model as planned and train it; an interrupted training resumes."""
    run_stage("finetune", method)


@app.command()
def evaluate(method: MethodName) -> None:
    """Measure a method's quality on the test split."""
    run_stage("evaluate", method)


@app.command()
def benchmark() -> None:
    """Measure time and memory of all methods side by side."""
    run_stage("benchmark")


@app.command()
def report() -> None:
    """Write metrics.json, plots and the report page."""
    run_stage("report")


@app.command()
def export() -> None:
    """Write the model of one method for others to load, if export.format says in which form."""
    run_stage("export")


@app.command()
def table() -> None:
    """Print metrics.json as a table, and whether the hub has newer inputs than the run used."""
    load_params()
    print(import_module("pipeline.report.table").format_comparison(Paths()))
    if Paths().prepared.exists():  # also if DVC had nothing to run
        card = import_module("pipeline.common.data_card").DataCard.read(Paths().prepared)
        for line in card.describe_newer_commits():
            print(line)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="A preset; without one, all are listed.")] = "",
    task: Annotated[str, typer.Argument(help="A task; without one, all are listed.")] = "",
    output: Annotated[
        Path | None,
        typer.Option(help="Write to this file; `> params.yaml` would lose its comments."),
    ] = None,
) -> None:
    """Print a whole params.yaml with the settings of a preset for a task."""
    single = bool(name) and len(presets.read_preset(name).tasks) == 1
    if not task and not single:
        if output is not None:
            raise ConfigError("--output needs a preset and a task")
        print(presets.describe(name))
        return
    text = presets.render_params(name, task, Paths().params)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)


@app.command()
def predict(
    result: Annotated[
        Path, typer.Argument(help="Folder of a trained adapter, as artifacts/models/light.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text of one row; of a pair, or of a prompt and its choices, several."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows to predict, such as JSON Lines.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="JSON Lines; default: printed."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the base model, if it has moved.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data card, if RESULT has none.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 32,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens to generate. [default: as in train]")
    ] = None,
) -> None:
    """Predict rows without labels; a killed run with --output goes on where it stopped."""
    if (file is None) == (not text):
        raise ConfigError("predict needs either --text or --file")
    if file is not None and output is None:
        raise ConfigError("predict --file needs --output")
    if not result.is_dir():
        raise ConfigError(f"{result} is not a folder")
    if output is not None and output.is_dir():
        raise ConfigError(f"--output must be a file, got the folder {output}")
    if file is not None and output is not None and output.resolve() == file.resolve():
        raise ConfigError(f"--output must be another file than --file, got {output} for both")
    module = import_module("pipeline.prediction.predict")
    config = module.PredictConfig(
        result=result,
        source=file or tuple(text or ()),
        out=output,
        data=data,
        model=model,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    call_in_one_line(module.main, config, writes=output or Path("standard output"))


def run_stage(stage: str, method: str = "", **options: Any) -> None:
    """Check params.yaml as a whole, most of it before anything heavy is imported; run a stage.

    Raises:
        ConfigError: a setting is wrong, or `methods` lacks the method.
        LightPeftError: the library refuses something; in the terms of params.yaml.
        PipelineError: the operating system refuses a file or folder, as on a full disk.
    """
    params = load_params()
    if method and method not in params.methods:
        raise ConfigError(f"METHOD must be one of {', '.join(params.methods)}, got {method!r}")
    arguments: tuple[Any, ...] = (method,) if method else ()
    requested, running = read_requested_processes(), count_processes()
    if stage in SHARED_STAGES:
        check_training(params, running if is_launched() else max(requested, running))
    if stage in SHARED_STAGES and requested > 1 and running == 1 and not is_launched():
        import_module("pipeline.common.launcher").launch(requested, (stage, *arguments))
        return
    if stage not in SHARED_STAGES and running > 1:
        raise ConfigError(
            f"{running} processes can run {' or '.join(SHARED_STAGES)}, got {stage}; run it in one"
        )
    paths = Paths()
    main = partial(import_module(f"pipeline.stages.{stage}").main, paths=paths, **options)
    # All stages import peft, which knows what its methods can be set to.
    import_module("pipeline.tasks.baseline_configs").check_baselines(params)
    try:
        with import_module("pipeline.common.processes").join_processes():
            call_in_one_line(main, *arguments, writes=paths.locate_output(stage, method))
    except LightPeftError as error:
        raise name_keys(error) from error


def call_in_one_line(function: Callable[..., None], *arguments: Any, writes: Path) -> None:
    """Call a function that writes a file or folder.

    Raises:
        PipelineError: the operating system refuses it.
    """
    try:
        function(*arguments)
    except _EXPECTED:
        raise
    except Exception as error:
        line = describe_os_error(error, writes)
        if line is None:
            raise
        raise PipelineError(line) from error


def run_from_lightpeft(name: str, arguments: list[str]) -> None:
    """Run a command as `lightpeft NAME`; see the entry points in pyproject.toml."""
    run(name, *arguments, program="lightpeft")


def run(*arguments: str, program: str = "python -m pipeline") -> None:
    """Run a command; a user's mistake is one line.

    Args:
        arguments: name of the command, and its arguments.
        program: for usage lines.

    Raises:
        SystemExit: with that line.
    """
    if not sys.stdout.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "5")  # seconds between lines through a pipe
    ignore_peft_deprecation()
    try:
        app(list(arguments), prog_name=program, standalone_mode=False)
    except typer.TyperException as error:
        wrong = join_lines(error.format_message()).removesuffix(".")
        sys.exit(f"error: {wrong}; see {program} --help")
    except Exception as error:
        raise_hidden_exit(error)
        is_expected = isinstance(error, _EXPECTED)
        line = str(error) if is_expected else describe_os_error(error, Path("standard output"))
        if not os.environ.get(DEBUG) and line is not None:
            leave_with_error(f"error: {line}")
        if not is_launched():
            raise
        leave_with_error(traceback.format_exc())


if __name__ == "__main__":
    run(*sys.argv[1:])
