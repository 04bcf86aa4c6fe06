"""The training of the estimation: PEFT modules and masks, while recorders score every unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightpeft.core.config import EstimationConfig
from lightpeft.core.errors import ScoresError
from lightpeft.core.scores import CURVE_COLUMNS
from lightpeft.estimation.processes import average_gradients, average_over_processes
from lightpeft.modeling.masks import Masks

Batch = Mapping[str, Any]
ComputeLoss = Callable[[Any, Batch], Tensor]
_CURVE_ROWS = 50
_WARMUP = 0.06
_16_BIT = (torch.bfloat16, torch.float16)


class Recorder(Protocol):
    """Sums what a step tells about units; see `ImportanceTracker` and `TokenSums`."""

    def start_step(self, batch: Batch) -> None:
        """Start a step, before its forward pass."""

    def finish_step(self, step: int, *, count: bool) -> None:
        """Finish a step, after its backward pass and before the optimizer's step."""

    def raise_if_not_finite(self) -> None:
        """Raise a `ScoresError` if a value so far is not a number."""


class EstimationTrainer:
    """Trains the PEFT modules of a model and its masks."""

    def __init__(
        self,
        model: PeftModel,
        masks: Masks,
        recorders: Sequence[Recorder],
        config: EstimationConfig,
        *,
        compute_loss: ComputeLoss | None = None,
    ) -> None:
        """Make the optimizer: AdamW, with the masks in a group of their own."""
        # peft's own forward differs by task type, and wants input_ids of models that have none.
        self._base = model.get_base_model()
        self._masks, self._recorders, self._config = masks, recorders, config
        self._compute_loss = compute_loss or _get_loss
        self._optimizer = _make_optimizer(model, masks, config)
        warmup = max(1, round(_WARMUP * config.steps))
        self._ramp = LambdaLR(self._optimizer, lambda n: min(1.0, (n + 1) / warmup))
        self._autocast = torch.autocast(
            self._base.device.type, self._base.dtype, enabled=self._base.dtype in _16_BIT
        )
        model.train()

    def train(
        self, batches: Iterable[Batch], progress: Callable[..., None] | None
    ) -> list[dict[str, float]]:
        """Train, and return the curve: a row every few steps.

        Raises:
            ScoresError: there are too few batches or no labels; a value is not a number.
        """
        steps = self._config.steps
        every = max(1, steps // _CURVE_ROWS)
        curve: list[dict[str, float]] = []
        step = 0
        for step, batch in zip(range(1, steps + 1), _cycle(batches), strict=False):
            task_loss = self.run_step(step, batch, count=step > steps // 2)
            if step % every == 0 or step == steps:
                for recorder in self._recorders:
                    recorder.raise_if_not_finite()
                curve.append(_make_curve_row(step, task_loss, self._masks))
                if progress:
                    row = curve[-1]
                    progress(step, loss=row["task_loss"], heads=row["head_movement"])
        if step < steps:
            raise ScoresError(
                f"the batches ran out after {step} of {steps} steps; "
                f"pass a list or a DataLoader, which can be started again"
            )
        return curve

    def run_step(self, step: int, batch: Batch, *, count: bool) -> Tensor:
        """Train on one batch, and return its task loss.

        Args:
            step: its number, from 1.
            batch: keyword arguments of the model.
            count: add its scores to the sums of the recorders.
        """
        inputs = send_to_device(dict(batch), self._base.device)
        for recorder in self._recorders:
            recorder.start_step(inputs)
        with self._autocast:
            task_loss: Any = self._compute_loss(self._base(**inputs), inputs)
        penalty = self._masks.compute_l1_penalty().to(task_loss.device)
        (task_loss + penalty).backward()
        average_gradients(w for group in self._optimizer.param_groups for w in group["params"])
        for recorder in self._recorders:
            recorder.finish_step(step, count=count)
        self._optimizer.step()
        self._ramp.step()
        self._optimizer.zero_grad()
        return task_loss  # type: ignore[no-any-return]  # torch types no backward


def _get_loss(output: Any, batch: Batch) -> Tensor:
    loss: Tensor | None = getattr(output, "loss", None)
    if loss is None:
        raise ScoresError(f"the batches must hold labels, got {', '.join(batch)}")
    return loss


def _make_optimizer(
    model: PeftModel, masks: Masks, config: EstimationConfig
) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mask_lr = config.lr if config.mask_lr is None else config.mask_lr
    groups = [
        {"params": trained, "lr": config.lr},
        {"params": masks.parameters(), "lr": mask_lr},
    ]
    # foreach: the default on a GPU; on a CPU it gives the same bits as a loop, in less time.
    return torch.optim.AdamW(groups, weight_decay=0.0, foreach=True)


def _make_curve_row(step: int, task_loss: Tensor, masks: Masks) -> dict[str, float]:
    """Return a row of the curve, with a single transfer from the device."""
    loss = average_over_processes(task_loss.detach().float())
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
