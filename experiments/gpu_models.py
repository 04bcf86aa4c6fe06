"""The models that experiments.gpu compares: stock LoRA and light, shared weights between forms."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

import lightpeft
from lightpeft import PruningConfig
from lightpeft.benchmark.random_models import build_random_model
from lightpeft.benchmark.run import BenchmarkConfig, make_equal_scores
from lightpeft.core.scores import Scores
from lightpeft.planning.fixed_plans import keep_query_and_value
from lightpeft.planning.widths import choose_align
from lightpeft.pruning.prune import get_plan


@dataclass(frozen=True)
class Case:
    """A published model, and the batches that it is measured with."""

    shape: str
    rows: int
    tokens: int


@dataclass(frozen=True)
class Ratios:
    """Fractions to prune."""

    heads: float
    neurons: float
    modules: float
    ranks: float


CASES = {
    case.shape: case
    for case in (
        Case("roberta-large", 32, 128),
        Case("llama-2-7b", 16, 128),
        Case("opt-1.3b", 32, 128),
        Case("qwen3-8b", 16, 256),
        Case("opt-6.7b", 16, 128),
    )
}
PAPER = Ratios(heads=1 / 3, neurons=1 / 3, modules=0.75, ranks=0.5)
TWO_FIFTHS = Ratios(heads=0.4, neurons=0.4, modules=0.25, ranks=0.25)
# Those of params.yaml, for encoders and for decoders.
ENCODER_DEFAULTS = Ratios(heads=1 / 3, neurons=1 / 3, modules=0.25, ranks=0.25)
DECODER_DEFAULTS = Ratios(heads=0.0, neurons=0.1, modules=0.0, ranks=0.0)


def build_models(
    case: Case, ratios: Ratios, device: torch.device, *, with_query_value: bool
) -> dict[str, PeftModel]:
    """Build stock LoRA on all linears, on query and value, and the pruned model.

    The two unpruned ones share the weights of their base.

    Args:
        case: the model.
        ratios: of the pruned one.
        device: where they are made; in bfloat16 on CUDA, elsewhere in float32.
        with_query_value: whether to build the second.
    """
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    config = BenchmarkConfig(shape=case.shape, dtype=dtype, length=case.tokens)
    align = choose_align(config.torch_dtype, device)
    base = build_random_model(case.shape, dtype=config.torch_dtype, device=device)
    scores = _make_even_scores(config, base)
    nothing = Ratios(0.0, 0.0, 0.0, 0.0)
    models = {}
    if with_query_value:
        twin = copy_with_shared_weights(base)
        models["LoRA q, v"] = lightpeft.prune(
            twin, keep_query_and_value(scores), scores, warm_start=False
        )
    for name, model, fractions in (
        ("LoRA", base, nothing),
        ("light", build_random_model(case.shape, dtype=config.torch_dtype, device=device), ratios),
    ):
        pruning = PruningConfig(**vars(fractions), neuron_scope="layer", align=align)
        plan = lightpeft.make_plan(scores, pruning)
        models[name] = lightpeft.prune(model, plan, scores, warm_start=False)
    order = ("LoRA", "LoRA q, v", "light")
    return {name: models[name] for name in order if name in models}


def _make_even_scores(config: BenchmarkConfig, base: PreTrainedModel) -> Scores:
    """Return scores that prune the same number of units in each layer and of ranks in each module.

    So a model has two kinds of layers, with and without PEFT modules, and torch.compile makes
    graphs of these two.
    """
    scores = make_equal_scores(config, base)
    ranks = {path: torch.arange(len(each)) / len(each) for path, each in scores.ranks.items()}
    return dataclasses.replace(scores, ranks=ranks)


def accelerate_copy(model: PeftModel) -> PeftModel:
    """Return an accelerated copy, with the frozen weights of the original."""
    copied: PeftModel = copy_with_shared_weights(model)
    lightpeft.accelerate(copied)
    return copied


def copy_with_shared_weights(model: Any) -> Any:
    """Copy a model but for its frozen weights; of a model without adapters, but for all."""
    is_adapted = isinstance(model, PeftModel)
    shared: list[Any] = [
        weight for weight in model.parameters() if not (is_adapted and weight.requires_grad)
    ]
    shared += [get_plan(model)] if is_adapted else []
    return copy.deepcopy(model, {id(x): x for x in shared})
