"""Linears of a block without heads or neurons, which run no matrix product."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.plan import PruningPlan


class _UnreadLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        """Return a view of the right size: what the block makes of it is not read."""
        return x[..., :1].expand(*x.shape[:-1], self.out_features)


class _UnreadConv1D(Conv1D):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Return a view as `_UnreadLinear`."""
        return x[..., :1].expand(*x.shape[:-1], self.nf)


class _BiasLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        """Return the bias for each token."""
        return _repeat_bias(self.bias, x, self.out_features)


class _BiasConv1D(Conv1D):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Return the bias for each token."""
        return _repeat_bias(self.bias, x, self.nf)


def skip_emptied_blocks(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Let blocks that keep no head or neuron add their output projection's bias, and no more.

    Their linears, sliced to one unread unit, keep weights, names and base class: a state dict, an
    export or a PEFT method sees what it would see otherwise. The code between them runs on a view
    of their input: in attention, that of one head, by which the KV cache counts tokens. A block
    runs as before if PEFT modules are on its input projections: they get zeros as gradients, where
    they would get none.
    """
    for block in plan.shape.blocks:
        ranks = [plan.ranks[path] for path in block.linears if path in plan.ranks]
        if plan.units[block.path].kept or any(rank.kept for rank in ranks):
            continue
        for path, linear in block.linears.items():
            module = model.get_submodule(path)
            is_output, is_transposed = linear.pruned_dim == "in", isinstance(module, Conv1D)
            module.__class__ = _CLASSES[is_output, is_transposed]


def _repeat_bias(bias: Tensor | None, x: Tensor, outputs: int) -> Tensor:
    shape = (*x.shape[:-1], outputs)
    if bias is None:
        return x.new_zeros(shape)
    return bias.to(x.dtype).expand(shape).contiguous()  # a model may add to it in place


_CLASSES: dict[tuple[bool, bool], type[nn.Module]] = {
    (False, False): _UnreadLinear,
    (False, True): _UnreadConv1D,
    (True, False): _BiasLinear,
    (True, True): _BiasConv1D,
}
