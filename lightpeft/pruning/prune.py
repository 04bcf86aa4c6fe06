"""Apply a plan to a model: slice the base and the PEFT weights, once, for real."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError, PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.adapters import get_peft_model_unmapped
from lightpeft.modeling.fingerprint import fingerprint, is_quantized
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.units import kept_indices
from lightpeft.pruning.slicing import slice_base
from lightpeft.pruning.verification import slice_and_verify

Quantize = Callable[[PreTrainedModel], object]
_PREFIX = "base_model.model."
_LORA_KEY = re.compile(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight")


def prune(
    model: PreTrainedModel,
    plan: PruningPlan,
    scores: Scores,
    *,
    warm_start: bool = True,
    verify_batch: Mapping[str, Any] | None = None,
    quantize: Quantize | None = None,
) -> PeftModel:
    """Cut the model down to the plan and attach the PEFT modules that stay.

    Args:
        model: the plain base model that was estimated on; its weights are sliced in place.
        plan: made from `scores`.
        scores: holds the PEFT method, and the weights that the estimation trained.
        warm_start: carry those weights over, sliced; otherwise PEFT modules and task head
            start fresh.
        verify_batch: the model's keyword arguments, on which to check that the pruned base model
            gives the outputs that it gives with the same heads and neurons masked; costs two
            forward passes.
        quantize: called with the sliced base, to quantize it in place, before PEFT is attached;
            packed weights can't be sliced, so `model` is the unquantized one also where `scores`
            are of a quantized one.

    Returns:
        A stock `PeftModel`. Scaling stays as it was before ranks went.

    Raises:
        ModelError: the model is wrapped or quantized already, its architecture is not supported,
            or `verify_batch` shows a difference (the model is then not usable any more).
        PlanError: the plan belongs to another model or to other scores.
    """
    if plan.scores != scores.digest:
        raise PlanError(
            f"the plan was made from scores {plan.scores}, but these scores are {scores.digest}"
        )
    ranks = {name: len(row) for name, row in scores.ranks.items()}
    if {name: cut.total for name, cut in plan.ranks.items()} != ranks:
        raise PlanError("the plan's PEFT modules and ranks are not those of the scores")
    warm = compact_weights(scores.adapter, plan) if warm_start else None
    cut(model, plan, weights=warm, batch=verify_batch, quantize=quantize)
    return dress(model, plan, compact_config(scores.peft, plan), warm)


def cut(
    model: PreTrainedModel,
    plan: PruningPlan,
    *,
    weights: dict[str, Tensor] | None = None,
    batch: Mapping[str, Any] | None = None,
    quantize: Quantize | None = None,
) -> None:
    """Slice the base, then `quantize` it; each linear's old weight goes before the next is cut.

    With a `batch` the sliced base is checked on it, see `slice_and_verify`.

    Raises:
        ModelError, PlanError: the model, the plan and the PEFT weights do not belong together;
            found out before the model is changed. Or `quantize` made another model.
    """
    check_base(model, plan)
    if weights is not None:
        check_weights(weights, plan, model)
    if batch is None:
        slice_base(model, plan)
    else:
        slice_and_verify(model, plan, batch)
    if quantize and quantize(model) not in (None, model):
        raise ModelError("quantize must change the model that it is given, but it returned another")


def dress(
    model: PreTrainedModel, plan: PruningPlan, config: LoraConfig, weights: dict[str, Tensor] | None
) -> PeftModel:
    """Attach to a sliced base what `config` says, and load `weights` unless they are None."""
    peft_model = attach(model, config, plan)
    if weights is not None:
        load_weights(peft_model, weights)
    return peft_model


def check_base(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Refuse a model that the plan was not made for; changes nothing.

    Raises:
        ModelError: the model is wrapped or quantized already, or its architecture is not supported.
        PlanError: the plan belongs to another model.
    """
    if isinstance(model, PeftModel):
        raise ModelError("the model is wrapped by peft already; pass the base model")
    shape, expected = inspect_model(model), plan.shape
    if shape.blocks != expected.blocks:
        raise PlanError(
            f"the plan was made for another {expected.model_type} model: its blocks have "
            f"other sizes than this {shape.model_type} model's"
        )
    packed = [name for name in shape.linears if is_quantized(model.get_submodule(name))]
    if packed and not plan.keeps_base_intact:
        raise ModelError(
            f"{packed[0]} is quantized, and packed weights can't be sliced; pass the model as it "
            f"is without, and quantize= what quantizes it afterwards"
        )
    if (found := fingerprint(model, shape, like=plan.fingerprint)) != plan.fingerprint:
        raise PlanError(
            f"the plan was made for base weights {plan.fingerprint}, but these are {found}"
        )


def check_weights(
    weights: dict[str, Tensor], plan: PruningPlan, model: PreTrainedModel | None = None
) -> None:
    """Refuse compact PEFT weights that the plan does not describe; changes nothing.

    Args:
        weights: under peft's names.
        plan: says the shapes of LoRA's factors.
        model: the base model, whose own modules say the shapes of the rest.

    Raises:
        PlanError: names a weight that is missing, left over, or of another shape.
    """
    given = {key: weight.shape for key, weight in weights.items()}
    own = given
    if model is not None:
        own = {f"{_PREFIX}{name}": weight.shape for name, weight in model.state_dict().items()}
    wanted = {key: own.get(key) for key in given if _LORA_KEY.fullmatch(key) is None}
    for name, cut in plan.ranks.items():
        rank, (inputs, outputs) = len(cut.kept), plan.pruned_shape(name)
        if rank:
            wanted[f"{_PREFIX}{name}.lora_A.weight"] = torch.Size((rank, inputs))
            wanted[f"{_PREFIX}{name}.lora_B.weight"] = torch.Size((outputs, rank))
    _compare(wanted, given)


def compact_config(original: LoraConfig, plan: PruningPlan) -> LoraConfig:
    """Say in peft's own terms: exactly these modules, each with its own rank, scaling unchanged."""
    config = copy.deepcopy(original)
    ranks = {name: len(cut.kept) for name, cut in plan.ranks.items() if cut.kept}
    # One string is matched whole; list entries would match as endings.
    config.target_modules = _any_of(sorted(ranks))
    config.exclude_modules = None
    by_rank: dict[int, list[str]] = {}
    for name, rank in sorted(ranks.items()):
        by_rank.setdefault(rank, []).append(name)
    by_rank.pop(original.r, None)
    # One anchored key per rank: peft sorts keys when it saves, and the first match wins.
    config.rank_pattern = {f"^{_any_of(names)}": rank for rank, names in by_rank.items()}
    scaling = original.lora_alpha / (math.sqrt(original.r) if original.use_rslora else original.r)
    config.alpha_pattern = {
        key: scaling * (math.sqrt(rank) if original.use_rslora else rank)
        for key, rank in config.rank_pattern.items()
    }
    config.inference_mode = False
    return config


def compact_weights(weights: dict[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Slice full-size PEFT weights to the plan; the task head passes through."""
    found = {}
    for key, weight in weights.items():
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            found[key] = weight
        elif plan.ranks[match[1]].kept:
            rows, columns = _coordinates(match[1], match[2], plan)
            found[key] = weight[rows[:, None], columns]
    return found


def lifted_weights(weights: dict[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Expand compact PEFT weights with zeros to the unpruned shapes and ranks."""
    found = {}
    for key, weight in weights.items():
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            found[key] = weight
            continue
        linear, rank = plan.shape.linears[match[1]], plan.ranks[match[1]].total
        size = (rank, linear.inputs) if match[2] == "A" else (linear.outputs, rank)
        rows, columns = _coordinates(match[1], match[2], plan)
        found[key] = weight.new_zeros(size)
        found[key][rows[:, None], columns] = weight
    return found


def attach(model: PreTrainedModel, config: LoraConfig, plan: PruningPlan) -> PeftModel:
    """Attach PEFT modules and check that they are exactly the plan's."""
    peft_model = get_peft_model_unmapped(model, config)
    wanted = {name for name, cut in plan.ranks.items() if cut.kept}
    attached = set(peft_model.base_model.targeted_module_names)
    if attached != wanted:
        odd = sorted(attached ^ wanted)
        raise PlanError(f"peft attached other modules than the plan keeps: {', '.join(odd[:3])}")
    # peft makes its dropouts in training mode, whatever the model is in.
    peft_model.train(model.training)
    peft_model.lightpeft_plan = plan
    return peft_model


def get_plan(model: PeftModel) -> PruningPlan:
    """The plan that a model was pruned by.

    Raises:
        ModelError: it did not come from `prune` or `load`.
    """
    plan = getattr(model, "lightpeft_plan", None)
    if not isinstance(plan, PruningPlan):
        raise ModelError("the model has no plan; get it from lightpeft.prune or lightpeft.load")
    return plan


def load_weights(model: PeftModel, weights: dict[str, Tensor]) -> None:
    """Load PEFT weights, every one of them.

    Raises:
        PlanError: a weight is missing, left over, or of another shape.
    """
    own = {key: tensor.shape for key, tensor in peft_weights(model).items()}
    _compare(own, {key: tensor.shape for key, tensor in weights.items()})
    set_peft_model_state_dict(model, weights)


def peft_weights(model: PeftModel) -> dict[str, Tensor]:
    """PEFT weights and task head under peft's names, without asking a hub about embeddings."""
    state: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach() for name, tensor in state.items()}


def _compare(wanted: Mapping[str, torch.Size | None], given: Mapping[str, torch.Size]) -> None:
    for key in sorted(wanted.keys() | given.keys()):
        if wanted.get(key) != given.get(key):
            raise PlanError(
                f"PEFT weight {key} must have shape {_text(wanted.get(key))}, "
                f"got {_text(given.get(key))}"
            )


def _coordinates(name: str, factor: str, plan: PruningPlan) -> tuple[Tensor, Tensor]:
    """Rows and columns of a module's full LoRA factor that the compact one holds."""
    linear, ranks = plan.shape.linears[name], torch.tensor(plan.ranks[name].kept)
    units = kept_indices(linear, plan.remaining_units(plan.shape.block_of[name].path))
    if factor == "A":
        return ranks, units if linear.pruned_dim == "in" else torch.arange(linear.inputs)
    return units if linear.pruned_dim == "out" else torch.arange(linear.outputs), ranks


def _any_of(names: list[str]) -> str:
    return "(?:" + "|".join(re.escape(name) for name in names) + ")"


def _text(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
