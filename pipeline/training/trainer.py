"""Fine-tuning with the Trainer of transformers, in batches rather than in optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from lightpeft.pruning import checkpoint
from pipeline.common.console import say
from pipeline.common.errors import ConfigError
from pipeline.common.params import FinetuneSection
from pipeline.metrics.scoring import higher_is_better, score
from pipeline.tasks.base import Kind
from pipeline.tasks.batching import loader, shuffled, token_counts
from pipeline.training.callbacks import Rows, Span, Watch
from pipeline.training.checkpoints import latest

_LOG_EVERY = 10  # batches
Loader = DataLoader[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What to train on.

    Attributes:
        name: of the stage and method, for progress lines.
        kind: of the task, with its data card.
        processor: a tokenizer, or what the kind has in its place.
        train: encoded rows.
        validation: encoded rows.
        estimation_steps: batches that the estimation has trained these weights on; they count.
    """

    name: str
    kind: Kind
    processor: Any
    train: Dataset
    validation: Dataset
    estimation_steps: int


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a training went; the model itself was trained in place.

    Attributes:
        curve: a row per measured step: `step` (batches, the estimation's counted), `loss`, `lr`,
            and where validated `validation_loss` and `validation_metric`.
        steps: batches trained here.
        seconds: wall time, over all sessions if the training was resumed.
    """

    curve: Rows
    steps: int
    seconds: float


def train(
    model: PeftModel, data: TrainingData, settings: FinetuneSection, *, seed: int, folder: Path
) -> TrainingResult:
    """Train a model in place, from the last whole checkpoint in `folder` if there is one.

    `settings.steps` counts batches, also with gradient accumulation: the last optimizer step
    takes the batches that are left. The order of the rows is drawn from `seed + 1`: another one
    than the estimation's, which the weights have seen already.

    Raises:
        ConfigError: no batch is left to train on, or the device can't do the model's dtype.
        TrainingError: the loss is not a number.
    """
    steps = settings.steps - data.estimation_steps
    if steps < 1:
        raise ConfigError(
            f"finetune.steps counts the estimation's {data.estimation_steps} steps "
            f"and must be more, got {settings.steps}"
        )
    # Small weights that are trained keep float32, whatever the frozen base has.
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    span = Span(
        seen=data.estimation_steps, steps=steps, accumulation=settings.gradient_accumulation
    )
    start, seconds = latest(folder)
    select, dtype = data.kind.card["select"], model.get_base_model().dtype
    watch = Watch(data.name, select, span=span, patience=settings.early_stopping, seconds=seconds)
    place = {"seed": seed, "output_dir": str(folder)}
    trainer = _BatchTrainer(
        model,
        data,
        _drawn(data, settings, steps=steps, seed=seed),
        args=_arguments(settings, span, metric=select, dtype=dtype, **place),
        callbacks=[watch],
    )
    if start is not None:
        say(data.name, f"resuming from {start}")
    trainer.train(resume_from_checkpoint=None if start is None else str(start))
    curve = watch.curve(trainer.state.log_history)
    return TrainingResult(
        curve=curve, steps=int(curve[-1]["step"]) - data.estimation_steps, seconds=watch.seconds
    )


class _BatchTrainer(Trainer):
    """The stock Trainer on batches that were drawn before: one pass over them is the training.

    So every batch is full, a resumed training skips to exactly where it was, and the number of
    batches does not depend on gradient accumulation.
    """

    def __init__(
        self, model: PeftModel, data: TrainingData, drawn: Loader, **settings: Any
    ) -> None:
        self.data, self.drawn, self.kind = data, drawn, data.kind.for_validation()
        super().__init__(
            model, train_dataset=drawn.dataset, eval_dataset=data.validation, **settings
        )
        self.remove_callback(PrinterCallback)
        # Classifiers take any keyword but return the mean of a batch all the same: left alone,
        # the Trainer would take it for scaled, and accumulate gradients that are too large.
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> Loader:
        return self.accelerator.prepare(self.drawn)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure as the stage `evaluate` does, on the validation rows."""
        data, size = self.data, self.args.per_device_eval_batch_size
        found = self.kind.predict(self.model, data.validation, data.processor, batch_size=size)
        values = {"loss": found.loss} | score(self.kind.card, found)
        measured = {f"eval_{name}": value for name, value in values.items()}
        self.log(measured)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, measured
        )
        return measured

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # peft's own save asks the hub about embeddings, and transformers adds a pickle.
        checkpoint.save(self.model, Path(output_dir or self.args.output_dir))


def _arguments(
    settings: FinetuneSection, span: Span, *, metric: str, dtype: torch.dtype, **place: Any
) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    if dtype == torch.float16 and not on_gpu:
        raise ConfigError("model.dtype: float16 needs a GPU; take float32 or bfloat16")
    # The best validation's weights must have been saved, so then validations decide when to save.
    best = settings.best_checkpoint
    save_every = settings.evaluate_every if best else settings.save_every
    return TrainingArguments(
        **place,
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,  # below 1: a share
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
        eval_steps=span.optimizer_steps(settings.evaluate_every),
        save_strategy="steps",
        save_steps=span.optimizer_steps(save_every),
        save_total_limit=2,
        load_best_model_at_end=best,
        metric_for_best_model=metric if best else None,
        greater_is_better=higher_is_better(metric),
        logging_steps=span.optimizer_steps(_LOG_EVERY),
        logging_nan_inf_filter=False,
        label_names=["labels"],
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=not on_gpu,
        report_to="none",
        disable_tqdm=True,
    )


def _drawn(data: TrainingData, settings: FinetuneSection, *, steps: int, seed: int) -> Loader:
    rows = shuffled(
        token_counts(data.train),
        batch_size=settings.batch_size,
        seed=seed + 1,
        grouped=settings.group_by_length,
    )
    return loader(data.train, data.kind, data.processor, list(islice(rows, steps)))
