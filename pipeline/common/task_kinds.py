"""The names of the task kinds, as on the Hub. Imports little, so that params.yaml is read fast."""

from __future__ import annotations

from pipeline.common.errors import ConfigError

# `pipeline.tasks.registry` has a schema for each; a test compares the two.
TASK_KINDS = (
    "text-classification",
    "multi-label-classification",
    "multiple-choice",
    "question-answering",
    "token-classification",
    "image-classification",
    "text-generation",
)
_OLD_NAMES = {
    "classify": "text-classification",
    "choice": "multiple-choice",
    "answer": "question-answering",
    "tokens": "token-classification",
    "image": "image-classification",
    "generate": "text-generation",
}


def check_task_kind(kind: str) -> str:
    """Return the name of a task kind.

    Raises:
        ConfigError: it is the former name of one; names the new one.
        ValueError: there is no such kind.
    """
    if kind in _OLD_NAMES:
        raise ConfigError(f"data.kind {kind} is now {_OLD_NAMES[kind]}")
    if kind not in TASK_KINDS:
        raise ValueError(kind)
    return kind
