"""Time of a model's blocks by their width, as measured on one machine."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lightpeft.core.block_shape import Block
from lightpeft.core.errors import PlanError
from lightpeft.core.reading import read_json
from lightpeft.core.serialization import write_json
from lightpeft.core.shape import ModelShape, UnitCounts
from lightpeft.planning.cost import list_block_passes


class BlockLatency(BaseModel):
    """Seconds of one pass through a block.

    Attributes:
        units: numbers of heads or neurons that were measured, ascending.
        forward: seconds of forward for each, without gradients.
        training: seconds of forward and backward for each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    units: tuple[int, ...]
    forward: tuple[float, ...]
    training: tuple[float, ...]


class LatencyTable(BaseModel):
    """Seconds of all kinds of blocks that a model has, from which those of a plan are summed.

    A step is the sum of its blocks and of a language model's head. What is between them
    (embeddings, a task head, the optimizer) is left out, so that speed-ups are a little too high.

    Attributes:
        device: name of the machine's processor or GPU.
        dtype: of the weights.
        rows: of a batch.
        length: tokens a row.
        rank: of the LoRA on every linear.
        blocks: `describe_block` -> its times.
        head: forward, and forward and backward, of a language model's head; 0 without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    device: str
    dtype: str
    rows: int
    length: int
    rank: int
    blocks: dict[str, BlockLatency]
    head: tuple[float, float]

    def predict(self, shape: ModelShape, counts: UnitCounts, *, training: bool) -> float:
        """Return the seconds of a forward pass, or of forward and backward.

        Below the lowest block with a PEFT module, backward does not run.

        Args:
            shape: of the model without pruned layers; its kinds of blocks are in the table.
            counts: units and ranks that it keeps.
            training: whether backward runs.
        """
        seconds, reached = self.head[int(training)], False
        for block in list_block_passes(shape):
            reached = reached or any(map(counts.ranks.get, block.linears))
            times = self.blocks[describe_block(block)]
            values = times.training if training and reached else times.forward
            seconds += interpolate(times.units, values, counts.units[block.path])
        return seconds

    def save(self, path: Path) -> None:
        """Write indented JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            PlanError: the file is missing or damaged.
        """
        try:
            return cls.model_validate(read_json(path, PlanError))
        except ValidationError as error:
            raise PlanError(f"{path} is no latency table; remove it") from error


def describe_block(block: Block) -> str:
    """Return what two blocks that take equally long have in common."""
    linears = ", ".join(f"{x.inputs} to {x.outputs}" for x in block.linears.values())
    sharing = f" of {block.heads_per_kv_group} a KV group" * (block.heads_per_kv_group > 1)
    return f"{block.kind}, {block.units} units of {block.unit_size}{sharing}: {linears}"


def interpolate(points: Sequence[int], values: Sequence[float], x: int) -> float:
    """Return the value at x on the line between two points, or that of the nearest one.

    >>> interpolate((2, 4), (1.0, 3.0), 3), interpolate((2, 4), (1.0, 3.0), 1)
    (2.0, 1.0)
    """
    index = bisect_left(points, x)
    if index == 0 or index == len(points):
        return values[min(index, len(points) - 1)]
    low, high = points[index - 1], points[index]
    weight = (x - low) / (high - low)
    return values[index - 1] * (1 - weight) + values[index] * weight
