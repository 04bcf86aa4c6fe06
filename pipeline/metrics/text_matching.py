"""How well one predicted text, or list of tags, matches what is right.

torchmetrics has ROUGE and SQuAD's two scores; nervaluate reads the entities off BIO tags. Both are
imported when first used: torchmetrics takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from pipeline.common.errors import DataError

# A minus only where it can't be a dash or a subtraction: "10-2" ends in 2.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_FINAL = "####"


def same_text(label: str, prediction: str) -> float:
    """1 if both are equal, but for space at the ends."""
    return float(label.strip() == prediction.strip())


def same_number(label: str, prediction: str) -> float:
    """1 if both end in the same number; a label without one is never matched."""
    right = final_number(label)
    return float(right is not None and right == final_number(prediction))


def final_number(text: str) -> Decimal | None:
    """The number after the first `####`, as GSM8K writes answers, or else the last one.

    Commas, dollar signs and a closing dot do not count: `$1,250.00.` is 1250.
    """
    _, mark, rest = text.partition(_FINAL)
    if mark:
        numbers = _NUMBER.findall(rest)[:1]
    else:
        numbers = _NUMBER.findall(text)[-1:]
    return Decimal(re.sub("[$,]", "", numbers[0])) if numbers else None


def rouge(key: str) -> Callable[[str, str], float]:
    """A function of reference and prediction: the F-measure of `rouge1`, `rouge2` or `rougeL`.

    Lower case, runs of ASCII letters and digits as words, no stemming: what `rouge_score` and
    `evaluate` do by default. A text without such words scores 0.
    """

    def measure(label: str, prediction: str) -> float:
        from torchmetrics.functional.text import rouge_score

        return float(rouge_score(prediction, label, rouge_keys=key)[f"{key}_fmeasure"])

    return measure


def squad_em(answers: Sequence[str], prediction: str) -> float:
    """1 if the text is one of the answers, but for case, punctuation, articles and spaces."""
    return _squad(answers, prediction)["exact_match"]


def squad_f1(answers: Sequence[str], prediction: str) -> float:
    """F1 of the words in common with the nearest answer, normalised as for the exact match."""
    return _squad(answers, prediction)["f1"]


def _squad(answers: Sequence[str], prediction: str) -> dict[str, float]:
    """No answers: the question has none, and the empty text is right, as in SQuAD 2."""
    from torchmetrics.functional.text import squad

    target = {"id": "", "answers": {"text": list(answers) or [""]}}
    found = squad({"id": "", "prediction_text": prediction}, target)
    return {name: float(value) / 100 for name, value in found.items()}


def bio_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first and last position of each entity in BIO tags, read as CoNLL's script does.

    I- after O or after another type begins an entity.

    Raises:
        DataError: a tag is neither O nor B-TYPE nor I-TYPE.
    """
    from nervaluate import collect_named_entities

    for tag in tags:
        if tag != "O" and tag[:2] not in ("B-", "I-"):
            raise DataError(f"entity_f1 needs the tags O, B-TYPE and I-TYPE, got {tag!r}")
    found = collect_named_entities(list(tags))
    return {(entity["label"], entity["start"], entity["end"]) for entity in found}


def same_tags(label: Sequence[str], prediction: Sequence[str]) -> tuple[int, int]:
    """How many tags are right, and how many there are."""
    return sum(a == b for a, b in zip(label, prediction, strict=True)), len(label)
