"""A stage in a process of its own, which starts in milliseconds: forked with all modules loaded."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightpeft.core.command_line import exit_on_signals
from pipeline.__main__ import STAGES, run
from pipeline.stages import benchmark

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"pipeline.stages.{stage}" for stage in STAGES])


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to a stage.

    Attributes:
        file_size: bytes that a file may have; a longer one ends as on a full disk.
        signal: sent when the stage is about to rename a file or folder ...
        renames: ... after so many others.
    """

    file_size: int | None = None
    signal: int | None = None
    renames: int = 0


def run_stage(arguments: tuple[str, ...], trouble: Trouble) -> tuple[int | None, str, str]:
    """Run `python -m pipeline ARGUMENTS` in the current folder, with temporary files in `tmp`.

    Returns:
        Exit code, standard output, standard error.
    """
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as lines:
        out, err = Path(lines) / "out", Path(lines) / "err"
        process = FORKS.Process(target=_run, args=(here, out, err, arguments, trouble))
        process.start()
        process.join(timeout=60)
        return process.exitcode, out.read_text(), err.read_text()


def _run(here: Path, out: Path, err: Path, arguments: tuple[str, ...], trouble: Trouble) -> None:
    os.chdir(here)
    os.environ.pop("DVC_ROOT", None)
    tempfile.tempdir = str(here / "tmp")
    benchmark.can_measure_memory = lambda device: False  # takes seconds
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
    if trouble.file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.file_size, trouble.file_size))
    if trouble.signal is not None:
        signal.signal(trouble.signal, signal.SIG_DFL)  # ignored where tests run in the background
        _send_at_rename(trouble.signal, trouble.renames)
    exit_on_signals("it goes on")
    run(*arguments)


def _send_at_rename(number: int, renames: int) -> None:
    left = iter(range(renames))

    def hook(event: str, _: Any) -> None:
        if event == "os.rename" and next(left, None) is None:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
