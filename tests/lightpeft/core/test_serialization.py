"""Writing files and folders."""

from pathlib import Path

import pytest

from lightpeft.core.errors import CheckpointError
from lightpeft.core.serialization import replace_directory, replace_file, replace_whole_directory


def test_a_folder_that_can_not_be_made_is_one_line():
    place = Path("/proc/none")

    for replacement in (
        replace_file(place / "x"),
        replace_directory(place / "x"),
        replace_whole_directory(place / "x", "marker"),
    ):
        with pytest.raises(CheckpointError, match=r"^/proc/none/x can't be written: "):
            replacement.__enter__()
