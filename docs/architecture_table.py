"""Print the table of supported architectures: python -m docs.architecture_table"""

from __future__ import annotations

import sys

from transformers import AutoConfig
from transformers.models.auto import modeling_auto as classes

from lightpeft.modeling.families import FAMILIES, GROUP_COUNTS
from lightpeft.modeling.family import Family

_EAGER_ONLY = frozenset(("bloom", "deberta", "deberta-v2", "gemma2"))


def format_table() -> str:
    """Return the table in Markdown, one row per model type."""
    rows = [
        (
            "`model_type`",
            "head pruning unit",
            "feed-forward",
            "attention backends tested",
            "generation tested",
            "loads with a stock config",
        ),
        ("---",) * 6,
        *(_make_row(model_type) for model_type in sorted(FAMILIES)),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _make_row(model_type: str) -> tuple[str, ...]:
    families = FAMILIES[model_type]
    return (
        model_type,
        "KV group or query head" if _shares_kv_heads(model_type) else "head",
        " or ".join(dict.fromkeys(_describe_neurons(family) for family in families)),
        "eager" if model_type in _EAGER_ONLY else "eager, SDPA",
        "yes" if _generates(model_type) else "-",
        _describe_stock(families),
    )


def _shares_kv_heads(model_type: str) -> bool:
    """Return whether the config of the model type can set the number of KV heads."""
    text = AutoConfig.for_model(model_type).get_text_config()
    return any(name in vars(text) for name in GROUP_COUNTS)


def _generates(model_type: str) -> bool:
    """Return whether transformers has a class meant to generate text with the model type."""
    if model_type in classes.MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # BERT as a decoder, BART
        return model_type in classes.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return any(
        model_type in names
        for names in (
            classes.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            classes.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
            classes.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        )
    )


def _describe_neurons(family: Family) -> str:
    gated = family.fused_gate_up or len(family.ffn_in_proj) == 2
    kind = "gated" if gated else "plain" if family.ffn_in_proj else "none"
    return f"{kind}; experts kept" if family.unpruned else kind


def _describe_stock(families: tuple[Family, ...]) -> str:
    both = [
        part for part in ("heads", "neurons") if all(part in f.config_expressible for f in families)
    ]
    return " and ".join(both) if both else "no"


if __name__ == "__main__":
    sys.stdout.write(format_table())
