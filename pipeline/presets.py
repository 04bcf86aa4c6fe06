"""Presets: settings for a model and a task, as overrides that `dvc exp run` takes.

    dvc exp run $(python -m pipeline preset paper-roberta-large glue/rte)

A preset is a file in presets/: `about` (a line), `settings` (section -> key -> value, where they
differ from defaults.yaml) and `tasks` (name, as data.task -> further settings). All other settings
are printed as well: dvc leaves in params.yaml what it is told, and a preset must not inherit that.
"""

from __future__ import annotations

import copy
import difflib
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import ConfigError
from pipeline.common.files import read_yaml
from pipeline.common.params import Params, check_params

_FOLDER = Path("presets")
_DEFAULTS = Path(__file__).with_name("defaults.yaml")
_WORD = re.compile(r"[\w./:@+*-]+")  # a shell leaves it as it is
_NO_TEXT = ("true", "false", "null")

Sections = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings for one model on some tasks.

    Attributes:
        name: of its file.
        about: a line for the list.
        settings: for every task.
        tasks: name, as data.task -> settings for it alone.
    """

    name: str
    about: str
    settings: Sections
    tasks: dict[str, Sections]

    def changes(self, task: str) -> dict[str, Any]:
        """What the preset itself sets: `section.key` -> value; the task's own come last.

        Raises:
            ConfigError: the preset is not for this task; names the nearest.
        """
        if task not in self.tasks:
            raise ConfigError(
                f"preset {self.name} has no task {task!r}; {_nearest(task, self.tasks)}"
            )
        return _flat(self.settings) | {"data.task": task} | _flat(self.tasks[task])

    def rest(self, task: str) -> dict[str, Any]:
        """What it leaves at the default, as `changes`."""
        own = self.changes(task)
        return {name: value for name, value in _flat(defaults()).items() if name not in own}

    def params(self, task: str) -> Params:
        """What params.yaml says after the changes and the rest.

        Raises:
            ConfigError: that would be no valid params.yaml.
        """
        raw = merged(defaults(), self.changes(task))
        return check_params(raw, f"preset {self.name} for {task}")


def defaults() -> Sections:
    """params.yaml as it comes, whatever runs have left in it since."""
    return read_yaml(_DEFAULTS)


def read_preset(name: str) -> Preset:
    """A preset of presets/, with every setting checked.

    Raises:
        ConfigError: there is none of this name, or it is no preset.
    """
    names = preset_names()
    if name not in names:
        raise ConfigError(f"no preset {name!r}; {_nearest(name, names)}")
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


def preset_names() -> list[str]:
    """All presets.

    Raises:
        ConfigError: the folder is not here.
    """
    if not _FOLDER.is_dir():
        raise ConfigError(f"{_FOLDER} does not exist; run from the folder that holds it")
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def merged(raw: Sections, changes: dict[str, Any]) -> Sections:
    """The sections with the changes."""
    found = copy.deepcopy(raw)
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        if section and not isinstance(found.get(section), dict):
            found[section] = {}
        (found[section] if section else found)[key] = value
    return found


def overrides(changes: dict[str, Any]) -> list[str]:
    """`-S key=value` for each change, so that a shell and then dvc read the value that it is.

    Raises:
        ConfigError: a text that a shell would split.
    """
    return [f"-S {name}={_written(value, name)}" for name, value in changes.items()]


def main(name: str = "", task: str = "") -> None:
    """Print overrides, or without a task a preset's tasks, or without a name all presets."""
    print("\n".join(_lines(name, task)))


def _lines(name: str, task: str) -> list[str]:
    if not name:
        return [line for known in preset_names() for line in _listed(read_preset(known))]
    preset = read_preset(name)
    if not task and len(preset.tasks) > 1:
        return [f"{known:{max(map(len, preset.tasks))}}  {_size(preset.params(known))}"
                for known in preset.tasks]  # fmt: skip
    task = task or next(iter(preset.tasks))
    preset.params(task)
    return [*overrides(preset.changes(task)), "", *overrides(preset.rest(task))]


def _listed(preset: Preset) -> list[str]:
    indent = "    "
    tasks = textwrap.wrap(
        ", ".join(preset.tasks),
        width=100,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return [f"{preset.name}: {preset.about}", *tasks]


def _size(params: Params) -> str:
    training = params.finetune
    return (
        f"{training.steps:,} batches of {training.batch_size}, {params.estimate.steps:,} of them "
        f"estimation, up to {params.data.max_length} tokens"
    )


def _flat(sections: Sections) -> dict[str, Any]:
    found = {}
    for section, values in sections.items():
        if isinstance(values, dict):
            found |= {f"{section}.{key}": value for key, value in values.items()}
        else:
            found[str(section)] = values
    return found


def _written(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(_written(item, name) for item in value)}]"
    text = str(value)
    if not _WORD.fullmatch(text):
        raise ConfigError(f"{name} must be a word or a list of words in a preset, got {value!r}")
    return f'"{text}"' if isinstance(value, str) and not _reads_as_text(text) else text


def _reads_as_text(word: str) -> bool:
    """Whether dvc takes a word for text without quotes, which reach it through `$(...)`."""
    try:
        float(word)
    except ValueError:
        return word.isascii() and word.lower() not in _NO_TEXT
    return False


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
