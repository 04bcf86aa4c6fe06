"""The named tasks of the hub: what `data.task` may be besides ids, files and what is built in.

A task is one entry. Add yours here; or leave it in a file of your own, which `prepare` reads where
`data.task` is `FILE.py:NAME`; or, in a Python process that calls stages, give it a name:

    register_task("jokes", Entry(kind="classify", home="me/jokes", template=..., metric="f1", ...))
"""

from __future__ import annotations

from pipeline.common.errors import ConfigError
from pipeline.data.catalog.glue import GLUE, SUPER_GLUE
from pipeline.data.catalog.multiple_choice import CHOICES
from pipeline.data.catalog.text_and_images import ANSWERS, GENERATION, IMAGES, TOKENS
from pipeline.data.dataset_spec import Entry

CATALOG: dict[str, Entry] = {
    **GLUE,
    **SUPER_GLUE,
    **CHOICES,
    **GENERATION,
    **TOKENS,
    **ANSWERS,
    **IMAGES,
}


def register_task(name: str, entry: Entry) -> None:
    """Make `data.task: NAME` mean the entry.

    Raises:
        ConfigError: the name is empty or taken.
    """
    if not name.strip():
        raise ConfigError("a task's name must not be empty")
    if name in CATALOG or name == "files" or name.startswith("docstrings"):
        raise ConfigError(f"task {name!r} is there already; choose another name")
    CATALOG[name] = entry
