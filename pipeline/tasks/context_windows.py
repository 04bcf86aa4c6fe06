"""Long contexts in windows that overlap, and the best answer that a model sees in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MAX_ANSWER_TOKENS = 30  # tokens of an answer
MIN_WINDOW_TOKENS = (
    32  # tokens of a window: half of them may be the question's, a quarter is overlap
)


@dataclass(frozen=True, kw_only=True)
class Window:
    """One question with a part of its context.

    Attributes:
        row: the question's number.
        begin, end: where each token lies in the context; -1 for all that is none of it.
        inputs: the model's, by name.
    """

    row: int
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    inputs: dict[str, list[int]]

    def target(self, start: int, stop: int) -> tuple[int, int, int, int]:
        """The tokens of an answer, as far as they are here.

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
    """All windows of each question, in order; they overlap by a quarter of `length` tokens.

    A question is cut at half of `length`, so that there is room for its context.
    """
    made = processor(
        _cut(questions, processor, length // 2),
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


def _cut(texts: Sequence[str], processor: Any, most: int) -> list[str]:
    made = processor(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ends = [[end for _, end in places] for places in made["offset_mapping"]]
    pairs = zip(texts, ends, strict=True)
    return [text[: end[most - 1]] if len(end) > most else text for text, end in pairs]


def find_best_spans(start: Tensor, end: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best answer in each window: every span of up to LONGEST tokens of context is looked at.

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
    """Mean cross entropy of first and last token, shape (windows,); as models compute it."""
    losses = [
        functional.cross_entropy(logits, target[:, side], reduction="none")
        for side, logits in enumerate((start, end))
    ]
    return torch.stack(losses).mean(dim=0)
