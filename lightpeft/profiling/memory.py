"""Peak memory of each phase: the CUDA allocator's, or a fresh process's RSS."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel

from lightpeft.core.errors import LightPeftError
from lightpeft.profiling.random_batches import list_phases, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.timing import STEPS

# Every tensor from this size is mapped by itself and given back when freed, so that a process's
# RSS is what is alive, and not what glibc keeps for later.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class MemoryTracker(Protocol):
    """Reads bytes in use."""

    how: str

    def now(self) -> int:
        """Bytes in use."""

    def reset(self) -> None:
        """Forget the peak."""

    def peak(self) -> int:
        """Most bytes in use since `reset`."""


class CudaMemoryTracker:
    """Bytes in tensors, by torch's allocator: without the CUDA context and what it caches."""

    how = "torch.cuda.max_memory_allocated"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> int:
        """Bytes in tensors."""
        return torch.cuda.memory_allocated(self.device)

    def reset(self) -> None:
        """Forget the peak, and give cached blocks back."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Most bytes in tensors since `reset`."""
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


class ProcessMemoryTracker:
    """Resident memory of this process, by the Linux kernel."""

    how = "peak resident memory (VmHWM) of a fresh process"

    def now(self) -> int:
        """Resident bytes."""
        return self._read("VmRSS")

    def reset(self) -> None:
        """Forget the peak: writing 5 there sets VmHWM to VmRSS (man 5 proc)."""
        _CLEAR.write_text("5")

    def peak(self) -> int:
        """Most resident bytes since `reset`."""
        return self._read("VmHWM")

    def _read(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        assert found, name
        return int(found[1]) * 1024


def can_measure_memory(device: torch.device) -> bool:
    """Whether memory can be measured: on CUDA, and on a CPU under Linux."""
    on_linux = _STATUS.exists() and os.access(_CLEAR, os.W_OK)
    return device.type == "cuda" or (device.type == "cpu" and on_linux)


def measure_peak_memory(
    build_model: Callable[[], PeftModel],
    settings: ProfilingSettings,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Measure one model alone: weights, activations, and in training gradients and optimizer.

    All bytes are over a baseline: what is in use after the model was built, used for a row and
    dropped again. So libraries, thread pools and workspaces don't count, and neither does what
    loading and pruning need for a moment. Steps have the largest of `settings.batch_sizes`.

    On a CPU call it in a process of its own (`run_in_subprocess`).

    Args:
        build_model: makes the model, with its trainable weights, on `device`.
        settings: `batch_sizes` and `length`.
        device: where the model lives.

    Returns:
        `model_bytes` (of the weights), bytes of each phase (`training_bytes` and so on), `rows`,
        `how`.
    """
    tracker: MemoryTracker = (
        CudaMemoryTracker(device) if device.type == "cuda" else ProcessMemoryTracker()
    )
    _peak(build_model(), "training", rows=1, length=settings.length, tracker=tracker)
    gc.collect()
    baseline = tracker.now()
    model = build_model()
    weights = [*model.parameters(), *model.buffers()]
    for tensor in weights:
        # A safetensors file is mapped, and its pages count only when touched: make them ours.
        tensor.data = tensor.data.clone()
    gc.collect()
    rows = max(settings.batch_sizes)
    peaks = {
        phase: _peak(model, phase, rows=rows, length=settings.length, tracker=tracker) - baseline
        for phase in reversed(list_phases(model))  # training last: it makes optimizer states
    }
    return {
        "model_bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights),
        **{f"{phase}_bytes": peak for phase, peak in peaks.items()},
        "rows": rows,
        "how": f"{tracker.how}, over what was in use before the model was built",
    }


def run_in_subprocess(command: Sequence[str]) -> dict[str, Any]:
    """Run a command that ends by writing one line of JSON, and read that.

    Raises:
        LightPeftError: the command failed; its last line of errors is passed on.
    """
    done = subprocess.run(
        command,
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if last.startswith("error: "):
            raise LightPeftError(last.removeprefix("error: "))
        if done.returncode == -signal.SIGKILL:
            raise LightPeftError("measuring memory was killed, probably out of memory")
        raise LightPeftError(f"measuring memory failed: {last}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _peak(model: PeftModel, phase: str, *, rows: int, length: int, tracker: MemoryTracker) -> int:
    """Most bytes in use during three steps."""
    step = STEPS[phase](model, make_random_batch(model, rows=rows, length=length))
    tracker.reset()  # what decode needs is not what filling its cache took
    for _ in range(3):
        step()
    return tracker.peak()
