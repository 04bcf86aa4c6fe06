"""The modules that a PEFT config names: linears of the blocks, and modules to train in full."""

from __future__ import annotations

import re
from typing import Any

from peft import PeftConfig
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError, Term
from lightpeft.core.shape import ModelShape

# Modules that peft trains and saves in full for a task, wherever a model has them.
_NEW_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


def check_saved_modules(config: PeftConfig, shape: ModelShape) -> None:
    """Refuse `modules_to_save` inside the blocks.

    Raises:
        ModelError: names the module.
    """
    for name in shape.linears:
        for ending in config.modules_to_save or ():
            # As peft matches: the linear, or a module that it is in, has a name with this ending.
            if f"{ending}." in f"{name}.":
                raise ModelError(
                    f"{type(config).__name__}.modules_to_save: {ending!r} would train all of "
                    f"{name}, but linears of the blocks are frozen and pruned; name modules "
                    f"outside the blocks"
                )


def list_saved_modules(config: PeftConfig) -> set[str]:
    """Return endings of the names of the modules that the adapter holds in full."""
    return {*(config.modules_to_save or ()), *_NEW_HEADS.get(config.task_type, ())}


def find_modules_to_save(model: PreTrainedModel, config: PeftConfig) -> list[str] | None:
    """Return the modules to train and save in full: the config's, and all of a new task head.

    peft adds `classifier` and `score` only. DistilBERT's head also has a `pre_classifier`, which
    would stay at its random initialization, and be another one wherever the adapter is loaded.
    """
    names = list(config.modules_to_save or ())
    if config.task_type in _NEW_HEADS and hasattr(model, model.base_model_prefix):
        for name, child in model.named_children():
            if name != model.base_model_prefix and any(True for _ in child.parameters()):
                names.append(name)
    return list(dict.fromkeys(names)) or None


def find_block_targets(
    shape: ModelShape,
    targets: Any,
    *,
    setting: str = Term.LORA_TARGETS,
    kind: str = "linear",
) -> list[str]:
    """Return the block linears that `target_modules` names: a regex, or a list of name endings.

    Args:
        shape: with the linears that can be named.
        targets: the value of the setting.
        setting: its name, for errors.
        kind: what the linears are, for errors.

    Raises:
        ModelError: a name matches no linear of a block; lists the candidates. Or it is no regex.
    """
    if targets is None or targets == "all-linear":
        return list(shape.linears)
    if isinstance(targets, str):
        try:
            matches = [name for name in shape.linears if re.fullmatch(targets, name)]
        except re.error as error:
            raise ModelError(f"{setting}: {targets!r} is no regex: {error}") from error
        missing = [] if matches else [targets]
    else:
        ends = {t: [n for n in shape.linears if f".{n}".endswith(f".{t}")] for t in targets}
        missing = sorted(target for target, names in ends.items() if not names)
        matches = [name for name in shape.linears if any(name in names for names in ends.values())]
    if missing or not matches:
        endings = sorted({name.rpartition(".")[2] for name in shape.linears})
        raise ModelError(
            f"{setting}: {missing[0] if missing else targets!r} is no {kind} "
            f"of a {shape.model_type} block; candidates: {', '.join(endings)}"
        )
    return matches
