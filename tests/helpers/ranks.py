"""Several processes of torch.distributed on the CPU; they start in milliseconds, by a fork."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers.stage_process import FORKS

from pipeline.__main__ import run


def make_rank_environment(count: int) -> list[dict[str, str]]:
    """What torchrun sets for each process on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def run_in_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a module as `function(rank, *arguments)` in so many joined processes."""
    processes = [
        FORKS.Process(target=_call, args=(environment, function, rank, *arguments))
        for rank, environment in enumerate(make_rank_environment(count))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
    assert [process.exitcode for process in processes] == [0] * count


def _call(
    environment: dict[str, str], function: Callable[..., None], rank: int, *arguments: Any
) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    function(rank, *arguments)
    dist.destroy_process_group()


def run_stage_in_processes(
    count: int, *arguments: str, watch: Callable[[int], None] | None = None, **variables: str
) -> list[int | None]:
    """Run `python -m pipeline ARGUMENTS` in so many processes, as torchrun starts them.

    Args:
        count: of processes.
        arguments: stage and method.
        watch: called first in each process, with its number.
        variables: of the environment.

    Returns:
        The exit code of each.
    """
    processes = [
        FORKS.Process(target=_run, args=(Path.cwd(), environment | variables, arguments, watch))
        for environment in make_rank_environment(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
    return [process.exitcode for process in processes]


def _run(here: Path, environment: dict[str, str], arguments: tuple[str, ...], watch: Any) -> None:
    os.chdir(here)
    os.environ |= environment
    torch.set_num_threads(1)
    if watch is not None:
        watch(int(environment["RANK"]))
    run(*arguments)
