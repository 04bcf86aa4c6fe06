"""Track the training memory of published model sizes without the memory that they need."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from lightpeft.acceleration.accelerate import accelerate
from lightpeft.benchmark.random_models import build_random_model
from lightpeft.benchmark.run import (
    BenchmarkConfig,
    make_lora_config,
    make_pruning_config,
    make_zero_scores,
)
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.slicing import slice_base
from lightpeft.peft_methods.registry import make_pruned_config
from lightpeft.planning.make_plan import make_plan
from lightpeft.profiling.live_bytes import track_training_peak
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.pruning.prune import attach_adapter

_NO_FINGERPRINT = "0" * 16


def make_benchmark_plan(config: BenchmarkConfig, method: str) -> PruningPlan:
    """Make the plan that `build_method_model` prunes by, for a model without weights."""
    base = _build_without_data(config)
    scores = make_zero_scores(config, inspect_model(base), _NO_FINGERPRINT)
    return make_plan(scores, make_pruning_config(config, method))


def track_fake_training(config: BenchmarkConfig, plan: PruningPlan) -> int:
    """Return the peak bytes of a training step of a model whose tensors have no data.

    It is the model of transformers and peft, pruned by the plan. Rows have no padding.

    Args:
        config: which model, how long its rows are, and how many there are at most.
        plan: from `make_benchmark_plan`.
    """
    base = _build_without_data(config)
    slice_base(base, plan)
    model = attach_adapter(base, plan, make_pruned_config(make_lora_config(config), plan), None)
    if config.accelerate:
        accelerate(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        # On the CPU, as far as operators know: attention has a fused kernel there.
        model.to_empty(device="cpu")
        base.tie_weights()
        size, length = max(config.batch_sizes), config.profiling.length
        batch = make_random_batch(model, batch_size=size, length=length)
        del batch["attention_mask"]
        return track_training_peak(model, batch)


def _build_without_data(config: BenchmarkConfig) -> PreTrainedModel:
    device = torch.device("meta")
    return build_random_model(config.shape, dtype=config.torch_dtype, device=device)
