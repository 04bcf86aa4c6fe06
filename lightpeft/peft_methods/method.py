"""What estimation and pruning have to know of a PEFT method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from peft import PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """The parts of a PEFT layer by which its module and ranks are scored.

    Attributes:
        last: the linear that returns what the module adds, before scaling.
        scaling: of what it returns.
        reference: what the module adds is compared with what this returns, or with its input.
        takes_input: whether it is the input of `reference`.
        weight: with a row per rank, by which ranks are scored.
        is_transposed: whether it has a column per rank instead.
        widths: how many inputs and outputs the module has.
    """

    last: nn.Module
    scaling: float
    reference: nn.Module
    takes_input: bool
    weight: nn.Parameter
    is_transposed: bool
    widths: tuple[int, int]

    @property
    def rank(self) -> int:
        """Number of ranks."""
        return int(self.weight.shape[int(self.is_transposed)])

    def get_rows(self) -> tuple[Tensor, Tensor] | None:
        """Return weight and gradient with a row per rank; None if there is no gradient."""
        weight, grad = self.weight, self.weight.grad
        if grad is None:
            return None
        return (weight.T, grad.T) if self.is_transposed else (weight, grad)


class PeftMethod(Protocol):
    """One PEFT method; `lightpeft.peft_methods.registry` has all."""

    @property
    def layer_class(self) -> type:
        """The class of its layers."""

    @property
    def fixed_settings(self) -> tuple[str, ...]:
        """What peft reads when an adapter is added, and not when its weights are replaced."""

    def name_targets(self, config: Any, model: PreTrainedModel, shape: ModelShape) -> PeftConfig:
        """Return a copy of a user's config that names its modules in full."""

    def set_modules(self, config: Any, plan: PruningPlan, ranks: dict[str, int]) -> None:
        """Write the modules and ranks of a pruned model into a config, whose `r` stays.

        Args:
            config: with `target_modules` and `rank_pattern` set already.
            plan: of the pruned model; `plan.without_layers` has its paths.
            ranks: path of a linear -> rank.
        """

    def set_full_modules(self, config: Any, plan: PruningPlan, names: list[str]) -> None:
        """Write the modules of the unpruned model into a config, all of rank `r`."""

    def get_parts(self, layer: Any) -> LayerParts:
        """Return what is scored of a layer of `layer_class`, adapter `default`."""
