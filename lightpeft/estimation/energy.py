"""Energy of heads and neurons: how much of what their block puts out each of them carries."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.errors import ScoresError
from lightpeft.core.shape import ModelShape
from lightpeft.estimation.importance import compute_norms, find_real_tokens
from lightpeft.modeling.families import find_attention_mask_name
from lightpeft.modeling.units import sum_per_unit


class InputSquares(ExitStack):
    """Sums squared inputs of all output projections over real tokens; a context manager.

    The inputs are those before masks. The sums take two float32 per head channel and neuron, on
    the device of the projection; an update needs one more copy of the projection's input at a
    time. The mean is over tokens, not over batches, so that it does not depend on how rows are
    batched. Call `start_step` before a forward pass and `finish_step` after its backward pass.
    """

    def __init__(self, model: PreTrainedModel, shape: ModelShape) -> None:
        super().__init__()
        self._paths = [block.output_projection for block in shape.blocks]
        self._batch: Mapping[str, Any] = {}
        encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        self._current: list[Tensor] = []  # squares, and the number of tokens, of this step
        for index, path in enumerate(self._paths):
            linear = model.get_submodule(path)
            device = next(linear.parameters()).device
            self._current.append(torch.zeros(shape.linears[path].inputs + 1, device=device))
            mask_name = find_attention_mask_name(path, encoder_decoder=encoder_decoder)
            hook = partial(self._accumulate, index, mask_name)
            self.callback(linear.register_forward_pre_hook(hook, prepend=True).remove)
        self._total = [torch.zeros_like(row) for row in self._current]
        first = self._total[0].device
        self._first_bad = torch.full((len(self._paths),), -1, dtype=torch.long, device=first)

    def start_step(self, batch: Mapping[str, Any]) -> None:
        """Start a step with a batch, whose attention masks say which tokens are real."""
        self._batch = batch
        for row in self._current:
            row.zero_()

    def finish_step(self, step: int, *, count: bool) -> None:
        """Add the squares of a step to the sums if `count` is set."""
        finite = torch.stack([r.isfinite().all().to(self._first_bad.device) for r in self._current])
        self._first_bad = torch.where(~finite & (self._first_bad < 0), step, self._first_bad)
        if count:
            for total, row in zip(self._total, self._current, strict=True):
                total += row

    def raise_if_not_finite(self) -> None:
        """Check all inputs so far, with a transfer to the CPU.

        Raises:
            ScoresError: an input is not a number; names the first step and module.
        """
        bad = [(step, index) for index, step in enumerate(self._first_bad.tolist()) if step >= 0]
        if bad:
            step, index = min(bad)
            raise ScoresError(
                f"step {step}: the input of {self._paths[index]} is not a number; "
                f"lower lr, or load the model in float32"
            )

    def compute_means(self) -> dict[str, Tensor]:
        """Return E[x^2] per input, by the path of the projection; 0 if no token reached it."""
        return {
            path: total[:-1] / total[-1].clamp_min(1)
            for path, total in zip(self._paths, self._total, strict=True)
        }

    @torch.no_grad()
    def _accumulate(
        self, index: int, mask_name: str, module: nn.Module, args: tuple[Tensor, ...]
    ) -> None:
        # A layer that runs several times per step counts each time. Activation checkpointing runs
        # this twice, which doubles squares and tokens.
        inputs, row = args[0].detach(), self._current[index]
        real = find_real_tokens(self._batch.get(mask_name), inputs)
        if real is None:
            tokens: Tensor | int = inputs.shape[:-1].numel()
        else:
            tokens, inputs = real.sum(), inputs.masked_fill(~real[..., None], 0)
        row[:-1] += compute_norms(inputs.flatten(0, -2), dim=0).square()
        row[-1] += tokens


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
