"""What happens beside the steps of a training: progress, early stopping, whole checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from pipeline.common.console import Progress, say
from pipeline.common.errors import TrainingError
from pipeline.metrics.scoring import higher_is_better
from pipeline.training.checkpoints import mark_whole

Rows = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Batches of one training; the Trainer itself counts optimizer steps.

    Attributes:
        seen: batches before it that count too: the estimation's.
        steps: batches of its own.
        accumulation: batches per optimizer step.
    """

    seen: int
    steps: int
    accumulation: int

    def batches(self, optimizer_steps: int) -> int:
        """Own batches in so many optimizer steps; the last step may take fewer than the others."""
        return min(optimizer_steps * self.accumulation, self.steps)

    def optimizer_steps(self, batches: int) -> int:
        """Optimizer steps that come nearest to so many batches, at least one."""
        return max(1, round(batches / self.accumulation))


class Watch(TrainerCallback):
    """Reports, stops a diverged or a finished training, and says which checkpoints are whole."""

    def __init__(
        self, name: str, metric: str, *, span: Span, patience: int, seconds: float
    ) -> None:
        """Watch one training.

        Args:
            name: for progress lines.
            metric: the one that validation goes by.
            span: the training's batches.
            patience: validations without gain before it stops; 0: never.
            seconds: wall time of earlier sessions, before the training was killed.
        """
        self.name, self.metric, self.span, self.patience = name, metric, span, patience
        self.before = self.seconds = seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = time.monotonic()
        self.first = self.span.batches(state.global_step)
        self.progress = Progress(self.name, self.span.steps - self.first)
        control.should_training_stop = self._is_over(state.log_history)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            # A curve that ends without a validation says nothing of the weights that are kept; and
            # where the best are kept, those of the last validation must have been saved.
            control.should_evaluate = True
            control.should_save |= args.load_best_model_at_end
        # A checkpoint right after a log: a resumed curve goes on from it without a seam.
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        if "loss" not in logs:
            return
        batch = self.span.batches(state.global_step)
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is not a number at batch {batch + self.span.seen}; lower finetune.lr, "
                "or set model.dtype: float32"
            )
        self.progress(batch - self.first, loss=logs["loss"])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        step, value = self.span.batches(state.global_step), metrics[f"eval_{self.metric}"]
        say(self.name, f"step {step - self.first}: validation {self.metric} {value:.4f}")
        control.should_training_stop |= self._is_over(state.log_history)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stop_clock()
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.seconds)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stop_clock()

    def curve(self, history: Rows) -> Rows:
        """The Trainer's log as one row per step; what was not measured at a step is left out."""
        names = {
            "loss": "loss",
            "learning_rate": "lr",
            "eval_loss": "validation_loss",
            f"eval_{self.metric}": "validation_metric",
        }
        rows: dict[int, dict[str, float]] = {}
        for entry in history:
            found = {new: entry[old] for old, new in names.items() if old in entry}
            if found:
                step = self.span.batches(int(entry["step"])) + self.span.seen
                rows.setdefault(step, {"step": step}).update(found)
        return list(rows.values())

    def _is_over(self, history: Rows) -> bool:
        """Early stopping, from the log alone, so that a resumed training decides the same."""
        name = f"eval_{self.metric}"
        values = [entry[name] for entry in history if name in entry]
        if not values or not self.patience:
            return False
        best = max(values) if higher_is_better(self.metric) else min(values)
        return len(values) - 1 - values.index(best) >= self.patience

    def _stop_clock(self) -> None:
        self.seconds = self.before + time.monotonic() - self.start
