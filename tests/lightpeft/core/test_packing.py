"""What is packed into bytes is what is unpacked, and other bytes are refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightpeft.core.packing import (
    pack_integers,
    pack_positions,
    unpack_integers,
    unpack_positions,
)


@given(st.sets(st.integers(0, 700)), st.integers(0, 300))
def test_positions_are_unpacked_as_they_were(chosen: set[int], room: int):
    positions = torch.tensor(sorted(chosen), dtype=torch.int64)
    size = max(chosen, default=-1) + 1 + room

    high, low = pack_positions(positions, size)

    assert high.dtype == low.dtype == torch.uint8
    assert torch.equal(unpack_positions(high, low, size), positions)
    count = len(chosen)
    if count:
        bits = count * (2 + math.log2(size / count)) + 1
        assert len(high) + len(low) <= bits / 8 + 2


@given(st.integers(0, 9), st.data())
def test_integers_are_unpacked_as_they_were(width: int, data: st.DataObject):
    values = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40))
    packed = pack_integers(torch.tensor(values, dtype=torch.int64), width)

    assert unpack_integers(packed, width, len(values)).tolist() == values


@given(st.binary(max_size=30), st.binary(max_size=30), st.integers(0, 300))
def test_other_bytes_are_positions_or_refused(high: bytes, low: bytes, size: int):
    try:
        positions = unpack_positions(
            *(torch.tensor([*x], dtype=torch.uint8) for x in (high, low)), size
        )
    except ValueError:
        return
    assert sorted(set(positions.tolist())) == positions.tolist()
    assert all(0 <= x < size for x in positions)


def test_more_bytes_than_values_are_refused():
    with pytest.raises(ValueError, match="3 values of 4 bits are not 3 bytes"):
        unpack_integers(torch.zeros(3, dtype=torch.uint8), 4, 3)
