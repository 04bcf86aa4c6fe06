"""A folder for what a stage writes, until it is whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def make_scratch_folder(target: Path) -> Iterator[Path]:
    """Make an empty folder beside a target, and remove it at the end.

    Folders that killed processes left are removed too. The operating system frees their lock when
    a process ends, so one whose lock is held is in use.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    for other in target.parent.glob(f"{prefix}*/"):
        with suppress(Timeout), FileLock(other / "lock", timeout=0):
            shutil.rmtree(other)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
        with FileLock(Path(folder) / "lock"):
            yield Path(folder)
