"""Time light and stock LoRA on published model sizes: training, prefill and decode, on one GPU.

    python -m experiments.gpu
    python -m experiments.gpu --minutes 30 --cases llama-2-7b
    python -m experiments.gpu table

Needs torch, transformers, peft, safetensors and pydantic, no data and no download: weights are
random. Methods of a group take turns, as in lightpeft.benchmark. Groups come in the order of their
value, those of a model in one process. A group's rows are written to experiments/results/gpu as
soon as it is timed; a run that was cut off goes on after the last of them. A process that crashes
or takes too long for a group is ended, and the group gets a row with the reason; when the time of
the run is over, it is ended too, and the group is left for the next run. `table` prints the rows
as Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments.gpu_groups import Job, list_jobs
from experiments.gpu_measure import Row, run_job
from experiments.gpu_models import CASES
from experiments.gpu_table import format_rows

FOLDER = Path(__file__).parent / "results" / "gpu"
SECONDS_PER_GROUP = 120.0  # with the compilation of two models of 7B parameters


class RowFile:
    """The rows of a device: a line of JSON each, written anew when one comes."""

    def __init__(self, folder: Path, device: str) -> None:
        name = re.sub(r"[^a-z0-9.]+", "-", device.lower()).strip("-")
        self.device, self.path = device, folder / f"{name}.jsonl"
        self.rows = read_rows(self.path)

    @property
    def groups(self) -> set[str]:
        """Groups that have rows."""
        return {row["group"] for row in self.rows}

    def add(self, names: Row, rows: list[Row], origin: Row) -> None:
        """Add rows of a group, or more values to its rows, by method."""
        for row in rows:
            known = [x for x in self.rows if is_row_of(x, names["group"], row["method"])]
            if known:
                known[0].update(row)
            else:
                self.rows.append(names | row | origin)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(".tmp")
        written.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows), encoding="utf-8")
        written.replace(self.path)


def is_row_of(row: Row, group: str, method: str) -> bool:
    """Return whether a row is of this method of a group."""
    return bool(row["group"] == group and row["method"] == method)


def read_rows(path: Path) -> list[Row]:
    """Read the rows that were written."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def run(arguments: argparse.Namespace, command: str) -> RowFile:
    """Measure the groups that have no rows yet, until the time is over.

    Raises:
        SystemExit: there is no such device.
    """
    deadline = time.monotonic() + 60 * arguments.minutes
    files: list[RowFile] = []
    origin = {"versions": {name: version(name) for name in ("torch", "transformers", "peft")}}

    def receive(name: str, content: Any) -> None:
        if name == "error":
            sys.exit(f"error: {content}")
        if name == "device":
            files[:] = files or [RowFile(arguments.folder, content)]
            return
        group = names[name]
        files[0].add(group, content, {"device": files[0].device} | origin | {"command": command})
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)

    start = time.monotonic()
    jobs = [*list_jobs({name: CASES[name] for name in arguments.cases})]
    names = {group.key: _describe_group(group) for job in jobs for group in job}
    _run_process((), arguments, math.inf, receive)  # which device: its rows may be there already
    if not files:
        sys.exit("error: the device could not be used; see above")
    for job in jobs:
        while missing := tuple(group for group in job if group.key not in files[0].groups):
            if time.monotonic() >= deadline:
                left = len(names.keys() - files[0].groups)
                print(f"{left} groups are left; run it again", file=sys.stderr)
                return files[0]
            reason = _run_process(missing, arguments, deadline, receive)
            failed = [group.key for group in missing if group.key not in files[0].groups]
            if failed and time.monotonic() < deadline:
                receive(failed[0], [{"method": "-", "error": reason}])
    return files[0]


def _run_process(
    job: Job, arguments: argparse.Namespace, deadline: float, receive: Callable[[str, Any], None]
) -> str | None:
    """Measure groups in a process; return why it ended before they all were, None if it did not."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    target = (job, arguments.device, arguments.rounds, sender)
    process = context.Process(target=run_job, args=target)
    process.start()
    sender.close()
    limit = math.inf  # until it has imported its libraries, maybe from a slow disk
    try:
        while _has_message(receiver, min(limit, deadline - time.monotonic())):
            limit = SECONDS_PER_GROUP
            name, content = receiver.recv()
            if name == "end":
                return None
            receive(name, content)
        return f"stopped after {limit:.0f} s"
    except EOFError:
        process.join()
        return f"the process ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _has_message(receiver: Connection, seconds: float) -> bool:
    """Wait for a message or for the end of the process; return whether there is one in time."""
    return receiver.poll(None if seconds == math.inf else max(0.0, seconds))


def _describe_group(group: Any) -> Row:
    """Return what all rows of a group have in common."""
    return {
        "group": group.key,
        "ratios": group.ratios,
        "phase": group.phase,
        "form": group.form,
        "case": group.case.shape,
        "rows": group.case.rows,
        "tokens": group.case.tokens,
    }


def main(argv: list[str]) -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--minutes", type=float, default=8.0, help="the run ends after these")
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds, at least 3")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the rows")
    arguments = parser.parse_args(argv)
    if arguments.action == "run":
        rows = run(arguments, shlex.join(["python", "-m", "experiments.gpu", *argv])).rows
        print(format_rows(rows))
        return
    for path in sorted(arguments.folder.glob("*.jsonl")):
        print(format_rows(read_rows(path)))


if __name__ == "__main__":
    main(sys.argv[1:])
