"""Mixture-of-experts blocks, whose routers and fused expert weights are not pruned."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.block_shape import find_layer
from lightpeft.core.errors import ModelError
from lightpeft.modeling.families import EXPERTS, EXPERTS_PER_TOKEN
from lightpeft.modeling.family import Family


@dataclass(frozen=True)
class MoEBlock:
    """One block of experts, and its children that are not pruned."""

    path: str
    module: nn.Module
    unpruned: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The numbered layer that it is in."""
        return str(find_layer(self.path))

    def find_unpruned_weights(self) -> dict[str, Tensor]:
        """Return path in the model -> parameter, of all that is not pruned."""
        return {
            f"{self.path}.{name}": weight
            for name, weight in self.module.named_parameters()
            if name.partition(".")[0] in self.unpruned
        }

    def count_matmul_weights(self) -> int:
        """Return the weights that multiply a token: of the router and its top-k experts.

        Raises:
            ModelError: no module says to how many experts a token is routed.
        """
        counts = [
            getattr(module, name, None)
            for module in self.module.modules()
            for name in EXPERTS_PER_TOKEN
        ]
        top_k = max((count for count in counts if isinstance(count, int)), default=0)
        if not top_k:
            raise ModelError(f"{self.path} can't be counted: it has no {EXPERTS_PER_TOKEN[0]}")
        total = 0
        for weight in self.find_unpruned_weights().values():
            if weight.dim() == 3:  # (experts, out, in)
                total += weight.numel() // weight.shape[0] * top_k
            elif weight.dim() == 2:
                total += weight.numel()
        return total


def find_moe_blocks(
    model: PreTrainedModel, families: tuple[Family, ...], dense: Collection[str] | None = None
) -> list[MoEBlock]:
    """Return the blocks in numbered layers that have all children a family leaves `unpruned`.

    Args:
        model: as it is.
        families: of its architecture.
        dense: paths of the dense blocks found by structure: then whatever a module with experts
            has beside them is left unpruned, whatever its name.
    """
    blocks = []
    for path, module in model.named_modules():
        children = {name for name, _ in module.named_children()}
        if dense is not None and find_layer(path) and children & set(EXPERTS):
            names = {name.partition(".")[0] for name, _ in module.named_parameters()}
            is_pruned = {x.removeprefix(f"{path}.").partition(".")[0] for x in dense}
            blocks.append(MoEBlock(path, module, tuple(sorted(names - is_pruned))))
            continue
        for family in families:
            if family.unpruned and find_layer(path) and set(family.unpruned) <= children:
                blocks.append(MoEBlock(path, module, family.unpruned))
                break
    return blocks
