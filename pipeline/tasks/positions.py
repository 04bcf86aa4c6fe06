"""How many tokens a model has positions for."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.common.errors import ConfigError
from pipeline.common.params import PrepareParams

# Names of the position embeddings; architectures without one have rotary or relative positions.
_POSITIONS = ("position_embeddings", "embed_positions", "wpe")


def count_position_embeddings(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has position embeddings for; None: any number of them.

    RoBERTa's family numbers positions from behind the padding id, OPT's from an offset: those
    before them are no token's.
    """
    counts = []
    for path, module in model.named_modules():
        if path.endswith(_POSITIONS) and isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", 0)
            unused = offset if module.padding_idx is None else module.padding_idx + 1
            counts.append(module.num_embeddings - unused)
    return min(counts, default=None)


def find_max_positions(
    config: PretrainedConfig, model: PreTrainedModel | None = None
) -> int | None:
    """Return how many tokens a model can read and generate; None: any number of them.

    Without the model, the configuration's number, which for RoBERTa's family is too high.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    embeddings = None if model is None else count_position_embeddings(model)
    return min((n for n in (limit, embeddings) if n is not None), default=None)


def check_length(key: str, length: int, *, limit: int | None, model: str) -> None:
    """Check that a model has positions for rows of a length; `limit` is None if any number.

    Raises:
        ConfigError: it has fewer; names the setting.
    """
    if limit is not None and length > limit:
        raise ConfigError(f"{key} must be at most {limit} for model.name {model}, got {length}")


def check_lengths(params: PrepareParams, limit: int | None, image_tokens: int | None) -> None:
    """Check, before anything is trained, that the model has positions for all rows.

    `benchmark.length` decides no result of an earlier stage, but would stop the run at its end.

    Args:
        params: of the stage prepare.
        limit: tokens that the model can read; None: any number.
        image_tokens: tokens of every row where rows are images, otherwise None.

    Raises:
        ConfigError: names the setting.
    """
    model, benchmark_length = params.model.name, params.benchmark.length
    if image_tokens is not None and benchmark_length != image_tokens:
        raise ConfigError(
            f"benchmark.length must be {image_tokens} for model.name {model}, because "
            f"its images have {image_tokens} tokens, got {benchmark_length}"
        )
    check_length("data.max_length", params.data.max_length, limit=limit, model=model)
    check_length("benchmark.length", benchmark_length, limit=limit, model=model)
