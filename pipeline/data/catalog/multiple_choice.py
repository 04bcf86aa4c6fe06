"""Multiple choice: the sets that language models are compared on."""

from __future__ import annotations

import re

from pipeline.data.dataset_spec import Entry, labelled, text_of, whole
from pipeline.tasks.schema import Row, Template, ask

_LABELLED = {"train": "train", "validation": "validation", "test": "test"}


def lettered(question: str, *, stem: bool = False) -> Template:
    """A template for `choices` {text, label} and the label of the right one in `answerKey`.

    Labels are letters, and in some rows of ARC digits. A `stem` is a sentence that the right choice
    ends; anything else is asked as a question.
    """

    def template(row: Row) -> Row | None:
        key, letters = row["answerKey"], list(row["choices"]["label"])
        asked = text_of(row, question)
        prompt = asked.strip() if stem else ask(asked)
        made = {"prompt": prompt, "choices": list(row["choices"]["text"])}
        return labelled(made, letters.index(key) if key in letters else None)

    return template


def piqa(row: Row) -> Row | None:
    """Which of two solutions reaches the goal."""
    made = {"prompt": ask(text_of(row, "goal")), "choices": [row["sol1"], row["sol2"]]}
    return labelled(made, whole(row["label"]))


def social_iqa(row: Row) -> Row | None:
    """A situation and a question about it; labels are 1, 2 and 3."""
    context = text_of(row, "context").strip()
    made = {
        "prompt": ask(f"{context} {text_of(row, 'question')}"),
        "choices": [row[name] for name in ("answerA", "answerB", "answerC")],
        "group": context,
    }
    label = whole(row["label"])
    return labelled(made, None if label is None else label - 1)


def hellaswag(row: Row) -> Row | None:
    """What happens next: activity and context, then one of four endings, both cleaned."""
    activity, first = text_of(row, "activity_label"), text_of(row, "ctx_a")
    context = f"{activity}: {first} {text_of(row, 'ctx_b', blank=True).capitalize()}"
    made = {"prompt": clean(context), "choices": [clean(ending) for ending in row["endings"]]}
    return labelled(made, whole(row["label"]))


def clean(text: str) -> str:
    """WikiHow's marks out: ` [title]` ends a sentence, others such as `[header]` mean nothing.

    As in published evaluations of HellaSwag.
    """
    text = re.sub(r"\[.*?\]", "", text.replace(" [title]", ". "))
    return " ".join(text.split())


def winogrande(row: Row) -> Row | None:
    """The sentence up to its blank; then each of two options with the rest of the sentence.

    Of a sentence that starts with its blank, all is the prompt. Encoders and decoders judge an
    option together with the rest; published evaluations of decoders are partial: they compare how
    likely only the rest is, after either option. Sentences come in twins, equal but for a word or
    two: they have their options in common.

    Raises:
        ValueError: there is no blank.
    """
    sentence = text_of(row, "sentence").strip()
    before, blank, after = sentence.partition("_")
    if not blank:
        raise ValueError(f"sentence must have a blank, _, got {sentence!r}")
    options = [text_of(row, name).strip() for name in ("option1", "option2")]
    made = {
        "prompt": before.rstrip() or sentence,
        "choices": [f"{option}{after}" for option in options],
        "group": " / ".join(sorted(options)),
    }
    answer = whole(row["answer"])
    return labelled(made, None if answer is None else answer - 1)


def boolq(row: Row) -> Row | None:
    """A passage and a question without a question mark: no or yes."""
    passage = text_of(row, "passage")
    prompt = f"{passage}\n{ask(text_of(row, 'question').strip() + '?')}"
    made = {"prompt": prompt, "choices": ["no", "yes"], "group": passage}
    return labelled(made, whole(row["answer"]))


def _choice(
    home: str,
    template: Template,
    *,
    configuration: str | None = None,
    labelled_test: bool = False,
) -> Entry:
    splits = _LABELLED if labelled_test else {"train": "train", "test": "validation"}
    return Entry(
        kind="choice",
        home=home,
        configuration=configuration,
        template=template,
        metric="accuracy",
        splits=splits,
    )


_ARC = "allenai/ai2_arc"
_WINOGRANDE = "allenai/winogrande"

CHOICES = {
    "arc-easy": _choice(_ARC, lettered("question"), configuration="ARC-Easy", labelled_test=True),
    "arc-challenge": _choice(
        _ARC, lettered("question"), configuration="ARC-Challenge", labelled_test=True
    ),
    # The authors' homes of piqa and social_iqa hold scripts; these copies hold the rows.
    "piqa": _choice("baber/piqa", piqa),
    "social_iqa": _choice("lighteval/siqa", social_iqa),
    "hellaswag": _choice("Rowan/hellaswag", hellaswag),
    "winogrande": _choice(_WINOGRANDE, winogrande, configuration="winogrande_xl"),
    "winogrande-debiased": _choice(_WINOGRANDE, winogrande, configuration="winogrande_debiased"),
    "openbookqa": _choice(
        "allenai/openbookqa",
        lettered("question_stem", stem=True),
        configuration="main",
        labelled_test=True,
    ),
    "commonsense_qa": _choice("tau/commonsense_qa", lettered("question")),
    "boolq": _choice("google/boolq", boolq),
}
