"""`LIGHTPEFT_PROCESSES=2`: start a stage in several processes, as torchrun does on one machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.common.errors import ConfigError, PipelineError
from pipeline.common.ranks import LAUNCHED, PROCESSES

_THREADS = "OMP_NUM_THREADS"
# How a process ends because another did.
_LOST_CONNECTION = re.compile(r"connection|broken pipe|gloo|nccl|timed out", re.IGNORECASE)


def launch(processes: int, command: Sequence[str]) -> None:
    """Run a stage in several processes of this machine; if one ends, all do.

    Args:
        processes: their number, on a machine with GPUs at most one for each.
        command: stage and method.

    Raises:
        ConfigError: there are too few GPUs.
        PipelineError: a process was killed, or stopped by a user's mistake.
        SystemExit: by a bug, with its traceback.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ConfigError(f"{PROCESSES} must be at most {gpus}, as many as GPUs, got {processes}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault(_THREADS, str(max(1, (cores or 1) // processes)))
    # DistributedDataParallel warns where no weight is unused, which it has to look for.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ[LAUNCHED] = "1"
    logging.disable()  # torch's lines about processes that ended
    numbers = {n for n in signal.Signals if n.name in ("SIGINT", "SIGTERM", "SIGHUP")}
    handlers = {number: signal.getsignal(number) for number in numbers}
    heeded = [n.name for n, handler in handlers.items() if handler is not signal.SIG_IGN]
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="lightpeft",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            signals_to_handle=",".join(heeded),
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "pipeline", *command)
        except ChildFailedError as error:
            message = describe_failure(error.failures, processes, " ".join(command))
            if message.startswith("Traceback"):
                sys.exit(message)
            raise PipelineError(message.removeprefix("error: ")) from None
        except SignalException as stop:
            caught = stop.sigval
        else:
            return
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.raise_signal(caught)


def describe_failure(failures: Mapping[int, ProcessFailure], processes: int, name: str) -> str:
    """Return what ended a stage: the line or traceback of the process that ended first.

    A process that loses the connection to another one ends too, and what it says is left out.

    Args:
        failures: those that ended, by their number from 0.
        processes: the number of all.
        name: of the stage.
    """
    written = {
        number: failure.message
        for number, failure in failures.items()
        if "nanoseconds" in failure.error_file_data
    }
    first = sorted(written, key=lambda n: failures[n].error_file_data["nanoseconds"])
    mistakes = [written[n] for n in first if written[n].startswith("error: ")]
    others = [written[n] for n in first if not _LOST_CONNECTION.search(written[n].splitlines()[-1])]
    if mistakes or others:
        return (mistakes or others)[0]
    for number, failure in failures.items():
        # SIGTERM is how those that are left are ended.
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return (
                f"process {number + 1} of {processes} of {name} was killed "
                f"(signal {-failure.exitcode}); run the command again to go on"
            )
    if first:
        return written[first[0]]
    number, failure = min(failures.items())
    return (
        f"process {number + 1} of {processes} of {name} ended with exit code {failure.exitcode}; "
        "run the command again to go on"
    )
