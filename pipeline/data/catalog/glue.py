"""GLUE and SuperGLUE, with the metrics of their leaderboards.

`ax`, `axb` and `axg` only have test rows, so they are no tasks to train for.
"""

from __future__ import annotations

import re

from pipeline.data.dataset_spec import Entry, class_name, labelled, text_of, whole
from pipeline.tasks.schema import Row, Template

_GLUE_HOME = "nyu-mll/glue"
_SUPER_HOME = "aps/super_glue"
_ENTAILMENT = ("entailment", "not_entailment")
_TRUTH = ("False", "True")
_NO_SCORE = (-1.0, "-1", "-1.0")  # in STS-B's test rows
_MNLI = ("entailment", "neutral", "contradiction")


def texts(*columns: str, classes: tuple[str, ...]) -> Template:
    """A template for one or two columns of text and a class number in `label`, or a score."""

    def template(row: Row) -> Row | None:
        label = class_name(row["label"], classes) if classes else row["label"]
        if label is None or label in _NO_SCORE:
            return None
        # A missing text is an empty one, a bad row; None would say that there is no pair.
        found = ["" if row[name] is None else row[name] for name in columns]
        return {"text": found[0], "text_pair": found[1] if found[1:] else None, "label": label}

    return template


def multirc(row: Row) -> Row | None:
    """A paragraph, and a question with one answer: is it right? A question's answers, one group."""
    group = f"{row['idx']['paragraph']}-{row['idx']['question']}"
    pair = f"{text_of(row, 'question')} {text_of(row, 'answer')}"
    made = {"text": text_of(row, "paragraph"), "text_pair": pair, "group": group}
    return labelled(made, class_name(row["label"], _TRUTH))


def wic(row: Row) -> Row | None:
    """The word stands before the first sentence."""
    first = f"{text_of(row, 'word')}: {text_of(row, 'sentence1')}"
    made = {"text": first, "text_pair": text_of(row, "sentence2")}
    return labelled(made, class_name(row["label"], _TRUTH))


def wsc(row: Row) -> Row | None:
    """The noun is marked by stars and the pronoun by hashes: does #it# mean the *cat*?"""
    marks = sorted([(int(row["span1_index"]), text_of(row, "span1_text"), "*"),
                    (int(row["span2_index"]), text_of(row, "span2_text"), "#")])  # fmt: skip
    text = whole = text_of(row, "text")
    for index, span, mark in reversed(marks):  # the later one first: it moves no other
        text = _mark(text, index, span, mark=mark)
    made = {"text": text, "text_pair": None, "group": whole}
    return labelled(made, class_name(row["label"], _TRUTH))


def _mark(text: str, index: int, span: str, *, mark: str) -> str:
    """Put marks around the span nearest to the word of that number.

    The spans of a few rows are names in two parts, which stand nowhere in the text: there, the word
    is marked.

    Raises:
        ValueError: there is no such word; the row is a bad one.
    """
    words = list(re.finditer(r"\S+", text))
    if not 0 <= index < len(words):
        raise ValueError(f"{text!r} has no word {index}")
    found = list(re.finditer(re.escape(span), text)) or [words[index]]
    near = min(found, key=lambda match: abs(match.start() - words[index].start()))
    return f"{text[: near.start()]}{mark}{near.group()}{mark}{text[near.end() :]}"


def copa(row: Row) -> Row | None:
    """The premise goes on with because or so, and an alternative in lower case."""
    links = {"cause": "because", "effect": "so"}
    if (asked := row["question"]) not in links:
        raise ValueError(f"question must be one of {', '.join(links)}, got {asked!r}")
    premise = text_of(row, "premise").strip().rstrip(".")
    choices = [text[:1].lower() + text[1:] for text in (row["choice1"], row["choice2"])]
    made = {"prompt": f"{premise} {links[asked]}", "choices": choices}
    return labelled(made, whole(row["label"]))


def record(row: Row) -> Row | None:
    """A cloze: which entity of the passage is the blank?

    A choice among all entities. Several may be right, as one thing has several names: the first of
    these is the label, to learn from; the others take no part in training. `answers` are what the
    chosen one is measured against, as the official script does. Without an answer among the
    entities, a row has no label.
    """
    answers, choices = (list(dict.fromkeys(row[name])) for name in ("answers", "entities"))
    right = [choices.index(answer) for answer in answers if answer in choices]
    if not right:
        return None
    # The summary's points follow the article, each behind a line @highlight.
    passage = re.sub(r"(?<=[.?!\"'])\n@highlight\n", " ", text_of(row, "passage"))
    passage = passage.replace("\n@highlight\n", ". ")
    question = text_of(row, "query").replace("@placeholder", "_")
    prompt = f"{passage}\nWhich name fills the blank? {question}\nAnswer:"
    made = {"prompt": prompt, "choices": choices, "label": right[0], "answers": answers}
    return made | {"group": str(row["idx"]["passage"])}


def _glue(
    name: str,
    *columns: str,
    classes: tuple[str, ...],
    metrics: tuple[str, ...],
    test: str = "",
    together: str = "",
) -> Entry:
    return Entry(
        kind="classify",
        home=_GLUE_HOME,
        configuration=name,
        template=texts(*columns, classes=classes),
        classes=classes,
        metric=metrics[0],
        metrics=metrics,
        splits={"train": "train", "test": test or "validation"},
        together=together,
    )


def _super(
    name: str,
    template: Template,
    *,
    classes: tuple[str, ...] = (),
    metrics: tuple[str, ...] = ("accuracy",),
    together: str = "",
) -> Entry:
    return Entry(
        kind="classify" if classes else "choice",
        home=_SUPER_HOME,
        configuration=name,
        template=template,
        classes=classes,
        metric=metrics[0],
        metrics=metrics,
        together=together,
    )


_RIGHT = ("accuracy",)
_SAME = ("f1", "accuracy")
_HYPOTHESIS = ("premise", "hypothesis")
_SENTENCES = ("sentence1", "sentence2")
_COMMITMENT = ("entailment", "contradiction", "neutral")

GLUE = {
    "glue/cola": _glue(
        "cola",
        "sentence",
        classes=("unacceptable", "acceptable"),
        metrics=("mcc", "accuracy"),
    ),
    "glue/sst2": _glue("sst2", "sentence", classes=("negative", "positive"), metrics=_RIGHT),
    "glue/mrpc": _glue(
        "mrpc", *_SENTENCES, classes=("not_equivalent", "equivalent"), metrics=_SAME
    ),
    "glue/stsb": _glue("stsb", *_SENTENCES, classes=(), metrics=("pearson", "spearman")),
    "glue/qqp": _glue(
        "qqp",
        "question1",
        "question2",
        classes=("not_duplicate", "duplicate"),
        metrics=_SAME,
    ),
    "glue/mnli": _glue(
        "mnli",
        *_HYPOTHESIS,
        classes=_MNLI,
        metrics=_RIGHT,
        test="validation_matched",
        together="text",
    ),
    "glue/mnli-mismatched": _glue(
        "mnli",
        *_HYPOTHESIS,
        classes=_MNLI,
        metrics=_RIGHT,
        test="validation_mismatched",
        together="text",
    ),
    "glue/qnli": _glue("qnli", "question", "sentence", classes=_ENTAILMENT, metrics=_RIGHT),
    "glue/rte": _glue("rte", *_SENTENCES, classes=_ENTAILMENT, metrics=_RIGHT),
    "glue/wnli": _glue(
        "wnli", *_SENTENCES, classes=("not_entailment", "entailment"), metrics=_RIGHT
    ),
}
SUPER_GLUE = {
    "super_glue/boolq": _super(
        "boolq",
        texts("question", "passage", classes=_TRUTH),
        classes=_TRUTH,
        together="text_pair",  # the passage
    ),
    "super_glue/cb": _super(
        "cb",
        texts(*_HYPOTHESIS, classes=_COMMITMENT),
        classes=_COMMITMENT,
        metrics=("accuracy", "f1_macro"),
    ),
    "super_glue/copa": _super("copa", copa),
    "super_glue/multirc": _super(
        "multirc",
        multirc,
        classes=_TRUTH,
        metrics=("multirc_f1a", "multirc_em", "accuracy"),
        together="text",  # the paragraph, which has several questions
    ),
    "super_glue/record": _super("record", record, metrics=("record_f1", "record_em")),
    "super_glue/rte": _super("rte", texts(*_HYPOTHESIS, classes=_ENTAILMENT), classes=_ENTAILMENT),
    "super_glue/wic": _super("wic", wic, classes=_TRUTH),
    # wsc.fixed has the same rows; there, each span is in its text.
    "super_glue/wsc": _super("wsc.fixed", wsc, classes=_TRUTH),
}
