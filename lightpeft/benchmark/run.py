"""Speed and memory of an unpruned and a pruned model with random weights of a known shape.

python -m lightpeft.benchmark --shape roberta-large --ratio 0.333 --dtype bfloat16

Of what generates, a prefill (a prompt of --length tokens into the KV cache) and a decode step (a
token more a row, from a cache of --length tokens) are measured in place of inference.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import LoraConfig, PeftModel

from lightpeft.benchmark.model_sizes import MODEL_SIZES, check_model_size
from lightpeft.benchmark.random_models import (
    MODEL_CLASSES,
    build_random_model,
    check_free_memory,
    make_config,
)
from lightpeft.benchmark.table import table
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import ConfigError, LightPeftError
from lightpeft.core.scores import CRITERIA, Scores
from lightpeft.core.serialization import write_json
from lightpeft.modeling.fingerprint import fingerprint
from lightpeft.modeling.inspection import inspect_model
from lightpeft.planning.make_plan import make_plan
from lightpeft.profiling.compare import compare
from lightpeft.profiling.memory import can_measure_memory, measure_peak_memory, run_in_subprocess
from lightpeft.profiling.random_batches import max_sequence_length
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import BASELINE
from lightpeft.pruning.prune import prune

METHODS = (BASELINE, "pruned")


def main(given: Sequence[str]) -> None:
    """Compare the two and write a table; the arguments are in `--help`.

    Raises:
        LightPeftError: an argument is not allowed; one line.
    """
    asked = parser().parse_args(given)
    check_model_size(asked.shape)
    settings, device = _settings(asked), pick_device(asked.device)
    with _explain_out_of_memory(asked, device):
        _measure(asked, settings, device, given)


def _measure(
    asked: argparse.Namespace,
    settings: ProfilingSettings,
    device: torch.device,
    given: Sequence[str],
) -> None:
    check_free_memory(asked.shape, dtype=getattr(torch, asked.dtype), device=device)
    builds = {method: partial(build_method_model, asked, method, device) for method in METHODS}
    if asked.memory_of:
        found = measure_peak_memory(builds[asked.memory_of], settings, device=device)
        sys.stdout.write(json.dumps(found) + "\n")
        return

    def memory(method: str) -> dict[str, Any]:
        if device.type == "cuda":
            return measure_peak_memory(builds[method], settings, device=device)
        command = [sys.executable, "-m", "lightpeft.benchmark", *given, "--memory-of", method]
        return run_in_subprocess(command)

    found = compare(
        builds,
        settings,
        memory=memory if can_measure_memory(device) else None,
        progress=_log,
    )
    if asked.out:
        command = shlex.join(["python", "-m", "lightpeft.benchmark", *given])
        write_json(asked.out, {"command": command} | found)
    sys.stdout.write(table(found))


def pick_device(name: str) -> torch.device:
    """A device by name; `auto` is CUDA where there is one, and the CPU elsewhere.

    Raises:
        ConfigError: there is no CUDA here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda, but torch sees no CUDA device here; use cpu")
    return torch.device(name)


@contextlib.contextmanager
def _explain_out_of_memory(asked: argparse.Namespace, device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # CUDA has a class for it; torch's allocator on the CPU only says so.
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not full and "allocate memory" not in str(error):
            raise
        raise LightPeftError(
            f"out of memory: {asked.shape} in {asked.dtype} on {device}, batches of "
            f"{max(asked.batch_sizes)}; use a smaller --shape, --batch-sizes, --length or --dtype"
        ) from None


def build_method_model(asked: argparse.Namespace, method: str, device: torch.device) -> PeftModel:
    """A pruned or an unpruned model: what goes is drawn, the counts are a real plan's."""
    base = build_random_model(asked.shape, dtype=getattr(torch, asked.dtype), device=device)
    shape, share = inspect_model(base), float(method != BASELINE)
    scores = Scores(
        shape=shape,
        fingerprint=fingerprint(base, shape),
        peft=_lora(asked),
        heads=_zero_scores(shape.heads),
        neurons=_zero_scores(shape.neurons),
        modules=dict.fromkeys(shape.linears, 0.0),
        ranks={path: torch.zeros(asked.rank) for path in shape.linears},
        adapter={},
        curve=[],
        steps=0,
    )
    config = PruningConfig(
        heads=asked.ratio * share,
        neurons=asked.ratio * share,
        modules=asked.modules * share,
        ranks=asked.ranks * share,
        criterion="random",
        head_granularity=asked.head_granularity,
        neuron_scope="layer",
    )
    plan = make_plan(scores, config)
    return prune(base, plan, scores, warm_start=False)


def _lora(asked: argparse.Namespace) -> LoraConfig:
    kind = MODEL_SIZES[asked.shape].kind
    return LoraConfig(
        r=asked.rank,
        lora_alpha=2 * asked.rank,
        task_type=MODEL_CLASSES[kind][1],
        # peft knows the heads of its own tasks, and images are none of them.
        modules_to_save=["classifier"] if kind == "image" else None,
    )


def _zero_scores(totals: dict[str, int]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {path: torch.zeros(n) for path, n in totals.items()} for name in CRITERIA}


def _log(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be in [0, 1), got {text}")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parser() -> argparse.ArgumentParser:
    """The arguments, all with a default; raises a ConfigError for wrong ones."""
    parser = _Parser(prog="python -m lightpeft.benchmark", description=__doc__)
    add = parser.add_argument
    add("--shape", default="roberta-large", help=", ".join(MODEL_SIZES))
    add("--ratio", type=_share, default=0.333, help="share of heads and neurons cut")
    add("--head-granularity", choices=("kv_group", "query_head"), default="kv_group")
    add("--modules", type=_share, default=0.0, help="share of PEFT modules cut")
    add("--ranks", type=_share, default=0.0, help="share of PEFT ranks cut")
    add("--rank", type=_count, default=8, help="LoRA rank before pruning")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--batch-sizes", type=_count, nargs="+", default=[1, 32])
    add("--length", type=int, help="tokens a row (default: 128; of images what they make)")
    add("--warmup", type=int, default=3, help="rounds not counted")
    add("--rounds", type=int, default=15, help="rounds measured")
    add("--out", type=Path, help="JSON file to write")
    add("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> ProfilingSettings:
    if arguments.length is None:
        arguments.length = MODEL_SIZES[arguments.shape].length
    _check_length(arguments.shape, arguments.length)
    names = ("batch_sizes", "length", "warmup", "rounds")
    try:
        return ProfilingSettings(**{name: getattr(arguments, name) for name in names})
    except ConfigError as error:
        name, _, rest = str(error).partition(" ")
        raise ConfigError(f"--{name.replace('_', '-')} {rest}") from None


def _check_length(name: str, length: int) -> None:
    shape = MODEL_SIZES[name]
    if shape.kind == "image" and length != shape.length:
        raise ConfigError(
            f"--length must be {shape.length} for {name}, whose images are as many "
            f"tokens, got {length}; leave it out"
        )
    limit = max_sequence_length(make_config(name), shape.kind)
    if limit is not None and length > limit:
        raise ConfigError(f"--length must be at most {limit} for {name}, got {length}")
