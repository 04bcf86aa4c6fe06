"""Presets: settings for one model on several tasks, written as a whole params.yaml.

    python -m pipeline preset paper-roberta-large glue/rte --output params.yaml

A preset is a file in presets/: `about` (a line), `settings` (section -> key -> value, where they
differ from the defaults) and `tasks` (name, as data.task -> further settings).
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.common.errors import ConfigError
from pipeline.common.files import read_yaml
from pipeline.common.pruning_params import Params, check_params, load_params, to_yaml_values
from pipeline.common.text import suggest_name

_FOLDER = Path("presets")

Sections = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings for one model on some tasks.

    Attributes:
        name: stem of its file.
        about: a line for the list.
        settings: for every task.
        tasks: name, as data.task -> settings for it alone.
    """

    name: str
    about: str
    settings: Sections
    tasks: dict[str, Sections]

    def list_changes(self, task: str) -> Sections:
        """Return what differs from the defaults for a task, by section.

        Raises:
            ConfigError: the preset has no such task; names the nearest.
        """
        if task not in self.tasks:
            hint = suggest_name(task, self.tasks)
            raise ConfigError(f"preset {self.name} has no task {task!r}; {hint}")
        return merge(merge(self.settings, {"data": {"task": task}}), self.tasks[task])

    def make_params(self, task: str) -> Params:
        """Return the settings for a task: the defaults with the changes.

        Raises:
            ConfigError: they would not be a valid params.yaml.
        """
        return check_params(self.list_changes(task), f"preset {self.name} for {task}")


def read_preset(name: str) -> Preset:
    """Read a preset of the folder presets/.

    Raises:
        ConfigError: there is no preset of this name, or its file is malformed.
    """
    names = list_presets()
    if name not in names:
        raise ConfigError(f"no preset {name!r}; {suggest_name(name, names)}")
    path = _FOLDER / f"{name}.yaml"
    raw = read_yaml(path)
    if set(raw) != {"about", "settings", "tasks"}:
        keys = ", ".join(map(str, raw))
        raise ConfigError(f"{path} must hold about, settings and tasks, got {keys}")
    if not isinstance(raw["about"], str):
        raise ConfigError(f"{path}: about must be a line of text, got {raw['about']!r}")
    tasks = raw["tasks"]
    if not isinstance(tasks, dict) or not tasks or not all(isinstance(t, str) for t in tasks):
        raise ConfigError(f"{path}: tasks must be names with their settings, got {tasks!r}")
    for sections in (raw["settings"], *tasks.values()):
        if not isinstance(sections, dict):
            raise ConfigError(f"{path} must hold settings by section, got {sections!r}")
    return Preset(name=name, about=raw["about"], settings=raw["settings"], tasks=tasks)


def list_presets() -> list[str]:
    """Return the names of all presets.

    Raises:
        ConfigError: the folder presets/ is missing.
    """
    if not _FOLDER.is_dir():
        raise ConfigError(
            f"{_FOLDER} does not exist; run from a clone of the repository, since an installed "
            f"package does not hold it"
        )
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def merge(sections: Sections, changes: Sections) -> Sections:
    """Return sections in which the keys of `changes` take the place of earlier ones."""
    merged = dict(sections)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    return merged


def describe(name: str) -> str:
    """Return a line for each task of a preset; for each preset if the name is empty."""
    if not name:
        return "\n".join(_list_tasks(read_preset(preset)) for preset in list_presets())
    preset = read_preset(name)
    width = max(map(len, preset.tasks))
    return "\n".join(
        f"{task:{width}}  {_describe_size(preset.make_params(task))}" for task in preset.tasks
    )


def render_params(name: str, task: str, template: Path) -> str:
    """Return params.yaml for a preset and a task.

    Args:
        name: of the preset.
        task: of the preset; empty if it has only one.
        template: a params.yaml whose comments are kept, if it is readable. Its values are not.

    Raises:
        ConfigError: no such preset or task, or wrong settings.
    """
    preset = read_preset(name)
    if not task and len(preset.tasks) == 1:
        task = next(iter(preset.tasks))
    values = to_yaml_values(preset.make_params(task))
    yaml = YAML()
    yaml.width = 10_000
    document = _load_template(template, yaml)
    for section, value in values.items():
        if isinstance(value, dict):
            document.setdefault(section, CommentedMap())
            for key, item in value.items():
                _set(document[section], key, item)
        else:
            _set(document, section, value)
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def _load_template(path: Path, yaml: YAML) -> CommentedMap:
    """Return a params.yaml with its comments; an empty document if it is not a valid one."""
    try:
        load_params(path)
    except ConfigError:
        return CommentedMap()
    document: CommentedMap = yaml.load(path)
    return document


def _set(section: CommentedMap, key: str, value: Any) -> None:
    """Set a value; an equal one stays as it is written, `5.0e-4` for instance."""
    if key in section and section[key] == value:
        return
    if isinstance(value, list) and isinstance(section.get(key), CommentedSeq):
        items: CommentedSeq = section[key]  # in place: the key's own comment is attached to it
        items.ca.items.clear()
        items[:] = value
    else:
        section[key] = value


def _list_tasks(preset: Preset) -> str:
    indent = "    "
    tasks = textwrap.fill(
        ", ".join(preset.tasks),
        width=100,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return f"{preset.name}: {preset.about}\n{tasks}"


def _describe_size(params: Params) -> str:
    training = params.finetune
    return (
        f"{training.steps:,} batches of {training.batch_size}, {params.estimate.steps:,} of them "
        f"estimation, up to {params.data.max_length} tokens"
    )
