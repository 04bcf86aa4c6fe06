"""Training that survives being killed: where its checkpoints are, whose, and which are whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.common.errors import TrainingError
from pipeline.common.files import file_hash, write_json

_WHOLE = "whole.json"


def checkpoint_folder(name: str, inputs: Iterable[Path], settings: Any) -> Path:
    """Where a training keeps its checkpoints: another folder whenever any input differs.

    Outside the stage's outputs, which DVC deletes before it starts a stage again.

    Args:
        name: stage and method.
        inputs: files and folders whose contents decide the result.
        settings: JSON values that decide it too.
    """
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in (file for file in files if file.is_file()):
            found.update(f"{file.relative_to(path)} {file_hash(file)}".encode())
    root = Path(os.environ.get("DVC_ROOT", "."))
    return root / "checkpoints" / f"{name}-{found.hexdigest()[:16]}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the kernel frees it when the process ends, however it ends.

    A folder without a checkpoint is removed on the way out.

    Raises:
        TrainingError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TrainingError(
                f"process {file.read() or 'unknown'} is training in {folder} already; "
                "wait for it, or end it and start again"
            ) from None
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise TrainingError(f"the training in {folder} has just ended; start again")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if not any(folder.glob("checkpoint-*")):
                shutil.rmtree(folder, ignore_errors=True)


def mark_whole(checkpoint: Path, seconds: float) -> None:
    """Say that a checkpoint is written to its end, and how long training took up to it."""
    files = {file.name: file_hash(file) for file in checkpoint.iterdir() if file.is_file()}
    files.pop(_WHOLE, None)
    write_json(checkpoint / _WHOLE, {"seconds": seconds, "files": files})


def latest(folder: Path) -> tuple[Path | None, float]:
    """The newest whole checkpoint and the seconds it took; damaged ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for checkpoint in reversed(found):
        seconds = _seconds_of(checkpoint)
        if seconds is not None:
            return checkpoint, seconds
        shutil.rmtree(checkpoint)
    return None, 0.0


def _seconds_of(checkpoint: Path) -> float | None:
    """Seconds up to a checkpoint; None unless it, and the best one it refers to, are whole."""
    seconds = _read(checkpoint)
    if seconds is None:
        return None
    best = json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"]
    if best is not None and _read(checkpoint.with_name(Path(best).name)) is None:
        return None
    return seconds


def _read(checkpoint: Path) -> float | None:
    try:
        mark = json.loads((checkpoint / _WHOLE).read_text())
        if any(file_hash(checkpoint / name) != digest for name, digest in mark["files"].items()):
            return None
    except (OSError, ValueError):
        return None
    return float(mark["seconds"])
