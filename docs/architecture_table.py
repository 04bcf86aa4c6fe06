"""The table of supported architectures, from the registry: python -m docs.architecture_table"""

from __future__ import annotations

import sys

from transformers import AutoConfig
from transformers.models.auto import modeling_auto as classes

from lightpeft.modeling.families import FAMILIES, GROUP_COUNTS, Family

_EAGER_ONLY = frozenset(("bloom", "deberta", "deberta-v2", "gemma2"))


def table() -> str:
    """Markdown: a row per model type."""
    rows = [
        (
            "`model_type`",
            "heads go as",
            "neurons",
            "kernels tested",
            "generation tested",
            "a uniform cut fits the stock config",
        ),
        ("---",) * 6,
        *(_row(model_type) for model_type in sorted(FAMILIES)),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(model_type: str) -> tuple[str, ...]:
    families = FAMILIES[model_type]
    return (
        model_type,
        "KV groups, or heads within them" if _shares(model_type) else "heads",
        " or ".join(dict.fromkeys(_neurons(family) for family in families)),
        "eager" if model_type in _EAGER_ONLY else "eager, SDPA",
        "yes" if _generates(model_type) else "-",
        _stock(families),
    )


def _shares(model_type: str) -> bool:
    """Whether query heads may share keys and values: the config can say how many there are."""
    text = AutoConfig.for_model(model_type).get_text_config()
    return any(name in vars(text) for name in GROUP_COUNTS)


def _generates(model_type: str) -> bool:
    """Whether transformers has a class that generates, and not only for want of a better one."""
    if model_type in classes.MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # BERT as a decoder, and BART
        return model_type in classes.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return any(
        model_type in names
        for names in (
            classes.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            classes.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
            classes.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        )
    )


def _neurons(family: Family) -> str:
    gated = family.fused_gate_up or len(family.ffn_in_proj) == 2
    kind = "gated" if gated else "plain" if family.ffn_in_proj else "none"
    return f"{kind}; experts stay whole" if family.unpruned else kind


def _stock(families: tuple[Family, ...]) -> str:
    both = [
        part for part in ("heads", "neurons") if all(part in f.config_expressible for f in families)
    ]
    return " and ".join(both) if both else "no"


if __name__ == "__main__":
    sys.stdout.write(table())
