"""Print the table of all text, image and audio model types: python -m docs.model_types"""

from __future__ import annotations

import multiprocessing
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch
import transformers
from transformers.models.auto import modeling_auto

from lightpeft.core.block_shape import KEPT_WHOLE
from lightpeft.core.errors import ModelError
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.families import FAMILIES
from lightpeft.modeling.inspection import inspect_model
from lightpeft.support import KINDS, build_empty_model

# Of types whose default config transformers can't build or run.
SETTINGS = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 16},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8, "head_dim": 128},
    "reformer": {"is_decoder": True},
}
_REASON = 90  # characters


@dataclass(frozen=True)
class Row:
    """What is known of a model type."""

    model_type: str
    support: str
    heads: str
    neurons: str
    layers: str

    def __str__(self) -> str:
        return f"| {' | '.join(astuple(self))} |"


def list_model_types() -> list[str]:
    """Return all types with a class of one of the kinds that `lightpeft.support` inspects."""
    names: set[str] = set()
    for kind in KINDS:
        names |= getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").keys()
    return sorted(names)


def make_row(model_type: str) -> Row | None:
    """Return the row of a type; None if transformers can't build its default config."""
    try:
        model = build_empty_model(model_type, **SETTINGS.get(model_type, {}))
    except ModelError:
        return None
    try:
        shape = inspect_model(model)
    except ModelError as error:
        reason = str(error).removeprefix(
            f"model type {model.config.model_type!r} can't be pruned: "
        )
        reason = (
            re.sub(r"\s+", " ", reason).replace("|", "/").replace("(proved on a small model)", "")
        )
        return Row(model_type, f"refused: {reason[:_REASON].strip()}", "-", "-", "-")
    blocks = shape.attention_blocks
    whole = sum(block.head_count_rule == KEPT_WHOLE for block in blocks)
    heads = (
        "kept"
        if whole == len(blocks)
        else f"kept in {whole} of {len(blocks)}"
        if whole
        else "pruned"
    )
    neurons = "pruned" if shape.neurons else "-"
    if shape.num_moe_layers:
        neurons = "pruned; experts kept" if shape.neurons else "experts kept"
    support = "registered" if model.config.model_type in FAMILIES else "structure"
    return Row(model_type, support, heads if blocks else "-", neurons, _describe_layers(shape))


def _describe_layers(shape: ModelShape) -> str:
    prunable = [len(stack.prunable) for stack in shape.stacks]
    total = sum(stack.layers for stack in shape.stacks)
    if not any(prunable):
        return "kept"
    return "pruned" if sum(prunable) == total else f"kept in {total - sum(prunable)} of {total}"


def format_table(types: Iterable[str]) -> str:
    """Return the table in Markdown, and below it the number of types of each kind of support."""
    with multiprocessing.get_context("spawn").Pool(2, _set_up) as pool:
        rows = [row for row in pool.imap(make_row, types) if row]
    counts = Counter(row.support.partition(":")[0] for row in rows)
    lines = ["| `model_type` | support | heads | neurons | layers |", "|" + " --- |" * 5]
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in ("registered", "structure", "refused"))
    return "\n".join([*lines, *map(str, rows), "", f"{len(rows)} types: {summary}.", ""])


def _set_up() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.stdout.write(format_table(sys.argv[1:] or list_model_types()))
