"""Catalogue of the hub's data sets that `data.task` may name.

A data set is one `DatasetSpec`. Add yours here; or put it into a file of your own, which `prepare`
reads with `data.task: FILE.py:NAME`; or, in a Python process that calls stages, register it:

    register_dataset("jokes", DatasetSpec(kind="text-classification", hub_id="me/jokes", ...))
"""

from __future__ import annotations

from pipeline.common.errors import ConfigError
from pipeline.data.catalog.glue import GLUE, SUPER_GLUE
from pipeline.data.catalog.multiple_choice import MULTIPLE_CHOICE
from pipeline.data.catalog.text_and_images import GENERATION, IMAGES, QUESTION_ANSWERING, TOKENS
from pipeline.data.dataset_spec import DatasetSpec

CATALOG: dict[str, DatasetSpec] = {
    **GLUE,
    **SUPER_GLUE,
    **MULTIPLE_CHOICE,
    **GENERATION,
    **TOKENS,
    **QUESTION_ANSWERING,
    **IMAGES,
}


def register_dataset(name: str, spec: DatasetSpec) -> None:
    """Let `data.task: NAME` stand for this data set.

    Raises:
        ConfigError: the name is empty or taken.
    """
    if not name.strip():
        raise ConfigError("a data set's name must not be empty")
    if name in CATALOG or name == "files" or name.startswith("docstrings"):
        raise ConfigError(f"data set {name!r} exists already; choose another name")
    CATALOG[name] = spec
