"""Light-PEFT on stock transformers and peft: estimate importance early, prune, fine-tune the rest.

Example: a small BERT with random weights, from estimation to a saved adapter.

    >>> import copy, tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from peft import LoraConfig
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> import lightpeft
    >>> _ = torch.manual_seed(0)
    >>> config = BertConfig(
    ...     vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     intermediate_size=64,
    ... )
    >>> base_model = BertForSequenceClassification(config)
    >>> batches = [{"input_ids": torch.arange(3, 27).reshape(4, 6), "labels": torch.arange(4) % 2}]
    >>> folder = Path(tempfile.mkdtemp())

    >>> model = copy.deepcopy(base_model)
    >>> lora = LoraConfig(r=4, task_type="SEQ_CLS")
    >>> scores = lightpeft.estimate(model, lora, batches, lightpeft.EstimationConfig(steps=4))
    >>> plan = lightpeft.make_plan(scores, lightpeft.PruningConfig(heads=0.5, neurons=0.5))
    >>> pruned = lightpeft.prune(model, plan, scores, verify_batch=batches[0])
    >>> pruned(**batches[0]).loss.backward()  # any training loop
    >>> lightpeft.save(pruned, folder / "out")
    >>> loaded = lightpeft.load(copy.deepcopy(base_model), folder / "out")

The examples of the functions continue this one.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lightpeft.registration import register_with_peft

if TYPE_CHECKING:
    from lightpeft.acceleration.accelerate import AccelerationReport as AccelerationReport
    from lightpeft.acceleration.accelerate import accelerate as accelerate
    from lightpeft.acceleration.accelerate import undo_acceleration as undo_acceleration
    from lightpeft.core.config import EstimationConfig as EstimationConfig
    from lightpeft.core.config import PruningConfig as PruningConfig
    from lightpeft.core.config import StopConfig as StopConfig
    from lightpeft.core.errors import LightPeftError as LightPeftError
    from lightpeft.core.plan import PruningPlan as PruningPlan
    from lightpeft.core.scores import Scores as Scores
    from lightpeft.estimation.estimate import estimate as estimate
    from lightpeft.exporting.card import ExportDetails as ExportDetails
    from lightpeft.exporting.export import export as export
    from lightpeft.exporting.load_merged import from_pretrained as from_pretrained
    from lightpeft.modeling.families import register_family as register_family
    from lightpeft.modeling.family import Family as Family
    from lightpeft.modeling.inspection import inspect_model as inspect_model
    from lightpeft.peft_methods.bottleneck_config import BottleneckConfig as BottleneckConfig
    from lightpeft.planning.make_plan import make_plan as make_plan
    from lightpeft.pruning.checkpoint import expand_adapter as expand_adapter
    from lightpeft.pruning.checkpoint import load as load
    from lightpeft.pruning.checkpoint import save as save
    from lightpeft.pruning.prune import get_plan as get_plan
    from lightpeft.pruning.prune import prune as prune

__version__ = "0.1.0"

# Name -> module: imported on first use, since torch and transformers take seconds.
_MODULES = {
    "AccelerationReport": "acceleration.accelerate",
    "BottleneckConfig": "peft_methods.bottleneck_config",
    "EstimationConfig": "core.config",
    "ExportDetails": "exporting.card",
    "Family": "modeling.family",
    "LightPeftError": "core.errors",
    "PruningConfig": "core.config",
    "PruningPlan": "core.plan",
    "Scores": "core.scores",
    "StopConfig": "core.config",
    "accelerate": "acceleration.accelerate",
    "estimate": "estimation.estimate",
    "expand_adapter": "pruning.checkpoint",
    "export": "exporting.export",
    "from_pretrained": "exporting.load_merged",
    "get_plan": "pruning.prune",
    "inspect_model": "modeling.inspection",
    "load": "pruning.checkpoint",
    "make_plan": "planning.make_plan",
    "prune": "pruning.prune",
    "register_family": "modeling.families",
    "save": "pruning.checkpoint",
    "undo_acceleration": "acceleration.accelerate",
}
__all__ = ["__version__", *_MODULES]

register_with_peft()


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'lightpeft' has no attribute {name!r}")
    return getattr(import_module(f"lightpeft.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
