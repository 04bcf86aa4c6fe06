"""Checkpoints of an interruptible training: their folder, its lock, and which are complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.common.errors import TrainingError
from pipeline.common.files import hash_file, write_json
from pipeline.common.ranks import is_main_process

_MARKER = "complete.json"


def find_checkpoint_folder(name: str, inputs: Iterable[Path], settings: Any) -> Path:
    """Return the folder for a training's checkpoints; it differs whenever an input differs.

    It lies outside the stage's outputs, because DVC deletes those before it runs a stage again.

    Args:
        name: stage and method.
        inputs: files and folders (with their subfolders) whose contents decide the result;
            Python's compiled files are left out.
        settings: JSON values that decide the result too.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.parent.name != "__pycache__":
                relative = file.relative_to(path.parent).as_posix()
                digest.update(f"{relative} {hash_file(file)}\n".encode())
    root = Path(os.environ.get("DVC_ROOT", "."))
    return root / "checkpoints" / f"{name}-{digest.hexdigest()[:16]}"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the operating system frees when the process ends or is killed.

    On leaving, incomplete checkpoints are removed, and the folder if it holds no other. Of several
    processes of a stage, the main one holds the lock.

    Raises:
        TrainingError: another process holds the lock.
    """
    if not is_main_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "pid"
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        pid = holder.read_text() if holder.is_file() else "unknown"
        raise TrainingError(
            f"process {pid} is training in {folder} already; wait for it, or end it and start again"
        ) from error
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        for checkpoint in folder.glob("checkpoint-*"):
            if not (checkpoint / _MARKER).exists():  # interrupted, or the disk is full
                shutil.rmtree(checkpoint, ignore_errors=True)
        if not any(folder.glob("checkpoint-*")):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a training whose result has been saved."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def mark_complete(checkpoint: Path, seconds: float) -> None:
    """Record that a checkpoint is complete: the digest of each file, and the training time.

    Args:
        checkpoint: its folder.
        seconds: wall time of the training up to this checkpoint.
    """
    digests = {
        file.name: hash_file(file)
        for file in checkpoint.iterdir()
        if file.is_file() and file.name != _MARKER
    }
    write_json(checkpoint / _MARKER, {"seconds": seconds, "files": digests})


def find_latest_checkpoint(folder: Path) -> tuple[Path | None, float]:
    """Return the newest complete checkpoint, and the training time up to it in seconds.

    Newer checkpoints that are incomplete or damaged are deleted; one that can't be read for
    another reason (a network file system that doesn't answer, say) is kept.

    Returns:
        The checkpoint and its seconds; None and 0 if no checkpoint is complete.

    Raises:
        TrainingError: a checkpoint can't be read.
    """
    newest_first = sorted(
        folder.glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])
    )
    for checkpoint in newest_first:
        try:
            seconds = _read_resumable_seconds(checkpoint)
        except OSError as error:
            raise TrainingError(
                f"{checkpoint} can't be read ({error}) and was kept; start again, "
                "or delete it to train without it"
            ) from error
        if seconds is not None:
            return checkpoint, seconds
        shutil.rmtree(checkpoint)
    return None, 0.0


def _read_resumable_seconds(checkpoint: Path) -> float | None:
    """Return a checkpoint's seconds, or None unless it and the best one it names are complete."""
    seconds = _complete_seconds(checkpoint)
    if seconds is None:
        return None
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    best = state["best_model_checkpoint"]
    if best is not None and _complete_seconds(checkpoint.with_name(Path(best).name)) is None:
        return None
    return seconds


def _complete_seconds(checkpoint: Path) -> float | None:
    """Return the seconds in a checkpoint's marker, or None if a file is missing or has changed."""
    try:
        marker = json.loads((checkpoint / _MARKER).read_text(encoding="utf-8"))
        for name, digest in marker["files"].items():
            if hash_file(checkpoint / name) != digest:
                return None
    except (FileNotFoundError, ValueError):  # not written, or not written to its end
        return None
    return float(marker["seconds"])
