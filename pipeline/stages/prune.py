"""Stage `prune`: scores and ratios -> what one method keeps, and what that costs."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch

from lightpeft.core.adapter_layout import parse_adapter_key
from lightpeft.core.config import PruningConfig, PruningTarget
from lightpeft.core.errors import PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.core.shape import ModelShape, UnitCounts
from lightpeft.planning.cost import compute_cost
from lightpeft.planning.cost_model import CostModel
from lightpeft.planning.fixed_plans import (
    keep_query_and_value,
    keep_upper_modules,
    match_budget,
)
from lightpeft.planning.latency_table import LatencyTable
from lightpeft.planning.make_plan import make_plan
from lightpeft.planning.widths import choose_align
from lightpeft.profiling.devices import read_device_name
from lightpeft.profiling.latency import LatencySettings, measure_latency
from lightpeft.pruning.prune import check_plan_matches_model
from lightpeft.pruning.verification import slice_and_verify
from pipeline.common.artefacts import PartCost, PlanCost, UnprunedMethod
from pipeline.common.console import find_device, log
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.errors import ConfigError
from pipeline.common.methods import find_peft_type, find_settings, has_plan
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import PruneParams
from pipeline.tasks.base import is_decoder
from pipeline.tasks.batching import build_dataloader, count_tokens, shuffle_batches
from pipeline.tasks.method_models import attach, count_parameters
from pipeline.tasks.model_loading import (
    choose_dtype,
    load_config,
    load_model,
    load_processor,
)
from pipeline.tasks.registry import make_task

_VERIFIED_ROWS = 8
COST_LENGTH = 64  # tokens a row, for the quadratic term of attention


def make_cost_model(params: PruneParams, scores: Scores, target: PruningTarget | None) -> CostModel:
    """Return what predicts a target, on the largest batch of the benchmark.

    With `prune.cost: measured`, a speed-up goes by a latency table that is measured once for a
    machine, model and batch, and kept beside the checkpoints: all methods, and later runs, go by
    the same one.
    """
    rows, length = max(params.benchmark.batch_sizes), params.benchmark.length
    dtype = choose_dtype(params.model.dtype)
    if params.prune.cost == "flops" or target is None:
        return CostModel(rows=rows, length=length, width=dtype.itemsize)
    settings = LatencySettings(
        rows=rows,
        length=length,
        rank=scores.peft.r,
        dtype=dtype,
        device=find_device(),
    )
    identity = (
        scores.shape.blocks,
        scores.shape.matmul_weights,
        settings,
        read_device_name(settings.device),
        torch.__version__,
    )
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    path = Path(os.environ.get("DVC_ROOT", ".")) / "checkpoints" / f"latency-{digest}.json"
    if not path.exists():
        log("prune", "measuring the latency of the model's blocks")
        path.parent.mkdir(exist_ok=True)
        measure_latency(scores.shape, settings).save(path)
    table = LatencyTable.load(path)
    return CostModel(rows=rows, length=length, width=dtype.itemsize, latency=table)


def make_method_plan(
    method: str, scores: Scores, config: PruningConfig, cost_model: CostModel | None = None
) -> PruningPlan:
    """Return the plan of one method; nothing after this distinguishes methods.

    Args:
        method: of params.yaml.
        scores: from `estimate`.
        config: that of the method, from `PruneSection.make_config`.
        cost_model: predicts what a target is set on; None: that of `make_plan`.

    Raises:
        PlanError: as `make_plan`.
    """
    if method == "qv":
        return keep_query_and_value(scores)
    if method == "freeze":
        return keep_upper_modules(scores, config.modules)
    plan = make_plan(scores, config, cost_model=cost_model)
    return match_budget(scores, plan) if method == "small" else plan


def count_plan_cost(plan: PruningPlan, scores: Scores) -> PlanCost:
    """Count parameters and FLOPs by part, before and after pruning."""
    rest = plan.without_layers
    head = sum(
        weight.numel() for name, weight in scores.adapter.items() if not parse_adapter_key(name)
    )
    return PlanCost(
        length=COST_LENGTH,
        before=_count_parts(plan.shape, plan.unpruned_counts, head),
        after=_count_parts(rest.shape, rest.counts, head),
    )


def _count_parts(shape: ModelShape, counts: UnitCounts, head: int) -> dict[str, PartCost]:
    table = compute_cost(shape, counts, length=COST_LENGTH).replace_trained_head(head)
    return {part: PartCost(**numbers) for part, numbers in table.to_dict().items()}


def verify_pruning(params: PruneParams, plan: PruningPlan, scores: Scores, data: Path) -> float:
    """Return how far a pruned model's outputs are from the masked one's, on a validation batch.

    Raises:
        LightPeftError: further than rounding errors; or the plan is of another model.
    """
    task = make_task(DataCard.read(data))
    model, _ = load_model(params.model, task, params.seed)
    check_plan_matches_model(plan, model, scores.peft)
    rows, processor = read_rows(data, "validation"), load_processor(params.model, task)
    size = min(_VERIFIED_ROWS, len(rows))
    order = shuffle_batches(count_tokens(rows), batch_size=size, seed=params.seed, grouped=False)
    batch = next(iter(build_dataloader(rows, task, processor, order)))
    return slice_and_verify(model.to(find_device()), plan, batch)


def write_unpruned_method(method: str, params: PruneParams, paths: Paths) -> None:
    """Write what a method without a plan trains; try it first on the model.

    Raises:
        ConfigError: peft refuses its settings, or it can't be trained on this task.
    """
    settings = dict(params.baselines.get(find_settings(method), {}))
    lr = settings.pop("lr", None)
    unpruned = UnprunedMethod(peft_type=find_peft_type(method), settings=settings, lr=lr)
    task = make_task(DataCard.read(paths.prepared))
    model, head = load_model(params.model, task, params.seed)
    trained = count_parameters(attach(model, unpruned, task, head))["trainable_parameters"]
    unpruned.write(paths.locate_unpruned(method))
    log(f"prune {method}", f"nothing is pruned; {trained:,} parameters are trained")


def main(method: str, paths: Paths) -> None:
    """Write one method's plan and its cost; verify first that pruning equals masking.

    Of a method that has no plan, write what it trains.
    """
    params = PruneParams.load(paths.params)
    if not has_plan(method):
        write_unpruned_method(method, params, paths)
        return
    scores = Scores.load(paths.scores)
    decoder = is_decoder(load_config(params.model))
    align = choose_align(choose_dtype(params.model.dtype), find_device())
    config = params.prune.make_config(method, seed=params.seed, decoder=decoder, align=align)
    cost_model = make_cost_model(params, scores, config.target)
    if cost_model.latency:
        cost_model.latency.save(paths.locate_latency(method))
    try:
        plan = make_method_plan(method, scores, config, cost_model)
    except PlanError as error:
        if re.split(r"\W", str(error))[0] in PruningConfig.model_fields:
            raise ConfigError(f"prune.{error}") from error  # as params.yaml names it
        raise
    if params.prune.verify and not plan.keeps_base_intact:
        difference = verify_pruning(params, plan, scores, paths.prepared)
        log(f"prune {method}", f"pruned and masked outputs differ by {difference:.1g}")
    plan.save(paths.locate_plan(method))
    table = count_plan_cost(plan, scores)
    table.write(paths.locate_cost(method))
    before, after = (costs["total"].parameters for costs in (table.before, table.after))
    log(f"prune {method}", f"{before:,} -> {after:,} parameters")
    for note in plan.notes:
        log(f"prune {method}", note)
