"""The weights of one PEFT module by method: their names, and what their dimensions are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from lightpeft.core.names import BOTTLENECK, COMPRESSED, DORA, LORA, PEFT_PREFIX, WEIGHTS

# peft_type -> name of a weight -> its dimensions: the rank (of LoRA, or the size of a bottleneck),
# and inputs and outputs of the linear that the module sits on. A module is two products, with the
# two weights of two dimensions, in this order.
_LORA: dict[str, tuple[str, ...]] = {
    "lora_A.weight": ("rank", "inputs"),
    "lora_B.weight": ("outputs", "rank"),
}
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    LORA: _LORA,
    DORA: _LORA | {"lora_magnitude_vector": ("outputs",)},
    BOTTLENECK: {
        "bottleneck_down.weight": ("rank", "outputs"),
        "bottleneck_down.bias": ("rank",),
        "bottleneck_up.weight": ("outputs", "rank"),
        "bottleneck_up.bias": ("outputs",),
    },
}
_DIMS = {name: dims for layout in LAYOUTS.values() for name, dims in layout.items()}
_KEY = re.compile(rf"{re.escape(PEFT_PREFIX)}(.+)\.({'|'.join(map(re.escape, _DIMS))})")


@dataclass(frozen=True)
class AdapterKey:
    """The name of a PEFT weight: of which linear's module, and which of its weights."""

    linear: str
    weight: str

    def __str__(self) -> str:
        return f"{PEFT_PREFIX}{self.linear}.{self.weight}"

    @property
    def dims(self) -> tuple[str, ...]:
        """What the dimensions are: `rank`, `inputs`, `outputs`."""
        return _DIMS[self.weight]


def parse_adapter_key(key: str) -> AdapterKey | None:
    """Return the parts of a PEFT weight's name; None if it is of a task head."""
    match = _KEY.fullmatch(key)
    return AdapterKey(*match.groups()) if match else None


def find_adapter_file(folder: Path) -> str:
    """Return the name of the adapter's weights in a folder, compressed or not."""
    only_compressed = (folder / COMPRESSED).exists() and not (folder / WEIGHTS).exists()
    return COMPRESSED if only_compressed else WEIGHTS


def count_adapter_parameters(peft_type: str, sizes: Mapping[str, int]) -> int:
    """Return the parameters of a PEFT module; none if its rank is 0.

    Args:
        peft_type: of the method.
        sizes: `rank`, `inputs` and `outputs`.
    """
    if not sizes["rank"]:
        return 0
    return sum(prod(sizes[dim] for dim in dims) for dims in LAYOUTS[peft_type].values())


def count_adapter_products(peft_type: str, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return the weights of the first and of the second product of a PEFT module."""
    matrices = [dims for dims in LAYOUTS[peft_type].values() if len(dims) == 2]
    first, second = (prod(sizes[dim] for dim in dims) for dims in matrices)
    return first, second
