"""Split long contexts into overlapping windows, and find the best answer in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MAX_ANSWER_TOKENS = 30
# Half of the tokens may be the question's, and a quarter is overlap.
MIN_WINDOW_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Window:
    """One question with a part of its context.

    Attributes:
        row: the question's number.
        begin, end: characters of the context that each token covers; -1 for other tokens.
        inputs: of the model, by name.
    """

    row: int
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    inputs: dict[str, list[int]]

    def target(self, start: int, stop: int) -> tuple[int, int, int, int]:
        """Locate an answer's tokens in this window.

        Returns:
            Characters of the answer in this window, the fewest tokens of context on either side
            of it, and its first and its last token.
        """
        inside = np.flatnonzero((self.begin >= 0) & (self.begin < stop) & (self.end > start))
        if not len(inside):
            return 0, 0, 0, 0
        first, last, context = int(inside[0]), int(inside[-1]), np.flatnonzero(self.begin >= 0)
        covered = min(stop, int(self.end[last])) - max(start, int(self.begin[first]))
        margin = min(first - int(context[0]), int(context[-1]) - last)
        return covered, margin, first, last


def split_into_windows(
    questions: Sequence[str], contexts: Sequence[str], processor: Any, *, length: int
) -> list[Window]:
    """Return all windows of each question, in order; they overlap by a quarter of `length` tokens.

    A question is truncated to half of `length`.
    """
    made = processor(
        _truncate(questions, processor, length // 2),
        list(contexts),
        truncation="only_second",
        max_length=length,
        stride=length // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    names = [name for name in processor.model_input_names if name in made]
    found = []
    for number, row in enumerate(made["overflow_to_sample_mapping"]):
        places = np.asarray(made["offset_mapping"][number], np.int32).reshape(-1, 2)
        context = np.asarray([part == 1 for part in made.sequence_ids(number)])
        begin, end = np.where(context[:, None], places, -1).T
        inputs = {name: made[name][number] for name in names}
        found.append(Window(row=row, begin=begin, end=end, inputs=inputs))
    return found


def _truncate(texts: Sequence[str], processor: Any, most: int) -> list[str]:
    made = processor(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ends = [[end for _, end in places] for places in made["offset_mapping"]]
    pairs = zip(texts, ends, strict=True)
    return [text[: end[most - 1]] if len(end) > most else text for text, end in pairs]


def find_best_spans(start: Tensor, end: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best span of up to MAX_ANSWER_TOKENS tokens of context in each window.

    Args:
        start: logits of where it begins, shape (windows, tokens).
        end: logits of where it ends, same shape.
        context: which tokens are of the context, same shape.

    Returns:
        Sums of both logits, first and last tokens; each of shape (windows,).
    """
    nowhere = float("-inf")
    padded = functional.pad(
        end.masked_fill(~context, nowhere), (0, MAX_ANSWER_TOKENS - 1), value=nowhere
    )
    best_end, further = padded.unfold(1, MAX_ANSWER_TOKENS, 1).max(dim=2)
    score, first = (start.masked_fill(~context, nowhere) + best_end).max(dim=1)
    last = first + further.gather(1, first[:, None])[:, 0]
    return score, first, last


def span_loss(start: Tensor, end: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy of first and last token, as models do, shape (windows,)."""
    losses = [
        functional.cross_entropy(logits, target[:, side], reduction="none")
        for side, logits in enumerate((start, end))
    ]
    return torch.stack(losses).mean(dim=0)
