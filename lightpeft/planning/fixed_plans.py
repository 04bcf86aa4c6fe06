"""Plans that no score decides: PEFT modules on an unpruned base, as one would choose by habit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lightpeft.core.adapter_layout import count_adapter_parameters
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import NO_CRITERION, PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.families import is_query_or_value
from lightpeft.planning.make_plan import make_plan


def keep_query_and_value(scores: Scores) -> PruningPlan:
    """Make a plan that keeps the PEFT modules on query and value projections, and the whole base.

    That is LoRA as its authors attach it (arXiv:2106.09685), and vanilla LoRA in the experiments of
    Light-PEFT. A linear that computes queries, keys and values in one counts as both.

    Raises:
        PlanError: the estimation had no PEFT module on such a linear.
    """
    attention = {path for block in scores.shape.attention_blocks for path in block.linears}
    ranks = {
        name: total if name in attention and is_query_or_value(name) else 0
        for name, total in _count_ranks(scores).items()
    }
    if not any(ranks.values()):
        raise PlanError(
            f"no PEFT module of the estimation is on a query or value projection; "
            f"modules were on {', '.join(sorted({name.rpartition('.')[2] for name in ranks}))}"
        )
    return _make_fixed_plan(scores, ranks)


def keep_upper_modules(scores: Scores, fraction: float) -> PruningPlan:
    """Make a plan that prunes the lowest PEFT modules, and nothing of the base.

    The backward pass stops at the lowest module that is left.

    Args:
        scores: from `estimate`.
        fraction: of the PEFT modules, to prune.

    Raises:
        PlanError: the fraction is of no module.
    """
    config = PruningConfig(heads=0, neurons=0, modules=fraction, ranks=0, module_criterion="depth")
    plan = make_plan(scores, config)
    if plan.is_identity:
        raise PlanError(
            f"modules must be large enough to prune one of {len(plan.ranks)} PEFT modules, "
            f"got {fraction}"
        )
    return replace(plan, settings=plan.settings | {"criterion": NO_CRITERION})


def match_budget(scores: Scores, plan: PruningPlan) -> PruningPlan:
    """Make a plan of the unpruned base with as many trained weights as another plan has.

    All PEFT modules get one rank, and the uppermost as many as the rest of the budget allows one
    more. The difference in the end is at most half a rank of one module. The scaling of LoRA stays
    that of the original rank, as of the other plan.

    Args:
        scores: from `estimate`.
        plan: made from them; gives the number of weights of PEFT modules to train.
    """
    rest = plan.without_layers
    budget = rest.shape.count_parameters(rest.counts)["adapter"]
    names = [*_count_ranks(scores)]

    def count(rank: int, name: str) -> int:
        linear = scores.shape.linears[name]
        sizes = {"rank": rank, "inputs": linear.inputs, "outputs": linear.outputs}
        return count_adapter_parameters(scores.peft_type, sizes)

    one, two = (sum(count(rank, name) for name in names) for rank in (1, 2))
    rank = max(0, (budget - one) // (two - one) + 1)
    left = budget - sum(count(rank, name) for name in names)
    ranks = dict.fromkeys(names, rank)
    raised = 0
    for name in reversed(names):
        size = count(rank + 1, name) - count(rank, name)
        if 2 * left < size and (rank or raised):  # at least one module stays
            break
        ranks[name], left, raised = rank + 1, left - size, raised + 1
    upper = f", {rank + 1} on the upper {raised}" if raised else ""
    note = (
        f"rank {rank} on {len(ranks)} PEFT modules{upper}: {budget - left:,} weights to train, "
        f"for a budget of {budget:,}"
    )
    return _make_fixed_plan(scores, ranks, note)


def _count_ranks(scores: Scores) -> dict[str, int]:
    """Return the PEFT modules with their ranks, in execution order."""
    return {x: len(scores.ranks[x]) for x in scores.shape.linears if x in scores.ranks}


def _make_fixed_plan(scores: Scores, ranks: Mapping[str, int], *notes: str) -> PruningPlan:
    """Make a plan that keeps the base, and the first ranks of each PEFT module, so many."""
    config = PruningConfig(heads=0, neurons=0, modules=0, ranks=0)
    plan = make_plan(scores, config)
    kept = {
        name: KeptUnits(
            total=units.total,
            kept=tuple(range(ranks[name])),
            reason=f"the first {ranks[name]} of {units.total}" if ranks[name] else "left out",
        )
        for name, units in plan.ranks.items()
    }
    settings = plan.settings | {"criterion": NO_CRITERION}
    return replace(plan, settings=settings, ranks=kept, notes=notes)
