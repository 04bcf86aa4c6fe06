"""A block without heads or neurons multiplies no matrices and compares no tokens."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.block_shape import AttentionBlock
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.config_view import ConfigView, unwrap_config

_UNREAD_ATTENTION = "lightpeft_unread"


class _UnreadLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        """Return numbers of the right size: what the block makes of them is not read."""
        return _repeat_first_channel(x, self.out_features)


class _UnreadConv1D(Conv1D):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Return numbers as `_UnreadLinear`."""
        return _repeat_first_channel(x, self.nf)


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
    export or a PEFT method sees what it would see otherwise; PEFT modules that are added to such a
    block later learn nothing of use. The code between them runs on a channel of their input, but
    for attention itself, where transformers' AttentionInterface calls it (not in Bloom, DeBERTa and
    Falcon, for instance). The KV cache keeps one unread head, by which it counts tokens. A block
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
        if isinstance(block, AttentionBlock):
            core: Any = model.get_submodule(block.path).get_submodule(block.attention_core)
            if "ALL_ATTENTION_FUNCTIONS" in inspect.unwrap(type(core).forward).__code__.co_names:
                core.config = ConfigView(core.config, _attn_implementation=_UNREAD_ATTENTION)


def _skip_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor | None]:
    """Return a view of the right size, and that no token attends to any other.

    Args:
        query: [rows, heads, queries, channels].
        key: [rows, KV groups, keys, channels].
        value: [rows, KV groups, keys, channels of a value].

    Returns:
        [rows, queries, heads, channels of a value]; [rows, heads, queries, keys], or None where
        the other blocks of the model give no weights, as with sdpa.
    """
    output = query[..., :1].expand(*query.shape[:-1], value.shape[-1])
    weights = None
    if unwrap_config(module.config)._attn_implementation == "eager":
        weights = query.new_zeros(()).expand(*query.shape[:-1], key.shape[-2])
    return output.transpose(1, 2), weights


def _repeat_first_channel(x: Tensor, outputs: int) -> Tensor:
    """Return [..., outputs]; a copy, since some models scale or clamp a projection in place."""
    return x[..., :1].repeat(*[1] * (x.dim() - 1), outputs)


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

AttentionInterface.register(_UNREAD_ATTENTION, _skip_attention)
