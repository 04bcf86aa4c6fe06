"""Trainable masks of heads and feed-forward neurons, applied before the output projections."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.shape import ModelShape


class Masks(ExitStack):
    """One trainable scalar per query head and per neuron, initially 1; a context manager.

    Each mask is on the device of the output projection whose input it multiplies; leaving the
    context removes all masks from the model.

    The foundation-model masks of Light-PEFT (arXiv:2406.03792, m_A and m_F). Deviation: the
    authors' code multiplies attention probabilities, which forces eager attention; a head's
    context vector before the output projection is the same function of the mask and leaves
    SDPA and flash attention on.

    Attributes:
        heads: attention block path -> parameter, shape `(query heads,)`; KV groups are
            scored by their heads, so that one estimation serves either `head_granularity`.
        neurons: feed-forward block path -> parameter, shape `(neurons,)`.
    """

    def __init__(self, model: PreTrainedModel, shape: ModelShape, *, l1: float) -> None:
        super().__init__()
        self._l1 = l1
        self.heads: dict[str, nn.Parameter] = {}
        self.neurons: dict[str, nn.Parameter] = {}
        for block in shape.blocks:
            linear = model.get_submodule(block.output_projection)
            device = next(linear.parameters()).device
            mask = nn.Parameter(torch.ones(block.units, device=device))
            group = self.heads if block.path in shape.heads else self.neurons
            group[block.path] = mask
            hook = _make_scale_hook(mask, block.unit_size)
            self.callback(linear.register_forward_pre_hook(hook).remove)

    @property
    def by_block(self) -> dict[str, nn.Parameter]:
        """Block path -> mask, those of heads first."""
        return self.heads | self.neurons

    def parameters(self) -> list[nn.Parameter]:
        """Return all masks, those of heads first."""
        return [*self.by_block.values()]

    def compute_sizes(self) -> dict[str, Tensor]:
        """Return block path -> |mask|, on the CPU: what Light-PEFT (arXiv:2406.03792) prunes by."""
        return {block: mask.detach().abs().cpu() for block, mask in self.by_block.items()}

    def compute_l1_penalty(self) -> Tensor:
        """Return the second term of the loss, a scalar: `l1` times the sum of |mask|."""
        masks = self.parameters()
        sums = [mask.abs().sum().to(masks[0].device) for mask in masks]
        return self._l1 * torch.stack(sums).sum()

    def compute_taylor_scores(self) -> list[Tensor]:
        """Return |mask * dL/dmask| of the task loss L, as each mask of `parameters` is shaped.

        The first-order change of the loss without the unit (Molchanov et al., arXiv:1611.06440; of
        heads: Michel et al., arXiv:1905.10650). The gradient of the L1 penalty is subtracted: it is
        the same for every mask.
        """
        return [
            torch.zeros_like(mask)
            if mask.grad is None  # the batch did not use its block
            else (mask * (mask.grad - self._l1 * mask.sign())).abs().detach()
            for mask in self.parameters()
        ]


def _make_scale_hook(mask: nn.Parameter, unit: int) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        factors = mask.repeat_interleave(unit) if unit > 1 else mask
        return (args[0] * factors.to(args[0]), *args[1:])

    return hook
