"""Checkpoints of a training that may be killed: safetensors and JSON, replaced atomically."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.common.files import read_json, write_json


def save_progress(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    inputs: dict[str, Any],
    curve: list[float],
) -> None:
    """Write the weights, the optimizers' state and the loss curve so far."""
    incomplete = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(weights, incomplete / "weights.safetensors")
    save_file(_collect_state(optimizers), incomplete / "optimizer.safetensors")
    write_json(incomplete / "progress.json", {"inputs": inputs, "curve": curve})
    shutil.rmtree(folder, ignore_errors=True)
    incomplete.rename(folder)


def load_progress(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    inputs: dict[str, Any],
) -> list[float]:
    """Restore weights and state of a checkpoint of these inputs; return its loss curve."""
    if not folder.is_dir():
        return []
    record = read_json(folder / "progress.json")
    if record.get("inputs") != inputs:
        return []
    weights = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    for key, value in load_file(folder / "optimizer.safetensors").items():
        which, index, name = key.split(".")
        states[int(which)].setdefault(int(index), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    curve: list[float] = record["curve"]
    return curve


def _collect_state(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    return {
        f"{which}.{index}.{name}": value
        for which, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
