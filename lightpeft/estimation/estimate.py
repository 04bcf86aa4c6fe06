"""Early estimation: train PEFT modules and masks for a few steps, and score every unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import PeftConfig, PeftModel
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.config import EstimationConfig
from lightpeft.core.errors import ScoresError
from lightpeft.core.scores import CURVE_COLUMNS, Scores
from lightpeft.core.shape import ModelShape
from lightpeft.estimation.energy import InputSquares, score_energy
from lightpeft.estimation.importance import ImportanceTracker
from lightpeft.estimation.layer_changes import LayerChanges
from lightpeft.estimation.token_sums import TokenSums
from lightpeft.modeling.adapters import (
    cast_trainable_to_float32,
    get_adapter_state_dict,
    get_peft_model_unmapped,
)
from lightpeft.modeling.fingerprint import compute_fingerprint
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks
from lightpeft.modeling.peft_targets import list_saved_modules
from lightpeft.modeling.units import sum_per_unit
from lightpeft.peft_methods.registry import resolve_config

Batch = Mapping[str, Any]
_CURVE_ROWS = 50
_WARMUP = 0.06
_16_BIT = (torch.bfloat16, torch.float16)


def estimate(
    model: PreTrainedModel,
    peft_config: PeftConfig,
    batches: Iterable[Batch],
    config: EstimationConfig,
    *,
    compute_loss: Callable[[Any, Batch], Tensor] | None = None,
    progress: Callable[..., None] | None = None,
) -> Scores:
    """Train PEFT modules and masks for a few steps, and score all units by importance.

    Phase 1 of Light-PEFT (arXiv:2406.03792): the base is frozen; loss = task loss +
    ``l1`` * (sum |m_A| + sum |m_F|). Scores are means over the second half of the steps.

    Args:
        model: a plain transformers model; afterwards its weights are frozen, and as before.
        peft_config: LoRA on linears of the blocks; `target_modules` "all-linear" or None means all
            of these linears. Or a `BottleneckConfig`.
        batches: keyword arguments of the model, labels included, so that it returns a loss; a list
            or a DataLoader is repeated when it ends.
        config: number of steps, learning rates, and the reduction of rank scores.
        compute_loss: the model's output and its batch -> the task loss; None: the model's own.
        progress: called at up to 50 steps as `progress(step, loss=..., heads=...)`, with the task
            loss and the mean distance of the head masks from 1.

    Returns:
        Scores of layers, of heads and neurons by mask, Taylor, magnitude and energy, of PEFT
        modules and of ranks.

    Raises:
        ModelError: the architecture or the PEFT method is not supported, weights are not in memory,
            or quantized linears pass no gradient on.
        ScoresError: there are too few batches or no labels; the loss or a score is not a number
            (names the step).

    Example:
        >>> lora = LoraConfig(r=4, task_type="SEQ_CLS")
        >>> config = lightpeft.EstimationConfig(steps=4, lr=1e-3)
        >>> scores = lightpeft.estimate(base_model, lora, batches, config)
        >>> block = "bert.encoder.layer.0.attention"
        >>> scores.heads["taylor"][block].shape
        torch.Size([4])
    """
    shape = inspect_model(model)
    full_config = resolve_config(peft_config, model, shape)
    weights_fingerprint = compute_fingerprint(model, shape, list_saved_modules(full_config))
    was_training = model.training
    peft_model = get_peft_model_unmapped(model, full_config)
    cast_trainable_to_float32(peft_model)
    try:
        with (
            Masks(model, shape, l1=config.l1) as masks,
            ImportanceTracker(peft_model, masks, reduction=config.reduction) as tracker,
            InputSquares(model, shape) as squares,
            LayerChanges(model, shape) as changes,
        ):
            run = _Run(config, compute_loss or _get_loss, progress)
            curve = _train(peft_model, tracker, (squares, changes), batches, run)
        modules, ranks, taylor = tracker.compute_importances()
        adapter = {
            name: weight.cpu().clone()
            for name, weight in get_adapter_state_dict(peft_model).items()
        }
    finally:
        _unload(peft_model)
        model.train(was_training)
    blocks = [*masks.heads, *masks.neurons]
    movement = [mask.detach().abs().cpu() for mask in masks.parameters()]
    weight_squares = _square_weights(model, shape)
    by_criterion = {
        "mask": dict(zip(blocks, movement, strict=True)),
        "taylor": dict(zip(blocks, taylor, strict=True)),
        "magnitude": _compute_magnitudes(shape, weight_squares),
        "energy": score_energy(shape, squares.compute_means(), weight_squares),
    }
    heads, neurons = (
        {name: {path: scores[path] for path in paths} for name, scores in by_criterion.items()}
        for paths in (shape.heads, shape.neurons)
    )
    return Scores(
        shape=shape,
        fingerprint=weights_fingerprint,
        peft=full_config,
        layers=changes.score_layers(),
        heads=heads,
        neurons=neurons,
        modules=modules,
        ranks=ranks,
        adapter=adapter,
        curve=curve,
        steps=config.steps,
    )


@dataclass(frozen=True)
class _Run:
    """What `estimate` was asked for."""

    config: EstimationConfig
    compute_loss: Callable[[Any, Batch], Tensor]
    progress: Callable[..., None] | None


def _get_loss(output: Any, batch: Batch) -> Tensor:
    loss: Tensor | None = getattr(output, "loss", None)
    if loss is None:
        raise ScoresError(f"the batches must hold labels, got {', '.join(batch)}")
    return loss


def _train(
    model: PeftModel,
    tracker: ImportanceTracker,
    sums: Sequence[TokenSums],
    batches: Iterable[Batch],
    run: _Run,
) -> list[dict[str, float]]:
    masks, steps = tracker.masks, run.config.steps
    optimizer = _make_optimizer(model, masks, run.config)
    warmup = max(1, round(_WARMUP * steps))
    ramp = LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / warmup))
    # peft's own forward differs by task type, and wants input_ids of models that have none.
    base = model.get_base_model()
    device = base.device
    every = max(1, steps // _CURVE_ROWS)
    curve: list[dict[str, float]] = []
    step = 0
    model.train()
    for step, batch in zip(range(1, steps + 1), _cycle(batches), strict=False):
        inputs = send_to_device(dict(batch), device)
        tracker.start_step(inputs)
        for each in sums:
            each.start_step(inputs)
        with torch.autocast(device.type, base.dtype, enabled=base.dtype in _16_BIT):
            task_loss: Any = run.compute_loss(base(**inputs), inputs)  # torch types no backward
        (task_loss + masks.compute_l1_penalty().to(task_loss.device)).backward()
        tracker.finish_step(step, count=step > steps // 2)
        for each in sums:
            each.finish_step(step, count=step > steps // 2)
        optimizer.step()
        ramp.step()
        optimizer.zero_grad()
        if step % every == 0 or step == steps:
            tracker.raise_if_not_finite()
            for each in sums:
                each.raise_if_not_finite()
            curve.append(_make_curve_row(step, task_loss, masks))
            if run.progress:
                run.progress(step, loss=curve[-1]["task_loss"], heads=curve[-1]["head_movement"])
    if step < steps:
        raise ScoresError(
            f"the batches ran out after {step} of {steps} steps; "
            f"pass a list or a DataLoader, which can be started again"
        )
    return curve


def _make_curve_row(step: int, task_loss: Tensor, masks: Masks) -> dict[str, float]:
    """Return a row of the curve, with a single transfer from the device."""
    loss = task_loss.detach().float()
    displacements = [
        _compute_mask_displacement([*group.values()], loss)
        for group in (masks.heads, masks.neurons)
    ]
    values = torch.stack(
        [loss, *(m for row in displacements for m in (row.mean(), row.max()))]
    ).tolist()
    if not all(map(math.isfinite, values)):
        raise ScoresError(
            f"step {step}: the loss is not a number; lower lr, or load the model in float32"
        )
    return {"step": step, **dict(zip(CURVE_COLUMNS[1:], values, strict=True))}


def _compute_mask_displacement(masks: list[Tensor], like: Tensor) -> Tensor:
    """Return the distance of each mask from 1, on the device of `like`; 0 if there is none."""
    rows = [mask.detach().to(like.device) for mask in masks] or [like.new_ones(1)]
    return (torch.cat(rows) - 1).abs()


def _cycle(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            return


def _make_optimizer(
    model: PeftModel, masks: Masks, config: EstimationConfig
) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mask_lr = config.lr if config.mask_lr is None else config.mask_lr
    groups = [
        {"params": trained, "lr": config.lr},
        {"params": masks.parameters(), "lr": mask_lr},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _unload(model: PeftModel) -> None:
    """Remove PEFT modules and restore the task head, which peft's `unload` would not."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for trained in module.modules_to_save.values():
                original = module.original_module.state_dict()
                trained.to(next(iter(original.values())).dtype).load_state_dict(original)
                trained.requires_grad_(False)
    model.unload()


def _square_weights(model: PreTrainedModel, shape: ModelShape) -> dict[str, Tensor]:
    """Return per linear the squared norms of its rows, or of the columns if these are pruned."""
    squares = {}
    for path, linear in shape.linears.items():
        module = model.get_submodule(path)
        weight: Tensor = dequantize_module_weight(module).detach().float()
        transposed = (linear.pruned_dim == "in") != isinstance(module, Conv1D)
        squares[path] = (weight.T if transposed else weight).square().sum(dim=1)
    return squares


def _compute_magnitudes(
    shape: ModelShape, weight_squares: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return per block the L2 norms of all the weights of each head or neuron."""
    squares: dict[str, Tensor] = {}
    for path, linear in shape.linears.items():
        block = shape.block_of[path].path
        units = sum_per_unit(linear, weight_squares[path]).cpu()
        squares[block] = squares.get(block, torch.zeros(())) + units
    return {block: total.sqrt() for block, total in squares.items()}
