"""Checkpoints of a training that may be killed: safetensors and JSON, replaced as a whole."""

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
    made_from: dict[str, Any],
    curve: list[float],
) -> None:
    """Write weights, the optimizers' state, and how far it has got."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(weights, part / "weights.safetensors")
    save_file(_state(optimizers), part / "optimizer.safetensors")
    write_json(part / "progress.json", {"made_from": made_from, "curve": curve})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_progress(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    made_from: dict[str, Any],
) -> list[float]:
    """Put weights and state back; the curve so far, empty where nothing made from the same is."""
    if not folder.is_dir():
        return []
    record = read_json(folder / "progress.json")
    if record.get("made_from") != made_from:
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


def _state(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    return {
        f"{which}.{index}.{name}": value
        for which, optimizer in enumerate(optimizers)
        for index, found in optimizer.state_dict()["state"].items()
        for name, value in found.items()
    }
