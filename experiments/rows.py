"""Measure memory and time of the stage `prepare` on generated rows.

    python -m experiments.rows 5000000

Writes that many short labelled sentences to experiments/runs/rows/data/local, runs the stage on
them with the default model's tokenizer, and prints the time and the peak of private memory of one
process and of all processes together. Memory-mapped files are not counted: the system can evict
them.
"""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from experiments.settings import ROOT, RUNS, write_params

FOLDER = RUNS / "rows"
SETTINGS = {"data": {"task": "files", "train": "data/local/rows.csv", "max_truncated": 1.0}}
_WORDS = (ROOT / "README.md").read_text().split()
_SAMPLING_SECONDS = 2.0


def write_rows(path: Path, count: int) -> None:
    """Write sentences of 3 to 12 words with one of three labels."""
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for _ in range(count):
            out.writerow([" ".join(rng.choices(_WORDS, k=rng.randint(3, 12))), rng.randrange(3)])


def measure_private_bytes(process: psutil.Process) -> list[int]:
    """Return the private memory of a process and of its children, none if it has ended."""
    sizes = []
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                sizes.append(each.memory_full_info().uss)
    return sizes


def main(rows: Annotated[int, typer.Argument(min=1, help="Number of rows.")]) -> None:
    """Measure memory and time of the stage `prepare` on generated rows."""
    (FOLDER / "data" / "local").mkdir(parents=True, exist_ok=True)
    write_rows(FOLDER / "data" / "local" / "rows.csv", rows)
    write_params(SETTINGS, FOLDER)
    start, peak_of_one, peak_of_all = time.monotonic(), 0, 0
    command = [sys.executable, "-m", "pipeline", "prepare"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    stage = subprocess.Popen(command, cwd=FOLDER, env=os.environ | {"PYTHONPATH": paths})
    while stage.poll() is None:
        sizes = measure_private_bytes(psutil.Process(stage.pid)) or [0]
        peak_of_one, peak_of_all = max(peak_of_one, *sizes), max(peak_of_all, sum(sizes))
        time.sleep(_SAMPLING_SECONDS)
    seconds = time.monotonic() - start
    print(
        f"{rows:,} rows: {seconds:.0f} s, {rows / seconds:,.0f} rows per second; peak memory "
        f"{peak_of_one / 2**20:.0f} MiB in one process, {peak_of_all / 2**20:.0f} MiB in all"
    )
    sys.exit(stage.returncode)


if __name__ == "__main__":
    typer.run(main)
