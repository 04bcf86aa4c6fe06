"""Importance of heads, neurons, PEFT modules and ranks, summed on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lightpeft.core.errors import ModelError, ScoresError
from lightpeft.modeling.families import attention_mask_name
from lightpeft.modeling.masks import Masks

_TINY = 1e-12


def rank_importance(a: Tensor, grad_a: Tensor) -> Tensor:
    """Score each LoRA rank by the first-order loss change of removing it.

    Rank-level pruning in Light-PEFT (arXiv:2406.03792). For ``W + s * B @ A``,
    removing rank ``j`` changes the loss by about ``|<A[j], dL/dA[j]>|``.
    ``B`` gives the same number: scaling ``A[j]`` or ``B[:, j]`` scales one product.

    Deviation: the authors take means over each side, which also carries
    ``1/in + 1/out`` (`ImportanceTracker` adds it when ``reduction`` is ``mean``); that changes the
    ranking across modules, not within one.

    Args:
        a: LoRA A, shape ``(rank, in_features)``.
        grad_a: its gradient, same shape.

    Returns:
        Non-negative float32 scores, shape ``(rank,)``.
    """
    if a.shape != grad_a.shape:
        raise ValueError(
            f"a and grad_a must have one shape, got {tuple(a.shape)} and {tuple(grad_a.shape)}"
        )
    return (a.float() * grad_a.float()).sum(dim=1).abs()


def module_importance(delta: Tensor, base: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Score a PEFT module by the size of its output relative to that of the linear under it.

    Module-level pruning in Light-PEFT: mean over real tokens of ``|delta(x)| / |W x + b|``.

    Args:
        delta: output of the module, scaling included, shape ``(..., out_features)``.
        base: output of the frozen linear, same shape.
        attention_mask: 1 for real tokens, 0 for padding; ignored if ``delta`` has another number of
            vectors, none of which is padding then (patches of an image, positions).

    Returns:
        A scalar, in float32 or the wider type of ``delta``.
    """
    ratio = _norms(delta) / _norms(base).clamp_min(_TINY)
    if attention_mask is None or attention_mask.numel() != ratio.numel():
        return ratio.mean()
    real = attention_mask.to(ratio.device).reshape(ratio.shape).float()
    return (ratio * real).sum() / real.sum()


class _DeviceAccumulator:
    """The sums over steps for the LoRA layers on one device, one row per layer."""

    def __init__(self, device: torch.device, width: int, *, layers: dict[int, LoraLayer]) -> None:
        self.index, self.layers = list(layers), list(layers.values())
        self.now = torch.zeros(len(layers), device=device)
        self.modules = torch.zeros(len(layers), device=device)
        self.ranks = torch.zeros(len(layers), width, device=device)
        # The first step with a score that is not finite. Row 0: in the forward pass, where NaN
        # appears first in the module that causes it; row 1: in gradients, where it is everywhere.
        self.first_bad = torch.full((2, len(layers)), -1, dtype=torch.long, device=device)

    def finish_step(self, step: int, *, count: bool, reduction: str) -> None:
        """Read the gradients of a step, and add its scores to the sums if `count` is set."""
        ranks = torch.zeros_like(self.ranks)
        for row, layer in enumerate(self.layers):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            if a.grad is None:  # the batch did not use this layer
                continue
            score = rank_importance(a, a.grad)
            if reduction == "mean":
                score = score * (1 / a.shape[1] + 1 / b.shape[0])
            ranks[row, : len(score)] = score
        is_finite = torch.stack([self.now.isfinite(), ranks.isfinite().all(dim=1)])
        self.first_bad = torch.where(~is_finite & (self.first_bad < 0), step, self.first_bad)
        if count:
            self.modules += self.now
            self.ranks += ranks


class ImportanceTracker:
    """Sums importance over steps on the layers' devices; a context manager.

    No step waits for a transfer from a device. Call `start_step` before a forward pass and
    `finish_step` after its backward pass, before gradients are clipped and the optimizer steps.
    """

    def __init__(self, model: nn.Module, masks: Masks, *, reduction: str) -> None:
        self._layers = {
            name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
        }
        self._masks, self._reduction = masks, reduction
        config = getattr(model, "config", None)
        encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        width = max(layer.r["default"] for layer in self._layers.values())
        by_device: dict[torch.device, dict[int, LoraLayer]] = {}
        for index, layer in enumerate(self._layers.values()):
            by_device.setdefault(layer.lora_A["default"].weight.device, {})[index] = layer
        self._sums = [
            _DeviceAccumulator(device, width, layers=layers) for device, layers in by_device.items()
        ]
        self._taylor = [torch.zeros_like(mask) for mask in masks.parameters()]
        self._counted = 0
        self._keys = [
            attention_mask_name(_strip_peft_prefix(name), encoder_decoder=encoder_decoder)
            for name in self._layers
        ]
        self._batch: Mapping[str, Any] = {}
        self._calls = [0] * len(self._layers)
        self._base: dict[int, Tensor] = {}
        self._handles = []
        for sums in self._sums:
            for row, (index, layer) in enumerate(zip(sums.index, sums.layers, strict=True)):
                record, scaling = self._record_base_output(index), layer.scaling["default"]
                accumulate = self._accumulate_ratio(index, scaling, sums, row)
                self._handles.append(layer.base_layer.register_forward_hook(record))
                self._handles.append(layer.lora_B["default"].register_forward_hook(accumulate))

    def start_step(self, batch: Mapping[str, Any]) -> None:
        """Start a step with a batch, whose attention masks say which tokens are real."""
        self._batch = batch
        self._base.clear()  # activation checkpointing may stop between a layer's two hooks
        self._calls = [0] * len(self._layers)
        for sums in self._sums:
            sums.now = torch.zeros_like(sums.now)

    @torch.no_grad()
    def finish_step(self, step: int, *, count: bool) -> None:
        """Read the gradients of a step, and add its scores to the sums if `count` is set."""
        for sums in self._sums:
            sums.finish_step(step, count=count, reduction=self._reduction)
        if count:
            self._counted += 1
            for total, now in zip(self._taylor, self._masks.taylor_scores(), strict=True):
                total += now

    def raise_if_not_finite(self) -> None:
        """Check all scores so far; this is the only transfer from the devices, so call it rarely.

        Raises:
            ScoresError: a score is not a number; names the first step and module.
        """
        first_bad = self._gather_layers([sums.first_bad.T for sums in self._sums]).T.flatten()
        if (first_bad >= 0).any():
            index = int(torch.where(first_bad >= 0, first_bad, first_bad.max() + 1).argmin())
            name = _strip_peft_prefix(list(self._layers)[index % len(self._layers)])
            raise ScoresError(
                f"step {int(first_bad[index])}: the importance of {name} is not a number; "
                f"lower lr, or load the model in float32"
            )

    def importances(self) -> tuple[dict[str, float], dict[str, Tensor], list[Tensor]]:
        """Return means over the counted steps: of modules, ranks, and the masks' Taylor scores."""
        modules = self._gather_layers([sums.modules / self._counted for sums in self._sums])
        ranks = self._gather_layers([sums.ranks / self._counted for sums in self._sums])
        names = [_strip_peft_prefix(name) for name in self._layers]
        sizes = [layer.r["default"] for layer in self._layers.values()]
        return (
            {name: float(value) for name, value in zip(names, modules, strict=True)},
            {n: row[:r].clone() for n, row, r in zip(names, ranks, sizes, strict=True)},
            [(total / self._counted).cpu() for total in self._taylor],
        )

    def __enter__(self) -> ImportanceTracker:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _gather_layers(self, parts: list[Tensor]) -> Tensor:
        """Concatenate the rows of all devices on the CPU, in the order of the layers."""
        order = torch.tensor([index for sums in self._sums for index in sums.index])
        return torch.cat([part.cpu() for part in parts])[order.argsort()]

    def _record_base_output(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if args[0].requires_grad and torch.is_grad_enabled() and not output.requires_grad:
                name = _strip_peft_prefix(list(self._layers)[index])
                raise ModelError(
                    f"{name} passes no gradient on, so no module below it can be scored; "
                    f"use a quantization that gradients pass through"
                )
            self._base[index] = output.detach()

        return hook

    def _accumulate_ratio(
        self, index: int, scaling: float, sums: _DeviceAccumulator, row: int
    ) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            # The output of lora_B itself: in bfloat16 the difference of two sums would lose it. A
            # layer that runs several times per step gets the mean. Activation checkpointing runs
            # this twice, with the same result.
            ratio = module_importance(
                output.detach() * scaling, self._base.pop(index), self._batch.get(self._keys[index])
            )
            self._calls[index] += 1
            sums.now[row] += (ratio - sums.now[row]) / self._calls[index]

        return hook


def _norms(vectors: Tensor) -> Tensor:
    """Return L2 norms over the last dimension, summed in float32 or wider."""
    wide = torch.promote_types(vectors.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=wide)
    return norms


def _strip_peft_prefix(name: str) -> str:
    return name.removeprefix("base_model.model.")
