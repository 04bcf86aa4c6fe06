"""Pack ascending positions and small integers into bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_positions(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pack ascending positions by the Elias-Fano code.

    The low bits of each position are stored as they are; of the rest, a bit is set for each
    position, after as many clear bits as its value. That is about ``2 + log2(size / n)`` bits for
    each of ``n`` positions, half a bit more than the least possible (Elias 1974, J. ACM 21(2)).

    Args:
        positions: int64, shape ``(n,)``, ascending without repeats, from 0 to ``size - 1``.
        size: number of positions that there are.

    Returns:
        High and low bits, each uint8 of one dimension.

    Example:
        >>> from lightpeft.core.packing import pack_positions, unpack_positions
        >>> high, low = pack_positions(torch.tensor([3, 70, 71]), 80)
        >>> unpack_positions(high, low, 80)
        tensor([ 3, 70, 71])
    """
    count = len(positions)
    width = _find_width(count, size)
    bits = torch.zeros(count + (size >> width) + 1, dtype=torch.int64)
    bits[(positions >> width) + torch.arange(count)] = 1
    return pack_integers(bits, 1), pack_integers(positions & ((1 << width) - 1), width)


def unpack_positions(high: Tensor, low: Tensor, size: int) -> Tensor:
    """Return the positions that `pack_positions` packed.

    Raises:
        ValueError: no positions below `size` are packed so.
    """
    marks = unpack_integers(high, 1, 8 * len(high)).nonzero().flatten()
    count = len(marks)
    width = _find_width(count, size)
    lows = unpack_integers(low, width, count)
    positions = ((marks - torch.arange(count)) << width) | lows
    if count and (positions[-1] >= size or (positions.diff() <= 0).any()):
        raise ValueError(f"positions must ascend and be below {size:,}")
    return positions


def pack_integers(values: Tensor, width: int) -> Tensor:
    """Pack integers of `width` bits, the highest bit first, into uint8 of one dimension.

    Args:
        values: int64, shape ``(n,)``, from 0 to ``2**width - 1``.
        width: 0 or more.
    """
    bits = (values[:, None] >> _make_shifts(width) & 1).flatten()
    padded = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (padded << _make_shifts(8)).sum(dim=1).to(torch.uint8)


def unpack_integers(packed: Tensor, width: int, count: int) -> Tensor:
    """Return the integers that `pack_integers` packed, shape ``(count,)``.

    Raises:
        ValueError: there are more or fewer than `count`.
    """
    if len(packed) != -(-count * width // 8):
        raise ValueError(f"{count:,} values of {width} bits are not {len(packed):,} bytes")
    bits = (packed.long()[:, None] >> _make_shifts(8) & 1).flatten()[: count * width]
    return (bits.view(count, width) << _make_shifts(width)).sum(dim=1)


def _make_shifts(width: int) -> Tensor:
    return torch.arange(width - 1, -1, -1)


def _find_width(count: int, size: int) -> int:
    """Return the number of low bits of each position."""
    return max(size // count, 1).bit_length() - 1 if count else 0
