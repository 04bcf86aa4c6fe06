"""Apply a plan to a model: slice the base model's weights and attach the pruned adapter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lightpeft.core.errors import LightPeftError, ModelError, PlanError, Term
from lightpeft.core.names import DORA
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.adapters import (
    DEFAULT,
    check_adapter_state_dict,
    get_peft_model_unmapped,
    load_adapter_state_dict,
)
from lightpeft.modeling.fingerprint import compute_fingerprint, is_quantized
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.peft_targets import list_saved_modules
from lightpeft.modeling.slicing import slice_base
from lightpeft.modeling.stock_config import write_stock_config
from lightpeft.peft_methods.registry import make_pruned_config
from lightpeft.pruning.adapter_slicing import (
    check_adapter_shapes,
    slice_adapter,
)
from lightpeft.pruning.dora import fit_magnitudes
from lightpeft.pruning.verification import slice_and_verify

Quantize = Callable[[PreTrainedModel], object]


def prune(
    model: PreTrainedModel,
    plan: PruningPlan,
    scores: Scores,
    *,
    warm_start: bool = True,
    verify_batch: Mapping[str, Any] | None = None,
    quantize: Quantize | None = None,
) -> PeftModel:
    """Prune a model by its plan and attach the PEFT modules that the plan keeps.

    Args:
        model: the plain base model that was estimated on; its weights are sliced in place.
        plan: made from `scores`.
        scores: hold the PEFT method, and the weights that the estimation trained.
        warm_start: whether to keep those weights, sliced; otherwise PEFT modules and task head
            start from new ones.
        verify_batch: the model's keyword arguments, on which to check that the pruned base model
            gives the outputs that it gives with the same heads and neurons masked and the same
            layers skipped; costs two forward passes.
        quantize: called with the pruned base model, to quantize it in place before the PEFT
            modules are attached. Quantized weights can't be sliced, so `model` is the unquantized
            one even if `scores` are of a quantized one.

    Returns:
        A stock `PeftModel`. The scaling of its modules is that of the original ranks.

    Raises:
        ModelError: the model is wrapped or quantized already, its architecture is not supported,
            or `verify_batch` shows a difference (the model is then not usable any more).
        PlanError: the plan belongs to another model or to other scores.

    Example:
        >>> model = copy.deepcopy(base_model)
        >>> before = model.num_parameters()
        >>> pruned = lightpeft.prune(model, plan, scores, verify_batch=batches[0])
        >>> model.num_parameters() < before
        True
        >>> pruned(**batches[0]).logits.shape
        torch.Size([4, 2])
    """
    if plan.scores != scores.digest:
        raise PlanError(
            f"the plan was made from scores {plan.scores}, but these scores are {scores.digest}"
        )
    ranks = {name: len(row) for name, row in scores.ranks.items()}
    totals = {name: rank.total for name, rank in plan.ranks.items()}
    if totals != ranks or plan.peft_type != scores.peft_type:
        raise PlanError("the plan's PEFT modules and ranks are not those of the scores")
    weights = slice_adapter(scores.adapter, plan) if warm_start else None
    if weights is not None and plan.peft_type == DORA:
        check_plan_matches_model(plan, model, scores.peft)
        weights = fit_magnitudes(weights, scores.adapter, plan, model, scores.peft)
    config = make_pruned_config(scores.peft, plan)
    return apply_plan(model, plan, config, weights, verify_batch=verify_batch, quantize=quantize)


def get_plan(model: PeftModel) -> PruningPlan:
    """Return the plan that a model was pruned by.

    Raises:
        ModelError: the model did not come from `prune` or `load`.

    Example:
        >>> lightpeft.get_plan(pruned) == plan
        True
    """
    plan = getattr(model, "lightpeft_plan", None)
    if not isinstance(plan, PruningPlan):
        raise ModelError("the model has no plan; get it from lightpeft.prune or lightpeft.load")
    return plan


def get_config_of_full_widths(model: PeftModel) -> PreTrainedConfig:
    """Return the config of a pruned model with all heads and neurons, in the layers that it kept.

    Raises:
        ModelError: the model did not come from `prune` or `load`.
    """
    get_plan(model)
    config: PreTrainedConfig = model.lightpeft_full_widths
    return config


def apply_plan(
    model: PreTrainedModel,
    plan: PruningPlan,
    config: PeftConfig,
    weights: Mapping[str, Tensor] | None,
    *,
    verify_batch: Mapping[str, Any] | None = None,
    quantize: Quantize | None = None,
    adapter_name: str = DEFAULT,
) -> PeftModel:
    """Slice the base model in place, quantize it, and attach the pruned adapter.

    A linear's old weight is freed before the next one is sliced, so that there is never a second
    copy of the model. All of it is done on a copy without data first, so that a plan or an adapter
    that does not fit leaves the model as it was.

    Args:
        model: the plain base model of the plan.
        plan: which heads, neurons and PEFT modules to keep.
        config: from `make_pruned_config`.
        weights: of the pruned adapter; None: PEFT modules and task head start from new ones.
        verify_batch: as in `prune`.
        quantize: as in `prune`.
        adapter_name: of peft.

    Raises:
        ModelError, PlanError: the model, the plan and the PEFT weights do not belong together,
            before the model is changed; or `quantize` returned another model.
    """
    check_plan_matches_model(plan, model, config)
    if weights is not None:
        check_adapter_shapes(weights, plan, model)
    _rehearse(model, plan, config, weights)
    if verify_batch is None:
        slice_base(model, plan)
    else:
        slice_and_verify(model, plan, verify_batch)
    full_widths = model.config
    write_stock_config(model, plan.without_layers)
    if quantize and quantize(model) not in (None, model):
        raise ModelError("quantize must change the model that it is given, but it returned another")
    peft_model = attach_adapter(model, plan, config, weights, adapter_name=adapter_name)
    peft_model.lightpeft_full_widths = full_widths
    return peft_model


def _rehearse(
    model: PreTrainedModel,
    plan: PruningPlan,
    config: PeftConfig,
    weights: Mapping[str, Tensor] | None,
) -> None:
    """Slice and wrap a copy of the model on the meta device.

    Raises:
        PlanError: peft or the model does not take the config or the weights.
    """
    memo = {id(x): copied for module in model.modules() for x, copied in _drop_data(module)}
    copied = copy.deepcopy(model, memo)
    with torch.random.fork_rng(devices=[]):  # peft draws initial weights
        try:
            slice_base(copied, plan)
            peft_model = attach_adapter(copied, plan, config, None)
            if weights is not None:
                check_adapter_state_dict(peft_model, weights)
        except LightPeftError:
            raise
        except Exception as error:  # peft and torch raise any
            raise PlanError(f"the adapter does not fit the model: {error!r}") from error


def _drop_data(module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tensors of a module itself, each with one like it on the meta device.

    Those of a quantized module share their data instead: from them, peft computes its weights.
    """
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    is_packed = any(isinstance(x, nn.Parameter) and is_quantized(x) for x in own)
    for tensor in own:
        if is_packed and is_quantized(tensor):
            yield tensor, tensor
            continue
        copied = tensor.detach() if is_packed else torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            copied = nn.Parameter(copied, requires_grad=tensor.requires_grad)
        yield tensor, copied


def attach_adapter(
    model: PreTrainedModel,
    plan: PruningPlan,
    config: PeftConfig,
    weights: Mapping[str, Tensor] | None,
    *,
    adapter_name: str = DEFAULT,
) -> PeftModel:
    """Wrap a pruned base model with the PEFT modules of its plan, and load their weights.

    Args:
        model: pruned by `plan`.
        plan: which PEFT modules there are; kept as the attribute that `get_plan` reads.
        config: from `make_pruned_config`.
        weights: of the pruned adapter; None: PEFT modules and task head start from new ones.
        adapter_name: of peft.

    Raises:
        PlanError: peft attached other modules, or the weights have other shapes.
    """
    peft_model = get_peft_model_unmapped(model, config, adapter_name=adapter_name)
    expected = {name for name, rank in plan.without_layers.ranks.items() if rank.kept}
    attached = set(peft_model.base_model.targeted_module_names)
    if attached != expected:
        names = ", ".join(sorted(attached ^ expected)[:3])
        raise PlanError(f"peft attached other modules than the plan keeps: {names}")
    # peft makes its dropouts in training mode, whatever the model is in.
    peft_model.train(model.training)
    peft_model.lightpeft_plan = plan
    if weights is not None:
        load_adapter_state_dict(peft_model, weights)
    return peft_model


def check_plan_matches_model(plan: PruningPlan, model: PreTrainedModel, config: PeftConfig) -> None:
    """Check that a plan was made for a model, which is not changed.

    Args:
        plan: the plan.
        model: the plain base model.
        config: of the adapter, which names the modules that it holds in full.

    Raises:
        ModelError: the model is wrapped or quantized already, or its architecture is not supported.
        PlanError: the plan belongs to another model.
    """
    if isinstance(model, PeftModel):
        raise ModelError("the model is wrapped by peft already; pass the base model")
    shape, expected = inspect_model(model), plan.shape
    if (shape.blocks, shape.stacks) != (expected.blocks, expected.stacks):
        raise PlanError(
            f"the plan was made for another {expected.model_type} model: its blocks have "
            f"other sizes than this {shape.model_type} model's, or its layers differ"
        )
    packed = [name for name in shape.linears if is_quantized(model.get_parameter(f"{name}.weight"))]
    if packed and not plan.keeps_base_intact:
        raise ModelError(
            f"{packed[0]} is quantized, and packed weights can't be sliced; pass the unquantized "
            f"model, and a function that quantizes it afterwards as quantize="
        )
    before, now = (x.non_block_parameters.get("embeddings", 0) for x in (expected, shape))
    if before != now:
        raise PlanError(
            f"the plan was made for a model with {before:,} parameters of embeddings, but this one "
            f"has {now:,}; does its vocabulary have the same added tokens?"
        )
    weights = compute_fingerprint(model, shape, list_saved_modules(config), like=plan.fingerprint)
    if weights != plan.fingerprint:
        is_lora = isinstance(config, LoraConfig)
        saved = Term.IN_LORA_MODULES if is_lora else Term.IN_BOTTLENECK_MODULES
        remedy = (
            f"weights that a checkpoint lacks, such as added tokens or a new head, must be {saved}"
        )
        if model.dtype == torch.float16:
            remedy = "a checkpoint of another dtype than float16 is rounded by it; take bfloat16"
        raise PlanError(
            f"the plan was made for base weights {plan.fingerprint}, but these are {weights}; "
            f"{remedy}"
        )
