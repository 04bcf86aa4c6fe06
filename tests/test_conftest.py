"""Tests see no GPU, nor do their child processes, unless they are asked to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.import_graph import ROOT

SCRIPT = """
import os, runpy, sys
runpy.run_path("tests/conftest.py")
print(repr(os.environ["CUDA_VISIBLE_DEVICES"]))
"""


@pytest.mark.parametrize(("asked", "visible"), [("", "''"), ("1", "'0'")])
def test_a_gpu_is_hidden_unless_it_is_asked_for(asked: str, visible: str):
    settings = {"CUDA_VISIBLE_DEVICES": "0", "LIGHTPEFT_TEST_GPU": asked}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == visible
