"""What PEFT modules are attached to, and which of peft's settings can be pruned."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.errors import ModelError
from lightpeft.core.shape import ModelShape

# Every other setting of LoraConfig must be at its default.
_SETTINGS = {
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "fan_in_fan_out",
    "modules_to_save",
    "init_lora_weights",
    "task_type",
    "peft_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
}
_FRESH_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def resolve_lora_config(
    config: LoraConfig, model: PreTrainedModel, shape: ModelShape
) -> LoraConfig:
    """The config with its targets and the task head written out.

    Raises:
        ModelError: a setting can't be sliced later, or a name matches nothing.
    """
    check_settings(config)
    for name in shape.linears:
        for ending in config.modules_to_save or ():
            if _lies_in(name, ending):
                raise ModelError(
                    f"LoraConfig.modules_to_save: {ending!r} would train {name} whole, but linears "
                    f"of the blocks are frozen and cut; name modules outside the blocks"
                )
    found = copy.deepcopy(config)
    names = block_targets(shape, config.target_modules)
    found.target_modules = "|".join(re.escape(name) for name in names)
    found.exclude_modules = None
    found.fan_in_fan_out = any(isinstance(model.get_submodule(n), Conv1D) for n in names)
    found.modules_to_save = _with_head(model, found)
    return found


def check_settings(config: LoraConfig) -> None:
    """Refuse what can't be sliced: DoRA, PiSSA and the like.

    Raises:
        ModelError: names the setting.
    """
    if type(config) is not LoraConfig:
        raise ModelError(f"the PEFT method must be LoRA, got {type(config).__name__}")
    default, asked = asdict(LoraConfig()), asdict(config)
    for name, value in asked.items():
        if name not in _SETTINGS and value != default[name]:
            raise ModelError(f"LoraConfig.{name} is not supported, got {value!r}")
    if config.init_lora_weights not in (True, False, "gaussian"):
        raise ModelError(
            f"LoraConfig.init_lora_weights must be true, false or gaussian, "
            f"got {config.init_lora_weights!r}"
        )


def _with_head(model: PreTrainedModel, config: LoraConfig) -> list[str] | None:
    """What to train and save whole: what was asked for, and all of a fresh task head.

    peft knows `classifier` and `score` alone; DistilBERT's head also has a `pre_classifier`, which
    would stay as random as it was made, and be another one wherever the adapter is loaded.
    """
    asked = list(config.modules_to_save or ())
    if config.task_type not in _FRESH_HEADS or not hasattr(model, model.base_model_prefix):
        return asked or None
    for name, child in model.named_children():
        if name != model.base_model_prefix and any(True for _ in child.parameters()):
            asked.append(name)
    return list(dict.fromkeys(asked)) or None


def block_targets(shape: ModelShape, targets: Any) -> list[str]:
    """Block linears that peft's `target_modules` names: a regex, or a list of endings.

    Raises:
        ModelError: a name matches no linear of a block; lists the candidates.
    """
    if targets is None or targets == "all-linear":
        return list(shape.linears)
    if isinstance(targets, str):
        found = [name for name in shape.linears if re.fullmatch(targets, name)]
        missing = [] if found else [targets]
    else:
        ends = {t: [n for n in shape.linears if n == t or n.endswith(f".{t}")] for t in targets}
        missing = sorted(target for target, names in ends.items() if not names)
        found = [name for name in shape.linears if any(name in names for names in ends.values())]
    if missing or not found:
        endings = sorted({name.rpartition(".")[2] for name in shape.linears})
        raise ModelError(
            f"LoraConfig.target_modules: {missing[0] if missing else targets!r} is no linear "
            f"of a {shape.model_type} block; candidates: {', '.join(endings)}"
        )
    return found


def _lies_in(name: str, ending: str) -> bool:
    """Whether a linear is a module that ends with `ending`, as peft matches, or is inside one."""
    parts = name.split(".")
    return any(".".join(parts[: n + 1]).endswith(ending) for n in range(len(parts)))
