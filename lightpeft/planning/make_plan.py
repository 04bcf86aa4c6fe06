"""Make a plan from scores: by fractions, or for what they are to reach."""

from __future__ import annotations

from dataclasses import replace

from lightpeft.core.config import SEARCHED, PruningConfig, PruningTarget
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.planning.cost_model import CostModel
from lightpeft.planning.fractions import apply_fractions
from lightpeft.planning.target import TargetChoice, find_fractions


def make_plan(
    scores: Scores, config: PruningConfig, *, cost_model: CostModel | None = None
) -> PruningPlan:
    """Decide which units to prune: those of the lowest scores, an exact count, ties by index.

    Phase 2 of Light-PEFT (arXiv:2406.03792): heads per layer, neurons over all layers, PEFT
    modules over all modules, PEFT ranks over all remaining modules. Deviations: a count, not a
    quantile, so that not all of equal scores are pruned; a layer keeps at least one head and
    `align` neurons; whole layers go first, if `config.layers` says so, and the other fractions are
    of the rest; and with `config.target` the fractions are searched, see `find_fractions`.

    Args:
        scores: from `estimate`.
        config: the fractions to prune, or the target to reach, and by which criterion.
        cost_model: how the cost of a plan is predicted, for a target; None: by FLOPs.

    Raises:
        PlanError: layers are to be pruned, and none can be, or none with a PEFT module would stay;
            or the target can't be reached: names the best that can.

    Example:
        >>> config = lightpeft.PruningConfig(heads=0.25, neurons=0.5, modules=0, ranks=0.5)
        >>> plan = lightpeft.make_plan(scores, config)
        >>> plan
        PruningPlan(bert: 6 of 8 heads, 64 of 128 neurons, 8 of 12 PEFT modules, 24 of 48 ranks)
        >>> len(plan.heads["bert.encoder.layer.0.attention"].kept)
        3
        >>> config = lightpeft.PruningConfig(target={"training_speedup": 2.0})
        >>> lightpeft.make_plan(scores, config).notes[0]  # doctest: +ELLIPSIS
        'target training_speedup 2: predicted ... by FLOPs; layers 0, heads ...'
    """
    if config.target is None:
        return apply_fractions(scores, config)
    cost_model = cost_model or CostModel()
    choice = find_fractions(scores, config, cost_model)
    plan = apply_fractions(scores, choice.config)
    return _add_outcome(plan, config.target, choice, cost_model)


def _add_outcome(
    plan: PruningPlan, target: PruningTarget, choice: TargetChoice, cost_model: CostModel
) -> PruningPlan:
    """Return the plan with what it was to reach and what it is predicted to."""
    outcome = {
        "quantity": target.quantity,
        "value": target.value,
        "predicted": round(cost_model.predict(target, plan), 4),
        "source": cost_model.name_source(target.quantity),
        "importance": round(choice.importance, 4),
    }
    fractions = ", ".join(f"{kind} {getattr(choice.config, kind):.3g}" for kind in SEARCHED)
    note = (
        f"target {target.quantity} {target.value:g}: predicted {outcome['predicted']:.3g} by "
        f"{outcome['source']}; {fractions}, which keep {choice.importance:.0%} of "
        f"the importance by taylor"
    )
    return replace(plan, settings=plan.settings | {"target": outcome}, notes=(note, *plan.notes))
