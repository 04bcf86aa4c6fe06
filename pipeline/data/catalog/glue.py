"""GLUE and SuperGLUE, with the metrics of their leaderboards.

`ax`, `axb` and `axg` are left out: they have no training rows.
"""

from __future__ import annotations

import re
from functools import partial

from pipeline.data.dataset_spec import (
    DatasetSpec,
    RowError,
    add_label,
    parse_class,
    parse_int,
    require_object,
    require_text,
    require_texts,
)
from pipeline.tasks.schema import Row, Template

_ENTAILMENT = ("entailment", "not_entailment")
_FALSE_TRUE = ("False", "True")
_MISSING_SCORES = (-1.0, "-1", "-1.0")  # in STS-B's test rows
_PREMISE_HYPOTHESIS = ("premise", "hypothesis")
_SENTENCE_PAIR = ("sentence1", "sentence2")
_F1_ACCURACY = ("f1", "accuracy")


def make_classification_template(*columns: str, classes: tuple[str, ...]) -> Template:
    """Return a template for one or two text columns and a class number or score in `label`."""

    def fill_template(row: Row) -> Row | None:
        label = parse_class(row["label"], classes) if classes else row["label"]
        if label is None or label in _MISSING_SCORES:
            return None
        # A missing text becomes "" and thus a bad row; None would mean that there is no pair.
        texts = ["" if row[name] is None else row[name] for name in columns]
        return {"text": texts[0], "text_pair": texts[1] if texts[1:] else None, "label": label}

    return fill_template


def convert_multirc(row: Row) -> Row | None:
    """Pair a paragraph with a question and one answer; the answers of a question are one group."""
    group = f"{require_object(row, 'idx')['paragraph']}-{row['idx']['question']}"
    pair = f"{require_text(row, 'question')} {require_text(row, 'answer')}"
    texts = {"text": require_text(row, "paragraph"), "text_pair": pair, "group": group}
    return add_label(texts, parse_class(row["label"], _FALSE_TRUE))


def convert_wic(row: Row) -> Row | None:
    """Put the word in front of the first sentence."""
    first = f"{require_text(row, 'word')}: {require_text(row, 'sentence1')}"
    texts = {"text": first, "text_pair": require_text(row, "sentence2")}
    return add_label(texts, parse_class(row["label"], _FALSE_TRUE))


def convert_wsc(row: Row) -> Row | None:
    """Mark the noun with stars and the pronoun with hashes: does #it# mean the *cat*?"""
    marks = sorted(
        (_read_word_index(row, f"{span}_index"), require_text(row, f"{span}_text"), mark)
        for span, mark in (("span1", "*"), ("span2", "#"))
    )
    text = sentence = require_text(row, "text")
    for index, span, mark in reversed(marks):  # the later span first: it moves no other
        text = _mark(text, index, span, mark=mark)
    texts = {"text": text, "text_pair": None, "group": sentence}
    return add_label(texts, parse_class(row["label"], _FALSE_TRUE))


def _read_word_index(row: Row, column: str) -> int:
    index = parse_int(row[column])
    if index is None:
        raise RowError(f"{column} must be a word's number, got {row[column]!r}")
    return index


def _mark(text: str, index: int, span: str, *, mark: str) -> str:
    """Put marks around the occurrence of `span` that is nearest to the word of that number.

    The spans of a few rows are names in two parts that do not occur in the text: there, the word
    itself is marked.

    Raises:
        RowError: there is no such word.
    """
    words = list(re.finditer(r"\S+", text))
    if not 0 <= index < len(words):
        raise RowError(f"{text!r} has no word {index}")
    matches = list(re.finditer(re.escape(span), text)) or [words[index]]
    nearest = min(matches, key=lambda match: abs(match.start() - words[index].start()))
    return f"{text[: nearest.start()]}{mark}{nearest.group()}{mark}{text[nearest.end() :]}"


def convert_copa(row: Row) -> Row | None:
    """Continue the premise with "because" or "so" and an alternative in lower case."""
    conjunctions = {"cause": "because", "effect": "so"}
    question = require_text(row, "question", allow_blank=True)
    if question not in conjunctions:
        raise RowError(f"question must be one of {', '.join(conjunctions)}, got {question!r}")
    premise = require_text(row, "premise").strip().rstrip(".")
    alternatives = [require_text(row, name, allow_blank=True) for name in ("choice1", "choice2")]
    choices = [text[:1].lower() + text[1:] for text in alternatives]
    prompt = f"{premise} {conjunctions[question]}"
    return add_label({"prompt": prompt, "choices": choices}, parse_int(row["label"]))


def convert_record(row: Row) -> Row | None:
    """Choose the entity of the passage that fills the blank of a cloze query.

    Several choices may be right, as one thing has several names: the first of them is the label to
    train on, and the others take no part in training. The chosen entity is compared with all
    `answers`, as in the official script. A row without an answer among the entities has no label.
    """
    answers, choices = (
        list(dict.fromkeys(require_texts(row, name))) for name in ("answers", "entities")
    )
    right = [choices.index(answer) for answer in answers if answer in choices]
    if not right:
        return None
    # The points of the summary follow the article, each after a line "@highlight".
    passage = re.sub(r"(?<=[.?!\"'])\n@highlight\n", " ", require_text(row, "passage"))
    passage = passage.replace("\n@highlight\n", ". ")
    question = require_text(row, "query").replace("@placeholder", "_")
    prompt = f"{passage}\nWhich name fills the blank? {question}\nAnswer:"
    return {
        "prompt": prompt,
        "choices": choices,
        "label": right[0],
        "answers": answers,
        "group": str(require_object(row, "idx")["passage"]),
    }


def _make_spec(
    hub_id: str,
    configuration: str,
    *columns: str,
    template: Template | None = None,
    classes: tuple[str, ...] = (),
    metrics: tuple[str, ...] = ("accuracy",),
    test: str = "validation",
    group_by: str = "",
) -> DatasetSpec:
    """Return a text classification; without columns and classes, a multiple choice."""
    return DatasetSpec(
        kind="text-classification" if columns or classes else "multiple-choice",
        hub_id=hub_id,
        configuration=configuration,
        template=template or make_classification_template(*columns, classes=classes),
        classes=classes,
        metric=metrics[0],
        metrics=metrics,
        splits={"train": "train", "test": test},
        group_by=group_by,
    )


_glue = partial(_make_spec, "nyu-mll/glue")
_super_glue = partial(_make_spec, "aps/super_glue")
_mnli = partial(
    _glue,
    "mnli",
    *_PREMISE_HYPOTHESIS,
    classes=("entailment", "neutral", "contradiction"),
    group_by="text",
)

GLUE = {
    "glue/cola": _glue(
        "cola", "sentence", classes=("unacceptable", "acceptable"), metrics=("mcc", "accuracy")
    ),
    "glue/sst2": _glue("sst2", "sentence", classes=("negative", "positive")),
    "glue/mrpc": _glue(
        "mrpc", *_SENTENCE_PAIR, classes=("not_equivalent", "equivalent"), metrics=_F1_ACCURACY
    ),
    "glue/stsb": _glue("stsb", *_SENTENCE_PAIR, metrics=("pearson", "spearman")),
    "glue/qqp": _glue(
        "qqp",
        "question1",
        "question2",
        classes=("not_duplicate", "duplicate"),
        metrics=_F1_ACCURACY,
    ),
    "glue/mnli": _mnli(test="validation_matched"),
    "glue/mnli-mismatched": _mnli(test="validation_mismatched"),
    "glue/qnli": _glue("qnli", "question", "sentence", classes=_ENTAILMENT),
    "glue/rte": _glue("rte", *_SENTENCE_PAIR, classes=_ENTAILMENT),
    "glue/wnli": _glue("wnli", *_SENTENCE_PAIR, classes=("not_entailment", "entailment")),
}
SUPER_GLUE = {
    "super_glue/boolq": _super_glue(
        "boolq",
        "question",
        "passage",
        classes=_FALSE_TRUE,
        group_by="text_pair",  # the passage
    ),
    "super_glue/cb": _super_glue(
        "cb",
        *_PREMISE_HYPOTHESIS,
        classes=("entailment", "contradiction", "neutral"),
        metrics=("accuracy", "f1_macro"),
    ),
    "super_glue/copa": _super_glue("copa", template=convert_copa),
    "super_glue/multirc": _super_glue(
        "multirc",
        template=convert_multirc,
        classes=_FALSE_TRUE,
        metrics=("multirc_f1a", "multirc_em", "accuracy"),
        group_by="text",  # the paragraph, which has several questions
    ),
    "super_glue/record": _super_glue(
        "record", template=convert_record, metrics=("record_f1", "record_em")
    ),
    "super_glue/rte": _super_glue("rte", *_PREMISE_HYPOTHESIS, classes=_ENTAILMENT),
    "super_glue/wic": _super_glue("wic", template=convert_wic, classes=_FALSE_TRUE),
    # wsc.fixed has the same rows, with each span in its text.
    "super_glue/wsc": _super_glue("wsc.fixed", template=convert_wsc, classes=_FALSE_TRUE),
}
