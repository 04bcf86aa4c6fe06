"""Fine-tuning with the Trainer of transformers, counted in batches, not in optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import PrinterCallback, Trainer, TrainerControl, TrainingArguments

from lightpeft.acceleration.accelerate import accelerate
from lightpeft.acceleration.compile import compiled
from lightpeft.core.benchmark_result import CompileScope
from lightpeft.core.names import LORA
from lightpeft.modeling.adapters import cast_trainable_to_float32
from lightpeft.modeling.checkpointing import enable_checkpointing
from pipeline.common.console import log
from pipeline.common.errors import ConfigError, TrainingError
from pipeline.common.params import FinetuneSection
from pipeline.common.processes import compute_once, wait_for_others
from pipeline.common.ranks import get_rank, is_base_sharded, is_main_process
from pipeline.common.text import join_lines
from pipeline.metrics.scoring import score
from pipeline.tasks import method_models
from pipeline.tasks.loss_parts import make_loss
from pipeline.tasks.method_models import Model
from pipeline.tasks.sharding import shard_base
from pipeline.training.arguments import make_arguments
from pipeline.training.callbacks import Rows, StepBudget, TrainingMonitor, make_callbacks
from pipeline.training.checkpoints import find_latest_checkpoint
from pipeline.training.frozen_cache import FrozenCache, make_frozen_cache, number_rows
from pipeline.training.training_data import Loader, TrainingData, make_train_loader


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The course of a training; the model itself is trained in place.

    Attributes:
        curve: a row per measured step: `step` (batches, the estimation's counted), `loss`, `lr`,
            and after a validation `validation_loss` and `validation_metric`.
        steps: batches trained here.
        seconds: wall time, with that of earlier runs if the training was resumed.
    """

    curve: Rows
    steps: int
    seconds: float


def train(
    model: Model, data: TrainingData, settings: FinetuneSection, *, seed: int, folder: Path
) -> TrainingResult:
    """Train a model in place, from the latest complete checkpoint in `folder` if there is one.

    `settings.steps` counts batches, also with gradient accumulation: the last optimizer step
    takes the batches that are left. The order of the rows is drawn from `seed + 1`, because the
    weights have already seen the order drawn from `seed` in the estimation.

    Args:
        model: the pruned model with its adapter.
        data: rows, and how to encode and score them.
        settings: section `finetune` of params.yaml.
        seed: of this run.
        folder: for checkpoints.

    Raises:
        ConfigError: no batch is left to train on, or the device can't do the model's dtype.
        TrainingError: the loss is not a number, or a checkpoint can't be read.
    """
    batches = settings.steps - data.estimation_steps
    if batches < 1:
        raise ConfigError(
            f"finetune.steps counts the estimation's {data.estimation_steps} steps "
            f"and must be more, got {settings.steps}"
        )
    dtype = model.dtype
    # peft casts its adapters when it creates them, but not a task head, and not after a model
    # was cast as a whole.
    cast_trainable_to_float32(model)
    if settings.gradient_checkpointing:
        enable_checkpointing(model)
    if is_base_sharded():
        shard_base(model)
    elif settings.accelerate:
        log(data.name, str(accelerate(model)))
    budget = StepBudget(
        estimation_steps=data.estimation_steps,
        batches=batches,
        accumulation=settings.gradient_accumulation,
    )
    checkpoint, seconds = compute_once(lambda: find_latest_checkpoint(folder))
    metric = data.task.card.selection_metric
    monitor = TrainingMonitor(
        data.name, data.task.card, budget=budget, patience=settings.early_stopping, seconds=seconds
    )
    loader = make_train_loader(data, settings, batches=batches, seed=seed)
    cache = make_frozen_cache(model, data, settings, loader, folder=folder)
    trainer = _BatchTrainer(
        model,
        data,
        number_rows(loader) if cache else loader,
        cache=cache,
        lora_plus_ratio=settings.lora_plus_ratio,
        args=TrainingArguments(
            output_dir=str(folder),
            seed=seed + get_rank(),  # for a dropout of its own; weights are those of the first
            **make_arguments(settings, budget, metric=metric, dtype=dtype),
        ),
        callbacks=[monitor, *make_callbacks(model)],
    )
    trainer.run(checkpoint, settings.compile)
    curve = monitor.make_curve(trainer.state.log_history)
    steps = int(curve[-1]["step"]) - data.estimation_steps
    return TrainingResult(curve=curve, steps=steps, seconds=monitor.seconds)


class _BatchTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped for mypy
    """The stock Trainer on batches drawn beforehand: one pass over them is the whole training.

    So every batch is full, a resumed training skips to exactly where it was interrupted, and the
    number of batches does not depend on gradient accumulation.
    """

    control: TrainerControl
    optimizer: Any

    def __init__(
        self,
        model: Model,
        data: TrainingData,
        train_loader: Loader,
        *,
        lora_plus_ratio: float,
        cache: FrozenCache | None,
        **settings: Any,
    ) -> None:
        self.data, self.train_loader, self.lora_plus_ratio = data, train_loader, lora_plus_ratio
        self.compute_task_loss, self.cache = make_loss(data.task), cache
        self.validation_task = data.task.keep_selection_metric()
        super().__init__(
            model, train_dataset=train_loader.dataset, eval_dataset=data.validation, **settings
        )
        self.remove_callback(PrinterCallback)
        # The forward of a classifier accepts any keyword, from which the Trainer concludes that
        # it scales its loss by `num_items_in_batch`. It returns the batch's mean all the same,
        # so accumulated gradients would be too large.
        self.model_accepts_loss_kwargs = False

    def run(self, checkpoint: Path | None, scope: CompileScope) -> None:
        """Train, from a checkpoint if there is one, and log what was compiled."""
        if checkpoint is not None:
            log(self.data.name, f"resuming from {checkpoint}")
        # One graph for all lengths, where rows have several.
        dynamic = None if self.data.task.fixed_length else True
        with compiled(self.model, scope, dynamic=dynamic) as counts:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if scope != "off":
            log(self.data.name, counts.describe())

    def get_train_dataloader(self) -> Loader:
        """Return the loader, which has this process's part of each batch already."""
        prepared: Loader = prepare_data_loader(
            self.train_loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
        )
        return prepared

    def create_optimizer(self, model: Any = None) -> Any:
        """Make AdamW, with the learning rates of LoRA+ (arXiv:2402.12354) if they are wanted.

        As in the authors' program, weights of one dimension (biases of the head) learn as LoRA B.
        """
        # Not by names of weights: AdaLoRA and DeLoRA have a `lora_B` too.
        config = self.model.active_peft_config if isinstance(self.model, PeftModel) else None
        is_lora = config is not None and config.peft_type == LORA
        if self.optimizer is None and is_lora and self.lora_plus_ratio != 1:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model,
                optimizer,
                loraplus_lr_ratio=self.lora_plus_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **options,
            )
        super().create_optimizer(model)
        return self.optimizer

    def compute_loss(
        self, model: Model, inputs: dict[str, Any], *_: Any, **__: Any
    ) -> torch.Tensor:
        """Return the task's loss of a batch, the same as in the estimation."""

        def compute() -> torch.Tensor:
            return self.compute_task_loss(model(**inputs), inputs)

        return compute() if self.cache is None else self.cache.compute_loss(compute, inputs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the validation rows as the stage `evaluate` measures those of the test split."""
        metrics: dict[str, float]
        if is_base_sharded():  # each has a part of the base, so all are needed
            own_metrics = self._measure_validation()
            metrics = compute_once(lambda: own_metrics)
        else:
            metrics = compute_once(self._measure_validation)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # Graphs for other lengths, and without gradients, would take longer than they save.
    @torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
    def _measure_validation(self) -> dict[str, float]:
        predictions = self.validation_task.predict(
            self.model,
            self.data.validation,
            self.data.processor,
            batch_size=self.args.per_device_eval_batch_size,
        )
        values = {"loss": predictions.loss} | score(self.validation_task.card, predictions)
        return {f"eval_{name}": value for name, value in values.items()}

    def _save_checkpoint(self, *arguments: Any) -> None:
        try:
            super()._save_checkpoint(*arguments)
        except RuntimeError as error:  # as torch reports a full disk
            raise TrainingError(
                f"{self.args.output_dir} can't be written ({join_lines(error)}); is the disk full?"
            ) from error
        except OSError as error:
            error.filename = error.filename or self.args.output_dir
            raise

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # peft's own save asks the hub about embeddings, and transformers adds a pickle.
        if is_main_process():
            method_models.save(self.model, Path(output_dir or self.args.output_dir))
        wait_for_others()  # they add files to the folder

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # peft's own `load_adapter` refuses to train virtual tokens any further.
        method_models.restore(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        method_models.restore(self.model, Path(self.state.best_model_checkpoint))
