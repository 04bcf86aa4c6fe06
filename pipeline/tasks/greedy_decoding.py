"""Greedy decoding: generate the most probable token at each step."""

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
from pipeline.tasks.positions import max_positions
from pipeline.tasks.prompt_completion import Ids, truncate_middle


def generate_greedily(
    model: Any, prompts: Sequence[Ids], processor: Any, *, batch_size: int, new: int
) -> list[str]:
    """Generate at most `new` tokens for each prompt, up to an end-of-text token; return texts.

    Prompts of similar length share a batch, with a KV cache. A prompt that leaves no room for
    `new` tokens loses its middle.
    """
    settings = _settings(model, processor, new)
    prompts = _truncate_prompts(model, prompts, new)
    texts = [""] * len(prompts)
    with inference_mode(model) as place:
        for numbers in length_sorted_batches([len(ids) for ids in prompts], batch_size=batch_size):
            batch = _batch([prompts[number] for number in numbers], processor, model)
            inputs = send_to_device(batch, place)
            output = model.generate(**inputs, generation_config=settings)
            if not model.config.is_encoder_decoder:
                output = output[:, batch["input_ids"].shape[1] :]
            decoded = processor.batch_decode(output, skip_special_tokens=True)
            for number, text in zip(numbers, decoded, strict=True):
                texts[number] = text.strip()
    return texts


def _settings(model: Any, processor: Any, new: int) -> GenerationConfig:
    """Return settings of greedy decoding: of the checkpoint's own, only the end-of-text tokens."""
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


def _truncate_prompts(model: Any, prompts: Sequence[Ids], new: int) -> list[Ids]:
    """Return prompts that leave positions for `new` tokens, if the model limits their number.

    Raises:
        ConfigError: an empty prompt leaves too few.
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
    """Pad prompts on the left, so that each ends where its completion starts.

    An encoder's prompts are padded on the right, as in training.
    """
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), processor.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        part = slice(len(prompt)) if model.config.is_encoder_decoder else slice(-len(prompt), None)
        ids[row, part] = torch.tensor(prompt)
        mask[row, part] = 1
    return {"input_ids": ids, "attention_mask": mask}
