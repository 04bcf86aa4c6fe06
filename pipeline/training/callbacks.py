"""A Trainer callback: progress lines, early stopping, and marking checkpoints as complete."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.common.console import Progress, log
from pipeline.common.data_card import DataCard
from pipeline.common.errors import TrainingError
from pipeline.common.processes import wait_for_others
from pipeline.common.ranks import is_main_process
from pipeline.metrics.definitions import find_best_value
from pipeline.training.checkpoints import mark_complete

Rows = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class StepBudget:
    """The batches of one training, converted to and from the Trainer's optimizer steps.

    Attributes:
        estimation_steps: batches of the estimation, which the training curve counts first.
        batches: batches of this training.
        accumulation: batches per optimizer step.
    """

    estimation_steps: int
    batches: int
    accumulation: int

    def to_batches(self, optimizer_steps: int) -> int:
        """Return the batches in so many optimizer steps; the last step may take fewer batches."""
        return min(optimizer_steps * self.accumulation, self.batches)

    def to_optimizer_steps(self, batches: int) -> int:
        """Return the number of optimizer steps nearest to so many batches, at least one."""
        return max(1, round(batches / self.accumulation))


class RankAllocation(TrainerCallback):  # type: ignore[misc]  # transformers is untyped for mypy
    """Let AdaLoRA score its ranks and drop some, after each optimizer step."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PeftModel,
        **_: Any,
    ) -> None:
        """Score and drop ranks; the gradients are still there."""
        model.base_model.update_and_allocate(state.global_step)


def make_callbacks(model: Any) -> list[TrainerCallback]:
    """Return what the training of a PEFT method needs besides its loss."""
    configs = model.peft_config if isinstance(model, PeftModel) else {}
    return [RankAllocation() for config in configs.values() if config.peft_type == "ADALORA"]


class TrainingMonitor(TrainerCallback):  # type: ignore[misc]  # transformers is untyped for mypy
    """Report progress, stop a diverged or converged training, and mark complete checkpoints.

    Attributes:
        seconds: wall time of the training so far, without validations, interrupted runs included.
    """

    def __init__(
        self, name: str, card: DataCard, *, budget: StepBudget, patience: int, seconds: float
    ) -> None:
        """Prepare to monitor one training.

        Args:
            name: for progress lines.
            card: names the validation metric, which early stopping compares.
            budget: the training's batches.
            patience: validations without improvement before training stops; 0: never.
            seconds: wall time of earlier, interrupted runs of this training.
        """
        self.name, self.budget, self.patience = name, budget, patience
        self.metric = card.selection_metric
        self.metric_title = card.describe_metric(self.metric)
        self.earlier_seconds = self.seconds = seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock; stop at once if the resumed training had already converged."""
        self.start_time = self.step_end = time.monotonic()
        self.first_batch = self.budget.to_batches(state.global_step)
        self.progress = Progress(self.name, self.budget.batches - self.first_batch)
        control.should_training_stop = self._has_converged(state.log_history)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Validate after the last step, and log whenever a checkpoint is saved."""
        self.step_end = time.monotonic()
        if state.global_step == state.max_steps:
            # The curve must end with a validation of the weights that are kept; if the best
            # weights are kept, those of the last validation must have been saved to compete.
            control.should_evaluate = True
            control.should_save |= args.load_best_model_at_end
        # With a log right before each checkpoint, a resumed curve equals an uninterrupted one.
        control.should_log |= control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Print the training loss.

        Raises:
            TrainingError: the loss is not a finite number.
        """
        if "loss" not in logs:
            return
        batch = self.budget.to_batches(state.global_step)
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is not a number at batch {batch + self.budget.estimation_steps}; "
                "lower finetune.lr, or set model.dtype: float32"
            )
        self.progress(batch - self.first_batch, loss=logs["loss"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Print the validation metric, and stop the training if it no longer improves.

        The clock goes on from the step that was validated.
        """
        self.start_time += time.monotonic() - self.step_end
        batch = self.budget.to_batches(state.global_step) - self.first_batch
        value = metrics[f"eval_{self.metric}"]
        log(self.name, f"step {batch}: validation {self.metric_title} {value:.4f}")
        control.should_training_stop |= self._has_converged(state.log_history)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint just written as complete."""
        self._update_seconds()
        wait_for_others()  # each has written the state of its random numbers
        if is_main_process():
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.seconds)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop the clock."""
        self._update_seconds()

    def make_curve(self, log_history: Rows) -> Rows:
        """Return the Trainer's log as one row per step, with only what was measured at that step.

        Args:
            log_history: `trainer.state.log_history`.

        Returns:
            Rows with `step` (batches, the estimation's counted), and some of `loss`, `lr`,
            `validation_loss` and `validation_metric`.
        """
        columns = {
            "loss": "loss",
            "learning_rate": "lr",
            "eval_loss": "validation_loss",
            f"eval_{self.metric}": "validation_metric",
        }
        rows: dict[int, dict[str, float]] = {}
        for entry in log_history:
            values = {column: entry[name] for name, column in columns.items() if name in entry}
            if values:
                step = self.budget.to_batches(int(entry["step"])) + self.budget.estimation_steps
                rows.setdefault(step, {"step": step}).update(values)
        return list(rows.values())

    def _has_converged(self, log_history: Rows) -> bool:
        """Return whether early stopping applies.

        It looks at the log alone, so a resumed training decides as an uninterrupted one.
        """
        name = f"eval_{self.metric}"
        values = [entry[name] for entry in log_history if name in entry]
        if not values or not self.patience:
            return False
        best = values.index(find_best_value(self.metric, values))
        return len(values) - 1 - best >= self.patience

    def _update_seconds(self) -> None:
        self.seconds = self.earlier_seconds + time.monotonic() - self.start_time
