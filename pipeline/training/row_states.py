"""Hidden states of rows, kept in a memory-mapped file while a training runs."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
from torch import Tensor

from pipeline.common.errors import ConfigError

_CHUNK = 2**20  # bytes


class RowStates:
    """A place for the hidden states of each row, in a file that has no name.

    So the operating system deletes it when the process ends, also if it is killed. All of its
    bytes are reserved at once: a disk that fills up later can't end the training.
    """

    def __init__(
        self, folder: Path, lengths: Mapping[int, int], *, width: int, dtype: torch.dtype
    ) -> None:
        """Reserve the file.

        Args:
            folder: on the disk that the file is to be on.
            lengths: row number -> its tokens.
            width: values of a token.
            dtype: of the values, which are kept as they are.

        Raises:
            ConfigError: the disk has too little space.
        """
        self._lengths, self._starts, tokens = dict(lengths), dict[int, int](), 0
        for row, length in lengths.items():
            self._starts[row] = tokens
            tokens += length
        size = tokens * width * dtype.itemsize
        free = shutil.disk_usage(folder).free
        if size > free:
            raise ConfigError(
                f"finetune.cache_frozen: true needs {size:,} bytes in {folder}, which has {free:,} "
                "free; set it to false"
            )
        with TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            mapped = mmap.mmap(file.fileno(), size)
        self._states = torch.frombuffer(mapped, dtype=dtype).view(tokens, width)
        self._written: set[int] = set()

    def has(self, rows: Sequence[int]) -> bool:
        """Return whether the states of all these rows have been written."""
        return self._written.issuperset(rows)

    def write(self, rows: Sequence[int], states: Tensor) -> None:
        """Keep the states of those rows that have a place and were not written before.

        Args:
            rows: their numbers.
            states: shape ``(rows, tokens, width)``, padded on the right.
        """
        for row, state in zip(rows, states, strict=True):
            if row in self._starts and row not in self._written:
                self._find(row).copy_(state[: self._lengths[row]])
                self._written.add(row)

    def read(self, rows: Sequence[int], *, like: Tensor) -> Tensor:
        """Return the states of rows, with zeros at padding.

        Args:
            rows: their numbers; all have been written.
            like: of the wanted shape ``(rows, tokens, width)`` and device.
        """
        states = self._states.new_zeros(like.shape)
        for number, row in enumerate(rows):
            states[number, : self._lengths[row]] = self._find(row)
        return states.to(like.device)

    def _find(self, row: int) -> Tensor:
        start = self._starts[row]
        return self._states[start : start + self._lengths[row]]


def _reserve(file: IO[bytes], size: int) -> None:
    for start in range(0, size, _CHUNK):
        file.write(bytes(min(_CHUNK, size - start)))
    file.flush()
