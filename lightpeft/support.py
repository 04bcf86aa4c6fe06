"""Say what can be pruned of a model: python -m lightpeft.support NAME"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from typer.exceptions import TyperException

from lightpeft.core.block_shape import KEPT_WHOLE, AttentionBlock, Block
from lightpeft.core.errors import LightPeftError, ModelError
from lightpeft.core.layers import LayerStack
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.blocks import mask_numbers
from lightpeft.modeling.families import find_families
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.proof import prove_reading

_PROGRAM = "python -m lightpeft.support"
# The kinds of classes that a type may have, the one to inspect first.
KINDS = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "IMAGE_TEXT_TO_TEXT",
    "CAUSAL_LM",
    "MASKED_LM",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "SEQUENCE_CLASSIFICATION",
    "TEXT_ENCODING",
    "IMAGE",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=f"Example: {_PROGRAM} olmo2")
def support(
    name: Annotated[
        str, typer.Argument(help="A model type, a folder, or a Hub id.", metavar="NAME")
    ],
) -> None:
    """Say which heads and neurons of a model can be pruned, and how it was recognized.

    Reads the config only, no weights. A model type, such as olmo2, stands for its default config.
    """
    typer.echo(describe_support(build_empty_model(name)))


def describe_support(model: PreTrainedModel) -> str:
    """Return in a few lines what can be pruned of a model, and how it was recognized.

    Args:
        model: a plain transformers model; its weights are not read.

    Raises:
        ModelError: it can't be pruned; one line that says why.
    """
    shape, model_type = inspect_model(model), model.config.model_type
    rows = [("model", f"{type(model).__name__} (model type {model_type})")]
    if find_families(model_type):
        rows.append(("known by", "registered names, tested with every release"))
    else:
        reading = prove_reading(model)
        rows.append(("known by", "structure; a small model proved that pruned equals masked"))
        rows += [("left as it is", path) for path in reading.skipped]
    return "\n".join(f"{key:<14} {value}" for key, value in [*rows, *_describe_blocks(shape)])


def build_empty_model(name: str, **settings: Any) -> PreTrainedModel:
    """Build a model without weights, of the class that its config names or its type suggests.

    Args:
        name: a model type, a folder, or a Hub id.
        settings: of the config, instead of its own.

    Raises:
        ModelError: there is no such config, or transformers can't build it.
    """
    if name.startswith(("/", "./", "../", "~")) and not Path(name).exists():
        raise ModelError(f"{name} can't be built: there is no such folder")
    near = _find_near_type(name)
    try:
        is_type = name in CONFIG_MAPPING and not Path(name).exists()
        config = (
            CONFIG_MAPPING[name](**settings)
            if is_type
            else AutoConfig.from_pretrained(name, local_files_only=bool(near), **settings)
        )
        with torch.device("meta"):
            model: PreTrainedModel = _find_class(config)._from_config(config)
    except Exception as error:  # transformers and the Hub raise whatever they like
        reason = (
            f"did you mean the model type {near}? A model of the Hub has an owner: OWNER/{name}"
            if near
            else _describe_causes(error)
        )
        raise ModelError(f"{name or repr(name)} can't be built: {reason}") from error
    return model


def _find_near_type(name: str) -> str:
    """Return the model type that a name misspells, so that the Hub need not be asked; or nothing.

    An old Hub id without an owner, such as xlm-roberta-base, starts with its type.
    """
    is_id = "/" in name or any(name.startswith(f"{known}-") for known in CONFIG_MAPPING)
    if is_id or name in CONFIG_MAPPING or Path(name).exists():
        return ""
    return next(iter(get_close_matches(name, CONFIG_MAPPING, n=1, cutoff=0.8)), "")


def _describe_causes(error: BaseException) -> str:
    """Return an error and its first cause, such as a connection that broke, shortened."""
    cause = error
    while (earlier := cause.__cause__ or cause.__context__) is not None:
        cause = earlier
    first, last = (shorten(str(x), 130, placeholder=" ...") for x in (error, cause))
    return first if last in first else f"{first} ({last})"


def _find_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    names = list(config.architectures or ())
    for kind in KINDS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")
        found = mapping.get(config.model_type, ())
        names += [found] if isinstance(found, str) else found
    for name in names:
        if hasattr(transformers, name):
            kind_of_model: type[PreTrainedModel] = getattr(transformers, name)
            return kind_of_model
    raise ModelError(f"model type {config.model_type} is no text, image or audio model")


def _describe_blocks(shape: ModelShape) -> Iterator[tuple[str, str]]:
    """Yield a line for each kind of block, by its path without numbers and its sizes."""
    kinds = Counter((mask_numbers(block.path), _describe_block(block)) for block in shape.blocks)
    for (path, text), count in kinds.items():
        yield ("attention" if "head" in text else "feed-forward", f"{count} x {path}: {text}")
    if shape.num_moe_layers:
        yield ("experts", f"in {shape.num_moe_layers} layers; they keep all neurons")
    for stack in shape.stacks:
        yield ("layers", f"{stack.path}: {_describe_stack(stack)}")


def _describe_stack(stack: LayerStack) -> str:
    prunable, reason = len(stack.prunable), stack.reason and f", since {stack.reason}"
    if not prunable:
        return f"none of {stack.layers} can be pruned whole{reason}"
    others = f"; others can't{reason}" if reason else ""
    return f"{prunable} of {stack.layers} can be pruned whole{others}"


def _describe_block(block: Block) -> str:
    if not isinstance(block, AttentionBlock):
        return f"{block.units:,} neurons"
    if block.head_count_rule == KEPT_WHOLE:
        return "all heads are kept, since they can't be pruned exactly"
    groups = block.units // block.heads_per_kv_group
    rule = f", rule {block.head_count_rule}" if block.head_count_rule else ""
    return f"{block.units} heads of {block.unit_size} in {groups} KV groups{rule}"


def main(argv: list[str]) -> None:
    """Describe the model that the arguments name.

    Raises:
        LightPeftError: it can't be pruned, or an argument is not allowed.
    """
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    try:
        app(argv, prog_name=_PROGRAM, standalone_mode=False)
    except TyperException as error:
        raise ModelError(" ".join(error.format_message().split())) from error


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LightPeftError as error:
        if os.environ.get("LIGHTPEFT_DEBUG") == "1":
            raise
        sys.exit(f"error: {error}")
