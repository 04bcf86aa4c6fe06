"""Built-in tasks, made from the docstrings of installed libraries: they need no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.common.data_card import Baseline
from pipeline.data.docstrings import name_matching
from pipeline.data.docstrings.choice import build_choice, make_name_prompt
from pipeline.data.docstrings.extraction import read_installed_versions
from pipeline.data.docstrings.library_and_lm import (
    build_library,
    build_lm,
    measure_library_baseline,
)
from pipeline.data.docstrings.overlap_baseline import measure_baseline, measure_choice_baseline
from pipeline.data.readers import Table, read_table_rows
from pipeline.tasks.schema import RawDataset

_OVERLAP = "word and character overlap, logistic regression"


@dataclass(frozen=True, kw_only=True)
class BuiltinTask:
    """A task made from docstrings.

    Attributes:
        kind: name of the rows' schema.
        build: maps a seed to tables by split.
        classes: class names in the order of their ids; None: sorted by name, or no classes.
        baseline: name of a simple method, and a function of train and test tables that returns its
            accuracy on test.
        neutral_prompt: see `DatasetSpec`.
    """

    kind: str
    build: Callable[[int], dict[str, Table]]
    classes: tuple[str, ...] | None = None
    baseline: tuple[str, Callable[[Table, Table], float]] | None = None
    neutral_prompt: str | None = None


BUILTIN_TASKS = {
    "docstrings": BuiltinTask(
        kind="text-classification",
        build=name_matching.build_name_matching,
        classes=name_matching.LABELS,
        baseline=(_OVERLAP, measure_baseline),
    ),
    "docstrings-library": BuiltinTask(
        kind="text-classification",
        build=build_library,
        baseline=("words, logistic regression", measure_library_baseline),
    ),
    "docstrings-choice": BuiltinTask(
        kind="multiple-choice",
        build=build_choice,
        baseline=(_OVERLAP, measure_choice_baseline),
        neutral_prompt=make_name_prompt(""),
    ),
    "docstrings-lm": BuiltinTask(kind="text-generation", build=build_lm),
}


def build_task(name: str, *, seed: int, with_baseline: bool = True) -> RawDataset:
    """Return the rows of a built-in task, and the accuracy of its baseline."""
    task = BUILTIN_TASKS[name]
    tables = task.build(seed)
    baseline = None
    if task.baseline and with_baseline:
        method, measure_accuracy = task.baseline
        accuracy = round(measure_accuracy(tables["train"], tables["test"]), 4)
        baseline = Baseline(name=method, accuracy=accuracy)
    return RawDataset(
        rows={split: partial(read_table_rows, table) for split, table in tables.items()},
        origins={**read_installed_versions()},
        kind=task.kind,
        template=dict,
        classes=list(task.classes) if task.classes else None,
        baseline=baseline,
        neutral_prompt=task.neutral_prompt,
    )
