"""Checkpoints of a training that may be killed: safetensors and JSON, replaced as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.common import read_json, write_json


def save_progress(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    settings: dict[str, Any],
    curve: list[float],
) -> None:
    """Write weights, the optimizer's state, and how far it has got."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(weights, part / "weights.safetensors")
    save_file(_state(optimizer), part / "optimizer.safetensors")
    write_json(part / "progress.json", {"settings": settings, "curve": curve})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_progress(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
) -> list[float]:
    """Put weights and state back; the curve so far, empty where nothing of these settings is."""
    if not folder.is_dir():
        return []
    record = read_json(folder / "progress.json")
    if record["settings"] != settings:
        return []
    weights = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    saved = optimizer.state_dict()
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    curve: list[float] = record["curve"]
    return curve


def _state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": value
        for index, found in optimizer.state_dict()["state"].items()
        for name, value in found.items()
    }
