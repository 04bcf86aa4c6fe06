"""params.yaml of an experiment: this repository's, with some settings changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.common.files import read_yaml
from pipeline.common.pruning_params import check_params
from pipeline.presets import Sections, merge

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "experiments" / "runs"


def write_params(changes: Sections, folder: Path = Path()) -> dict[str, Any]:
    """Write params.yaml into a folder and return its settings.

    Raises:
        ConfigError: a changed setting does not exist, or its value is not allowed.
    """
    settings = merge(read_yaml(ROOT / "params.yaml"), changes)
    check_params(settings, "params.yaml")
    YAML(typ="safe").dump(settings, folder / "params.yaml")
    return settings
