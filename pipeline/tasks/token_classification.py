"""A tag for each word of a text: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value
from peft import PeftModel
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PretrainedConfig,
)

from pipeline.common.console import note
from pipeline.common.errors import DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks.base import (
    IGNORED,
    Batch,
    Columns,
    Predictions,
    Processor,
    Task,
    describe_classes,
    make_object_array,
)
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.schema import (
    InputColumns,
    Row,
    RowSchema,
    Template,
    list_columns,
    require_column,
)
from pipeline.tasks.tokenization import require_fast_tokenizer, tokenize

OUTSIDE = "O"
_SCHEMES = ("BIES", "BILU", "BMES", "BMEW")
_TO_BIO = {"S": "B", "U": "B", "W": "B", "M": "I", "E": "I", "L": "I"}


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for lists of words and tags: tokens and tags (or ner_tags), or as named.

    Raises:
        DataError: there is no such column.
    """
    text_column = section.text[0] if isinstance(section.text, list) else section.text
    words_column = require_column(text_column or "tokens", first, "data.text")
    names = list_columns(first)
    default = "ner_tags" if "tags" not in names and "ner_tags" in names else "tags"
    tags_column = require_column(section.label or default, first, "data.label")
    rows = (row.get(tags_column) for row in first)
    found = {tag for tags in rows if isinstance(tags, list) for tag in tags if isinstance(tag, str)}
    if convert := _is_bioes(found):
        shown = ", ".join(sorted(tag for tag in found if tag[0] in _TO_BIO)[:3])
        note(f"tags such as {shown} are read as BIO: B- begins an entity, I- goes on")

    def clean(row: Row) -> Row:
        tags = row.get(tags_column)
        if isinstance(tags, list):
            tags = [str(tag) if isinstance(tag, int) else tag for tag in tags]
            tags = _convert_to_bio(tags) if convert else tags
        return {"tokens": row.get(words_column), "tags": tags}

    return clean


def _is_bioes(tags: Collection[str]) -> bool:
    """Return whether tags are of one scheme that also marks how entities end."""
    prefixes = {tag[0] if tag[1:2] == "-" else "" for tag in tags if tag != OUTSIDE}
    return any(prefixes <= {*scheme} for scheme in _SCHEMES) and not prefixes <= {"B", "I"}


def _convert_to_bio(tags: Sequence[Any]) -> list[Any]:
    """Return tags of such a scheme as BIO tags."""
    return [
        _TO_BIO.get(tag[0], tag[0]) + tag[1:] if isinstance(tag, str) and tag[1:2] == "-" else tag
        for tag in tags
    ]


def find_error(row: Row) -> str | None:
    """Return why a row is bad: words or tags are missing, of a wrong type, or differ in number."""
    words, tags = row["tokens"], row["tags"]
    if words is None or tags is None:
        return "no tokens" if words is None else "no tags"
    for texts in (words, tags):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
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
    names = labels.sort_names(labels.find_distinct(splits["train"].data.column("tags")))
    if len(names) < 2:
        raise DataError(f"data.label: train has one tag only, {names[0]!r}")
    if known and _is_bioes(known) and not _is_bioes(names):
        return list(dict.fromkeys(_convert_to_bio(known)))
    return list(known or sorted(names, key=lambda name: name != OUTSIDE))


def add_target(row: Row, classes: Sequence[str]) -> Row:
    """Return a row to predict with a tag for each word."""
    words = row["tokens"]
    return {"tokens": words, "tags": [classes[0]] * len(words) if isinstance(words, list) else []}


SCHEMA = RowSchema(
    kind="token-classification",
    features=Features({"tokens": List(Value("string")), "tags": List(Value("string"))}),
    metrics=("entity_f1", "token_accuracy", "f1_macro", "balanced_accuracy"),
    build_template=build_template,
    find_error=find_error,
    find_classes=find_classes,
    label_column="tags",
    matches_columns=lambda names: "tokens" in names and not {"tags", "ner_tags"}.isdisjoint(names),
    inputs=InputColumns(
        required=(("tokens",),),
        add_target=add_target,
        read_texts=lambda texts: {"tokens": " ".join(texts).split()},
    ),
    identity_columns=("tokens",),
)


class TokenClassification(Task):
    """Predict a tag for each word, at its first token."""

    schema = SCHEMA
    name = "token-classification"
    model_class = AutoModelForTokenClassification
    task_type = "TOKEN_CLS"
    supports_class_weights = True
    loss_tokens = slice(None)
    inputs = ("input_ids", "attention_mask", "token_type_ids", "labels")
    metrics: ClassVar[tuple[str, ...]] = ("token_accuracy",)
    optional = ("f1_macro", "balanced_accuracy")

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Tokenize the words joined by spaces.

        A word's first token has the word's tag as its label. `words` lists the words that have a
        token: words that are truncated, or consist of characters that the tokenizer drops, have
        none.
        """
        require_fast_tokenizer(processor, SCHEMA.kind, purpose="find the first token of each word")
        texts = [" ".join(words) for words in rows["tokens"]]
        encoded, lengths = tokenize(
            processor, texts, max_length=self.card.max_length, return_offsets_mapping=True
        )
        columns = {name: encoded[name] for name in self.inputs if name in encoded}
        columns |= {name: [] for name in ("label", "labels", "words")}
        for words, tags, offsets in zip(
            rows["tokens"], rows["tags"], encoded["offset_mapping"], strict=True
        ):
            tag_ids = labels.encode(tags, classes=self.card.labels, split="this split")
            first_tokens = find_first_tokens(words, offsets)
            token_labels = [IGNORED] * len(offsets)
            for word, token in first_tokens.items():
                token_labels[token] = int(tag_ids[word])
            columns["label"].append(tag_ids)
            columns["labels"].append(token_labels)
            columns["words"].append([*first_tokens])
        return columns | lengths

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return the tags."""
        return " ".join(row["tags"])

    def list_warnings(self) -> list[str]:
        """Return a line if tags may be of entities, and do not tell where one begins."""
        names = [name for name in self.card.labels if name != OUTSIDE]
        others = [name for name in names if name[:2] not in ("B-", "I-")]
        if labels.are_numbers(self.card.labels):
            others = ["numbers"]
        elif not others or len(others) == len(names):
            return []
        shown = ", ".join(others[:3])
        return [
            f"tags are {shown}: entity F1 needs names such as B-PER; measured by token accuracy"
        ]

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        collate: Callable[[list[Row]], Batch] = DataCollatorForTokenClassification(processor)
        return collate

    def make_model_options(self) -> dict[str, Any]:
        return describe_classes(self.card.labels)

    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        """Predict a tag for every word; words without a token get O, or the first tag without O."""
        names = np.asarray(self.card.labels)
        default = OUTSIDE if OUTSIDE in self.card.labels else str(names[0])
        tags, words = rows["tags"], rows["words"]
        predicted, loss = [[default] * len(row_tags) for row_tags in tags], 0.0
        for numbers, batch, output in run_model(
            self, model, rows, processor, batch_size=batch_size
        ):
            is_first = (batch["labels"] != IGNORED).cpu().numpy()
            logits = output.logits.float().cpu().numpy()
            check_finite(np.where(is_first[..., None], logits, 0.0), numbers)
            for number, best, mask in zip(numbers, logits.argmax(axis=2), is_first, strict=True):
                for word, tag in zip(words[number], names[best[mask]].tolist(), strict=True):
                    predicted[number][word] = tag
            loss += float(self.compute_loss(output, batch)) * len(numbers)
        return Predictions(
            labels=make_object_array(tags),
            predictions=make_object_array(predicted),
            loss=loss / len(rows),
        )

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        """Return a table with the tags of each row, joined by spaces."""
        return super().make_table(predictions).map(" ".join)


class EntityRecognition(TokenClassification):
    """Token classification with BIO tags: O, B-TYPE and I-TYPE."""

    name = "entity-recognition"
    variant = "of BIO tags"
    metrics = ("entity_f1", "token_accuracy")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return all(name == OUTSIDE or name[:2] in ("B-", "I-") for name in classes)


def find_first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the first token of each word that has one, by the index of the word.

    Args:
        words: of a text in which they are separated by one space.
        offsets: where each token begins and ends in the text; a special token has no length. A
            token may contain the space before its word, or be that space.
    """
    begins = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    ends = begins + np.fromiter(map(len, words), int)
    first_tokens: dict[int, int] = {}
    for token, (start, stop) in enumerate(offsets):
        word = int(np.searchsorted(ends, start, side="right"))
        if word < len(words) and start < stop and stop > begins[word]:
            first_tokens.setdefault(word, token)
    return first_tokens
