"""Light-PEFT on stock transformers and peft: estimate early, prune for real, fine-tune the rest."""

from importlib import import_module
from typing import Any

_HOME = {
    "estimate": "estimation",
    "make_plan": "selection",
    "prune": "surgery",
    "plan_of": "surgery",
    "verify": "verification",
    "save": "checkpoint",
    "load": "checkpoint",
    "lift": "checkpoint",
    "read_shape": "geometry",
    "Family": "families",
    "register_family": "families",
    "Scores": "scores",
    "PruningPlan": "plan",
    "LightPeftError": "errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import on first use: `import lightpeft` alone loads neither torch nor transformers."""
    if name not in _HOME:
        raise AttributeError(f"module 'lightpeft' has no attribute {name!r}")
    return getattr(import_module(f"lightpeft.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
