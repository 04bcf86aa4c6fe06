"""Split long contexts into overlapping windows, and find the best answer in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from pipeline.tasks.base import Columns

MAX_ANSWER_TOKENS = 30
# The question may take half of the tokens, and the overlap of windows takes a quarter.
MIN_WINDOW_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Window:
    """One question with a part of its context.

    Attributes:
        row: the question's number.
        begin, end: characters of the context that each token covers; -1 for other tokens.
        inputs: inputs of the model by name.
    """

    row: int
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    inputs: dict[str, list[int]]

    def find_answer(self, start: int, stop: int) -> tuple[int, int, int, int]:
        """Locate the answer from character `start` to `stop` of the context in this window.

        Returns:
            Characters of the answer in this window, the fewest tokens of context on either side
            of it, and its first and its last token.
        """
        context = np.flatnonzero(self.begin >= 0)
        answer = context[(self.begin[context] < stop) & (self.end[context] > start)]
        if not len(answer):
            return 0, 0, 0, 0
        first, last = int(answer[0]), int(answer[-1])
        covered = min(stop, int(self.end[last])) - max(start, int(self.begin[first]))
        margin = min(first - int(context[0]), int(context[-1]) - last)
        return covered, margin, first, last


def split_into_windows(
    rows: Columns, tokenizer: PreTrainedTokenizerBase, *, length: int
) -> list[Window]:
    """Return all windows of each question, in order; they overlap by a quarter of `length` tokens.

    A question is truncated to half of `length`.
    """
    encoded = tokenizer(
        _truncate_texts(rows["question"], tokenizer, length // 2),
        rows["context"],
        truncation="only_second",
        max_length=length,
        stride=length // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    windows = []
    for number, row in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = np.asarray(encoded["offset_mapping"][number], np.int32).reshape(-1, 2)
        in_context = np.asarray([text == 1 for text in encoded.sequence_ids(number)])
        begin, end = np.where(in_context[:, None], offsets, -1).T
        inputs = {name: encoded[name][number] for name in names}
        windows.append(Window(row=row, begin=begin, end=end, inputs=inputs))
    return windows


def _truncate_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> list[str]:
    """Return the texts without the characters after their first `length` tokens."""
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    pairs = zip(texts, encoded["offset_mapping"], strict=True)
    return [
        text[: offsets[length - 1][1]] if len(offsets) > length else text for text, offsets in pairs
    ]


def find_best_spans(start: Tensor, end: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best span of up to MAX_ANSWER_TOKENS tokens of context in each window.

    Args:
        start: logits of the span's first token, shape (windows, tokens).
        end: logits of its last token, same shape.
        context: which tokens are of the context, same shape.

    Returns:
        Sums of both logits, first and last tokens; each of shape (windows,).
    """
    start, end = (logits.masked_fill(~context, float("-inf")) for logits in (start, end))
    padded = functional.pad(end, (0, MAX_ANSWER_TOKENS - 1), value=float("-inf"))
    best_end, distance = padded.unfold(1, MAX_ANSWER_TOKENS, 1).max(dim=2)
    score, first = (start + best_end).max(dim=1)
    last = first + distance.gather(1, first[:, None])[:, 0]
    return score, first, last


def compute_span_loss(start: Tensor, end: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy of first and last token, as models do, shape (windows,)."""
    losses = [
        functional.cross_entropy(logits, target[:, side], reduction="none")
        for side, logits in enumerate((start, end))
    ]
    return torch.stack(losses).mean(dim=0)
