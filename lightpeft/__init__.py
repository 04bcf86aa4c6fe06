"""Light-PEFT on stock transformers and peft: estimate early, prune for real, fine-tune the rest."""

from importlib import import_module
from typing import Any

_HOME = {
    "estimate": "lightpeft.estimation.estimate",
    "make_plan": "lightpeft.planning.make_plan",
    "prune": "lightpeft.pruning.prune",
    "plan_of": "lightpeft.pruning.prune",
    "verify": "lightpeft.pruning.verification",
    "save": "lightpeft.pruning.checkpoint",
    "load": "lightpeft.pruning.checkpoint",
    "lift": "lightpeft.pruning.checkpoint",
    "inspect_model": "lightpeft.modeling.inspection",
    "Family": "lightpeft.modeling.families",
    "register_family": "lightpeft.modeling.families",
    "EstimationConfig": "lightpeft.core.config",
    "PruningConfig": "lightpeft.core.config",
    "Scores": "lightpeft.core.scores",
    "PruningPlan": "lightpeft.core.plan",
    "LightPeftError": "lightpeft.core.errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import on first use: `import lightpeft` alone loads neither torch nor transformers."""
    if name not in _HOME:
        raise AttributeError(f"module 'lightpeft' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
