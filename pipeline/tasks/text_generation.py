"""Models that write texts: decoders that go on with a prompt, and encoder-decoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import GenerationSection
from pipeline.tasks.base import IGNORED, Batch, Columns, Found, Kind, Values
from pipeline.tasks.greedy_decoding import check_room, greedy_texts
from pipeline.tasks.inference import check_finite, in_row_order, shown
from pipeline.tasks.prompt_completion import (
    Ids,
    chat_texts,
    end_of_text,
    ended,
    fitted,
    token_pairs,
)
from pipeline.tasks.schema import Row

_BY_TEXT = ("exact_match", "final_number", "rouge1", "rouge2", "rougeL")


class _Generation(Kind):
    """What both kinds share: losses by token, and texts where a metric compares them.

    Validation goes by perplexity: it need not generate.
    """

    fresh_head = False
    inputs = ("input_ids", "labels", "position_ids")
    select = "perplexity"

    @classmethod
    def check(cls, metric: str, section: GenerationSection, config: Any) -> None:
        check_room(config, section.max_new_tokens or 0)
        if metric in _BY_TEXT and section.max_new_tokens == 0:
            raise ConfigError(
                f"evaluate.max_new_tokens must be above 0 for the metric {metric}, got 0"
            )

    @abstractmethod
    def prompts(self, rows: Dataset) -> list[Ids]:
        """What the model answers, as token ids."""

    @abstractmethod
    def says(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits for each position of a batch, and what is right there, -100 where nothing is."""

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        padding = {"input_ids": processor.pad_token_id, "labels": IGNORED}

        def collate(rows: list[Row]) -> Batch:
            batch = {name: _padded(rows, name, value) for name, value in padding.items()}
            if "position_ids" in rows[0]:
                batch["position_ids"] = _positions(rows)
            else:
                ones = [{"mask": [1] * len(row["input_ids"])} for row in rows]
                batch["attention_mask"] = _padded(ones, "mask", 0)
            return batch

        return collate

    def facts(self, train: Dataset) -> dict[str, Any]:
        """How long a completion gets; and no metrics of texts where nothing is asked."""
        answers = (sum(label != IGNORED for label in labels) for labels in train["labels"])
        found: dict[str, Any] = {"max_new_tokens": max(answers)}
        if _plain(train):
            if self.card.metric in _BY_TEXT:
                raise DataError(
                    f"data.metric {self.card.metric} compares answers, but every prompt of "
                    "train is empty; take perplexity"
                )
            found["metrics"] = tuple(name for name in self.card.metrics if name not in _BY_TEXT)
        return found

    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Found:
        tokens = self._losses(model, rows, processor, batch_size=batch_size)
        asked, new = set(self.card.metrics) & set(_BY_TEXT), self.card.max_new_tokens
        texts = None
        if asked and new:
            prompts = self.prompts(rows)
            texts = greedy_texts(model, prompts, processor, batch_size=batch_size, new=new)
        return Found(
            labels=np.array(references(rows), object),
            predictions=None if texts is None else np.array(texts, object),
            loss=float(tokens[:, 1].sum() / tokens[:, 0].sum()),
            tokens=tokens,
        )

    def _losses(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Values:
        """Tokens of each row's completion, and their summed negative log-likelihood."""
        order: list[int] = []
        found: list[tuple[int, float]] = []
        for numbers, batch in shown(self, model, rows, processor, batch_size=batch_size):
            order += numbers
            for logits, labels in zip(*self.says(model, batch), strict=True):
                right = labels != IGNORED
                # Row by row: in float32, the logits of a whole batch are its largest tensor.
                loss = cross_entropy(logits[right].float(), labels[right], reduction="sum")
                found.append((int(right.sum()), float(loss)))
        values = in_row_order(order, np.array(found))
        check_finite(values)
        return values

    def table(self, found: Found) -> pd.DataFrame:
        columns = {"reference": found.labels}
        if found.predictions is not None:
            columns["prediction"] = found.predictions
        if found.tokens is not None:
            columns |= {"tokens": found.tokens[:, 0].astype(int), "loss": found.tokens[:, 1]}
        return pd.DataFrame(columns)


class Causal(_Generation):
    """A decoder goes on with a prompt; it learns from the completion's tokens only."""

    name = "causal"
    auto = AutoModelForCausalLM
    task_type = "CAUSAL_LM"
    metrics = ("perplexity", "exact_match")
    optional = _BY_TEXT
    packs = True

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Prompt and completion in one row; labels are the completion's tokens."""
        made: Columns = {name: [] for name in ("input_ids", "labels", "length", "lost")}
        for prompt, completion in token_pairs(rows, processor):
            kept, rest = fitted(prompt, completion, length=self.card.max_length)
            made["input_ids"].append(kept + rest)
            made["labels"].append([IGNORED] * len(kept) + rest)
            made["length"].append(len(kept) + len(rest))
            made["lost"].append(len(prompt) + len(completion) - len(kept) - len(rest))
        return made

    def prompts(self, rows: Dataset) -> list[Ids]:
        pairs = zip(rows["input_ids"], rows["labels"], strict=True)
        return [ids[: labels.count(IGNORED)] for ids, labels in pairs]

    def says(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        labels = batch.pop("labels")
        return model(**batch).logits[:, :-1], labels[:, 1:]


class Seq2Seq(_Generation):
    """An encoder reads the prompt, a decoder writes the completion."""

    name = "seq2seq"
    auto = AutoModelForSeq2SeqLM
    task_type = "SEQ_2_SEQ_LM"
    metrics = ("rougeL", "rouge1", "rouge2", "exact_match", "perplexity")
    optional = ("final_number",)

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Prompt and completion, each of at most max_length tokens; both are cut at their end."""
        most, end = self.card.max_length, end_of_text(processor)
        if rows["messages"][0] is None:
            texts = list(zip(rows["prompt"], rows["completion"], strict=True))
        else:
            texts = chat_texts(rows["messages"], processor)
        prompts = [prompt for prompt, _ in texts]
        asked = processor(prompts, verbose=False)["input_ids"]
        kept = processor(prompts, truncation=True, max_length=most)["input_ids"]
        answers = processor(text_target=[text for _, text in texts], verbose=False)["input_ids"]
        answers = [ended(answer, end, processor) for answer in answers]
        sizes = [*map(len, kept)]
        return {
            "input_ids": kept,
            "labels": [answer[:most] for answer in answers],
            "length": [
                size + min(len(answer), most) for size, answer in zip(sizes, answers, strict=True)
            ],
            "lost": [
                len(ids) - size + max(len(answer) - most, 0)
                for ids, size, answer in zip(asked, sizes, answers, strict=True)
            ],
        }

    def facts(self, train: Dataset) -> dict[str, Any]:
        """How long a completion gets; there must be something to read."""
        if _plain(train):
            raise DataError(
                "every prompt of train is empty, so an encoder has nothing to read; "
                "take a decoder for model.name"
            )
        return super().facts(train)

    def prompts(self, rows: Dataset) -> list[Ids]:
        return list(rows["input_ids"])

    def says(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(**batch).logits, batch["labels"]


def references(rows: Dataset) -> list[str]:
    """The right completion of each row, as text."""
    if "completion" in rows.column_names:
        return list(rows["completion"])
    return [messages[-1]["content"] for messages in rows["messages"]]


def _plain(rows: Dataset) -> bool:
    """Whether no row has a prompt."""
    if "prompt" not in rows.column_names:
        return False
    return not pc.any(pc.greater(pc.utf8_length(rows.data.column("prompt")), 0)).as_py()


def _padded(rows: list[Row], name: str, value: int) -> Tensor:
    parts = [torch.tensor(row[name]) for row in rows]
    return pad_sequence(parts, batch_first=True, padding_value=value)


def _positions(rows: list[Row]) -> Tensor:
    """Of packed rows; padding behind them is a row of its own."""
    longest = max(len(row["position_ids"]) for row in rows)
    return torch.tensor(
        [[*row["position_ids"], *range(longest - len(row["position_ids"]))] for row in rows]
    )
