"""Energy of heads and neurons: how much of what their block puts out each of them carries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.shape import ModelShape
from lightpeft.estimation.token_sums import TokenSums
from lightpeft.modeling.families import find_attention_mask_name
from lightpeft.modeling.units import sum_per_unit


class InputSquares(TokenSums):
    """Sums squared inputs of all output projections over real tokens; see `TokenSums`.

    The inputs are those before masks. The sums take two float32 per head channel and neuron, on
    the device of the projection, and one more for every further block of `BlockSums`, if the
    estimation may stop early; an update needs one more copy of the projection's input, in float32,
    at a time.
    """

    _what = "input"

    def __init__(self, model: PreTrainedModel, shape: ModelShape) -> None:
        paths = [block.output_projection for block in shape.blocks]
        linears = [model.get_submodule(path) for path in paths]
        devices = [next(linear.parameters()).device for linear in linears]
        super().__init__(paths, [shape.linears[path].inputs for path in paths], devices)
        encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        for index, (path, linear) in enumerate(zip(paths, linears, strict=True)):
            mask_name = find_attention_mask_name(path, encoder_decoder=encoder_decoder)
            hook = partial(self._accumulate, index, mask_name)
            self.callback(linear.register_forward_pre_hook(hook, prepend=True).remove)

    @torch.no_grad()
    def _accumulate(
        self, index: int, mask_name: str, module: nn.Module, args: tuple[Tensor, ...]
    ) -> None:
        if not self.is_counting:
            return
        inputs = args[0].detach()
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        squares = wide.square() if wide is inputs else wide.square_()  # one copy in either case
        real = self.find_real(mask_name, inputs)
        tokens: Tensor | int = inputs.shape[:-1].numel()
        if real is not None:
            # Not `masked_fill`, nor a norm over rows: on a CPU they take several times as long.
            squares, tokens = squares.mul_(real[..., None]), real.sum()
        self.add(index, squares.flatten(0, -2).sum(dim=0), tokens)


def score_energy(
    shape: ModelShape, mean_squares: Mapping[str, Tensor], weight_squares: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Score units by the energy that their inputs bring to the output projection.

    For neuron ``j`` of ``W x``: ``|W[:, j]|^2 E[x_j^2]``, the mean squared norm of its term, which
    is Wanda's score (arXiv:2306.11695, ``|W_ij| |X_j|``) squared and summed over a column. A head
    has the sum over its channels: correlations between channels are left out. Scores of different
    blocks can't be compared: the residual stream grows with depth, and with it what blocks add.

    Args:
        shape: of the unpruned model.
        mean_squares: path of an output projection -> E[x^2], shape `(inputs,)`.
        weight_squares: the same paths -> squared norms of the weight's columns, shape `(inputs,)`.

    Returns:
        Block path -> float32 scores, shape `(units,)`, on the CPU.
    """
    scores = {}
    for block in shape.blocks:
        path = block.output_projection
        products = mean_squares[path] * weight_squares[path].to(mean_squares[path].device)
        scores[block.path] = sum_per_unit(block.linears[path], products).cpu()
    return scores
