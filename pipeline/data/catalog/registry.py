"""Catalogue of the hub's data sets that `data.task` may name.

A data set is one `DatasetSpec`. Add yours here, or put it into a file of your own, which `prepare`
reads with `data.task: FILE.py:NAME`.
"""

from __future__ import annotations

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
