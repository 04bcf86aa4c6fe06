"""Multiple choice by decoders: the log-likelihood of each choice after the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks.base import IGNORED, Batch, Columns, Predictions, Processor, is_decoder
from pipeline.tasks.batching import count_tokens, pad_rows, sort_batches_by_length
from pipeline.tasks.inference import enter_inference_mode
from pipeline.tasks.multiple_choice import ChoiceTask, count_choices
from pipeline.tasks.multiple_choice_schema import SCHEMA
from pipeline.tasks.prompt_completion import Ids
from pipeline.tasks.schema import Row
from pipeline.tasks.tokenization import require_fast_tokenizer

_LogLikelihoods = dict[tuple[int, ...], float]  # by the tokens of a text


class MultipleChoiceLM(ChoiceTask):
    """Predict the choice whose tokens have the highest mean log-likelihood after the prompt.

    With a neutral prompt, the score is the log-likelihood after the prompt minus that after the
    neutral prompt (PMI_DC in Holtzman et al. 2021, Surface form competition), which corrects for
    texts that are probable after any prompt.

    Training uses the tokens of the right choice only. Prompt and choice are tokenized as one text,
    with a space between, or nothing after a newline. In a row that is too long, the prompt loses
    its start, except for the token that starts every text.
    """

    name = "multiple-choice-lm"
    variant = "by decoders"
    model_class = AutoModelForCausalLM
    loss_tokens = slice(1, None)
    task_type = "CAUSAL_LM"
    new_head = False
    supports_neutral_prompt = True
    inputs = ("prompt_ids", "choice_ids", "label")
    token_columns = ("prompt_ids", "choice_ids")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return is_decoder(config)

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Tokenize prompts and choices; `length` and `num_truncated` are of the longest choice."""
        require_fast_tokenizer(processor, SCHEMA.kind, purpose="tell a choice from its prompt")
        neutral, length = (
            self._encode_neutral_prompt(rows["choices"][0], processor),
            self.card.max_length,
        )
        columns: Columns = {name: [] for name in (*self.inputs, "length", "num_truncated")}
        for prompt, choices, label in zip(
            rows["prompt"], rows["choices"], rows["label"], strict=True
        ):
            full = tokenize_choices(prompt, choices, processor)
            kept = truncate(*full, length, processor, neutral=len(neutral))
            full_length, kept_length = (
                len(prompt_ids) + max(map(len, choice_ids))
                for prompt_ids, choice_ids in (full, kept)
            )
            values = (*kept, label, kept_length, full_length - kept_length)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
        return columns

    def find_unstored_tokens(
        self, rows: Dataset, processor: Processor
    ) -> Iterator[tuple[str, list[int]]]:
        """Yield the tokens of the neutral prompt."""
        yield "data.neutral_prompt", self._encode_neutral_prompt(rows[0]["choices"], processor)

    def list_shown_tokens(self, row: Row) -> list[int]:
        """Return the tokens of the prompt, and of the right choice after it."""
        ids: list[int] = row["prompt_ids"] + row["choice_ids"][row["label"]]
        return ids

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        """Return a function that joins prompts with right choices; only these have labels."""

        def collate(rows: list[Row]) -> Batch:
            right = [row["choice_ids"][row["label"]] for row in rows]
            texts = [row["prompt_ids"] + ids for row, ids in zip(rows, right, strict=True)]
            ids, mask = pad_rows(texts, processor.pad_token_id)
            starts = torch.tensor([len(row["prompt_ids"]) for row in rows])[:, None]
            trained = mask.bool() & (torch.arange(ids.shape[1]) >= starts)
            labels = ids.masked_fill(~trained, IGNORED)
            return {"input_ids": ids, "attention_mask": mask, "labels": labels}

        return collate

    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        """Predict the best choice; the loss is the mean over the tokens of all right choices."""
        scores = np.full((len(rows), count_choices(rows).max()), -np.inf)
        inputs, loss, num_tokens = rows.select_columns([*self.inputs]), 0.0, 0
        neutral, prior = (
            self._encode_neutral_prompt(rows[0]["choices"], processor),
            _LogLikelihoods(),
        )
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        score = partial(score_choices, base, padding=processor.pad_token_id)
        with enter_inference_mode(model):
            order = sort_batches_by_length(count_tokens(rows), batch_size=batch_size)
            for numbers in self.track(order):
                batch = inputs[numbers]
                sums = score(batch["prompt_ids"], batch["choice_ids"])
                distinct = dict.fromkeys(tuple(ids) for ids in chain(*batch["choice_ids"]))
                if neutral and (new := [[*ids] for ids in distinct if ids not in prior]):
                    (prior_sums,) = score([neutral], [new])
                    prior |= zip(map(tuple, new), prior_sums, strict=True)
                for row, row_sums, choices, label in zip(
                    numbers, sums, batch["choice_ids"], batch["label"], strict=True
                ):
                    scores[row, : len(choices)] = [
                        total - prior[tuple(ids)] if neutral else total / len(ids)
                        for total, ids in zip(row_sums, choices, strict=True)
                    ]
                    loss, num_tokens = loss - row_sums[label], num_tokens + len(choices[label])
        return self.to_predictions(rows, scores, loss / num_tokens)

    def _encode_neutral_prompt(
        self, choices: Sequence[str], tokenizer: PreTrainedTokenizerBase
    ) -> Ids:
        """Return the tokens of the neutral prompt; none if the task has no such prompt.

        Raises:
            ConfigError: they leave choices less than half of data.max_length.
        """
        prompt, limit = (self.card.neutral_prompt or "").rstrip(" "), self.card.max_length // 2
        ids = tokenize_choices(prompt, choices, tokenizer)[0] if prompt else []
        if len(ids) > limit:
            raise ConfigError(
                f"data.neutral_prompt must be at most {limit} tokens, half of data.max_length, "
                f"got {len(ids)}"
            )
        return ids


def tokenize_choices(
    prompt: str, choices: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[Ids, list[Ids]]:
    """Return the tokens of the prompt, and the tokens of each choice after it.

    A choice starts at its text, or at the space before it. Where a token covers the end of the
    prompt and the start of a choice, all choices start after the last token that they share.

    Raises:
        DataError: the prompt has no token, or a choice has none.
    """
    separator = "" if prompt.endswith("\n") else " "
    encoded = tokenizer(
        [f"{prompt}{separator}{choice}" for choice in choices],
        return_offsets_mapping=True,
        verbose=False,
    )
    starts, ends = [], []
    for offsets in encoded["offset_mapping"]:
        # Special tokens cover no characters, so one after the text belongs to neither.
        after = [token for token, (_, end) in enumerate(offsets) if end > len(prompt)]
        if not after:
            raise DataError(f"a choice of {choices} has no token")
        starts.append(after[0])
        ends.append(after[-1] + 1)
    ids = encoded["input_ids"]
    start = min(starts)
    while len({tuple(text_ids[:start]) for text_ids in ids}) > 1:
        start -= 1
    if not start:
        raise DataError(f"the prompt {prompt!r} has no token")
    return ids[0][:start], [text_ids[start:end] for text_ids, end in zip(ids, ends, strict=True)]


def truncate(
    prompt: Ids,
    choices: list[Ids],
    length: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    neutral: int = 0,
) -> tuple[Ids, list[Ids]]:
    """Truncate to `length` tokens: the prompt loses its start, then choices lose their end.

    The prompt keeps the special token that starts every text, and half of the tokens if choices
    are long. Choices also fit after a prompt of `neutral` tokens.
    """
    room = max(length - max(map(len, choices)), length // 2)
    if len(prompt) > room:
        head = prompt[:1] if prompt[0] in tokenizer.all_special_ids else []
        prompt = head + prompt[len(prompt) - room + len(head) :]
    return prompt, [ids[: length - max(len(prompt), neutral)] for ids in choices]


def score_choices(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    choices: Sequence[Sequence[Ids]],
    *,
    padding: int,
) -> list[list[float]]:
    """Return the summed log-likelihood of each choice's tokens after its prompt.

    Each prompt runs once: its cached keys and values serve all of its choices, which run together
    without their last token. Prompts are padded on the left, so that choices follow without a gap.
    """
    parameters = inspect.signature(model.forward).parameters
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
    ids, mask = (rows.to(model.device) for rows in pad_rows(prompts, padding, side="left"))
    positions = _build_position_inputs(parameters, mask, ids.shape[1])
    prompt_output = model(input_ids=ids, use_cache=True, **positions, **last_only)
    owners = [number for number, texts in enumerate(choices) for _ in texts]
    prompt_of_choice = torch.tensor(owners, device=model.device)
    choice_ids, choice_mask = (
        rows.to(model.device) for rows in pad_rows([*chain(*choices)], padding)
    )
    logits = prompt_output.logits[:, -1:][prompt_of_choice]
    if (count := choice_ids.shape[1] - 1) > 0:
        cache = prompt_output.past_key_values
        cache.batch_select_indices(prompt_of_choice)
        mask = torch.cat([mask[prompt_of_choice], choice_mask[:, :-1]], dim=1)
        output = model(
            input_ids=choice_ids[:, :-1],
            past_key_values=cache,
            use_cache=True,
            **_build_position_inputs(parameters, mask, count),
        )
        logits = torch.cat([logits, output.logits], dim=1)
    log_probabilities = logits.float().log_softmax(dim=-1).gather(2, choice_ids[..., None])[..., 0]
    sums = iter((log_probabilities * choice_mask).sum(dim=1).tolist())
    return [[next(sums) for _ in texts] for texts in choices]


def _build_position_inputs(parameters: Container[str], mask: Tensor, count: int) -> Batch:
    """Return the mask, and the positions of the last `count` tokens, not counting padding."""
    if "position_ids" not in parameters:
        return {"attention_mask": mask}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -count:]
    return {"position_ids": positions, "attention_mask": mask}
