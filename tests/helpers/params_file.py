"""Write params.yaml with changed settings; the names of the presets and of their tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.import_graph import ROOT
from ruamel.yaml import YAML

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
PRESET_TASKS = [
    (name, task)
    for name in PRESETS
    for task in YAML(typ="safe").load(ROOT / "presets" / f"{name}.yaml")["tasks"]
]


def write_params(folder: Path, *changes: dict[str, Any], base: Path = ROOT) -> None:
    """Write params.yaml as `base` has it, with changes.

    Args:
        folder: where to write it.
        changes: section -> its changed keys, or a key without a section -> its value.
        base: folder of the params.yaml to start from; the project's own by default.
    """
    yaml = YAML()
    params = yaml.load(base / "params.yaml")
    for sections in changes:
        for name, value in sections.items():
            if isinstance(value, dict):
                params[name].update(value)
            else:
                params[name] = value
    yaml.dump(params, folder / "params.yaml")


def change_params(folder: Path, **sections: Any) -> None:
    """Change settings of the params.yaml in a folder."""
    write_params(folder, sections, base=folder)


@contextmanager
def override_params(folder: Path, **sections: Any) -> Iterator[None]:
    """Change settings of the params.yaml in a folder for a while."""
    before = (folder / "params.yaml").read_text()
    try:
        change_params(folder, **sections)
        yield
    finally:
        (folder / "params.yaml").write_text(before)
