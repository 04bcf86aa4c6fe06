"""Multiple-choice data sets that language models are compared on."""

from __future__ import annotations

import re
from functools import partial

from pipeline.data.dataset_spec import (
    OWN_SPLITS,
    DatasetSpec,
    RowError,
    add_label,
    parse_int,
    require_list,
    require_object,
    require_text,
    require_texts,
)
from pipeline.tasks.schema import Row, Template, make_question_prompt


def make_lettered_template(question: str, *, stem: bool = False) -> Template:
    """Return a template for `choices` {text, label} and the right one's label in `answerKey`.

    Labels are letters, and in some rows of ARC digits. With `stem`, the question column holds the
    beginning of a sentence that the right choice ends.
    """

    def fill_template(row: Row) -> Row | None:
        key = row["answerKey"]
        choices = require_object(row, "choices")
        letters, texts = (require_list(choices, name) for name in ("label", "text"))
        text = require_text(row, question)
        prompt = text.strip() if stem else make_question_prompt(text)
        label = letters.index(key) if key in letters else None
        return add_label({"prompt": prompt, "choices": texts}, label)

    return fill_template


def convert_piqa(row: Row) -> Row | None:
    """Ask which of two solutions reaches the goal."""
    question = {
        "prompt": make_question_prompt(require_text(row, "goal")),
        "choices": [row["sol1"], row["sol2"]],
    }
    return add_label(question, parse_int(row["label"]))


def convert_social_iqa(row: Row) -> Row | None:
    """Ask a question about a situation; labels are 1, 2 and 3."""
    context = require_text(row, "context").strip()
    question = {
        "prompt": make_question_prompt(f"{context} {require_text(row, 'question')}"),
        "choices": [row[name] for name in ("answerA", "answerB", "answerC")],
        "group": context,
    }
    label = parse_int(row["label"])
    return add_label(question, None if label is None else label - 1)


def convert_hellaswag(row: Row) -> Row | None:
    """Ask what happens next: activity and context, continued by one of four endings."""
    activity, first = require_text(row, "activity_label"), require_text(row, "ctx_a")
    second = require_text(row, "ctx_b", allow_blank=True).capitalize()
    question = {
        "prompt": remove_wikihow_tags(f"{activity}: {first} {second}"),
        "choices": [remove_wikihow_tags(ending) for ending in require_texts(row, "endings")],
    }
    return add_label(question, parse_int(row["label"]))


def remove_wikihow_tags(text: str) -> str:
    """Turn ` [title]` into the end of a sentence and remove other tags such as `[header]`.

    As in published evaluations of HellaSwag.
    """
    text = re.sub(r"\[.*?\]", "", text.replace(" [title]", ". "))
    return " ".join(text.split())


def convert_winogrande(row: Row) -> Row | None:
    """Split the sentence at its blank: the prompt, and each option with the rest of the sentence.

    If the sentence starts with its blank, the whole sentence is the prompt. An option is scored
    together with the rest of the sentence; published evaluations of decoders score only the rest
    ("partial evaluation"). Sentences come in twins, equal but for a word or two, with the same
    options: twins are one group.

    Raises:
        RowError: there is no blank.
    """
    sentence = require_text(row, "sentence").strip()
    before, blank, after = sentence.partition("_")
    if not blank:
        raise RowError(f"sentence must have a blank, _, got {sentence!r}")
    options = [require_text(row, name).strip() for name in ("option1", "option2")]
    question = {
        "prompt": before.rstrip() or sentence,
        "choices": [f"{option}{after}" for option in options],
        "group": " / ".join(sorted(options)),
    }
    answer = parse_int(row["answer"])
    return add_label(question, None if answer is None else answer - 1)


def convert_boolq(row: Row) -> Row | None:
    """Ask a yes-no question, published without its question mark, about a passage."""
    passage = require_text(row, "passage")
    prompt = f"{passage}\n{make_question_prompt(require_text(row, 'question').strip() + '?')}"
    question = {"prompt": prompt, "choices": ["no", "yes"], "group": passage}
    return add_label(question, parse_int(row["answer"]))


_choice = partial(DatasetSpec, kind="multiple-choice", metric="accuracy")
_arc = partial(
    _choice,
    hub_id="allenai/ai2_arc",
    template=make_lettered_template("question"),
    splits=OWN_SPLITS,
)
_winogrande = partial(_choice, hub_id="allenai/winogrande", template=convert_winogrande)

MULTIPLE_CHOICE = {
    "arc-easy": _arc(configuration="ARC-Easy"),
    "arc-challenge": _arc(configuration="ARC-Challenge"),
    # The authors' repositories of piqa and social_iqa hold loading scripts; these copies hold rows.
    "piqa": _choice(hub_id="baber/piqa", template=convert_piqa),
    "social_iqa": _choice(hub_id="lighteval/siqa", template=convert_social_iqa),
    "hellaswag": _choice(hub_id="Rowan/hellaswag", template=convert_hellaswag),
    "winogrande": _winogrande(configuration="winogrande_xl"),
    "winogrande-debiased": _winogrande(configuration="winogrande_debiased"),
    "openbookqa": _choice(
        hub_id="allenai/openbookqa",
        configuration="main",
        template=make_lettered_template("question_stem", stem=True),
        splits=OWN_SPLITS,
    ),
    "commonsense_qa": _choice(
        hub_id="tau/commonsense_qa", template=make_lettered_template("question")
    ),
    "boolq": _choice(hub_id="google/boolq", template=convert_boolq),
}
