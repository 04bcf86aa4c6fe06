"""Blocks of experts, whose fused weights stay whole: what they weigh, and peft beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.modeling.blocks import layer_of
from lightpeft.modeling.families import EXPERTS_PER_TOKEN, families_of


@dataclass(frozen=True)
class Experts:
    """One block of experts, and its children that stay whole."""

    path: str
    module: nn.Module
    whole: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The numbered layer that it lies in."""
        return str(layer_of(self.path))

    def weights(self) -> dict[str, Tensor]:
        """Path in the model -> parameter, of all that stays whole."""
        return {
            f"{self.path}.{name}": weight
            for name, weight in self.module.named_parameters()
            if name.partition(".")[0] in self.whole
        }

    def per_token(self) -> int:
        """Weights that multiply a token: of the router, and of as many experts as it goes to.

        Raises:
            ModelError: nothing says to how many experts a token goes.
        """
        found = [getattr(module, EXPERTS_PER_TOKEN, 0) for module in self.module.modules()]
        active, total = max(found), 0
        if not active:
            raise ModelError(f"{self.path} can't be counted: it has no {EXPERTS_PER_TOKEN}")
        for weight in self.weights().values():
            if weight.dim() == 3:  # (experts, out, in)
                total += weight.numel() // weight.shape[0] * active
            elif weight.dim() == 2:
                total += weight.numel()
        return total


def find_moe_blocks(model: PreTrainedModel) -> list[Experts]:
    """Blocks in numbered layers that have all the children which a family keeps `whole`."""
    found = []
    for path, module in model.named_modules():
        children = {name for name, _ in module.named_children()}
        for family in families_of(model):
            if family.unpruned and layer_of(path) and set(family.unpruned) <= children:
                found.append(Experts(path, module, family.unpruned))
                break
    return found


def check_moe_blocks(experts: Iterable[Experts], linears: Iterable[str]) -> None:
    """Refuse a block of experts with a parameter that is neither kept whole nor a linear's.

    Raises:
        ModelError: names it.
    """
    known = set(linears)
    for block in experts:
        whole = block.weights()
        for name, weight in block.module.named_parameters():
            path = f"{block.path}.{name}"
            if path not in whole and path.rpartition(".")[0] not in known:
                raise ModelError(
                    f"{block.path} can't be cut: its family does not account for {name} "
                    f"of shape {tuple(weight.shape)}"
                )


def per_token(experts: Iterable[Experts], attention: Iterable[str]) -> dict[str, int]:
    """Attention block path -> what `Experts.per_token` says of its layer's experts."""
    last = {str(layer_of(path)): path for path in attention}
    return {last[block.layer]: block.per_token() for block in experts}
