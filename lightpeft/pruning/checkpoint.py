"""Save, load and lift a pruned model's adapter: safetensors and JSON, no pickle."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import CheckpointError, ModelError, PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import WEIGHTS, read_lora
from lightpeft.core.serialization import (
    atomic_directory,
    read_plan_digest,
    read_tensors,
    write_tensors,
)
from lightpeft.modeling.adapters import adapter_state_dict
from lightpeft.modeling.lora_targets import check_settings
from lightpeft.pruning.adapter_slicing import (
    check_adapter_shapes,
    pruned_lora_config,
    zero_pad_adapter,
)
from lightpeft.pruning.prune import Quantize, attach_adapter, get_plan, prune_base_model

PLAN = "plan.json"


def save(model: PeftModel, folder: Path | str) -> None:
    """Write the compact adapter, the task head and the plan: megabytes, no base weights.

    Everything is written beside `folder` first, so that a failure leaves what was there.

    Raises:
        ModelError: the model has no plan.
    """
    plan, config = get_plan(model), copy.deepcopy(model.peft_config["default"])
    if config.modules_to_save is not None:
        # peft adds the task head's names each time that a config is attached.
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    weights = adapter_state_dict(model)
    with atomic_directory(Path(folder)) as made:
        config.save_pretrained(str(made))
        plan.save(made / PLAN)
        write_tensors(made / WEIGHTS, weights, plan=plan.digest)


def load(
    model: PreTrainedModel,
    folder: Path | str,
    *,
    trainable: bool = False,
    quantize: Quantize | None = None,
) -> PeftModel:
    """Prune a base model by the plan in `folder` and load the adapter onto it.

    Args:
        model: the unpruned base model, as it was when the plan was made; sliced in place.
        folder: what `save` wrote.
        trainable: whether to go on training; otherwise everything is frozen, in eval mode.
        quantize: called with the sliced base, to quantize it in place, before PEFT is attached.

    Raises:
        CheckpointError: a file is missing or damaged, or belongs to another model or plan.
    """
    source = Path(folder)
    plan, config, weights = _read(source)
    try:
        prune_base_model(model, plan, weights=weights, quantize=quantize)
        peft_model = attach_adapter(model, plan, pruned_lora_config(config, plan), weights)
    except PlanError as error:
        raise CheckpointError(f"{source}: {error}") from None
    if not trainable:
        peft_model.requires_grad_(False)
        peft_model.eval()
    return peft_model


def expand_adapter(folder: Path | str, out: Path | str) -> None:
    """Write the adapter at full size: it loads with stock peft on the unpruned base model.

    Weights that were cut are zeros. The same change of the weights is not the same function:
    the unpruned base also has the heads and neurons that the adapter was trained without.
    Beside experts, PEFT on dense feed-forward linears is written as on their weights
    (`target_parameters`), for which peft has no dropout.

    Raises:
        CheckpointError: a file in `folder` is missing or damaged, or `out` is `folder`.
    """
    source, target = Path(folder), Path(out)
    if target.resolve() == source.resolve():
        raise CheckpointError(f"{target} holds the compact adapter; lift it into another folder")
    plan, config, weights = _read(source)
    if plan.shape.num_moe_layers:
        _name_for_peft(config, plan)
    # Zero-padded to one rank, so that readers that know no patterns read it right.
    config.inference_mode = True
    with atomic_directory(target) as made:
        config.save_pretrained(str(made))
        write_tensors(made / WEIGHTS, zero_pad_adapter(weights, plan))


def _name_for_peft(config: LoraConfig, plan: PruningPlan) -> None:
    """Name targets so that peft takes them as they are on a model with experts.

    There it reads a pattern, and any module that ends in `gate_proj`, as the experts' fused
    weights; but a path to one parameter is that parameter.
    """
    names = [name for name, cut in plan.ranks.items() if cut.kept]
    dense = [name for name in names if plan.shape.block_of[name].path in plan.shape.neurons]
    config.target_modules = [name for name in names if name not in dense]
    if dense:
        config.target_parameters = [f"{name}.weight" for name in dense]
        config.lora_dropout = 0.0


def read_plan(folder: Path) -> PruningPlan:
    """The plan in a saved folder."""
    try:
        return PruningPlan.load(folder / PLAN)
    except PlanError as error:
        raise CheckpointError(str(error)) from None


def _read(folder: Path) -> tuple[PruningPlan, LoraConfig, dict[str, Tensor]]:
    """What `save` wrote, once it is clear that the parts belong together."""
    plan, config = read_plan(folder), read_lora(folder, CheckpointError)
    weights = read_tensors(folder / WEIGHTS, CheckpointError)
    # Two plans of one model often keep equal numbers of units, so shapes alone tell too little.
    if read_plan_digest(folder / WEIGHTS) != plan.digest:
        raise CheckpointError(f"{folder / WEIGHTS} was not saved with the {PLAN} beside it")
    if {cut.total for cut in plan.ranks.values()} != {config.r}:
        raise CheckpointError(f"{folder}: rank r {config.r!r} is not that of {PLAN}")
    # The plan says which modules there are, and their ranks; `compact_config` writes them again.
    config.rank_pattern, config.alpha_pattern, config.inference_mode = {}, {}, False
    try:
        check_settings(config)
        check_adapter_shapes(weights, plan)
    except (ModelError, PlanError) as error:
        raise CheckpointError(f"{folder}: {error}") from None
    return plan, config, weights
