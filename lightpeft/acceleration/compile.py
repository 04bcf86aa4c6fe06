"""Compile a model with torch.compile for a while, and count what that took."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypedDict, Unpack, cast

import torch
from peft import PeftModel
from torch import nn
from torch._dynamo.callback import CallbackArgs, callback_handler
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters
from torch.fx.experimental import _config
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightpeft.core.benchmark_result import CompileScope
from lightpeft.core.errors import LightPeftError, ModelError

# Of torch._dynamo: graphs of one piece of code before it gives up. Layers share their code, so
# each distinct layer needs as many as torch grants a model without distinct layers.
_GRAPHS_PER_LAYER = 8


@dataclass(kw_only=True)
class CompileCounts:
    """What was compiled; complete once `compiled` has ended.

    Attributes:
        scope: `off`, `blocks` or `whole`.
        modules: number of modules that were compiled, each by itself.
        distinct: number of those with other names or shapes of weights than the ones before.
        graphs: number of compiled graphs; a graph of training has a backward pass as well.
        graph_breaks: reasons for which torch.compile had to interrupt a graph.
        seconds: time that compiling took, of forward and backward passes.
        compilations: number of a piece of code -> how often it was compiled.
    """

    scope: CompileScope
    modules: int = 0
    distinct: int = 0
    graphs: int = 0
    graph_breaks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    compilations: Counter[str] = field(default_factory=Counter)

    @property
    def recompilations(self) -> int:
        """Compilations of code beyond one for each distinct module: of other sizes of its inputs,
        of another mode (training, gradients), or of inputs of another type."""
        return sum(max(0, count - self.distinct) for count in self.compilations.values())

    def describe(self) -> str:
        """Return the counts as a line."""
        if self.scope == "off":
            return "compiled nothing"
        what = "the whole model" if self.scope == "whole" else f"{self.modules} blocks"
        kinds = "" if self.scope == "whole" else f" of {self.distinct} distinct shapes"
        breaks = f"graph breaks for {len(self.graph_breaks)} reasons"
        return (
            f"compiled {what}{kinds} in {self.seconds:.0f} s: {self.graphs} graphs, "
            f"{self.recompilations} recompilations, "
            f"{breaks if self.graph_breaks else 'no graph breaks'}"
        )


class CompileOptions(TypedDict, total=False):
    """How torch.compile compiles.

    Attributes:
        backend: of torch.compile; by default inductor.
        dynamic: as in torch.compile; True: one graph for all lengths and batch sizes, from the
            first step on; None, the default: once a second size was seen.
        cuda_graphs: replay kernels as CUDA graphs (torch.compile's mode `reduce-overhead`), for
            inference on CUDA; on other devices, and by default, it changes nothing.
    """

    backend: str | Callable[..., Any]
    dynamic: bool | None
    cuda_graphs: bool


@contextmanager
def compiled(
    model: PeftModel | PreTrainedModel, scope: CompileScope, **options: Unpack[CompileOptions]
) -> Iterator[CompileCounts]:
    """Run a model compiled, in place, until the context ends; graphs are made at its first steps.

    Compiled blocks share a graph if their weights have the same names and shapes, so that a
    model of equal blocks compiles in the time of one. A pruned model has as many distinct blocks
    as it has distinct widths (and sets of PEFT modules and ranks): torch's limit of graphs is
    raised in proportion. With `prune.uniform` all have one width.

    Args:
        model: adapted or plain.
        scope: `blocks`: each layer by itself; `whole`: the transformers model (under peft's) as
            one; `off`: nothing, so that a caller needs no case of its own.
        options: see `CompileOptions`.

    Yields:
        Counts, which are complete when the context has ended.

    Raises:
        ModelError: the model has no repeated layers, with scope `blocks`.
        LightPeftError: torch.compile failed, as without a C++ compiler, or made more graphs than
            the limit.
    """
    with compiling(model, scope, **options) as counts, counting(counts):
        yield counts


@contextmanager
def compiling(
    model: PeftModel | PreTrainedModel, scope: CompileScope, **options: Unpack[CompileOptions]
) -> Iterator[CompileCounts]:
    """Run a model compiled, as `compiled`, but count only what runs within `counting`.

    So that each of several models that are compiled at the same time has counts of its own.
    """
    counts = CompileCounts(scope=scope)
    if scope == "off":
        yield counts
        return
    modules = list_layers(model) if scope == "blocks" else [_get_base(model)]
    counts.modules = len(modules)
    counts.distinct = len({_describe_weights(module) for module in modules})
    on_cuda = next(model.parameters()).device.type == "cuda"
    use_graphs = options.get("cuda_graphs", False) and on_cuda
    mode = "reduce-overhead" if use_graphs else None
    with _configured(_GRAPHS_PER_LAYER * counts.distinct), ExitStack() as end:
        for module in modules:
            module.compile(
                backend=options.get("backend", "inductor"),
                dynamic=options.get("dynamic"),
                mode=mode,
            )
            end.callback(setattr, module, "_compiled_call_impl", None)
        yield counts


@contextmanager
def counting(counts: CompileCounts) -> Iterator[None]:
    """Add graphs, breaks and time of a context; torch's own counters count for the whole process.

    Raises:
        LightPeftError: torch.compile failed, as without a C++ compiler, or made more graphs than
            the limit.
    """
    graphs, breaks = counters["stats"]["unique_graphs"], Counter(counters["graph_break"])
    started = 0.0

    def start(args: CallbackArgs) -> None:
        nonlocal started
        started = perf_counter()
        if args.callback_trigger.name == "DYNAMO":
            # "3/1" is the second compilation of the fourth piece of code.
            counts.compilations[args.compile_id.rpartition("/")[0]] += 1

    def end(args: CallbackArgs) -> None:
        counts.seconds += perf_counter() - started

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        yield
    except FailOnRecompileLimitHit as error:
        raise LightPeftError(
            f"torch.compile made {torch._dynamo.config.recompile_limit} graphs of one piece of "
            f"code, which is the limit; TORCH_LOGS=recompiles shows why"
        ) from error
    except TorchDynamoException as error:
        raise LightPeftError(f"torch.compile failed: {_get_reason(error)}") from error
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)
        counts.graphs += counters["stats"]["unique_graphs"] - graphs
        # A reason is counted again each time that torch analyses the code again.
        new = Counter(counters["graph_break"]) - breaks
        counts.graph_breaks += [reason.partition("\n")[0] for reason in new]


def list_layers(model: nn.Module) -> list[nn.Module]:
    """Return the repeated layers of a model, in order: what transformers can checkpoint.

    Raises:
        ModelError: it has none.
    """
    layers = list(_iterate_layers(model))
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no layers of transformers' GradientCheckpointingLayer to "
            f"compile one by one; compile the whole model"
        )
    return layers


def _iterate_layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, GradientCheckpointingLayer):
            yield child
        else:
            yield from _iterate_layers(child)


def _get_base(model: PeftModel | PreTrainedModel) -> nn.Module:
    """Return the transformers model: peft's wrapper around it takes a hook for each forward."""
    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    return base


def _describe_weights(module: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, weight.shape) for name, weight in module.named_parameters())


@contextmanager
def _configured(graphs: int) -> Iterator[None]:
    """Let torch compile a piece of code this much more often, and stop with an error after that.

    Otherwise torch goes on uncompiled, and says so only in its log. Models of one class share
    their code, so that contexts of several models add up.
    """
    config, shapes_config = torch._dynamo.config, cast(Any, _config)
    with (
        warnings.catch_warnings(),
        config.patch(
            recompile_limit=config.recompile_limit + graphs,
            accumulated_recompile_limit=config.accumulated_recompile_limit + graphs,
            fail_on_recompile_limit_hit=True,
        ),
        # Or a graph made of 8 rows of 8 tokens would serve no other sizes than equal ones.
        shapes_config.patch(use_duck_shape=False),
    ):
        # Of what enters a block, torch reads the gradient that only leaves have
        # (torch/_dynamo/variables/builder.py), and warns of it.
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
        yield


def _get_reason(error: Exception) -> str:
    """Return the first line of what failed, which torch wraps."""
    inner = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0] if lines else 'no message'}"
