"""Importance of heads, neurons, PEFT modules and ranks, summed over steps on the device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lightpeft.core.errors import ModelError, ScoresError, Term
from lightpeft.core.names import PEFT_PREFIX
from lightpeft.estimation.block_sums import BlockSums
from lightpeft.estimation.processes import count_processes, sum_over_processes
from lightpeft.modeling.families import find_attention_mask_name
from lightpeft.modeling.masks import Masks
from lightpeft.peft_methods.registry import find_method

_TINY = 1e-12


def score_ranks(a: Tensor, grad_a: Tensor) -> Tensor:
    """Score each rank of a PEFT module by the first-order loss change of removing it.

    Rank-level pruning in Light-PEFT (arXiv:2406.03792). For ``W + s * B @ A``,
    removing rank ``j`` changes the loss by about ``|<A[j], dL/dA[j]>|``.
    ``B`` gives the same number: scaling ``A[j]`` or ``B[:, j]`` scales one product. Of a bottleneck
    adapter ``U f(D x + d)``, it is ``|<U[:, j], dL/dU[:, j]>|``.

    Deviation: the authors take means over each side, which also carries
    ``1/in + 1/out`` (`ImportanceTracker` adds it when ``reduction`` is ``mean``); that changes the
    ranking across modules, not within one.

    Args:
        a: LoRA A, shape ``(rank, in_features)``, or another weight with a row per rank.
        grad_a: its gradient, same shape.

    Returns:
        Non-negative float32 scores, shape ``(rank,)``.
    """
    if a.shape != grad_a.shape:
        raise ValueError(
            f"a and grad_a must have one shape, got {tuple(a.shape)} and {tuple(grad_a.shape)}"
        )
    return (a.float() * grad_a.float()).sum(dim=1).abs()


def score_module(delta: Tensor, base: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Score a PEFT module by the size of its output relative to what it is added to or made from.

    Module-level pruning in Light-PEFT: mean over real tokens of ``|delta(x)| / |W x + b|`` of LoRA,
    and of ``|delta(x)| / |x|`` of a bottleneck adapter.

    Args:
        delta: output of the module, shape ``(..., out_features)``; the score of a scaled one is the
            scaling times its score.
        base: output of the frozen linear, or what the adapter reads; same shape.
        attention_mask: 1 for real tokens, 0 for padding; ignored if ``delta`` has another number of
            vectors, none of which is padding then (patches of an image, positions).

    Returns:
        A scalar, in float32 or the wider type of ``delta``.
    """
    ratio = compute_norms(delta) / compute_norms(base).clamp_min(_TINY)
    real = find_real_tokens(attention_mask, delta)
    if real is None:
        return ratio.mean()
    return (ratio * real).sum() / real.sum()


def find_real_tokens(attention_mask: Tensor | None, vectors: Tensor) -> Tensor | None:
    """Return which vectors are of real tokens, or None if the mask is not of these vectors."""
    if attention_mask is None or attention_mask.numel() != vectors.shape[:-1].numel():
        return None
    return attention_mask.to(vectors.device).reshape(vectors.shape[:-1]) != 0


class ImportanceTracker(ExitStack):
    """Sums importance over steps; a context manager.

    The sums are on the device of the first layer; masks' scores on those of the masks. No step
    waits for a transfer to the CPU. Call `start_step` before a forward pass and `finish_step` after
    its backward pass, before gradients are clipped and the optimizer steps. Of several processes,
    the gradients must be averaged by then; module scores are averaged here, over their tokens.

    Attributes:
        masks: of heads and neurons, as they were given.
        sums: of the counted steps.
    """

    def __init__(self, model: PeftModel, masks: Masks, *, reduction: str) -> None:
        super().__init__()
        method = find_method(model.peft_config["default"])
        self._layers = {
            name.removeprefix(PEFT_PREFIX): method.get_parts(module)
            for name, module in model.named_modules()
            if isinstance(module, method.layer_class)
        }
        self.masks, self._reduction = masks, reduction
        self._batch: Mapping[str, Any] = {}
        self._references: dict[int, Tensor] = {}
        self._calls = [0] * len(self._layers)
        sizes = [parts.rank for parts in self._layers.values()]
        device = next(iter(self._layers.values())).weight.device
        self._current = torch.zeros(len(sizes), device=device)  # of modules, in this step
        self._tokens = torch.zeros_like(self._current)  # real ones; counted in several processes
        self._max_rank = max(sizes)
        rank_sums = torch.zeros(len(sizes), self._max_rank, device=device)
        taylor_sums = [torch.zeros_like(mask) for mask in masks.parameters()]
        self.sums = BlockSums([torch.zeros_like(self._current), rank_sums, *taylor_sums])
        # The first step with a score that is not finite. Row 0: in the forward pass, where NaN
        # appears first in the module that causes it; row 1: in gradients, where it is everywhere.
        self._first_bad = torch.full((2, len(sizes)), -1, dtype=torch.long, device=device)
        config = getattr(model, "config", None)
        encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        for index, (name, parts) in enumerate(self._layers.items()):
            base = model.get_submodule(f"{PEFT_PREFIX}{name}").base_layer
            record = partial(self._record_reference, index, parts.takes_input)
            mask_name = find_attention_mask_name(name, encoder_decoder=encoder_decoder)
            accumulate = partial(self._accumulate_ratio, index, parts.scaling, mask_name)
            self.callback(base.register_forward_hook(partial(_check_gradients, name)).remove)
            self.callback(parts.reference.register_forward_hook(record).remove)
            self.callback(parts.last.register_forward_hook(accumulate).remove)

    def start_step(self, batch: Mapping[str, Any]) -> None:
        """Start a step with a batch, whose attention masks say which tokens are real."""
        self._batch = batch
        self._references.clear()  # activation checkpointing may stop between a layer's two hooks
        self._calls = [0] * len(self._layers)
        self._current = torch.zeros_like(self._current)
        self._tokens.zero_()

    @torch.no_grad()
    def finish_step(self, step: int, *, count: bool) -> None:
        """Read the gradients of a step, and add its scores to the sums if `count` is set."""
        if count_processes() > 1:
            sums = torch.stack([self._current * self._tokens, self._tokens])
            weighted, tokens = sum_over_processes(sums)
            self._current = weighted / tokens.clamp_min(1)
        ranks = self._current.new_zeros(len(self._layers), self._max_rank)
        for row, parts in enumerate(self._layers.values()):
            rows = parts.get_rows()
            if rows is None:  # the batch did not use this layer
                continue
            score = score_ranks(*rows)
            if self._reduction == "mean":
                score = score * sum(1 / width for width in parts.widths)
            ranks[row, : len(score)] = score.to(ranks.device)
        is_finite = torch.stack([self._current.isfinite(), ranks.isfinite().all(dim=1)])
        self._first_bad = torch.where(~is_finite & (self._first_bad < 0), step, self._first_bad)
        if count:
            self.sums.add([self._current, ranks, *self.masks.compute_taylor_scores()])

    def raise_if_not_finite(self) -> None:
        """Check all scores so far; this is the only transfer to the CPU, so call it rarely.

        Raises:
            ScoresError: a score is not a number; names the first step and module.
        """
        first_bad = self._first_bad.flatten().cpu()
        if (first_bad >= 0).any():
            index = int(torch.where(first_bad >= 0, first_bad, first_bad.max() + 1).argmin())
            raise ScoresError(
                f"step {int(first_bad[index])}: the importance of "
                f"{list(self._layers)[index % len(self._layers)]} is not a number; "
                f"{Term.LOWER_LR}"
            )

    def compute_importances(self) -> tuple[dict[str, float], dict[str, Tensor], dict[str, Tensor]]:
        """Return means over the counted steps: of modules, ranks, and of blocks' Taylor scores."""
        modules, ranks = (total / self.sums.steps for total in self.sums.compute_totals()[:2])
        return (
            dict(zip(self._layers, modules.tolist(), strict=True)),
            {
                name: row[: parts.rank].clone()
                for (name, parts), row in zip(self._layers.items(), ranks.cpu(), strict=True)
            },
            {
                block: row.cpu()
                for block, row in zip(self.masks.by_block, self.compute_taylor(), strict=True)
            },
        )

    def compute_taylor(self) -> list[Tensor]:
        """Return the means of the masks' Taylor scores over the counted steps so far."""
        return [total / self.sums.steps for total in self.sums.compute_totals()[2:]]

    def _record_reference(
        self, index: int, takes_input: bool, module: nn.Module, args: Any, output: Tensor
    ) -> None:
        self._references[index] = (args[0] if takes_input else output).detach()

    def _accumulate_ratio(self, index: int, scaling: float, mask_name: str, *call: Any) -> None:
        # What the last linear returns: in bfloat16 the difference of two sums would lose it. A
        # layer that runs several times per step gets the mean. Activation checkpointing runs
        # this twice, with the same result.
        delta, base = call[-1].detach(), self._references.pop(index)
        mask = self._batch.get(mask_name)
        ratio = scaling * score_module(delta, base, mask)
        if count_processes() > 1:
            real = find_real_tokens(mask, delta)
            self._tokens[index] += delta.shape[:-1].numel() if real is None else real.sum()
        self._calls[index] += 1
        difference = ratio.to(self._current.device) - self._current[index]
        self._current[index] += difference / self._calls[index]


def _check_gradients(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
    if args[0].requires_grad and torch.is_grad_enabled() and not output.requires_grad:
        raise ModelError(
            f"{name} passes no gradient on, so no module below it can be scored; "
            f"use a quantization that gradients pass through"
        )


def compute_norms(vectors: Tensor, *, dim: int = -1) -> Tensor:
    """Return L2 norms over a dimension, summed in float32 or wider."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=dim, dtype=dtype)
    return norms
