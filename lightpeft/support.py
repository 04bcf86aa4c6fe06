"""The table of supported architectures, from the registry: python -m lightpeft.support"""

from __future__ import annotations

import sys

from lightpeft.families import FAMILIES, Family

# Layouts of query, key and value that a model type comes in.
_SHARED = {"falcon", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "mixtral", "phi3"}
_SHARED |= {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}
_GENERATING = _SHARED | {"bart", "bloom", "gpt2", "gpt_neox", "opt", "t5", "whisper"}
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
        "KV groups, or heads within them" if model_type in _SHARED else "heads",
        " or ".join(dict.fromkeys(_neurons(family) for family in families)),
        "eager" if model_type in _EAGER_ONLY else "eager, SDPA",
        "yes" if model_type in _GENERATING else "-",
        _stock(families),
    )


def _neurons(family: Family) -> str:
    gated = family.neurons_fused or len(family.neurons_in) == 2
    kind = "gated" if gated else "plain" if family.neurons_in else "none"
    return f"{kind}; experts stay whole" if family.whole else kind


def _stock(families: tuple[Family, ...]) -> str:
    both = [part for part in ("heads", "neurons") if all(part in f.stock for f in families)]
    return " and ".join(both) if both else "no"


if __name__ == "__main__":
    sys.stdout.write(table())
