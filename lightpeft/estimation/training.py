"""The training of the estimation: PEFT modules and masks, while recorders score every unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightpeft.core.config import EstimationConfig
from lightpeft.core.errors import ScoresError, Term
from lightpeft.core.scores import CURVE_COLUMNS
from lightpeft.estimation.importance import ImportanceTracker
from lightpeft.estimation.processes import average_gradients, average_over_processes
from lightpeft.estimation.stability import BLOCK, CHECK_EVERY, StabilityCheck
from lightpeft.estimation.token_sums import TokenSums
from lightpeft.modeling.masks import Masks

Batch = Mapping[str, Any]
ComputeLoss = Callable[[Any, Batch], Tensor]
_CURVE_ROWS = 50
_WARMUP = 0.06
_16_BIT = (torch.bfloat16, torch.float16)


class EstimationTrainer:
    """Trains the PEFT modules of a model and its masks, while recorders score every unit.

    Attributes:
        steps: that have been done.
    """

    def __init__(
        self,
        model: PeftModel,
        tracker: ImportanceTracker,
        sums: Sequence[TokenSums],
        config: EstimationConfig,
        *,
        compute_loss: ComputeLoss | None = None,
    ) -> None:
        """Make the optimizer: AdamW, with the masks in a group of their own."""
        # peft's own forward differs by task type, and wants input_ids of models that have none.
        self._base = model.get_base_model()
        self._tracker, self._masks, self._config = tracker, tracker.masks, config
        self._sums = sums
        self._recorders: tuple[ImportanceTracker | TokenSums, ...] = (tracker, *sums)
        self._compute_loss = compute_loss or _get_loss
        self._optimizer = _make_optimizer(model, self._masks, config)
        warmup = max(1, round(_WARMUP * config.steps))
        self._ramp = LambdaLR(self._optimizer, lambda n: min(1.0, (n + 1) / warmup))
        self._stability = StabilityCheck(config.stop)
        self.steps = 0
        model.train()

    def train(
        self, batches: Iterable[Batch], progress: Callable[..., None] | None
    ) -> list[dict[str, float]]:
        """Train, and return the curve: a row every few steps.

        The sums of the recorders are those of the second half of the steps. If the training may
        stop early, the half begins at a multiple of `BLOCK` steps.

        Raises:
            ScoresError: there are too few batches or no labels; a value is not a number.
        """
        limit, may_stop = self._config.steps, self._config.stop.patience > 0
        every = max(1, limit // _CURVE_ROWS)
        curve: list[dict[str, float]] = []
        is_stable = False
        for step, batch in zip(range(1, limit + 1), _cycle(batches), strict=False):
            task_loss = self.run_step(step, batch, count=may_stop or step > limit // 2)
            overlaps = self._check_stability(step) if may_stop else {}
            is_stable = may_stop and self._stability.is_stable
            if step % every == 0 or step == limit or overlaps:
                for recorder in self._recorders:
                    recorder.raise_if_not_finite()
                curve.append(_make_curve_row(step, task_loss, self._masks) | overlaps)
                if progress:
                    row = curve[-1]
                    progress(step, loss=row["task_loss"], heads=row["head_movement"])
            if is_stable:
                break
        if self.steps < limit and not is_stable:
            raise ScoresError(
                f"the batches ran out after {self.steps} of {limit} steps; "
                f"pass a list or a DataLoader, which can be started again"
            )
        if may_stop:
            self._keep_second_half()
        return curve

    def _check_stability(self, step: int) -> dict[str, float]:
        """Return the overlaps of a check; nothing between checks."""
        overlaps: dict[str, float] = {}
        if step % CHECK_EVERY == 0:
            self._keep_second_half()
            scores = self._tracker.compute_taylor()
            heads = len(self._masks.heads)
            overlaps = self._stability.check(scores[:heads], scores[heads:])
        if step % BLOCK == 0:
            for recorder in self._recorders:
                recorder.sums.start_block()
        return overlaps

    def _keep_second_half(self) -> None:
        for recorder in self._recorders:
            recorder.sums.drop_before(self.steps // 2 // BLOCK)

    def run_step(self, step: int, batch: Batch, *, count: bool) -> Tensor:
        """Train on one batch, and return its task loss.

        Args:
            step: its number, from 1.
            batch: keyword arguments of the model.
            count: add its scores to the sums; if not, only those of PEFT modules and ranks are
                computed, to name the first that is not a number.
        """
        device, dtype = self._base.device, self._base.dtype
        inputs = send_to_device(dict(batch), device)
        counted_sums = self._sums if count else ()
        self._tracker.start_step(inputs)
        for each in counted_sums:
            each.start_step(inputs)
        with torch.autocast(device.type, dtype, enabled=dtype in _16_BIT):
            task_loss: Any = self._compute_loss(self._base(**inputs), inputs)
        penalty = self._masks.compute_l1_penalty().to(task_loss.device)
        (task_loss + penalty).backward()
        average_gradients(w for group in self._optimizer.param_groups for w in group["params"])
        self._tracker.finish_step(step, count=count)
        for each in counted_sums:
            each.finish_step(step)
        self._optimizer.step()
        self._ramp.step()
        self._optimizer.zero_grad()
        self.steps = step
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
        raise ScoresError(f"step {step}: the loss is not a number; {Term.LOWER_LR}")
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
