"""Command line of the benchmark: python -m lightpeft.benchmark --help"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from lightpeft.core.command_line import describe_os_error, exit_on_signals

if __name__ == "__main__":  # before torch is imported, which takes seconds
    exit_on_signals("nothing was written")

import typer
from typer.exceptions import TyperException

from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.benchmark.run import BenchmarkConfig, choose_device, run_benchmark
from lightpeft.benchmark.table import format_table
from lightpeft.core.errors import ConfigError, LightPeftError
from lightpeft.core.library_warnings import ignore_peft_deprecation

_PROGRAM = "python -m lightpeft.benchmark"
_DEFAULTS = BenchmarkConfig()
_DEFAULT_SIZES = ",".join(map(str, _DEFAULTS.batch_sizes))
_log = partial(typer.echo, err=True)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"must be a number, got {text}") from error


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"must be an integer, got {text}") from error


def _make_number_option(units: str) -> Any:
    text = f"Fraction of {units} to prune, in [0, 1)."
    return typer.Option(parser=_parse_number, metavar="NUMBER", help=text)


def _make_integer_option(text: str) -> Any:
    return typer.Option(parser=_parse_integer, metavar="INTEGER", help=text)


def _make_text_option(text: str, metavar: str) -> Any:
    return typer.Option(metavar=metavar, help=text)


_Granularity = Annotated[
    Literal["kv_group", "query_head"],
    typer.Option(help="Prune whole KV groups, or single query heads within them."),
]
_Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")
]
_Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps", "xpu"],
    typer.Option(help="auto: the accelerator, or the CPU if there is none."),
]
_Sizes = Annotated[
    str, _make_text_option("Rows per batch; several sizes are separated by commas.", "INTEGER,...")
]
_Length = Annotated[
    int | None,
    _make_integer_option("Tokens per row. [default: 128; for images their patches plus one]"),
]
_Warmup = Annotated[int, _make_integer_option("Rounds before the measured ones.")]
_Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="In training, compute layers twice.")
]
_Optimizer = Annotated[
    Literal["adamw", "adamw_8bit"],
    typer.Option(help="In training; adamw_8bit needs bitsandbytes."),
]
_Masters = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="Type of the trained weights.")
]
_Accelerate = Annotated[
    bool, typer.Option("--accelerate", help="LoRA layers with fewer kernels, of both models.")
]
_Compile = Annotated[
    Literal["off", "blocks", "whole"],
    typer.Option(help="Measure also compiled: each layer, or the whole model."),
]
_Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error (LIGHTPEFT_DEBUG=1).")
]


@app.command(epilog=f"Example: {_PROGRAM} --shape roberta-large --ratio 0.333 --dtype bfloat16")
def benchmark(  # typer reads options from the parameters, hence so many; context.params has all
    context: typer.Context,
    shape: Annotated[str, _make_text_option(", ".join(MODEL_SIZES), "NAME")] = _DEFAULTS.shape,
    ratio: Annotated[float, _make_number_option("heads and neurons")] = _DEFAULTS.ratio,
    head_granularity: _Granularity = "kv_group",
    layers: Annotated[float, _make_number_option("layers")] = _DEFAULTS.layers,
    modules: Annotated[float, _make_number_option("PEFT modules")] = _DEFAULTS.modules,
    ranks: Annotated[float, _make_number_option("PEFT ranks")] = _DEFAULTS.ranks,
    rank: Annotated[int, _make_integer_option("LoRA rank before pruning.")] = _DEFAULTS.rank,
    dtype: _Dtype = "float32",
    device: _Device = "auto",
    batch_sizes: _Sizes = _DEFAULT_SIZES,
    length: _Length = None,
    warmup: _Warmup = _DEFAULTS.warmup,
    rounds: Annotated[int, _make_integer_option("Rounds measured.")] = _DEFAULTS.rounds,
    gradient_checkpointing: _Checkpointing = False,
    optimizer: _Optimizer = "adamw",
    masters: _Masters = "float32",
    accelerate: _Accelerate = False,
    compile: _Compile = "off",
    out: Annotated[Path | None, _make_text_option("JSON file to write.", "FILE")] = None,
    debug: _Debug = False,
) -> None:
    """Measure time and memory of an unpruned and a pruned model with random weights.

    Both have LoRA adapters and take turns: training and inference of encoders and of image
    models; training, prefill (a prompt of --length tokens into the KV cache) and decode (one
    more token per row) of decoders and encoder-decoders. Inference is measured with the adapters
    merged as well; a merged decoder decodes with a KV cache of fixed size.
    """
    options = {name: context.params[name] for name in BenchmarkConfig.model_fields}
    options["batch_sizes"] = _parse_batch_sizes(batch_sizes)
    try:
        config = BenchmarkConfig(**options)
    except ConfigError as error:
        name, _, message = str(error).partition(" ")
        raise ConfigError(f"--{name.replace('_', '-')} {message}") from error
    result = run_benchmark(config, choose_device(device), progress=_log)
    typer.echo(format_table(result), nl=False)
    if out:  # at last: if it can't be written, the table was seen
        result.model_copy(update={"command": context.obj}).save(out)


def main(argv: Sequence[str]) -> None:
    """Measure what the arguments say, and write a table to standard output.

    Raises:
        LightPeftError: an argument is not allowed, or measuring failed.
    """
    command = f"{_PROGRAM} {shlex.join(argv)}".rstrip()
    try:
        app(list(argv), prog_name=_PROGRAM, standalone_mode=False, obj=command)
    except TyperException as error:
        message = " ".join(error.format_message().split())
        if "--head-unit" in message:
            message = "--head-unit is now --head-granularity, kv_group or query_head"
        if "extra argument" in message:
            message += "; batch sizes are separated by commas: --batch-sizes 1,32"
        raise ConfigError(message) from error


def _parse_batch_sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--batch-sizes must be integers >= 1 separated by commas, got {text}"
        ) from error


if __name__ == "__main__":
    ignore_peft_deprecation()
    try:
        main(sys.argv[1:])
    except Exception as error:
        is_expected = isinstance(error, LightPeftError)
        line = str(error) if is_expected else describe_os_error(error, Path("standard output"))
        if "--debug" in sys.argv or os.environ.get("LIGHTPEFT_DEBUG") == "1" or line is None:
            raise
        sys.exit(f"error: {line}")
