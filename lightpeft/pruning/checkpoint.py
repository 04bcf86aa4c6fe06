"""Save, load and expand the adapter of a pruned model: safetensors and JSON, no pickle."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.adapter_layout import find_adapter_file
from lightpeft.core.errors import CheckpointError, PlanError
from lightpeft.core.names import COMPRESSED, CONFIG, DORA, PLAN, WEIGHTS
from lightpeft.core.peft_settings import get_peft_type, read_peft_config
from lightpeft.core.plan import PruningPlan
from lightpeft.core.reading import check_digests
from lightpeft.core.safetensors_header import read_plan_digest
from lightpeft.core.serialization import replace_directory, write_digests
from lightpeft.core.tensors import check_finite, read_tensors, write_tensors
from lightpeft.modeling.adapters import DEFAULT, get_adapter_state_dict
from lightpeft.peft_methods.registry import make_full_config, make_pruned_config
from lightpeft.pruning.adapter_slicing import (
    check_adapter_shapes,
    zero_pad_adapter,
)
from lightpeft.pruning.compression import compress_adapter, decompress_adapter
from lightpeft.pruning.dora import expand_magnitudes
from lightpeft.pruning.prune import (
    Quantize,
    apply_plan,
    check_plan_matches_model,
    get_plan,
)
from lightpeft.pruning.several_adapters import (
    Adapter,
    add_adapter,
    check_adapter_name,
    check_has_adapter,
    check_same_plan,
)

_REMEDY = "prune and fine-tune again"


def save(model: PeftModel, folder: Path | str, *, adapter_name: str | None = None) -> None:
    """Write the pruned adapter, the task head and the plan: megabytes, no base weights.

    All files are written to a temporary folder first, so that a failure leaves `folder` as it was.

    Args:
        model: from `prune` or `load`, in any state of training.
        folder: created or replaced; gets peft's `adapter_config.json` and
            `adapter_model.safetensors`, `plan.json`, and the digests of all three.
        adapter_name: of the adapter to write; None: the active one.

    Raises:
        ModelError: the model has no plan, or no adapter of that name.
        CheckpointError: a weight holds NaN or infinity.
        OSError: `folder` can't be written.

    Example:
        >>> lightpeft.save(pruned, folder / "adapter")
        >>> sorted(path.name for path in (folder / "adapter").iterdir())
        ['SHA256SUMS', 'adapter_config.json', 'adapter_model.safetensors', 'plan.json']
    """
    plan, name = get_plan(model), adapter_name or model.active_adapter
    check_has_adapter(model, name)
    config = copy.deepcopy(model.peft_config[name])
    if config.modules_to_save is not None:
        # peft adds the task head's names each time that a config is attached.
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
    weights = get_adapter_state_dict(model, adapter_name=name)
    check_finite(weights, CheckpointError, "nothing was saved: the weight ")
    with replace_directory(Path(folder)) as temporary:
        config.save_pretrained(str(temporary))
        plan.save(temporary / PLAN)
        write_tensors(temporary / WEIGHTS, weights, plan=plan.digest)
        write_digests(temporary)


def load(
    model: PreTrainedModel | PeftModel,
    folder: Path | str,
    *,
    trainable: bool = False,
    quantize: Quantize | None = None,
    adapter_name: str = DEFAULT,
) -> PeftModel:
    """Prune a base model by the plan in `folder` and load the adapter onto it.

    Several adapters that were made on one plan can be on one pruned model: pass what `load`
    returned, and another name. The new adapter is not active; `set_adapter` of peft changes that,
    and `delete_adapter` removes one. Under a name that the model has, the weights are replaced in
    place, so that a compiled model stays compiled.

    Args:
        model: the unpruned base model that the plan was made for, whose weights are sliced in
            place; or a model that was pruned by the same plan, from `prune` or `load`.
        folder: written by `save`, or by `export` as compact; one that is on the hub must be
            downloaded first, with `huggingface_hub.snapshot_download`.
        trainable: whether to continue training; otherwise all weights are frozen, in eval mode.
        quantize: called with the pruned base model, to quantize it in place before PEFT modules
            are attached.
        adapter_name: of peft: letters, digits, `_` and `-`.

    Returns:
        A stock `PeftModel`.

    Raises:
        CheckpointError: a file is missing or damaged, or belongs to another model or plan.
        ModelError: the name is not allowed, or the model is wrapped by peft and has no plan.

    Example:
        >>> lightpeft.save(pruned, folder / "adapter")
        >>> loaded = lightpeft.load(copy.deepcopy(base_model), folder / "adapter")
        >>> torch.equal(loaded(**batches[0]).logits, pruned.eval()(**batches[0]).logits)
        True
        >>> both = lightpeft.load(loaded, folder / "adapter", adapter_name="second")
        >>> both.set_adapter("second")
    """
    source = Path(folder)
    plan, config, stored = _read_files(source)
    check_adapter_name(adapter_name, config)
    try:
        if find_adapter_file(source) == COMPRESSED:
            # A small file can stand for many values, but not for more than the model has room for.
            _check_is_for(model, plan, config)
        weights = _unpack(source, plan, stored)
        config = make_pruned_config(config, plan)
        # peft would warn of a base model in another folder; its fingerprint is checked instead.
        config.base_model_name_or_path = None
        if isinstance(model, PeftModel):
            adapter = Adapter(name=adapter_name, plan=plan, config=config, weights=weights)
            return add_adapter(model, adapter, trainable=trainable, quantize=quantize)
        peft_model = apply_plan(
            model, plan, config, weights, quantize=quantize, adapter_name=adapter_name
        )
    except PlanError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if not trainable:
        peft_model.requires_grad_(False)
        peft_model.eval()
    return peft_model


def expand_adapter(
    folder: Path | str, out: Path | str, *, model: PreTrainedModel | None = None
) -> None:
    """Write the adapter at full size, for stock peft on the unpruned base model.

    Pruned rows and columns are zeros, and a pruned layer has no PEFT modules. The expanded model
    does not compute the same function: the unpruned base model also has the layers, heads and
    neurons that the adapter was trained without.
    In models with experts, LoRA on dense feed-forward linears is written as `target_parameters`,
    for which peft has no dropout.

    Args:
        folder: written by `save`.
        out: another folder, created or replaced.
        model: the unpruned base model, which DoRA needs: magnitudes of pruned rows are the norms of
            its rows. Of LoRA it is not used.

    Raises:
        CheckpointError: a file in `folder` is missing or damaged, or `out` is `folder`; the adapter
            is of DoRA and there is no `model`, or another one, or one with experts and a dense
            feed-forward block that has a PEFT module.
        OSError: `out` can't be written.

    Example:
        >>> lightpeft.save(pruned, folder / "adapter")
        >>> lightpeft.expand_adapter(folder / "adapter", folder / "full")
        >>> from peft import PeftModel
        >>> full = PeftModel.from_pretrained(copy.deepcopy(base_model), folder / "full")
    """
    source, target = Path(folder), Path(out)
    if target.resolve() == source.resolve():
        raise CheckpointError(f"{target} holds the pruned adapter; expand it into another folder")
    plan, config, weights = _read(source)
    padded = zero_pad_adapter(weights, plan)
    if plan.peft_type == DORA:
        padded = _expand_magnitudes(padded, plan, config, source, model)
    config = make_full_config(config, plan)
    with replace_directory(target) as temporary:
        config.save_pretrained(str(temporary))
        write_tensors(temporary / WEIGHTS, padded, plan=plan.digest, expanded=True)


def _expand_magnitudes(
    padded: dict[str, Tensor],
    plan: PruningPlan,
    config: PeftConfig,
    source: Path,
    model: PreTrainedModel | None,
) -> dict[str, Tensor]:
    """Return weights of DoRA with magnitudes for the unpruned base model."""
    if model is None:
        raise CheckpointError(f"{source} is of DoRA, which is expanded with the base model: model=")
    kept = (name for name, rank in plan.ranks.items() if rank.kept)
    dense = [name for name in kept if plan.shape.block_of[name].path in plan.shape.neurons]
    if dense and plan.shape.num_moe_layers:
        raise CheckpointError(
            f"{source} can't be expanded: in models with experts, peft attaches LoRA to "
            f"{dense[0]}, but not DoRA"
        )
    try:
        check_plan_matches_model(plan, model, config)
    except PlanError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return expand_magnitudes(padded, plan, model, config)


def compress_result(folder: Path | str, out: Path | str, fraction: float) -> None:
    """Write the adapter as signs and scales, for `load`; see `compress_adapter`.

    Args:
        folder: written by `save`.
        out: another folder, created or replaced.
        fraction: of the largest changes to keep, in (0, 1].

    Raises:
        ConfigError: `fraction` is not allowed.
        ModelError: the adapter is not LoRA.
        CheckpointError: a file in `folder` is missing or damaged, or `out` is `folder`.
        OSError: `out` can't be written.
    """
    source, target = Path(folder), Path(out)
    if target.resolve() == source.resolve():
        raise CheckpointError(f"{target} holds the adapter; compress it into another folder")
    plan, config, weights = _read(source)
    packed = compress_adapter(weights, plan, fraction)
    with replace_directory(target) as temporary:
        config.save_pretrained(str(temporary))
        plan.save(temporary / PLAN)
        write_tensors(temporary / COMPRESSED, packed, plan=plan.digest)
        write_digests(temporary)


def _check_is_for(
    model: PreTrainedModel | PeftModel, plan: PruningPlan, config: PeftConfig
) -> None:
    """Check that a plan is that of a pruned model, or was made for an unpruned one."""
    if isinstance(model, PeftModel):
        check_same_plan(plan, get_plan(model))
    else:
        check_plan_matches_model(plan, model, config)


def _read(folder: Path) -> tuple[PruningPlan, PeftConfig, dict[str, Tensor]]:
    """Read what `save` or `compress_result` wrote, and unpack what is compressed."""
    plan, config, stored = _read_files(folder)
    return plan, config, _unpack(folder, plan, stored)


def _unpack(folder: Path, plan: PruningPlan, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that a folder's tensors stand for, of the shapes of its plan."""
    try:
        is_packed = find_adapter_file(folder) == COMPRESSED
        weights = decompress_adapter(stored, plan) if is_packed else stored
        check_adapter_shapes(weights, plan)
    except PlanError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return weights


def _read_files(folder: Path) -> tuple[PruningPlan, PeftConfig, dict[str, Tensor]]:
    """Read the files of a folder as they are, and check that they belong together."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder on this machine; if it is an id on the hub, pass what "
            f"huggingface_hub.snapshot_download returns"
        )
    name = find_adapter_file(folder)
    check_digests(folder, (CONFIG, name, PLAN), CheckpointError, remedy=_REMEDY)
    try:
        plan = PruningPlan.load(folder / PLAN, remedy=_REMEDY)
    except PlanError as error:
        raise CheckpointError(str(error)) from error
    config = read_peft_config(folder, CheckpointError)
    weights = read_tensors(folder / name, CheckpointError)
    # Two plans of one model often keep equal numbers of units, so equal shapes are not enough.
    if read_plan_digest(folder / name, CheckpointError) != plan.digest:
        raise CheckpointError(f"{folder / name} was not saved with the {PLAN} beside it")
    if {rank.total for rank in plan.ranks.values()} != {config.r}:
        raise CheckpointError(f"{folder}: rank r {config.r!r} is not that of {PLAN}")
    if (kind := get_peft_type(config)) != plan.peft_type:
        raise CheckpointError(f"{folder}: the PEFT method {kind} is not that of {PLAN}")
    return plan, config, weights
