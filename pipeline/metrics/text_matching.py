"""Compare one predicted text, or list of tags, with what is right.

torchmetrics computes ROUGE and SQuAD's two scores; nervaluate reads entities from BIO tags. Both
are imported when first used: torchmetrics takes seconds to import.

Texts of every script are compared; on ASCII text, values are those of `rouge_score` and of SQuAD's
script. A word is a run of letters and digits with their combining marks. In scripts that put no
spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese), each character is a word, as in
LCSTS (Hu et al. 2015, ROUGE of Chinese characters) and MLQA (Lewis et al. 2020, whose script also
ignores the punctuation of every script).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import regex

from pipeline.common.errors import DataError

# A minus only where it can't be a dash or a subtraction: "10-2" ends in 2.
_NUMBER = regex.compile(r"(?:(?<![\w)])-)?\p{Sc}?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
# Full-width forms, Arabic separators and the minus sign as their ASCII equals.
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_ASCII |= {0x66B: ord("."), 0x66C: ord(","), 0x2212: ord("-")}
_NO_SPACES = "".join(
    rf"\p{{scx={script}}}" for script in ("Han", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr")
)
_CHARACTER = rf"[[\p{{L}}\p{{N}}]&&[{_NO_SPACES}]]\p{{M}}*"
_SINGLE = regex.compile(_CHARACTER, regex.V1)
_WORD = regex.compile(rf"{_CHARACTER}|(?:[[\p{{L}}\p{{N}}]--[{_NO_SPACES}]]\p{{M}}*)+", regex.V1)
_PUNCTUATION = regex.compile(r"[\p{P}--\p{ASCII}]", regex.V1)
_FINAL = "####"
ROUGE_KEYS = ("rouge1", "rouge2", "rougeL")


def is_same_text(label: str, prediction: str) -> float:
    """Return 1 if both texts are equal, apart from space at the ends, else 0.

    An accent may be part of its letter or follow it.
    """
    label, prediction = (unicodedata.normalize("NFC", text) for text in (label, prediction))
    return float(label.strip() == prediction.strip())


def is_same_number(label: str, prediction: str) -> float:
    """Return 1 if both texts end in the same number, else 0; also if the label has none."""
    right = find_final_number(label)
    return float(right is not None and right == find_final_number(prediction))


def find_final_number(text: str) -> Decimal | None:
    """Return the number after the first `####`, as GSM8K writes answers, or else the last one.

    Commas, signs of currencies and a closing dot do not count: `$1,250.00.` is 1250. Digits may be
    of any script.
    """
    text = text.translate(_ASCII)
    _, mark, rest = text.partition(_FINAL)
    if mark:
        numbers = _NUMBER.findall(rest)[:1]
    else:
        numbers = _NUMBER.findall(text)[-1:]
    return Decimal(regex.sub(r"[\p{Sc},]", "", numbers[0])) if numbers else None


def compute_rouge_scores(label: str, prediction: str) -> tuple[float, ...]:
    """Return the F-measures of `ROUGE_KEYS`.

    Words in lower case, no stemming. A text without words scores 0.
    """
    from torchmetrics.functional.text import rouge_score

    scores = rouge_score(
        prediction, label, rouge_keys=ROUGE_KEYS, normalizer=_normalize, tokenizer=_WORD.findall
    )
    return tuple(float(scores[f"{key}_fmeasure"]) for key in ROUGE_KEYS)


def _normalize(text: str) -> str:
    """Return a text in lower case, with one form of each character (NFKC)."""
    return unicodedata.normalize("NFKC", text).lower()


def compute_squad_scores(answers: Sequence[str], prediction: str) -> tuple[float, float]:
    """Return SQuAD's exact match and F1 of the words in common with the nearest answer.

    Case, punctuation, articles and spaces do not count. Without answers the question has none,
    and the empty text is right, as in SQuAD 2.
    """
    from torchmetrics.functional.text import squad

    reference: Any = {"id": "", "answers": {"text": [*map(_separate_words, answers)] or [""]}}
    scores = squad({"id": "", "prediction_text": _separate_words(prediction)}, reference)
    return float(scores["exact_match"]) / 100, float(scores["f1"]) / 100


def _separate_words(text: str) -> str:
    """Return a text without punctuation beyond ASCII, each character that is a word by itself."""
    separated: str = _SINGLE.sub(r" \g<0> ", _PUNCTUATION.sub("", _normalize(text)))
    return separated


def find_bio_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
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
