"""The names of the devices that measurements are made on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def read_device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{_read_processor_name()}, {torch.get_num_threads()} threads"
    return device.type


def _read_processor_name() -> str:
    """Return the processor's name on Linux, elsewhere its architecture (neither psutil nor
    platform knows more)."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
