"""What the operating system refuses is one line that names the path."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.import_graph import ROOT

from lightpeft.core.command_line import describe_os_error, raise_hidden_exit

OUT = Path("results/out")


def refusal(number: int, *names: str) -> OSError:
    return OSError(number, "text", *names)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (refusal(errno.ENOSPC), "results/out can't be written: No space left on device"),
        (refusal(errno.EROFS, "data"), "data can't be written: Read-only file system"),
        (refusal(errno.EACCES, "data/x"), "data/x can't be accessed: Permission denied"),
        (refusal(errno.EACCES, "data/.x.17"), "results/out can't be accessed: Permission denied"),
        (refusal(errno.EDQUOT), "results/out can't be written: Disk quota exceeded"),
        (Exception("File too large (os error 27)"), "results/out can't be written: File too large"),
        (refusal(errno.ECONNREFUSED), None),
        (FileNotFoundError(errno.ENOENT, "text", "x"), None),
        (ValueError("a bug"), None),
    ],
)
def test_a_refusal_is_one_line_and_another_error_is_none(error, line):
    assert describe_os_error(error, OUT) == line


def test_the_refusal_behind_another_error_is_found():
    with pytest.raises(ValueError) as direct:  # noqa: PT011
        raise ValueError("x") from refusal(errno.ENOSPC)
    with pytest.raises(ValueError) as while_handling:  # noqa: PT011, PT012
        try:
            raise refusal(errno.ENOSPC)
        finally:
            raise ValueError("closed file")

    for found in (direct, while_handling):
        line = describe_os_error(found.value, OUT)
        assert line == "results/out can't be written: No space left on device"


def test_the_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for number in (errno.EEXIST, errno.ENOTDIR):
        line = describe_os_error(refusal(number, str(tmp_path / "file" / "a" / "b")), OUT)
        assert line == f"{tmp_path}/file is a file where a folder should be; move it away"


def test_an_error_on_the_way_out_does_not_hide_that_the_process_was_stopped():
    def fail_while_leaving():
        try:
            raise SystemExit(143)
        finally:
            raise TimeoutError

    with pytest.raises(TimeoutError) as found:
        fail_while_leaving()
    with pytest.raises(SystemExit, match="143"):
        raise_hidden_exit(found.value)
    raise_hidden_exit(ValueError("a bug"))


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_in_what_python_does_at_exit_is_one_line_too(number):
    script = f"""
import atexit, os, signal
from lightpeft.core.command_line import exit_on_signals
signal.signal({number}, signal.SIG_DFL)  # ignored where tests run in the background
exit_on_signals("it goes on")
atexit.register(os.kill, os.getpid(), {number})
print("done")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    name = {2: "SIGINT", 15: "SIGTERM"}[number]
    assert done.stderr == f"error: stopped by {name}; it goes on\n"
    assert (done.returncode, done.stdout) == (128 + number, "done\n")
