"""Memory and time of the stage `prepare` on generated rows.

    python -m experiments.rows 5000000

Writes that many short sentences with a label to experiments/runs/rows/data/local, runs the stage
on them with the default model's tokenizer, and prints seconds, and the most private memory that any
of its processes, and all of them together, held at a time. What files are mapped is not counted:
the system takes it back when it needs room.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "experiments" / "runs" / "rows"
_WORDS = (ROOT / "README.md").read_text().split()
_SECONDS = 2.0  # between two looks at memory


def write_rows(path: Path, count: int) -> None:
    """Sentences of 3 to 12 words, with one of three labels."""
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for _ in range(count):
            out.writerow([" ".join(rng.choices(_WORDS, k=rng.randint(3, 12))), rng.randrange(3)])


def write_params(path: Path) -> None:
    """The project's settings, for the rows."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"task": "files", "train": "data/local/rows.csv", "max_truncated": 1.0}
    yaml.dump(params, path)


def private_bytes(process: psutil.Process) -> list[int]:
    """Of a process and of all that it has started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found.append(each.memory_full_info().uss)
    return found


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    count = parser.parse_args().rows
    (FOLDER / "data" / "local").mkdir(parents=True, exist_ok=True)
    write_rows(FOLDER / "data" / "local" / "rows.csv", count)
    write_params(FOLDER / "params.yaml")
    began, one, together = time.monotonic(), 0, 0
    command = [sys.executable, "-m", "pipeline", "prepare"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    stage = subprocess.Popen(command, cwd=FOLDER, env=os.environ | {"PYTHONPATH": paths})
    while stage.poll() is None:
        found = private_bytes(psutil.Process(stage.pid)) or [0]
        one, together = max(one, *found), max(together, sum(found))
        time.sleep(_SECONDS)
    seconds = time.monotonic() - began
    print(
        f"{count:,} rows: {seconds:.0f} s, {count / seconds:,.0f} rows a second; at most "
        f"{one / 2**20:.0f} MiB in one process, {together / 2**20:.0f} MiB in all"
    )
    sys.exit(stage.returncode)


if __name__ == "__main__":
    main()
