"""Text generation by decoders, which continue a prompt, and by encoder-decoders."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from operator import add
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
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
from pipeline.tasks.batching import pad_rows, sort_batches_by_length
from pipeline.tasks.generation_schema import SCHEMA, TEXT_METRICS
from pipeline.tasks.greedy_decoding import check_positions_left, generate_greedily
from pipeline.tasks.inference import check_finite, iterate_batches, restore_row_order
from pipeline.tasks.prompt_completion import (
    Ids,
    ensure_eos,
    find_unused_fields,
    get_eos_token_id,
    render_rows,
    tokenize_pairs,
    truncate_pair,
)
from pipeline.tasks.schema import Row
from pipeline.tasks.tokenization import tokenize


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
    def list_prompts(self, rows: Dataset) -> list[Ids]:
        """Return the prompts as token ids."""

    @abstractmethod
    def compute_logits_and_labels(self, model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits at each position of a batch, and the labels; -100 for none."""

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        padding = {"input_ids": processor.pad_token_id, "labels": IGNORED}

        def collate(rows: list[Row]) -> Batch:
            padded = {
                name: pad_rows([row[name] for row in rows], value)
                for name, value in padding.items()
            }
            batch: Batch = {name: values for name, (values, _) in padded.items()}
            if "position_ids" in rows[0]:
                batch["position_ids"] = _number_positions(rows)
            else:
                batch["attention_mask"] = padded["input_ids"][1]
            return batch

        return collate

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return the tokens of the completion."""
        return str(processor.decode([label for label in row["labels"] if label != IGNORED]))

    def compute_train_statistics(self, train: Dataset, processor: Processor) -> dict[str, Any]:
        """Return the longest completion's length; without prompts, no metrics of texts.

        Of chats, return the fields that the chat template does not use.
        """
        answers = (sum(label != IGNORED for label in labels) for labels in train["labels"])
        entries: dict[str, Any] = {"max_new_tokens": max(answers)}
        columns = _read_columns(train, "messages", "tools")
        chats = [chat for chat in zip(*columns, strict=True) if chat[0] is not None]
        if unused := find_unused_fields(chats, processor):
            entries["unused_message_fields"] = unused
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
        tokens = self._compute_losses(model, rows, processor, batch_size=batch_size)
        compares_texts, texts = {*self.card.metrics} & {*TEXT_METRICS}, None
        if compares_texts and self.card.max_new_tokens:
            texts = self._generate(model, rows, processor, batch_size=batch_size)
        return Predictions(
            labels=np.array(read_reference_texts(rows, processor), object),
            predictions=None if texts is None else np.array(texts, object),
            loss=float(tokens[:, 1].sum() / tokens[:, 0].sum()),
            tokens=tokens,
        )

    def predict_unlabeled(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> list[Row]:
        texts = self._generate(model, rows, processor, batch_size=batch_size)
        return [{"prediction": text} for text in texts]

    def _generate(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> list[str]:
        """Return a generated text for each row."""
        prompts = self.list_prompts(rows)
        order = sort_batches_by_length([*map(len, prompts)], batch_size=batch_size)
        batches, new = self.track(order, "generated batch"), self.card.max_new_tokens or 0
        return generate_greedily(model, prompts, processor, batches=batches, new=new)

    def _compute_losses(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Values:
        """Return the tokens of each row's completion, and their summed negative log-likelihood."""
        order: list[int] = []
        losses: list[tuple[int, float]] = []
        for numbers, batch in iterate_batches(self, model, rows, processor, batch_size=batch_size):
            order += numbers
            for logits, labels in zip(*self.compute_logits_and_labels(model, batch), strict=True):
                is_answer = labels != IGNORED
                # Row by row: in float32, the logits of a whole batch are its largest tensor.
                loss = cross_entropy(logits[is_answer].float(), labels[is_answer], reduction="sum")
                losses.append((int(is_answer.sum()), float(loss)))
        values = restore_row_order(order, np.array(losses))
        check_finite(values)
        return values

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        columns = {"reference": predictions.labels}
        if predictions.predictions is not None:
            columns["prediction"] = predictions.predictions
        if predictions.tokens is not None:
            tokens, loss = predictions.tokens.T
            columns |= {"tokens": tokens.astype(int), "loss": loss}
        return pd.DataFrame(columns)


class CausalLM(_Generation):
    """Continue a prompt with a decoder, trained on the completion's tokens only."""

    name = "causal-lm"
    variant = "by decoders"
    model_class = AutoModelForCausalLM
    task_type = "CAUSAL_LM"
    metrics = ("perplexity", "exact_match")
    optional = TEXT_METRICS
    supports_packing = True
    loss_tokens = slice(1, None)

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

    def list_shown_tokens(self, row: Row) -> list[int]:
        """Return the tokens of the prompt."""
        ids: list[int] = row["input_ids"][: row["labels"].count(IGNORED)]
        return ids

    def list_prompts(self, rows: Dataset) -> list[Ids]:
        pairs = zip(rows["input_ids"], rows["labels"], strict=True)
        return [ids[: labels.count(IGNORED)] for ids, labels in pairs]

    def compute_logits_and_labels(self, model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
        labels = batch.pop("labels")
        return model(**batch).logits[:, :-1], labels[:, 1:]


class Seq2SeqLM(_Generation):
    """Generate the completion with a decoder from a prompt that an encoder reads."""

    name = "seq2seq-lm"
    variant = "by encoder-decoders"
    model_class = AutoModelForSeq2SeqLM
    task_type = "SEQ_2_SEQ_LM"
    token_columns = ("input_ids", "labels")
    loss_tokens = slice(None)
    metrics = ("rougeL", "rouge1", "rouge2", "exact_match", "perplexity")
    optional = ("final_number",)

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return bool(config.is_encoder_decoder)

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Return prompt and completion, each truncated at its end to max_length tokens."""
        most, end = self.card.max_length, get_eos_token_id(processor)
        texts = render_rows(rows, processor, joined=False)
        encoded, counts = tokenize(processor, [prompt for prompt, _ in texts], max_length=most)
        answers = processor(text_target=[text for _, text in texts], verbose=False)["input_ids"]
        answers = [ensure_eos(answer, end, processor) for answer in answers]
        kept = [answer[:most] for answer in answers]
        lost = [len(answer) - len(ids) for answer, ids in zip(answers, kept, strict=True)]
        return {
            "input_ids": encoded["input_ids"],
            "labels": kept,
            "length": [*map(add, counts["length"], map(len, kept))],
            "num_truncated": [*map(add, counts["num_truncated"], lost)],
        }

    def compute_train_statistics(self, train: Dataset, processor: Processor) -> dict[str, Any]:
        """Return what is counted in train; refuse rows without prompts."""
        if _has_no_prompts(train):
            raise DataError(
                "every prompt of train is empty, so an encoder has nothing to read; "
                "take a decoder for model.name"
            )
        return super().compute_train_statistics(train, processor)

    def list_prompts(self, rows: Dataset) -> list[Ids]:
        return list(rows["input_ids"])

    def compute_logits_and_labels(self, model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(**batch).logits, batch["labels"]


def read_reference_texts(rows: Dataset, processor: Processor) -> list[str]:
    """Return the right completion of each row as text: what a chat template writes, if it is more.

    The last turn of a chat is more than its content if it has tool calls or reasoning.
    """
    texts = []
    columns = _read_columns(rows, "completion", "messages", "labels")
    for text, messages, labels in zip(*columns, strict=True):
        if messages is not None:
            turn = json.loads(messages)[-1]
            text = turn.get("content")
            if {*turn} != {"role", "content"}:
                ids = [label for label in labels if label != IGNORED]
                text = processor.decode(ids, skip_special_tokens=True).strip()
        texts.append(text)
    return texts


def _read_columns(rows: Dataset, *names: str) -> list[list[Any]]:
    """Return columns of the rows; None for each row where there is no such column."""
    return [list(rows[name]) if name in rows.column_names else [None] * len(rows) for name in names]


def _has_no_prompts(rows: Dataset) -> bool:
    """Return whether no row has a prompt."""
    if "prompt" not in rows.column_names or "messages" in rows.column_names:
        return False
    return not pc.any(pc.greater(pc.utf8_length(rows.data.column("prompt")), 0)).as_py()


def _number_positions(rows: list[Row]) -> Tensor:
    """Return the positions of packed rows; padding after them is numbered as another row."""
    longest = max(len(row["position_ids"]) for row in rows)
    return torch.tensor(
        [[*row["position_ids"], *range(longest - len(row["position_ids"]))] for row in rows]
    )
