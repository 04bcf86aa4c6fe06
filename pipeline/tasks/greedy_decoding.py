"""Greedy decoding: generate the most probable token at each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from accelerate.utils import send_to_device
from peft import PeftModel
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipeline.common.errors import ConfigError
from pipeline.tasks.batching import pad_rows
from pipeline.tasks.inference import enter_inference_mode
from pipeline.tasks.positions import find_max_positions
from pipeline.tasks.prompt_completion import Ids, truncate_middle


def generate_greedily(
    model: PeftModel,
    prompts: Sequence[Ids],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batches: Iterable[list[int]],
    new: int,
) -> list[str]:
    """Generate at most `new` tokens for each prompt, up to an end-of-text token; return texts.

    The prompts of a batch run together, with a KV cache. A prompt that leaves no room for `new`
    tokens loses its middle.

    Args:
        model: decoder or encoder-decoder.
        prompts: token ids.
        tokenizer: of the model.
        batches: numbers of the prompts in each batch, which should be of similar length.
        new: tokens.
    """
    settings = _build_settings(model, tokenizer, new)
    prompts = _truncate_prompts(model, prompts, new)
    is_encoder_decoder = model.config.is_encoder_decoder
    # Padding on the left of a decoder's prompt: its completion follows without a gap. An encoder's
    # prompts are padded as in training.
    side = "right" if is_encoder_decoder else "left"
    texts = [""] * len(prompts)
    with enter_inference_mode(model) as target:
        for numbers in batches:
            batch = [prompts[number] for number in numbers]
            ids, mask = send_to_device(pad_rows(batch, tokenizer.pad_token_id, side=side), target)
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            if not is_encoder_decoder:
                output = output[:, ids.shape[1] :]
            decoded = tokenizer.batch_decode(output, skip_special_tokens=True)
            for number, text in zip(numbers, decoded, strict=True):
                texts[number] = text.strip()
    return texts


def _build_settings(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, new: int
) -> GenerationConfig:
    """Return settings of greedy decoding; only end-of-text tokens come from the checkpoint."""
    eos_ids = model.generation_config.eos_token_id
    eos_ids = {*eos_ids} if isinstance(eos_ids, list) else {eos_ids} - {None}
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
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({*eos_ids, tokenizer.eos_token_id}),
    )


def _truncate_prompts(model: PeftModel, prompts: Sequence[Ids], new: int) -> list[Ids]:
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
    limit = find_max_positions(config, model)
    if limit is not None and new >= limit:
        raise ConfigError(
            f"evaluate.max_new_tokens must be below {limit}, which model.name has positions for, "
            f"got {new}"
        )
    return limit
