"""Stage `estimate`: model and data -> the importance of everything that can be pruned."""

from __future__ import annotations

import time
from typing import Any

from peft import LoraConfig, PeftConfig

from lightpeft.estimation.estimate import estimate
from lightpeft.peft_methods.bottleneck_config import BottleneckConfig
from pipeline.common.artefacts import EstimationTiming
from pipeline.common.console import Progress, find_device, log, seed_everything
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.paths import Paths
from pipeline.common.peft_params import PeftSection
from pipeline.common.pruning_params import EstimateParams
from pipeline.common.ranks import get_rank, is_base_sharded, is_main_process
from pipeline.common.text import quantify
from pipeline.tasks.base import Task
from pipeline.tasks.batching import build_dataloader, count_tokens, shuffle_batches
from pipeline.tasks.loss_parts import make_loss
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.tasks.sharding import shard_base


def make_peft_config(section: PeftSection, task: Task, head: list[str]) -> PeftConfig:
    """Return the PEFT config of params.yaml; `head` names the new modules, trained in full."""
    common: dict[str, Any] = {
        "task_type": task.task_type,
        "r": section.r,
        "target_modules": section.targets,
        "modules_to_save": head or None,
    }
    if section.method == "bottleneck":
        return BottleneckConfig(
            placement=section.placement,
            non_linearity=section.non_linearity,
            scaling=section.scaling,
            dropout=section.dropout,
            **common,
        )
    return LoraConfig(
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        use_rslora=section.rslora,
        use_dora=section.dora,
        **common,
    )


def main(paths: Paths) -> None:
    """Write scores and trained weights, and to a file of its own the duration.

    Of several processes, each trains on its part of every batch, and one writes.
    """
    params = EstimateParams.load(paths.params)
    section, data = params.estimate, paths.prepared
    task = make_task(DataCard.read(data))
    model, head = load_model(params.model, task, params.seed)
    rows = read_rows(data, "train")
    order = shuffle_batches(
        count_tokens(rows), batch_size=section.batch_size, seed=params.seed, grouped=True
    )
    processor = load_processor(params.model, task)
    batches = build_dataloader(rows, task, processor, order, split=True)
    start, progress = time.monotonic(), Progress("estimate", section.steps)
    # Each process draws a dropout of its own; all start from the PEFT weights of the first.
    seed_everything(params.seed + get_rank())
    sharded = is_base_sharded()
    scores = estimate(
        model if sharded else model.to(find_device()),
        make_peft_config(params.peft, task, head),
        batches,
        section,
        compute_loss=make_loss(task),
        progress=progress,
        shard=shard_base if sharded else None,
    )
    if not is_main_process():
        return
    seconds = time.monotonic() - start
    progress.close()
    scores.save(paths.scores)
    if scores.steps < section.steps:
        log(
            "estimate",
            f"stopped after {scores.steps} of {section.steps} steps: the units to prune stayed "
            f"the same in {quantify(section.stop.patience, 'check')}",
        )
    timing = EstimationTiming(
        seconds=round(seconds, 3),
        steps=scores.steps,
        steps_per_second=round(scores.steps / seconds, 3),
    )
    timing.write(paths.estimate_timing)
