"""Which of the processes of a stage this one is, from the variables that torchrun sets."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from pipeline.common.errors import ConfigError

PROCESSES = "LIGHTPEFT_PROCESSES"
SHARD = "LIGHTPEFT_SHARD"
LAUNCHED = "LIGHTPEFT_LAUNCHED"  # set in processes that LIGHTPEFT_PROCESSES started


def count_processes() -> int:
    """Return the number of processes that run this stage together."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def get_rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ["RANK"]) if count_processes() > 1 else 0


def get_local_rank() -> int:
    """Return the number of this process among those of its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if count_processes() > 1 else 0


def is_main_process() -> bool:
    """Return whether this is the process that logs and writes files."""
    return get_rank() == 0


def read_requested_processes() -> int:
    """Return how many processes LIGHTPEFT_PROCESSES asks for; 1 if it is not set.

    Raises:
        ConfigError: it is not a number of processes.
    """
    text = os.environ.get(PROCESSES, "1")
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{PROCESSES} must be an integer >= 1, got {text}")
    return int(text)


def is_base_sharded() -> bool:
    """Return whether LIGHTPEFT_SHARD asks to share the base among the processes.

    Raises:
        ConfigError: it is neither 0 nor 1.
    """
    text = os.environ.get(SHARD, "0")
    if text not in ("0", "1"):
        raise ConfigError(f"{SHARD} must be 0 or 1, got {text}")
    return text == "1"


def split_batch_size(setting: str, batch_size: int, processes: int) -> int:
    """Return how many rows of each batch a process takes.

    Raises:
        ConfigError: they are not the same number for each.
    """
    if batch_size % processes:
        raise ConfigError(
            f"{setting} must be a multiple of the number of processes, {processes}, "
            f"got {batch_size}"
        )
    return batch_size // processes


def is_launched() -> bool:
    """Return whether another process of the pipeline started this one, and prints its errors."""
    return LAUNCHED in os.environ and "LOCAL_RANK" in os.environ


def leave_with_error(message: str) -> NoReturn:
    """Leave with an error, which the process that started this one prints, or else this one.

    Raises:
        SystemExit: with exit code 1.
    """
    if not is_launched():
        sys.exit(message)
    # In the format of torch.distributed.elastic, which sets the variable.
    now = time.time_ns()
    error = {"message": message, "timestamp": now // 10**9, "nanoseconds": now}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(error), encoding="utf-8")
    sys.exit(1)
