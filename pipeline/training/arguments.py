"""The Trainer's arguments, made from section `finetune` of params.yaml."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.common.console import find_device
from pipeline.common.errors import ConfigError
from pipeline.common.params import FinetuneSection
from pipeline.common.ranks import count_processes, split_batch_size
from pipeline.metrics.definitions import is_higher_better
from pipeline.training.callbacks import StepBudget

_LOG_EVERY = 10  # batches


def make_arguments(
    settings: FinetuneSection, budget: StepBudget, *, metric: str, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the Trainer's arguments, without folder and seed.

    Args:
        settings: section `finetune`.
        budget: of batches.
        metric: by which validation selects a checkpoint.
        dtype: of the base model.

    Raises:
        ConfigError: float16 without a GPU.
    """
    return {
        **_choose_precision(dtype),
        **_make_schedule(settings, budget, metric),
        **_make_optimization(settings),
    }


def _choose_precision(dtype: torch.dtype) -> dict[str, Any]:
    """Return the Trainer's arguments for the device and the dtype of the base model.

    Raises:
        ConfigError: float16 without a GPU.
    """
    on_cpu = find_device().type == "cpu"
    if dtype == torch.float16 and on_cpu:
        raise ConfigError("model.dtype: float16 needs a GPU; take float32 or bfloat16")
    return {
        "use_cpu": on_cpu,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
    }


def _make_schedule(settings: FinetuneSection, budget: StepBudget, metric: str) -> dict[str, Any]:
    """Return the Trainer's arguments for when to log, validate and save."""
    best = settings.best_checkpoint
    # The best validation's weights must have been saved, so then validations decide when to save.
    save_every = settings.evaluate_every if best else settings.save_every
    return {
        "num_train_epochs": 1,
        "eval_strategy": "steps",
        "eval_steps": budget.to_optimizer_steps(settings.evaluate_every),
        "save_strategy": "steps",
        "save_steps": budget.to_optimizer_steps(save_every),
        "save_total_limit": 2,
        "load_best_model_at_end": best,
        "metric_for_best_model": metric if best else None,
        "greater_is_better": is_higher_better(metric),
        "logging_steps": budget.to_optimizer_steps(_LOG_EVERY),
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _make_optimization(settings: FinetuneSection) -> dict[str, Any]:
    """Return the Trainer's arguments for batches, optimizer and gradients."""
    in_8_bits = settings.optimizer == "adamw_8bit"
    own_rows = split_batch_size("finetune.batch_size", settings.batch_size, count_processes())
    return {
        **({"optim": "adamw_bnb_8bit"} if in_8_bits else {}),
        "per_device_train_batch_size": own_rows,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "learning_rate": settings.lr,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,  # below 1: a fraction of all steps
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "label_names": ["labels"],
        "ddp_find_unused_parameters": True,
    }
