"""Time light and stock LoRA on published model sizes: training, prefill and decode, on one GPU.

    python -m experiments.gpu
    python -m experiments.gpu --minutes 30 --cases llama-2-7b
    python -m experiments.gpu table

Needs torch, transformers, peft, safetensors and pydantic, no data and no download: weights are
random. Methods of a group take turns, as in lightpeft.benchmark. A group's rows are written to
experiments/results/gpu as soon as it is measured; a run that was cut off goes on after the last
complete group, and one that is out of time stops before the next. Groups come in the order of
their value. `table` prints the rows as Markdown.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.gpu_models import (
    CASES,
    DECODER_DEFAULTS,
    ENCODER_DEFAULTS,
    PAPER,
    Case,
    Ratios,
    accelerate_copy,
    build_models,
)
from experiments.gpu_table import format_rows
from lightpeft.acceleration.compile import CompileCounts, compiling, counting
from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.benchmark.run import choose_device
from lightpeft.core.benchmark_result import CompileScope, Phase
from lightpeft.core.errors import LightPeftError
from lightpeft.core.plan import PruningPlan
from lightpeft.profiling.kernel_counts import count_kernels, time_host
from lightpeft.profiling.merged import merge_in_place
from lightpeft.profiling.random_batches import PHASES, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import compute_quartiles, compute_speedup
from lightpeft.profiling.step_functions import Step
from lightpeft.profiling.timing import make_step, time_steps
from lightpeft.profiling.variants import CALLS_THAT_COMPILE, begin_cuda_graphs, make_deployed_step
from lightpeft.profiling.workload import Workload
from lightpeft.pruning.prune import get_plan

FOLDER = Path(__file__).parent / "results" / "gpu"
Row = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Methods that take turns: those of one model, one set of ratios, one phase and one form.

    Attributes:
        ratios: `default`, of params.yaml, or `paper`.
        form: `eager` (with adapters), `compiled` (accelerated and compiled), `merged`, or
            `merged, compiled`.
    """

    case: Case
    ratios: str
    phase: Phase
    form: str

    @property
    def key(self) -> str:
        """Name of the group in the rows."""
        return f"{self.case.shape}, {self.ratios}, {self.phase}, {self.form}"

    @property
    def fractions(self) -> Ratios:
        """Fractions that light prunes."""
        is_decoder = MODEL_SIZES[self.case.shape].kind == "decoder"
        if self.ratios == "paper":
            return PAPER
        return DECODER_DEFAULTS if is_decoder else ENCODER_DEFAULTS

    @property
    def is_training(self) -> bool:
        """Whether steps are those of training."""
        return self.phase == "training"

    @property
    def is_merged(self) -> bool:
        """Whether the adapters are merged."""
        return self.form.startswith("merged")

    @property
    def scope(self) -> CompileScope:
        """What is compiled: in training the layers, of a merged model the whole."""
        if "compiled" not in self.form:
            return "off"
        return "blocks" if self.is_training else "whole"


def list_groups(cases: Mapping[str, Case]) -> Iterator[Group]:
    """Yield all groups: training before inference, eager before compiled."""
    for form in ("eager", "compiled"):
        for case in cases.values():
            for ratios in ("default", "paper"):
                yield Group(case, ratios, "training", form)
    for form in ("merged", "merged, compiled", "eager"):
        for case in cases.values():
            for phase in PHASES[MODEL_SIZES[case.shape].kind][1:]:
                if form == "merged, compiled" and phase == "prefill":
                    continue  # transformers compiles decoding only
                for ratios in ("default", "paper"):
                    yield Group(case, ratios, phase, form)


def measure_group(group: Group, device: torch.device, rounds: int) -> list[Row]:
    """Measure a group; return a row for each method, with its ratios to the first one.

    Raises:
        LightPeftError: torch.compile failed.
    """
    settings = ProfilingSettings(
        batch_sizes=[group.case.rows], length=group.case.tokens, rounds=rounds
    )
    models, plans = _build_group(group, device)
    with ExitStack() as stack:
        counts = {
            name: stack.enter_context(
                compiling(model, group.scope, dynamic=False, cuda_graphs=not group.is_training)
            )
            for name, model in models.items()
        }
        steps = {name: _make_step(group, model, settings) for name, model in models.items()}
        for name, step in steps.items() if group.scope != "off" else ():
            with counting(counts[name]):
                for _ in range(CALLS_THAT_COMPILE):
                    step()
        seconds = time_steps(steps, settings, device)
        host = {name: time_host(step, device) for name, step in steps.items()}
        kernels = {name: count_kernels(step, device) for name, step in steps.items()}
    tokens = group.case.rows * (1 if group.phase == "decode" else group.case.tokens)
    flops = {
        name: tokens * _count_flops(group, model, settings, plans[name])
        for name, model in models.items()
    }
    first = next(iter(models))
    return [
        _make_row(name, seconds[name], seconds[first], flops[name], flops[first])
        | {"kernels": kernels[name], "host_ms": round(1e3 * host[name], 3), "baseline": first}
        | _describe_compilation(counts[name])
        for name in models
    ]


def _build_group(
    group: Group, device: torch.device
) -> tuple[dict[str, Any], dict[str, PruningPlan]]:
    """Return the models of a group, and the plans that they were pruned by."""
    in_full = group.is_training and group.form == "eager"
    models: dict[str, Any] = build_models(
        group.case, group.fractions, device, with_query_value=in_full
    )
    plans = {name: get_plan(model) for name, model in models.items()}
    if group.is_training:
        accelerated = {
            f"{name} + accelerate": accelerate_copy(models[name]) for name in ("LoRA", "light")
        }
        models = (models if in_full else {}) | accelerated
    elif group.is_merged:
        models = {name: merge_in_place(model) for name, model in models.items()}
    return models, {name: plans[name.partition(" + ")[0]] for name in models}


def _count_flops(group: Group, model: Any, settings: ProfilingSettings, plan: PruningPlan) -> int:
    """Return the FLOPs of a phase, per token."""
    merged = plan if group.is_merged else None
    flops = Workload.from_model(model, settings, merged=merged).count_flops(group.phase)
    assert flops is not None  # all models have plans
    return flops


def _make_step(group: Group, model: Any, settings: ProfilingSettings) -> Step:
    rows = group.case.rows
    if not group.is_merged:
        return make_step(group.phase, model, batch_size=rows, settings=settings)
    batch = make_random_batch(model, batch_size=rows, length=settings.length)
    step = make_deployed_step(group.phase, model, batch)
    return step if group.scope == "off" else begin_cuda_graphs(step)


def _make_row(
    method: str, seconds: list[float], baseline: list[float], flops: int, baseline_flops: int
) -> Row:
    quartiles, speedup = compute_quartiles(seconds), compute_speedup(baseline, seconds).median
    bound = baseline_flops / flops
    return {
        "method": method,
        "ms": round(1e3 * quartiles.median, 3),
        "quartiles_ms": [round(1e3 * value, 3) for value in (quartiles.q1, quartiles.q3)],
        "speedup": round(speedup, 3),
        "flop_bound": round(bound, 3),
        "share_of_bound": round(speedup / bound, 3),
        "tflops": round(flops / quartiles.median / 1e12, 4),
    }


def _describe_compilation(counts: CompileCounts) -> Row:
    return {} if counts.scope == "off" else {"compilation": counts.describe()}


def read_rows(path: Path) -> list[Row]:
    """Read the rows that were written; a line that was cut off ends them."""
    rows: list[Row] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def run(arguments: argparse.Namespace, device: torch.device, command: str) -> None:
    """Measure the groups that have no rows yet, until the time is over."""
    start, path = time.monotonic(), locate_rows(device)
    rows = read_rows(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    done = {row["group"] for row in rows}
    groups = list(list_groups({name: CASES[name] for name in arguments.cases}))
    missing = [group for group in groups if group.key not in done]
    for number, group in enumerate(missing):
        if time.monotonic() - start > 60 * arguments.minutes:
            print(f"{len(missing) - number} groups are left; run it again", file=sys.stderr)
            return
        shape = {"case": group.case.shape, "rows": group.case.rows, "tokens": group.case.tokens}
        names = {"group": group.key, "ratios": group.ratios, "phase": group.phase}
        origin = {"form": group.form, "device": _read_device_name(device), **_list_versions()}
        began = time.monotonic()
        try:
            measured = measure_group(group, device, arguments.rounds)
        except (LightPeftError, torch.OutOfMemoryError) as error:
            reason = str(error).partition("\n")[0]
            measured = [{"method": "-", "error": reason}]
        with path.open("a", encoding="utf-8") as file:
            for row in measured:
                file.write(f"{json.dumps(names | shape | row | origin | {'command': command})}\n")
        print(f"{group.key}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        _free_memory(group, device)


def locate_rows(device: torch.device) -> Path:
    """Return the file of a device's rows."""
    slug = "-".join(_read_device_name(device).lower().split())
    return FOLDER / f"{slug}.jsonl"


def _free_memory(group: Group, device: torch.device) -> None:
    if group.scope != "off":
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _read_device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _list_versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft")}


def main(argv: list[str]) -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no group after these")
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds, at least 3")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    arguments = parser.parse_args(argv)
    device = choose_device(arguments.device)
    if arguments.action == "run":
        run(arguments, device, shlex.join(["python", "-m", "experiments.gpu", *argv]))
    print(format_rows(read_rows(locate_rows(device))))


if __name__ == "__main__":
    main(sys.argv[1:])
