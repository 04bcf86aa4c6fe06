"""Multiple choice by decoders: the log-likelihood of each choice after the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks.base import IGNORED, Batch, Columns, Predictions, is_decoder
from pipeline.tasks.batching import length_sorted_batches, token_counts
from pipeline.tasks.inference import inference_mode
from pipeline.tasks.multiple_choice import ChoiceTask, choice_counts
from pipeline.tasks.schema import Row

Ids = list[int]
_LogLikelihoods = dict[tuple[int, ...], float]  # by the tokens of a text


class MultipleChoiceLM(ChoiceTask):
    """Predict the choice whose tokens have the highest mean log-likelihood after the prompt.

    With a neutral prompt, the score is the log-likelihood after the prompt minus that after the
    neutral prompt (PMI_DC in Holtzman et al. 2021, Surface form competition), which corrects for
    texts that are likely after any prompt.

    Training uses the tokens of the right choice only. Prompt and choice are tokenized as one text,
    with a space between, or nothing after a newline. In a row that is too long, the prompt loses
    its start, except for the token that starts every text.
    """

    name = "multiple-choice-lm"
    model_class = AutoModelForCausalLM
    task_type = "CAUSAL_LM"
    new_head = False
    supports_neutral_prompt = True
    inputs = ("prompt_ids", "choice_ids", "label")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return is_decoder(config)

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Tokenize prompts and choices; `length` and `num_truncated` are of the longest choice."""
        if not processor.is_fast:
            raise ConfigError(
                f"{type(processor).__name__} can't tell which text a token is from, so a decoder "
                f"can't choose with it; take a model with a fast tokenizer"
            )
        neutral, most = self._neutral_ids(rows["choices"][0], processor), self.card.max_length
        made: Columns = {name: [] for name in (*self.inputs, "length", "num_truncated")}
        for prompt, choices, label in zip(
            rows["prompt"], rows["choices"], rows["label"], strict=True
        ):
            before, after = tokenize_choices(prompt, choices, processor)
            full = len(before) + max(map(len, after))
            before, after = truncate(before, after, most, processor, neutral=len(neutral))
            kept = len(before) + max(map(len, after))
            for name, value in zip(made, (before, after, label, kept, full - kept), strict=True):
                made[name].append(value)
        return made

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        """Return a function that joins prompts with right choices; only these have labels."""

        def collate(rows: list[Row]) -> Batch:
            right = [row["choice_ids"][row["label"]] for row in rows]
            both = [row["prompt_ids"] + ids for row, ids in zip(rows, right, strict=True)]
            ids, mask = pad_rows(both, processor.pad_token_id)
            starts = torch.tensor([len(row["prompt_ids"]) for row in rows])[:, None]
            trained = mask.bool() & (torch.arange(ids.shape[1]) >= starts)
            labels = ids.masked_fill(~trained, IGNORED)
            return {"input_ids": ids, "attention_mask": mask, "labels": labels}

        return collate

    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Predictions:
        """Predict the best choice; the loss is the mean over the tokens of all right choices."""
        values = np.full((len(rows), choice_counts(rows).max()), -np.inf)
        inputs, loss, tokens = rows.select_columns([*self.inputs]), 0.0, 0
        neutral, prior = self._neutral_ids(rows[0]["choices"], processor), _LogLikelihoods()
        log_likelihood_fn = partial(
            score_choices, model.get_base_model(), padding=processor.pad_token_id
        )
        with inference_mode(model):
            for numbers in length_sorted_batches(token_counts(rows), batch_size=batch_size):
                batch = inputs[numbers]
                sums = log_likelihood_fn(batch["prompt_ids"], batch["choice_ids"])
                every = dict.fromkeys(tuple(ids) for ids in chain(*batch["choice_ids"]))
                if neutral and (new := [[*ids] for ids in every if ids not in prior]):
                    (prior_sums,) = log_likelihood_fn([neutral], [new])
                    prior |= zip(map(tuple, new), prior_sums, strict=True)
                for row, row_sums, choices, right in zip(
                    numbers, sums, batch["choice_ids"], batch["label"], strict=True
                ):
                    values[row, : len(choices)] = [
                        total - prior[tuple(ids)] if neutral else total / len(ids)
                        for total, ids in zip(row_sums, choices, strict=True)
                    ]
                    loss, tokens = loss - row_sums[right], tokens + len(choices[right])
        return self.to_predictions(rows, values, loss / tokens)

    def _neutral_ids(self, choices: Sequence[str], processor: Any) -> Ids:
        """Return the tokens of the neutral prompt; none if the task has no such prompt.

        Raises:
            ConfigError: they leave choices less than half of data.max_length.
        """
        prompt, most = (self.card.neutral_prompt or "").rstrip(" "), self.card.max_length
        ids = tokenize_choices(prompt, choices, processor)[0] if prompt else []
        if len(ids) > most // 2:
            raise ConfigError(
                f"data.neutral_prompt must be at most {most // 2} tokens, half of data.max_length, "
                f"got {len(ids)}"
            )
        return ids


def tokenize_choices(prompt: str, choices: Sequence[str], processor: Any) -> tuple[Ids, list[Ids]]:
    """Return the tokens of the prompt, and the tokens of each choice after it.

    A choice starts at its text, or at the space before it. Where a token spans both prompt and
    choice, all choices start after the last token that they share.

    Raises:
        DataError: the prompt has no token, or a choice has none.
    """
    separator = "" if prompt.endswith("\n") else " "
    encoded = processor(
        [f"{prompt}{separator}{choice}" for choice in choices],
        return_offsets_mapping=True,
        verbose=False,
    )
    starts, ends = [], []
    for spans in encoded["offset_mapping"]:
        # Special tokens span no characters, so one after the text belongs to neither.
        after = [token for token, (_, end) in enumerate(spans) if end > len(prompt)]
        if not after:
            raise DataError(f"a choice of {choices} has no token")
        starts.append(after[0])
        ends.append(after[-1] + 1)
    ids = encoded["input_ids"]
    start = min(starts)
    while len({tuple(row[:start]) for row in ids}) > 1:
        start -= 1
    if not start:
        raise DataError(f"the prompt {prompt!r} has no token")
    return ids[0][:start], [row[start:end] for row, end in zip(ids, ends, strict=True)]


def truncate(
    prompt: Ids, choices: list[Ids], most: int, processor: Any, *, neutral: int = 0
) -> tuple[Ids, list[Ids]]:
    """Truncate to `most` tokens: the prompt loses its start, then choices lose their end.

    Choices also fit after a prompt of `neutral` tokens.
    The prompt keeps the token that starts every text, and half of the room if choices are long.
    """
    room = max(most - max(map(len, choices)), most // 2)
    if len(prompt) > room:
        head = prompt[:1] if prompt[0] in processor.all_special_ids else []
        prompt = head + prompt[len(prompt) - room + len(head) :]
    return prompt, [ids[: most - max(len(prompt), neutral)] for ids in choices]


def score_choices(
    model: Any, prompts: Sequence[Ids], choices: Sequence[Sequence[Ids]], *, padding: int
) -> list[list[float]]:
    """Return the summed log-likelihood of each choice's tokens after its prompt.

    Each prompt runs once: its cached keys and values serve all of its choices, which run together
    without their last token. Prompts are padded on the left, so that choices follow without a gap.
    """
    ids, mask = (part.to(model.device) for part in pad_rows(prompts, padding, before=True))
    known = inspect.signature(model.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    prompted = model(
        input_ids=ids, use_cache=True, **_position_inputs(known, mask, len(ids[0])), **last
    )
    owners = [number for number, texts in enumerate(choices) for _ in texts]
    every = [ids for texts in choices for ids in texts]
    owner = torch.tensor(owners, device=model.device)
    words, real = (part.to(model.device) for part in pad_rows(every, padding))
    logits = prompted.logits[:, -1:][owner]
    if (more := words.shape[1] - 1) > 0:
        cache = prompted.past_key_values
        cache.batch_select_indices(owner)
        places = _position_inputs(known, torch.cat([mask[owner], real[:, :-1]], dim=1), more)
        rest = model(input_ids=words[:, :-1], past_key_values=cache, use_cache=True, **places)
        logits = torch.cat([logits, rest.logits], dim=1)
    log_probabilities = logits.float().log_softmax(dim=-1).gather(2, words[..., None])[..., 0]
    sums = iter((log_probabilities * real).sum(dim=1).tolist())
    return [[next(sums) for _ in texts] for texts in choices]


def _position_inputs(known: Any, mask: Tensor, count: int) -> Batch:
    """Return the mask, and the positions of the last `count` tokens, not counting padding."""
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -count:]
    given = {"position_ids": positions} if "position_ids" in known else {}
    return {"attention_mask": mask, **given}


def pad_rows(rows: Sequence[Ids], padding: int, *, before: bool = False) -> tuple[Tensor, Tensor]:
    """Return rows padded to one length, and a mask with 0 at padding."""
    side = "left" if before else "right"
    ids = [torch.tensor(row) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    filled = pad(ids, batch_first=True, padding_value=padding, padding_side=side)
    mask = pad([torch.ones_like(row) for row in ids], batch_first=True, padding_side=side)
    return filled, mask
