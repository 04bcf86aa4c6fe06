"""What a model writes when it takes the likeliest token each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from pipeline.common.errors import ConfigError
from pipeline.tasks.batching import length_sorted_batches
from pipeline.tasks.inference import inference_mode
from pipeline.tasks.model_loading import max_positions
from pipeline.tasks.prompt_completion import Ids, truncate_middle


def generate_greedily(
    model: Any, prompts: Sequence[Ids], processor: Any, *, batch_size: int, new: int
) -> list[str]:
    """At most `new` tokens for each prompt, as text, up to what ends a text.

    Prompts of about one length share a batch, and a KV cache holds what was read. A prompt that
    leaves no room for `new` tokens loses its middle.
    """
    settings = _settings(model, processor, new)
    prompts = _with_room(model, prompts, new)
    texts = [""] * len(prompts)
    with inference_mode(model) as place:
        for numbers in length_sorted_batches([len(ids) for ids in prompts], batch_size=batch_size):
            batch = _batch([prompts[number] for number in numbers], processor, model)
            inputs = send_to_device(batch, place)
            made = model.generate(**inputs, generation_config=settings)
            if not model.config.is_encoder_decoder:
                made = made[:, batch["input_ids"].shape[1] :]
            said = processor.batch_decode(made, skip_special_tokens=True)
            for number, text in zip(numbers, said, strict=True):
                texts[number] = text.strip()
    return texts


def _settings(model: Any, processor: Any, new: int) -> GenerationConfig:
    """Greedy, whatever the checkpoint's own settings are, but with its ends of text too."""
    ends = model.generation_config.eos_token_id
    ends = {*ends} if isinstance(ends, list) else {ends} - {None}
    return GenerationConfig(
        max_new_tokens=new,
        min_length=0,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=processor.pad_token_id,
        eos_token_id=sorted({*ends, processor.eos_token_id}),
    )


def _with_room(model: Any, prompts: Sequence[Ids], new: int) -> list[Ids]:
    """Prompts that leave the model positions for `new` tokens, where it has a limited number.

    Raises:
        ConfigError: not even without a prompt.
    """
    limit = check_positions_left(model.config, new, model)
    if limit is None or model.config.is_encoder_decoder:
        return list(prompts)
    return [truncate_middle(ids, limit - new) for ids in prompts]


def check_positions_left(
    config: PretrainedConfig, new: int, model: PreTrainedModel | None = None
) -> int | None:
    """Return how many positions a model has; None: their number is not limited.

    Raises:
        ConfigError: not more than the `new` tokens to generate.
    """
    limit = max_positions(config, model)
    if limit is not None and new >= limit:
        raise ConfigError(
            f"evaluate.max_new_tokens must be below {limit}, which model.name has positions for, "
            f"got {new}"
        )
    return limit


def _batch(prompts: list[Ids], processor: Any, model: Any) -> dict[str, Tensor]:
    """Padded in front, so that each prompt ends where its completion starts.

    An encoder's prompts may be padded behind as well as in front; behind is what it has seen.
    """
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), processor.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        part = slice(len(prompt)) if model.config.is_encoder_decoder else slice(-len(prompt), None)
        ids[row, part] = torch.tensor(prompt)
        mask[row, part] = 1
    return {"input_ids": ids, "attention_mask": mask}
