"""Folders for unfinished output: those of killed processes go, those in use stay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.common.scratch import make_scratch_folder

HOLD = """
import sys
from pathlib import Path
from pipeline.common.scratch import make_scratch_folder
with make_scratch_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_a_live_one_s_is_not(tmp_path):
    target = tmp_path / "data" / "prepared"
    command = [sys.executable, "-c", HOLD, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as live:
        folders = [Path(process.stdout.readline().strip()) for process in (killed, live)]
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert all(folder.is_dir() for folder in folders)

        with make_scratch_folder(target) as own:
            assert {*target.parent.iterdir()} == {own, folders[1]}
        live.communicate("")

    assert [*target.parent.iterdir()] == []
