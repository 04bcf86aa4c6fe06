"""Stage `prune`: scores and ratios -> what one method keeps, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightpeft.config import PruneSection, load_params
from lightpeft.cost import cost
from lightpeft.files import write_json
from lightpeft.plan import PruningPlan
from lightpeft.scores import Scores
from lightpeft.selection import make_plan
from pipeline.common import say

COST_LENGTH = 64  # tokens a row, for the quadratic term of attention


def ratios(section: PruneSection, method: str) -> dict[str, Any]:
    """What `make_plan` is told for a method; nothing after this knows methods apart."""
    if method == "vanilla":  # nothing else: no other setting may change a plan that cuts nothing
        return dict.fromkeys(("heads", "neurons", "modules", "ranks"), 0.0)
    return {
        "heads": section.ratio if section.heads is None else section.heads,
        "neurons": section.ratio if section.neurons is None else section.neurons,
        "modules": section.modules,
        "ranks": section.ranks,
        "align": section.align,
        "head_unit": section.head_unit,
        "neuron_scope": section.neuron_scope,
        "module_order": section.module_order,
        "criterion": "random" if method == "random" else section.criterion,
    }


def cost_table(plan: PruningPlan, scores: Scores) -> dict[str, Any]:
    """Parameters and FLOPs by part, of the whole model and of what the plan keeps."""
    head = sum(weight.numel() for name, weight in scores.adapter.items() if "lora_" not in name)
    whole = {
        "heads": plan.shape.heads,
        "neurons": plan.shape.neurons,
        "ranks": {name: cut.total for name, cut in plan.ranks.items()},
    }
    return {
        "length": COST_LENGTH,
        "before": _cost(plan, whole, head),
        "after": _cost(plan, plan.counts(), head),
    }


def _cost(plan: PruningPlan, counts: dict[str, dict[str, int]], head: int) -> dict[str, Any]:
    return cost(plan.shape, **counts, length=COST_LENGTH).with_trained_head(head).as_dict()


def main(method: str, estimate: str, out: str, cost_out: str) -> None:
    """Make one method's plan and its cost table."""
    params = load_params()
    scores = Scores.load(Path(estimate))
    plan = make_plan(scores, **ratios(params.prune, method), seed=params.seed)
    plan.save(Path(out))
    table = cost_table(plan, scores)
    write_json(Path(cost_out), table)
    before, after = (table[key]["total"]["parameters"] for key in ("before", "after"))
    say(f"prune {method}", f"{before:,} -> {after:,} parameters")
    for note in plan.notes:
        say(f"prune {method}", note)
