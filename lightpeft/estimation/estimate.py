"""Early estimation: train PEFT modules and masks for a few steps, and score every unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.acceleration.dropouts import short_draws
from lightpeft.core.config import EstimationConfig
from lightpeft.core.scores import Scores
from lightpeft.core.shape import ModelShape
from lightpeft.estimation.energy import InputSquares, score_energy
from lightpeft.estimation.importance import ImportanceTracker
from lightpeft.estimation.layer_changes import LayerChanges
from lightpeft.estimation.processes import share_weights
from lightpeft.estimation.training import Batch, EstimationTrainer
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


def estimate(
    model: PreTrainedModel,
    peft_config: PeftConfig,
    batches: Iterable[Batch],
    config: EstimationConfig,
    *,
    compute_loss: Callable[[Any, Batch], Tensor] | None = None,
    progress: Callable[..., None] | None = None,
    shard: Callable[[PeftModel], None] | None = None,
) -> Scores:
    """Train PEFT modules and masks for a few steps, and score all units by importance.

    Phase 1 of Light-PEFT (arXiv:2406.03792): the base is frozen; loss = task loss +
    ``l1`` * (sum |m_A| + sum |m_F|). Scores are means over the second half of the steps, of which
    there are fewer if `config.stop` says so.

    Where torch.distributed is initialized, each process calls this with its part of every batch,
    and all get the same scores. As in DistributedDataParallel, gradients are means over processes,
    and so the loss of each counts equally: if it is a mean over tokens, or parts have different
    numbers of rows, `compute_loss` has to weight it.

    On a CPU dropout draws as in `lightpeft.accelerate`.

    Args:
        model: a plain transformers model; afterwards its weights are frozen, and as before.
        peft_config: LoRA on linears of the blocks; `target_modules` "all-linear" or None means all
            of these linears. Or a `BottleneckConfig`.
        batches: keyword arguments of the model, labels included, so that it returns a loss; a list
            or a DataLoader is repeated when it ends.
        config: number of steps, learning rates, and the reduction of rank scores.
        compute_loss: the model's output and its batch -> the task loss; None: the model's own.
        progress: called as `progress(step, loss=..., heads=...)`, with the task loss and the mean
            distance of the head masks from 1, at up to 50 steps and at the checks of `config.stop`.
        shard: called with the model once PEFT modules are attached, to share its frozen weights
            among processes (FSDP2) and move it to a device; the model stays sharded.

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
    weight_squares = _square_weights(model, shape)
    was_training = model.training
    peft_model = get_peft_model_unmapped(model, full_config)
    trained = cast_trainable_to_float32(peft_model)
    if shard is not None:
        shard(peft_model)
    share_weights(trained)
    try:
        with (
            short_draws(peft_model),
            Masks(model, shape, l1=config.l1) as masks,
            ImportanceTracker(peft_model, masks, reduction=config.reduction) as tracker,
            InputSquares(model, shape) as squares,
            LayerChanges(model, shape) as changes,
        ):
            trainer = EstimationTrainer(
                peft_model, tracker, (squares, changes), config, compute_loss=compute_loss
            )
            curve = trainer.train(batches, progress)
        modules, ranks, taylor = tracker.compute_importances()
        adapter = {
            name: weight.cpu().clone()
            for name, weight in get_adapter_state_dict(peft_model).items()
        }
    finally:
        _unload(peft_model)
        model.train(was_training)
    by_criterion = {
        "mask": masks.compute_sizes(),
        "taylor": taylor,
        "magnitude": _compute_magnitudes(shape, weight_squares),
        "energy": score_energy(shape, squares.compute_means(), weight_squares),
    }
    return Scores(
        shape=shape,
        fingerprint=weights_fingerprint,
        peft=full_config,
        layers=changes.score_layers(),
        heads=_select_blocks(by_criterion, shape.heads),
        neurons=_select_blocks(by_criterion, shape.neurons),
        modules=modules,
        ranks=ranks,
        adapter=adapter,
        curve=curve,
        steps=trainer.steps,
    )


def _select_blocks(
    by_criterion: Mapping[str, Mapping[str, Tensor]], paths: Iterable[str]
) -> dict[str, dict[str, Tensor]]:
    """Return criterion -> path of a block -> scores, of these blocks only."""
    return {
        criterion: {path: scores[path] for path in paths}
        for criterion, scores in by_criterion.items()
    }


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
    """Return per block the L2 norms of all the weights of each head or neuron.

    Magnitude pruning (Han et al., arXiv:1506.02626) of whole units (Li et al., arXiv:1608.08710).
    """
    squares: dict[str, Tensor] = {}
    for path, linear in shape.linears.items():
        block = shape.block_of[path].path
        units = sum_per_unit(linear, weight_squares[path]).cpu()
        squares[block] = squares.get(block, torch.zeros(())) + units
    return {block: total.sqrt() for block, total in squares.items()}
