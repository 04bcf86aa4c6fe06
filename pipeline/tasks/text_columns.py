"""Which columns of a file are its texts, where params.yaml does not say so."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.tasks.labels import is_text
from pipeline.tasks.schema import Row, list_columns

_NO_TEXT = re.compile(
    r"(.*[_ -])?(u?id|g?uid|uuid|idx|index|split|fold|date|time|timestamp|datetime|created_at"
    r"|username|author|lang|language|url)",
    re.IGNORECASE,
)
_USUAL_NAMES = frozenset(
    "text sentence review comment content body message tweet document post".split()
)


def find_text_columns(first: Sequence[Row], *, besides: Collection[str] = ()) -> list[str]:
    """Return the columns of text among the first rows.

    Columns called id, date, split and the like are passed over; and beside one with a usual name,
    such as text, those that mostly hold single words.

    Args:
        first: rows of train.
        besides: columns that have another purpose.
    """
    columns = {
        name: [row.get(name) for row in first]
        for name in list_columns(first)
        if name not in besides
    }
    texts = [name for name, values in columns.items() if is_text(values)]
    texts = [name for name in texts if not _NO_TEXT.fullmatch(name)] or texts
    usual = [name for name in texts if name.lower() in _USUAL_NAMES]
    if len(usual) == 1:
        texts = [name for name in texts if name in usual or _holds_phrases(columns[name])]
    return texts


def _holds_phrases(values: Sequence[Any]) -> bool:
    """Return whether at least half of the texts contain a blank, or are as long as a sentence."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    return 2 * sum(" " in text or len(text) > 20 for text in texts) >= len(texts)
