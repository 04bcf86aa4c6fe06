"""A tag for each word of a text: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PretrainedConfig,
)

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks.base import (
    IGNORED,
    Batch,
    Columns,
    Predictions,
    Task,
    Values,
    class_options,
    object_array,
)
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.schema import Row, RowSchema, Template, column_names, require_column

OUTSIDE = "O"


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for lists of words and tags: tokens and tags (or ner_tags), or as named.

    Raises:
        DataError: there is no such column.
    """
    named = section.text[0] if isinstance(section.text, list) else section.text
    words = require_column(named or "tokens", first, "data.text")
    usual = (
        "ner_tags"
        if "tags" not in column_names(first) and "ner_tags" in column_names(first)
        else "tags"
    )
    tags = require_column(section.label or usual, first, "data.label")

    def clean(row: Row) -> Row:
        found = row.get(tags)
        if isinstance(found, list):
            found = [str(tag) if isinstance(tag, int) else tag for tag in found]
        return {"tokens": row.get(words), "tags": found}

    return clean


def find_error(row: Row) -> str | None:
    """Return why a row is bad: words or tags are missing, no lists of text, or not as many."""
    words, tags = row["tokens"], row["tags"]
    if words is None or tags is None:
        return "no tokens" if words is None else "no tags"
    if not all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in (words, tags)):
        return "no list of text"
    if len(words) != len(tags):
        return "tokens and tags of other lengths"
    if not all(map(str.strip, tags)):
        return "empty tag"
    return None if any(map(str.strip, words)) else "empty text"


def find_classes(splits: dict[str, Dataset], known: list[str] | None) -> list[str]:
    """Return the tags of train sorted by name, O first, or by size if they are numbers.

    Raises:
        DataError: train has one tag only.
    """
    found = labels.in_order(labels.distinct(splits["train"].data.column("tags")))
    if len(found) < 2:
        raise DataError(f"data.label: train has one tag only, {found[0]!r}")
    return list(known or sorted(found, key=lambda name: name != OUTSIDE))


SCHEMA = RowSchema(
    kind="token-classification",
    features=Features({"tokens": List(Value("string")), "tags": List(Value("string"))}),
    metrics=("entity_f1", "token_accuracy"),
    build_template=build_template,
    find_error=find_error,
    find_classes=find_classes,
    label_column="tags",
    matches_columns=lambda names: "tokens" in names and not {"tags", "ner_tags"}.isdisjoint(names),
    identity_columns=("tokens",),
)


class TokenClassification(Task):
    """Predict a tag for each word, at its first token."""

    schema = SCHEMA
    name = "token-classification"
    model_class = AutoModelForTokenClassification
    task_type = "TOKEN_CLS"
    inputs = ("input_ids", "attention_mask", "token_type_ids", "labels")
    metrics: ClassVar[tuple[str, ...]] = ("token_accuracy",)

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Tokenize the words joined by spaces.

        A word's first token carries its tag. `words` lists the words that have a token: words that
        are truncated, or consist of characters that the tokenizer drops, have none.
        """
        if not getattr(processor, "is_fast", False):
            raise ConfigError(
                f"tokens and tags need a fast tokenizer, which says where a token comes from; "
                f"{type(processor).__name__} is none"
            )
        texts = [" ".join(words) for words in rows["tokens"]]
        whole = processor(texts, verbose=False)["input_ids"]
        limit = {"truncation": True, "max_length": self.card.max_length}
        cut = processor(texts, **limit, return_offsets_mapping=True)
        made = {name: cut[name] for name in self.inputs if name in cut}
        made |= {name: [] for name in ("label", "labels", "words")}
        for words, tags, places in zip(
            rows["tokens"], rows["tags"], cut["offset_mapping"], strict=True
        ):
            ids = labels.encode(tags, classes=self.card.labels, split="this split")
            seen, first = first_tokens(words, places)
            spread = [IGNORED] * len(places)
            for word, token in zip(seen, first, strict=True):
                spread[token] = int(ids[word])
            for name, value in (("label", ids), ("labels", spread), ("words", seen)):
                made[name].append(value)
        kept = [len(ids) for ids in cut["input_ids"]]
        lost = [len(ids) - size for ids, size in zip(whole, kept, strict=True)]
        return made | {"length": kept, "num_truncated": lost}

    def warnings(self) -> list[str]:
        """Return a line if tags are numbers, which do not tell where an entity begins."""
        if not labels.are_numbers(self.card.labels):
            return []
        return ["tags are numbers: entity F1 needs names such as B-PER; measured by token accuracy"]

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        collate: Callable[[list[Row]], Batch] = DataCollatorForTokenClassification(processor)
        return collate

    def model_options(self) -> dict[str, Any]:
        return class_options(self.card.labels)

    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Predictions:
        """Predict a tag for every word; words without a token get O, or the first tag without O."""
        names = np.asarray(self.card.labels)
        default = OUTSIDE if OUTSIDE in self.card.labels else str(names[0])
        truth, words = rows["tags"], rows["words"]
        found, loss = [[default] * len(tags) for tags in truth], 0.0
        for numbers, batch, output in run_model(
            self, model, rows, processor, batch_size=batch_size
        ):
            first = (batch["labels"] != IGNORED).cpu().numpy()
            logits = output.logits.float().cpu().numpy()
            check_finite(np.where(first[..., None], logits, 0.0), numbers)
            for number, best, kept in zip(numbers, logits.argmax(axis=2), first, strict=True):
                for word, tag in zip(words[number], names[best[kept]].tolist(), strict=True):
                    found[number][word] = tag
            loss += float(output.loss) * len(numbers)
        return Predictions(
            labels=object_array(truth), predictions=object_array(found), loss=loss / len(rows)
        )

    def table(self, found: Predictions) -> pd.DataFrame:
        """Return tags joined by spaces, one for each word."""
        return pd.DataFrame({"label": _join(found.labels), "prediction": _join(found.predictions)})


class EntityRecognition(TokenClassification):
    """Token classification with BIO tags: O, B-TYPE and I-TYPE."""

    name = "entity-recognition"
    metrics = SCHEMA.metrics

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return all(name == OUTSIDE or name[:2] in ("B-", "I-") for name in classes)


def first_tokens(
    words: Sequence[str], places: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """Return the indices of the words that have a token, and the first token of each.

    Args:
        words: of a text in which one space stands between them.
        places: where each token begins and ends in it; special tokens begin and end at one place.
            A token may hold the space before its word, or be that space.
    """
    begin = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    end = begin + np.fromiter(map(len, words), int)
    seen: list[int] = []
    first: list[int] = []
    for token, (start, stop) in enumerate(places):
        word = int(np.searchsorted(end, start, side="right"))
        inside = word < len(words) and start < stop and stop > begin[word]
        if inside and (not seen or word > seen[-1]):
            seen.append(word)
            first.append(token)
    return seen, first


def _join(rows: Values | None) -> list[str]:
    return [" ".join(tags) for tags in ([] if rows is None else rows)]
