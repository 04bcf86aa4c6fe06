"""Texts in one line, for errors and summaries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_SHOWN = 10


def join_lines(text: object) -> str:
    """Return a text, such as another library's error, with all white space as single spaces."""
    return " ".join(str(text).split())


def describe_metric(metric: str, labels: Sequence[str], positive_class: str | None) -> str:
    """Return a metric's name as it is shown; that of F1 says which class it is of."""
    if metric != "f1" or not labels:
        return metric
    return "f1 (mean over classes)" if positive_class is None else f"f1 of {positive_class}"


def shorten(text: str, length: int = 240) -> str:
    """Return a text in one line, its middle left out beyond a length, line breaks as `\\n`."""
    if len(text) > length:
        text = f"{text[: 2 * length // 3]} ... {text[-length // 3 :]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def join_some(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first ten names in one text, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more


def inflect(count: int, one: str, many: str = "") -> str:
    """Return the form of a word that goes with a count; where `many` is not given, one with s."""
    return one if count == 1 else many or f"{one}s"


def quantify(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: `1 row`, `2,000 rows`."""
    return f"{count:,} {inflect(count, one, many)}"


def suggest_name(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a hint at the nearest of the known names, or at all of them if none is near.

    Args:
        name: as it was given.
        known: the names that exist.
        prefix: put before the nearest name, such as the section of a key.
    """
    names = list(known)
    nearest = find_nearest(name, names)
    return f"did you mean {prefix}{nearest}?" if nearest else f"known: {', '.join(names)}"


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a misspelt one, whatever the case; None: none is."""
    names = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.strip().casefold(), names, n=1, cutoff=0.5)
    return names[close[0]] if close else None
