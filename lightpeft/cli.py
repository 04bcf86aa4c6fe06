"""The command `lightpeft`, also `python -m lightpeft`: each command imports what it needs itself.

A command is a function with `@app.command()`; torch takes seconds, so no import of it stands here.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from lightpeft.core.command_line import describe_os_error, exit_on_signals
from lightpeft.core.errors import ConfigError, LightPeftError
from lightpeft.core.library_warnings import ignore_peft_deprecation

_DEBUG = "LIGHTPEFT_DEBUG"
# The arguments go to another command line as they are, `--help` among them.
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _configure(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback behind an error.", envvar=_DEBUG)
    ] = False,
) -> None:
    """Prune a model and its PEFT modules early, and use what comes of it."""
    if debug:
        os.environ[_DEBUG] = "1"


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="What lightpeft, peft or transformers wrote.")
    ],
    modules: Annotated[
        bool, typer.Option("--modules", help="List the PEFT modules with their ranks.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all units.")] = False,
) -> None:
    """Say what a file or folder is, for which base model, what it cuts, and its sizes.

    Reads results, plans, scores, adapters and checkpoints, and checks their digests; needs no base
    model.
    """
    contents = import_module("lightpeft.contents.recognize").read_contents(path)
    facts = import_module("lightpeft.contents.facts")
    if as_json:
        typer.echo(json.dumps(facts.make_facts(contents), indent=1))
    else:
        typer.echo(facts.format_contents(contents, modules=modules))


@app.command()
def export(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="A folder that lightpeft.save wrote.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="compact, lifted, merged, stock, padded, onnx or deci; see docs/export.md."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Created, or replaced if it holds an export.")
    ],
    base: Annotated[
        str, typer.Option(help="Folder or Hub id of the base model, if not what RESULT names.")
    ] = "",
    revision: Annotated[str, typer.Option(help="Commit of the base model on the hub.")] = "",
    model_class: Annotated[
        str, typer.Option("--class", help="Its class, if not what RESULT and base model name.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="Of the weights, such as bfloat16.")] = "auto",
    license: Annotated[str, typer.Option(help="Of the base model, for the model card.")] = "",
    compress: Annotated[
        float | None,
        typer.Option(help="Of compact: fraction of the largest changes to keep, in (0, 1]."),
    ] = None,
) -> None:
    """Write a result for others to load, and check in a fresh process that it loads."""
    base_model = import_module("lightpeft.exporting.base_model")
    source = base_model.BaseModelSource(
        name=base, revision=revision, model_class=model_class, dtype=dtype
    )
    export_result = import_module("lightpeft.exporting.export_result").export_result
    typer.echo(export_result(result, out, to, source, license=license, compress=compress))


@app.command(context_settings=_PASSED_ON)
def support(context: typer.Context) -> None:
    """Say what can be pruned of a model."""
    import_module("lightpeft.support").main(context.args)


@app.command(context_settings=_PASSED_ON)
def benchmark(context: typer.Context) -> None:
    """Measure a pruned model, with random weights."""
    import_module("lightpeft.benchmark.__main__").main(context.args)


@app.command("lm-eval", context_settings=_PASSED_ON)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness, which has --model lightpeft too."""
    try:
        harness = import_module("lightpeft.harness")
    except ModuleNotFoundError as error:
        extra = "pip install 'lightpeft[lm-eval]'"
        raise ConfigError(f"lightpeft lm-eval needs {error.name}: {extra}") from error
    harness.main(context.args)


def _add_installed_command(entry: EntryPoint) -> None:
    """Add a command of another package, which is imported when it is called."""
    package = entry.module.partition(".")[0]

    def command(context: typer.Context) -> None:
        try:
            function = entry.load()
        except ModuleNotFoundError as error:
            extra = f"pip install 'lightpeft[{package}]'"
            raise ConfigError(f"lightpeft {entry.name} needs {error.name}: {extra}") from error
        function(entry.name, context.args)

    text = f"Command of the package {package}; see `lightpeft {entry.name} --help`."
    app.command(entry.name, context_settings=_PASSED_ON, help=text)(command)


for _entry in entry_points(group="lightpeft.commands"):
    _add_installed_command(_entry)


def run(*arguments: str) -> None:
    """Run a command; a user's mistake is one line.

    Raises:
        SystemExit: with that line.
    """
    ignore_peft_deprecation()
    try:
        app(list(arguments), prog_name="lightpeft", standalone_mode=False)
    except TyperException as error:
        wrong = " ".join(error.format_message().split()).removesuffix(".")
        sys.exit(f"error: {wrong}; see lightpeft --help")
    except Exception as error:
        is_expected = isinstance(error, LightPeftError)
        line = str(error) if is_expected else describe_os_error(error, Path("standard output"))
        if os.environ.get(_DEBUG) or line is None:
            raise
        sys.exit(f"error: {line}")


def main() -> None:
    """Run the command of this process's arguments."""
    exit_on_signals("nothing is left half-written; give the same command again")
    run(*sys.argv[1:])
