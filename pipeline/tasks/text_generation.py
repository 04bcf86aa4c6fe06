"""Text generation by decoders, which continue a prompt, and by encoder-decoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import GenerationSection
from pipeline.tasks.base import (
    IGNORED,
    Batch,
    Columns,
    Predictions,
    Processor,
    Task,
    Values,
    is_decoder,
)
from pipeline.tasks.generation_schema import SCHEMA, TEXT_METRICS
from pipeline.tasks.greedy_decoding import check_positions_left, generate_greedily
from pipeline.tasks.inference import check_finite, iter_batches, restore_row_order
from pipeline.tasks.prompt_completion import (
    Ids,
    ensure_eos,
    eos_token_id,
    render_chats,
    tokenize_pairs,
    truncate_pair,
)
from pipeline.tasks.schema import Row


class _Generation(Task):
    """What both tasks share: token losses, and generated texts where a metric compares texts.

    Validation selects by perplexity, which needs no generation.
    """

    schema = SCHEMA

    new_head = False
    inputs = ("input_ids", "labels", "position_ids")
    selection_metric = "perplexity"

    @classmethod
    def check_metric(
        cls, metric: str, section: GenerationSection, config: PretrainedConfig
    ) -> None:
        check_positions_left(config, section.max_new_tokens or 0)
        if metric in TEXT_METRICS and section.max_new_tokens == 0:
            raise ConfigError(
                f"evaluate.max_new_tokens must be above 0 for the metric {metric}, got 0"
            )

    @abstractmethod
    def prompts(self, rows: Dataset) -> list[Ids]:
        """Return the prompts as token ids."""

    @abstractmethod
    def logits_and_labels(self, model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits at each position of a batch, and the labels; -100 for none."""

    def collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
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

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return the tokens of the completion."""
        return str(processor.decode([label for label in row["labels"] if label != IGNORED]))

    def train_statistics(self, train: Dataset) -> dict[str, Any]:
        """Return the longest completion's length; without prompts, no metrics of texts."""
        answers = (sum(label != IGNORED for label in labels) for labels in train["labels"])
        entries: dict[str, Any] = {"max_new_tokens": max(answers)}
        if _has_no_prompts(train):
            if self.card.metric in TEXT_METRICS:
                raise DataError(
                    f"data.metric {self.card.metric} compares answers, but every prompt of "
                    "train is empty; take perplexity"
                )
            entries["metrics"] = tuple(m for m in self.card.metrics if m not in TEXT_METRICS)
        return entries

    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        tokens = self._losses(model, rows, processor, batch_size=batch_size)
        asked, new = set(self.card.metrics) & set(TEXT_METRICS), self.card.max_new_tokens
        texts = None
        if asked and new:
            prompts = self.prompts(rows)
            texts = generate_greedily(model, prompts, processor, batch_size=batch_size, new=new)
        return Predictions(
            labels=np.array(reference_texts(rows), object),
            predictions=None if texts is None else np.array(texts, object),
            loss=float(tokens[:, 1].sum() / tokens[:, 0].sum()),
            tokens=tokens,
        )

    def _losses(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Values:
        """Return the tokens of each row's completion, and their summed negative log-likelihood."""
        order: list[int] = []
        found: list[tuple[int, float]] = []
        for numbers, batch in iter_batches(self, model, rows, processor, batch_size=batch_size):
            order += numbers
            for logits, labels in zip(*self.logits_and_labels(model, batch), strict=True):
                right = labels != IGNORED
                # Row by row: in float32, the logits of a whole batch are its largest tensor.
                loss = cross_entropy(logits[right].float(), labels[right], reduction="sum")
                found.append((int(right.sum()), float(loss)))
        values = restore_row_order(order, np.array(found))
        check_finite(values)
        return values

    def table(self, found: Predictions) -> pd.DataFrame:
        columns = {"reference": found.labels}
        if found.predictions is not None:
            columns["prediction"] = found.predictions
        if found.tokens is not None:
            columns |= {"tokens": found.tokens[:, 0].astype(int), "loss": found.tokens[:, 1]}
        return pd.DataFrame(columns)


class CausalLM(_Generation):
    """Continue a prompt with a decoder, trained on the completion's tokens only."""

    name = "causal-lm"
    model_class = AutoModelForCausalLM
    task_type = "CAUSAL_LM"
    metrics = ("perplexity", "exact_match")
    optional = TEXT_METRICS
    supports_packing = True

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return is_decoder(config)

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Tokenize prompt and completion as one row; labels are the completion's tokens."""
        made: Columns = {name: [] for name in ("input_ids", "labels", "length", "num_truncated")}
        for prompt, completion in tokenize_pairs(rows, processor):
            kept, rest = truncate_pair(prompt, completion, length=self.card.max_length)
            made["input_ids"].append(kept + rest)
            made["labels"].append([IGNORED] * len(kept) + rest)
            made["length"].append(len(kept) + len(rest))
            made["num_truncated"].append(len(prompt) + len(completion) - len(kept) - len(rest))
        return made

    def shown_tokens(self, row: Row) -> list[int]:
        """Return the tokens of the prompt."""
        ids: list[int] = row["input_ids"][: row["labels"].count(IGNORED)]
        return ids

    def prompts(self, rows: Dataset) -> list[Ids]:
        pairs = zip(rows["input_ids"], rows["labels"], strict=True)
        return [ids[: labels.count(IGNORED)] for ids, labels in pairs]

    def logits_and_labels(self, model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
        labels = batch.pop("labels")
        return model(**batch).logits[:, :-1], labels[:, 1:]


class Seq2SeqLM(_Generation):
    """Generate the completion with a decoder from a prompt that an encoder reads."""

    name = "seq2seq-lm"
    model_class = AutoModelForSeq2SeqLM
    task_type = "SEQ_2_SEQ_LM"
    token_columns = ("input_ids", "labels")
    metrics = ("rougeL", "rouge1", "rouge2", "exact_match", "perplexity")
    optional = ("final_number",)

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return bool(config.is_encoder_decoder)

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Return prompt and completion, each truncated at its end to max_length tokens."""
        most, end = self.card.max_length, eos_token_id(processor)
        if rows["messages"][0] is None:
            texts = list(zip(rows["prompt"], rows["completion"], strict=True))
        else:
            texts = render_chats(rows["messages"], processor)
        prompts = [prompt for prompt, _ in texts]
        asked = processor(prompts, verbose=False)["input_ids"]
        kept = processor(prompts, truncation=True, max_length=most)["input_ids"]
        answers = processor(text_target=[text for _, text in texts], verbose=False)["input_ids"]
        answers = [ensure_eos(answer, end, processor) for answer in answers]
        sizes = [*map(len, kept)]
        return {
            "input_ids": kept,
            "labels": [answer[:most] for answer in answers],
            "length": [
                size + min(len(answer), most) for size, answer in zip(sizes, answers, strict=True)
            ],
            "num_truncated": [
                len(ids) - size + max(len(answer) - most, 0)
                for ids, size, answer in zip(asked, sizes, answers, strict=True)
            ],
        }

    def train_statistics(self, train: Dataset) -> dict[str, Any]:
        """Return the length of the longest completion; refuse rows without prompts."""
        if _has_no_prompts(train):
            raise DataError(
                "every prompt of train is empty, so an encoder has nothing to read; "
                "take a decoder for model.name"
            )
        return super().train_statistics(train)

    def prompts(self, rows: Dataset) -> list[Ids]:
        return list(rows["input_ids"])

    def logits_and_labels(self, model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(**batch).logits, batch["labels"]


def reference_texts(rows: Dataset) -> list[str]:
    """Return the right completion of each row as text."""
    if "completion" in rows.column_names:
        return list(rows["completion"])
    return [messages[-1]["content"] for messages in rows["messages"]]


def _has_no_prompts(rows: Dataset) -> bool:
    """Return whether no row has a prompt."""
    if "prompt" not in rows.column_names:
        return False
    return not pc.any(pc.greater(pc.utf8_length(rows.data.column("prompt")), 0)).as_py()


def _padded(rows: list[Row], name: str, value: int) -> Tensor:
    parts = [torch.tensor(row[name]) for row in rows]
    return pad_sequence(parts, batch_first=True, padding_value=value)


def _positions(rows: list[Row]) -> Tensor:
    """Return the positions of packed rows; padding after them is numbered as another row."""
    longest = max(len(row["position_ids"]) for row in rows)
    return torch.tensor(
        [[*row["position_ids"], *range(longest - len(row["position_ids"]))] for row in rows]
    )
