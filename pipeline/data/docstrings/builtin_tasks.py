"""The tasks that need no download: what is asked about the docstrings of installed libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.common.data_card import Baseline
from pipeline.common.errors import ConfigError
from pipeline.common.params import DataSection
from pipeline.data.docstrings import name_matching as docstrings
from pipeline.data.docstrings.choice import build_choice, name_prompt
from pipeline.data.docstrings.library_and_lm import build_library, build_lm, library_baseline
from pipeline.data.docstrings.overlap_baseline import baseline_accuracy, choice_baseline
from pipeline.data.readers import Table, table_rows
from pipeline.tasks.schema import Source

_OVERLAP = "word and character overlap, logistic regression"


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A task that is made here.

    Attributes:
        form: of its rows.
        build: seed -> tables by split, and versions of what they come from.
        classes: in the order of their ids; None: by name, or none.
        baseline: what a trivial method is called, and train and test tables -> its accuracy.
        neutral_prompt: what decoders compare with when they choose.
    """

    form: str
    build: Callable[[int], tuple[dict[str, Table], dict[str, str]]]
    classes: tuple[str, ...] | None = None
    baseline: tuple[str, Callable[[Table, Table], float]] | None = None
    neutral_prompt: str | None = None


BUILT_IN = {
    "docstrings": BuiltIn(
        form="classify",
        build=docstrings.build,
        classes=docstrings.LABELS,
        baseline=(_OVERLAP, baseline_accuracy),
    ),
    "docstrings-library": BuiltIn(
        form="classify",
        build=build_library,
        baseline=("words, logistic regression", library_baseline),
    ),
    "docstrings-choice": BuiltIn(
        form="choice",
        build=build_choice,
        baseline=(_OVERLAP, choice_baseline),
        neutral_prompt=name_prompt(""),
    ),
    "docstrings-lm": BuiltIn(form="generate", build=build_lm),
}


def built_in(section: DataSection, *, seed: int) -> Source:
    """The rows of a built-in task.

    Raises:
        ConfigError: params.yaml names columns, which are the task's own.
    """
    for key in ("text", "label", "kind"):
        if (value := getattr(section, key)) is not None:
            raise ConfigError(
                f"data.{key} must be auto with data.task: {section.task}, got {value!r}"
            )
    task = BUILT_IN[section.task]
    tables, versions = task.build(seed)
    found = None
    if task.baseline:
        name, accuracy = task.baseline
        value = round(accuracy(tables["train"], tables["test"]), 4)
        found = Baseline(name=name, accuracy=value)
    return Source(
        rows={split: partial(table_rows, table) for split, table in tables.items()},
        origins=versions,
        form=task.form,
        template=dict,
        classes=list(task.classes) if task.classes else None,
        baseline=found,
        neutral_prompt=task.neutral_prompt,
    )
