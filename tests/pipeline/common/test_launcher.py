"""What is said when processes that run a stage together end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from pipeline.common.launcher import describe_failure
from pipeline.common.ranks import LAUNCHED, leave_with_error

LOST = "Traceback\nRuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer"
BUG = "Traceback\nKeyError: 'layer'"


def fail(folder: Path, number: int, code: int, message: str = "", *, after: int = 0):
    """A process that ended so many nanoseconds after another one, and what it wrote."""
    file = folder / f"{number}.json"
    if message:
        file.write_text(
            json.dumps({"message": message, "timestamp": 1, "nanoseconds": 10**9 + after})
        )
    return ProcessFailure(local_rank=number, pid=1, exitcode=code, error_file=str(file))


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        ((1, LOST), (-9,), "process 2 of 2 of finetune light was killed (signal 9); run"),
        ((-15,), (-9,), "process 2 of 2 of finetune light was killed (signal 9); run"),
        ((1, "error: a"), (1, "error: b"), "error: b"),
        ((1, LOST), (1, "error: b"), "error: b"),
        ((1, LOST), (1, BUG), BUG),
        ((-9,), (1, BUG), BUG),
        ((1, LOST), (1, LOST), LOST),
        ((143,), (143,), "process 1 of 2 of finetune light ended with exit code 143; run"),
    ],
)
def test_the_process_that_ended_first_says_why(tmp_path, first, second, line):
    failures = {0: fail(tmp_path, 0, *first, after=1), 1: fail(tmp_path, 1, *second)}

    assert describe_failure(failures, 2, "finetune light").startswith(line)


def test_an_error_of_a_started_process_is_printed_by_the_one_that_started_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(LAUNCHED, "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0.json"))

    with pytest.raises(SystemExit) as stop:
        leave_with_error("error: wrong")
    assert stop.value.code == 1
    assert capsys.readouterr() == ("", "")
    assert describe_failure({0: fail(tmp_path, 0, 1)}, 1, "estimate") == "error: wrong"
