"""One-line error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def one_line(text: object) -> str:
    """Return a text, such as another library's error, with all white space as single spaces."""
    return " ".join(str(text).split())


def describe_metric(metric: str, labels: Sequence[str], positive_class: str | None) -> str:
    """Return a metric's name as it is shown; that of F1 says which class it is of."""
    if metric != "f1" or not labels:
        return metric
    return "f1 (mean over classes)" if positive_class is None else f"f1 of {positive_class}"


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a hint at the nearest of the known names, or at all of them if none is near.

    Args:
        name: as it was given.
        known: the names that exist.
        prefix: put before the nearest name, such as the section of a key.
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(names)}"
