"""The model of any method, which may be pruned or not: attached, saved, and loaded again.

The files in its folder tell what it is: lightpeft's (a plan), stock peft's (an adapter, no plan),
or all weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from transformers import PreTrainedModel

from lightpeft.core.errors import LightPeftError
from lightpeft.core.names import CONFIG, PLAN, WEIGHTS
from lightpeft.core.plan import PruningPlan
from lightpeft.core.reading import require_file
from lightpeft.core.serialization import replace_directory
from lightpeft.pruning import checkpoint
from pipeline.common.artefacts import UnprunedMethod
from pipeline.common.errors import ConfigError
from pipeline.common.text import join_lines
from pipeline.tasks.base import Task
from pipeline.tasks.baseline_configs import make_config
from pipeline.tasks.positions import find_max_positions

Model: TypeAlias = PeftModel | PreTrainedModel
_ALL_WEIGHTS = "model.safetensors"
_PROMPT_HEADS = {"classifier", "score"}  # what peft trains besides virtual tokens


def attach(base: PreTrainedModel, method: UnprunedMethod, task: Task, head: list[str]) -> Model:
    """Return what a method without a plan trains: a stock `PeftModel`, or the base itself.

    Args:
        base: unpruned; changed in place.
        method: with the settings of params.yaml.
        task: decides peft's `task_type`.
        head: new modules of the base, which are trained in full.

    Raises:
        ConfigError: peft refuses the settings, or the method can't be trained on this task.
    """
    if method.peft_type is None:
        return base.requires_grad_(True)
    name = method.peft_type.lower()
    try:
        config = make_config(
            name, method.settings, task_type=task.task_type, modules_to_save=head or None
        )
        if config.peft_type == "ADALORA" and task.card.class_weights:
            raise ConfigError(
                "methods: peft:adalora adds a term to the model's own loss, which "
                "data.class_weights: balanced replaces; remove one of them"
            )
        if config.is_prompt_learning:
            _check_prompt_learning(config, task, head)
            _check_virtual_tokens(config, task, find_max_positions(base.config, base))
        return get_peft_model(base, config)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"params.yaml: baselines.{name}: {join_lines(error)}") from error


def _check_prompt_learning(config: PeftConfig, task: Task, head: list[str]) -> None:
    """Refuse tasks whose outputs virtual tokens would shift, and what peft does not train or save.

    Raises:
        ConfigError: names the task, the module or the setting.
    """
    name = config.peft_type.lower()
    if getattr(config, "prefix_projection", False):
        raise ConfigError(
            f"baselines.{name}.prefix_projection must be false, got true: peft saves its result, "
            f"from which no training can go on"
        )
    if task.task_type != "SEQ_CLS":
        raise ConfigError(
            f"methods: peft:{name} adds virtual tokens, which is supported for text "
            f"classification and regression only; this is {task.card.task_name}"
        )
    if untrained := sorted(set(head) - _PROMPT_HEADS):
        raise ConfigError(
            f"methods: peft:{name} would not train {untrained[0]}, a new module of model.name"
        )


def _check_virtual_tokens(config: PeftConfig, task: Task, limit: int | None) -> None:
    """Check that the model has positions for virtual tokens before the longest row.

    Raises:
        ConfigError: it has fewer; names the setting.
    """
    longest = max((split.max_tokens for split in task.card.splits.values()), default=0)
    if limit is not None and config.num_virtual_tokens + longest > limit:
        raise ConfigError(
            f"baselines.{config.peft_type.lower()}.num_virtual_tokens must be at most "
            f"{limit - longest}, because model.name has {limit} positions and the longest row "
            f"{longest} tokens, got {config.num_virtual_tokens}"
        )


def save(model: Model, folder: Path) -> None:
    """Write what was trained to a folder, created or replaced, which `load` reads."""
    if isinstance(getattr(model, "lightpeft_plan", None), PruningPlan):
        checkpoint.save(model, folder)
        return
    with replace_directory(folder) as temporary:
        if isinstance(model, PeftModel):
            # Of embeddings, peft would ask the Hub.
            model.save_pretrained(str(temporary), save_embedding_layers=False)
        else:
            save_model(model, str(temporary / _ALL_WEIGHTS))


def load(base: PreTrainedModel, folder: Path) -> Model:
    """Return a trained model, its trained weights trainable.

    Args:
        base: the unpruned one; changed in place.
        folder: written by `save`.

    Raises:
        LightPeftError: a file is missing or damaged, or is of another base.
    """
    if (folder / PLAN).exists():
        return checkpoint.load(base, folder, trainable=True)
    if (folder / _ALL_WEIGHTS).exists():
        model: Model = base.requires_grad_(True)
    else:
        require_file(folder / CONFIG, LightPeftError)  # peft would ask the Hub
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        if config.peft_type == "ADALORA":
            config.rank_pattern = None  # `restore` sets it: peft expects it after the modules
        model = get_peft_model(base, config)
    restore(model, folder)
    return model


def restore(model: Model, folder: Path) -> None:
    """Set the trained weights of a model to those that `save` wrote of the same model.

    Raises:
        LightPeftError: they are not of this model.
    """
    try:
        if not isinstance(model, PeftModel):
            load_model(model, folder / _ALL_WEIGHTS)
            return
        config = model.peft_config["default"]
        if config.peft_type == "ADALORA":
            config.rank_pattern = PeftConfig.from_pretrained(str(folder)).rank_pattern
        require_file(folder / WEIGHTS, LightPeftError)
        weights = load_file(folder / WEIGHTS)
        set_peft_model_state_dict(model, weights)
        known = get_peft_model_state_dict(model, save_embedding_layers=False)
    except SafetensorError as error:
        raise LightPeftError(f"{folder} is damaged: {join_lines(error)}") from error
    except (RuntimeError, KeyError) as error:
        raise LightPeftError(f"{folder} is of another model: {join_lines(error)}") from error
    if wrong := sorted(weights.keys() ^ known.keys()):
        raise LightPeftError(f"{folder} is of another model, which {wrong[0]} shows")


def count_parameters(model: Model) -> dict[str, int]:
    """Count the parameters in use: trained ones (as `load` marks them), and the others."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    # peft also keeps the untrained copy of the head, which is not used.
    everything = sum(
        weight.numel() for name, weight in model.named_parameters() if "original_module" not in name
    )
    return {"base_parameters": everything - trained, "trainable_parameters": trained}
