"""Measure the peak memory of each phase: the CUDA allocator's, or a fresh process's RSS."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import patch_environment
from peft import PeftModel

from lightpeft.core.benchmark_result import PeakMemory, Phase
from lightpeft.core.errors import LightPeftError
from lightpeft.core.library_warnings import ignore_peft_deprecation
from lightpeft.profiling.random_batches import list_phases
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.timing import make_step

T = TypeVar("T")

# Every tensor from this size is mapped by itself and given back when freed, so that a process's
# RSS is what is alive, and not what glibc keeps for later.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# psutil has the RSS, but on Linux neither its peak nor a way to reset that.
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class CudaMemoryTracker:
    """Bytes in tensors, by torch's allocator: without the CUDA context and cached blocks."""

    how = "torch.cuda.max_memory_allocated"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def read_current(self) -> int:
        """Return the bytes in tensors."""
        return torch.cuda.memory_allocated(self.device)

    def reset_peak(self) -> None:
        """Start the peak again, and give cached blocks back."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def read_peak(self) -> int:
        """Return the most bytes in tensors since `reset_peak`."""
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)


class ProcessMemoryTracker:
    """Resident memory of this process, by the Linux kernel."""

    how = "peak resident memory (VmHWM) of a fresh process"

    def read_current(self) -> int:
        """Return the resident bytes."""
        return self._read("VmRSS")

    def reset_peak(self) -> None:
        """Set VmHWM to VmRSS, which writing 5 there does (man 5 proc)."""
        _CLEAR_REFS.write_text("5")

    def read_peak(self) -> int:
        """Return the most resident bytes since `reset_peak`."""
        return self._read("VmHWM")

    def _read(self, name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        assert match, name
        return int(match[1]) * 1024


MemoryTracker = CudaMemoryTracker | ProcessMemoryTracker


def can_measure_memory(device: torch.device) -> bool:
    """Return whether memory can be measured: on CUDA, and on a CPU under Linux."""
    on_linux = _STATUS.exists() and os.access(_CLEAR_REFS, os.W_OK)
    return device.type == "cuda" or (device.type == "cpu" and on_linux)


def measure_peak_memory(
    make_model: Callable[[], PeftModel], settings: ProfilingSettings, *, device: torch.device
) -> PeakMemory:
    """Measure one model alone: weights, activations, and in training gradients and optimizer.

    All bytes are over a baseline: what is in use after the model was built, used for a row and
    deleted again. So libraries, thread pools and workspaces don't count, and neither does what
    loading and pruning allocate for a moment. Steps have the largest of `settings.batch_sizes`.

    On a CPU call it in a process of its own (`run_in_subprocess`).

    Args:
        make_model: makes the model, with its trainable weights, on `device`.
        settings: `batch_sizes` and `length`.
        device: where the model lives.

    Returns:
        Bytes of the weights and peak bytes of each phase.
    """
    tracker = CudaMemoryTracker(device) if device.type == "cuda" else ProcessMemoryTracker()
    _measure_peak(make_model(), "training", tracker, batch_size=1, settings=settings)
    gc.collect()
    baseline = tracker.read_current()
    model = make_model()
    weights = [*model.parameters(), *model.buffers()]
    for tensor in weights:
        # A safetensors file is mapped, and its pages count only when touched: copy them.
        tensor.data = tensor.data.clone()
    gc.collect()
    batch_size = max(settings.batch_sizes)
    peaks: dict[Phase, int] = {}
    for phase in reversed(list_phases(model)):  # training last: it makes optimizer states
        peak = _measure_peak(model, phase, tracker, batch_size=batch_size, settings=settings)
        peaks[phase] = peak - baseline
    return PeakMemory(
        model_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        phase_bytes={phase: peaks[phase] for phase in list_phases(model)},
        batch_size=batch_size,
        how=f"{tracker.how}, over what was in use before the model was built",
    )


def run_in_subprocess(function: Callable[[], T]) -> T:
    """Call a function in a fresh process whose allocator returns freed memory to the system.

    Args:
        function: importable by name, or a `functools.partial` of such a one.

    Returns:
        What the function returns.

    Raises:
        LightPeftError: the function raised it, failed otherwise, or the process was killed.
    """
    # glibc reads _MALLOC when a process starts, and the pool starts its process in `submit`.
    with (
        patch_environment(**_MALLOC),
        ProcessPoolExecutor(
            max_workers=1,
            mp_context=get_context("spawn"),
            initializer=ignore_peft_deprecation,
        ) as pool,
    ):
        # The process inherits the mask: on Ctrl-C this one ends it, and it prints no traceback.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            future = pool.submit(function)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            return future.result()
        except LightPeftError:
            raise
        except BrokenProcessPool as error:
            raise LightPeftError(
                "the memory measurement process was killed (out of memory?)"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split())
            raise LightPeftError(
                f"the memory measurement failed: {type(error).__name__}: {reason}"
            ) from error
        except BaseException:  # a signal: don't wait for the measurement
            for process in pool._processes.values():
                process.kill()
            raise


def _measure_peak(
    model: PeftModel,
    phase: Phase,
    tracker: MemoryTracker,
    *,
    batch_size: int,
    settings: ProfilingSettings,
) -> int:
    """Return the most bytes in use during three steps."""
    step = make_step(phase, model, batch_size=batch_size, settings=settings)
    tracker.reset_peak()  # filling its cache takes more than a decode step
    for _ in range(3):
        step()
    return tracker.read_peak()
