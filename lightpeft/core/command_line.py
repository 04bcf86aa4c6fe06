"""What all command lines share: refusals of the operating system, and signals, are one line."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers raise no OSError
_ACCESS = (errno.EACCES, errno.EPERM, errno.EIO)
_WRITING = (
    *(errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ETXTBSY),
)


def find_os_error_number(error: BaseException) -> int | None:
    """Return the number of the operating system's error that this error is, or names; or None."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST.search(str(error))
    return int(found[1]) if found else None


def describe_os_error(error: BaseException, path: Path) -> str | None:
    """Return one line on the path that the operating system refused, and why.

    Args:
        error: the refusal, or an error that it caused.
        path: what was written, for errors that name no path.

    Returns:
        The line; None if the error is another one, such as a bug or a connection that broke.
    """
    cause: BaseException | None = error
    while cause is not None and find_os_error_number(cause) not in (*_ACCESS, *_WRITING):
        cause = cause.__cause__ or cause.__context__  # datasets fails again while it cleans up
    if cause is None:
        return None
    number = find_os_error_number(cause) or 0
    named = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
    # A hidden name is that of a temporary file or folder beside the path.
    if isinstance(named, str) and not Path(named).name.startswith("."):
        path = Path(named)
    if number in (errno.EEXIST, errno.ENOTDIR):
        for place in (path, *path.parents):
            if place.is_file():
                return f"{place} is a file where a folder should be; move it away"
    if number == errno.EISDIR:
        return f"{path} is a folder where a file should be; move it away"
    verb = "accessed" if number in _ACCESS else "written"
    return f"{path} can't be {verb}: {os.strerror(number)}"


def raise_hidden_exit(error: BaseException) -> None:
    """Leave if the error came up while the process was leaving, as datasets' does on a signal."""
    hidden: BaseException | None = error
    while hidden is not None:
        if isinstance(hidden, SystemExit):
            raise hidden
        hidden = hidden.__context__


def exit_on_signals(advice: str, *, quiet: bool = False) -> None:
    """Leave by SystemExit on SIGINT, SIGTERM and SIGHUP, so that temporary files are removed.

    The exit code is 128 and the signal's number. A process forked off later, such as one that
    encodes rows, leaves without a word.

    Args:
        advice: how to go on, for the line on standard error.
        quiet: leave without that line, and without what comes after it.
    """
    main_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == main_process:
            line = f"error: stopped by {signal.Signals(number).name}; {advice}\n"
            tqdm = sys.modules.get("tqdm")
            if tqdm is not None and tqdm.tqdm._instances:  # a progress bar has no end of line yet
                line = f"\n{line}"
            if quiet:  # nor with what objects say that are in the middle of something
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            else:
                os.write(sys.stderr.fileno(), line.encode())  # print may be what was interrupted
            if not threading.main_thread().is_alive():  # atexit would report SystemExit as an error
                sys.stdout.flush()
                os._exit(128 + number)
        sys.exit(128 + number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # nohup, and a shell that starts a job in the background, have a signal ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
