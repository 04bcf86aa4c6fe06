"""Compare one predicted text, or list of tags, with what is right.

torchmetrics computes ROUGE and SQuAD's two scores; nervaluate reads entities from BIO tags. Both
are imported when first used: torchmetrics takes seconds to import.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pipeline.common.errors import DataError

# A minus only where it can't be a dash or a subtraction: "10-2" ends in 2.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_FINAL = "####"
ROUGE_KEYS = ("rouge1", "rouge2", "rougeL")


def is_same_text(label: str, prediction: str) -> float:
    """Return 1 if both texts are equal, apart from space at the ends, else 0."""
    return float(label.strip() == prediction.strip())


def is_same_number(label: str, prediction: str) -> float:
    """Return 1 if both texts end in the same number, else 0; also if the label has none."""
    right = final_number(label)
    return float(right is not None and right == final_number(prediction))


def final_number(text: str) -> Decimal | None:
    """Return the number after the first `####`, as GSM8K writes answers, or else the last one.

    Commas, dollar signs and a closing dot do not count: `$1,250.00.` is 1250.
    """
    _, mark, rest = text.partition(_FINAL)
    if mark:
        numbers = _NUMBER.findall(rest)[:1]
    else:
        numbers = _NUMBER.findall(text)[-1:]
    return Decimal(re.sub("[$,]", "", numbers[0])) if numbers else None


def rouge_scores(label: str, prediction: str) -> tuple[float, ...]:
    """Return the F-measures of `ROUGE_KEYS`.

    Lower case, runs of ASCII letters and digits as words, no stemming: what `rouge_score` and
    `evaluate` do by default. A text without such words scores 0.
    """
    from torchmetrics.functional.text import rouge_score

    scores = rouge_score(prediction, label, rouge_keys=ROUGE_KEYS)
    return tuple(float(scores[f"{key}_fmeasure"]) for key in ROUGE_KEYS)


def squad_scores(answers: Sequence[str], prediction: str) -> tuple[float, float]:
    """Return SQuAD's exact match and F1 of the words in common with the nearest answer.

    Case, punctuation, articles and spaces do not count. Without answers the question has none,
    and the empty text is right, as in SQuAD 2.
    """
    from torchmetrics.functional.text import squad

    reference: Any = {"id": "", "answers": {"text": list(answers) or [""]}}
    scores = squad({"id": "", "prediction_text": prediction}, reference)
    return float(scores["exact_match"]) / 100, float(scores["f1"]) / 100


def bio_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return type, first and last position of each entity in BIO tags, as CoNLL's script does.

    I- after O or after another type begins an entity.

    Raises:
        DataError: a tag is neither O nor B-TYPE nor I-TYPE.
    """
    from nervaluate import collect_named_entities

    for tag in tags:
        if tag != "O" and tag[:2] not in ("B-", "I-"):
            raise DataError(f"entity_f1 needs the tags O, B-TYPE and I-TYPE, got {tag!r}")
    entities = collect_named_entities(list(tags))
    return {(entity["label"], entity["start"], entity["end"]) for entity in entities}


def count_equal_tags(label: Sequence[str], prediction: Sequence[str]) -> tuple[int, int]:
    """Return the number of right tags and the number of tags."""
    return sum(a == b for a, b in zip(label, prediction, strict=True)), len(label)
