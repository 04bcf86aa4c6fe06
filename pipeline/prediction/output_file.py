"""A file of predictions that a killed run leaves in part, and the next one completes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.common.console import log
from pipeline.tasks.schema import Row


class PredictionFile:
    """JSON Lines beside the final file, under its name and `.part`, until all rows are there.

    The first line is a key of everything that the predictions depend on: a part of other
    predictions is not continued.

    Attributes:
        done: rows that are there.
    """

    def __init__(self, path: Path, key: str, *, chunk: int) -> None:
        """Open the part, and keep its whole chunks if it has the key.

        Args:
            path: of the final file.
            key: of the inputs.
            chunk: rows that are predicted together; where they are not all there, none is kept, so
                that an interrupted run gives the same file as another one.

        Raises:
            OSError: it can't be written.
        """
        self.path, self._part = path, path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"key": key}).encode() + b"\n"
        kept = self._find_kept(header, chunk)
        self._file = self._part.open("r+b" if kept else "wb")
        if kept:
            self._file.truncate(kept)
            self._file.seek(kept)
        else:
            self.done = 0
            self._file.write(header)

    def _find_kept(self, header: bytes, chunk: int) -> int:
        """Return the size of what is kept of the part; 0 if there is none, or of other inputs."""
        if not self._part.exists():
            return 0
        with self._part.open("rb") as file:
            if file.readline() != header:
                log("predict", f"{self._part} is of other rows, another model or other settings")
                return 0
            kept, self.done, rows = len(header), 0, 0
            for line in file:
                rows += line.endswith(b"\n")
                if rows == self.done + chunk:
                    self.done, kept = rows, file.tell()
        return kept

    def append(self, rows: Sequence[Row]) -> None:
        """Write predictions; they survive if the process, or the machine, stops now."""
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done += len(rows)

    def finish(self) -> None:
        """Replace the final file by the part without its first line."""
        self._file.close()
        final = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with self._part.open("rb") as part, final.open("wb") as file:
            part.readline()
            while block := part.read(2**20):
                file.write(block)
        final.replace(self.path)
        self._part.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
