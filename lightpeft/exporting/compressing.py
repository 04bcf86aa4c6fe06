"""Write a compressed adapter, and measure what that saves and changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel

from lightpeft.core.names import COMPRESSED, WEIGHTS
from lightpeft.exporting.check import Expected
from lightpeft.exporting.record import Compression
from lightpeft.exporting.reload import compute_outputs
from lightpeft.modeling.adapters import get_adapter_state_dict, load_adapter_state_dict
from lightpeft.pruning.checkpoint import compress_result, save
from lightpeft.pruning.compression import compress_adapter, decompress_adapter
from lightpeft.pruning.prune import get_plan


def make_compressed_model(model: PeftModel, fraction: float) -> PeftModel:
    """Return a copy of a pruned model with what compressing leaves of its adapter.

    No file is written or read: an export is compared with it.

    Raises:
        ConfigError: `fraction` is not allowed.
        ModelError: the adapter is not LoRA.
    """
    compressed, plan = copy.deepcopy(model), get_plan(model)
    packed = compress_adapter(get_adapter_state_dict(model), plan, fraction)
    load_adapter_state_dict(compressed, decompress_adapter(packed, plan))
    return compressed


def write_compressed(
    model: PeftModel, folder: Path, fraction: float, expected: Expected, *, with_loss: bool
) -> tuple[Expected, Compression]:
    """Write the compressed adapter, and measure it on the batch of the check.

    Args:
        model: from `prune` or `load`.
        folder: empty; the adapter is first saved beside it.
        fraction: of the changes to keep.
        expected: what the model computes.
        with_loss: whether the batch has labels that mean something.

    Returns:
        What the compressed model must compute, and what compressing saves and changes.
    """
    whole = folder.with_name("whole")
    save(model, whole)
    compress_result(whole, folder, fraction)
    compressed = make_compressed_model(model, fraction).float().eval()
    outputs = compute_outputs(compressed, expected.batch)
    losses: list[float | None] = [None, None]
    if with_loss:
        with torch.no_grad():
            losses = [
                float(x(**expected.batch).loss)
                for x in (copy.deepcopy(model).float().eval(), compressed)
            ]
    compression = Compression(
        fraction=fraction,
        bytes_before=(whole / WEIGHTS).stat().st_size,
        bytes_after=(folder / COMPRESSED).stat().st_size,
        max_change=max(float((expected.outputs[k] - x).abs().max()) for k, x in outputs.items()),
        loss_before=losses[0],
        loss_after=losses[1],
    )
    return replace(expected, outputs=outputs), compression
