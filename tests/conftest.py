"""Settings for all tests: one thread each, no network, no GPU."""

import os
import sys
import tempfile
from collections.abc import Callable

# Proofs are not taken from the user's cache.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # of child processes: sums depend on it
# Tests compare with results of a CPU. Before torch is imported, and for child processes too.
if not os.environ.get("LIGHTPEFT_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def write_line(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Write a result to the terminal, although pytest captures the output of tests."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n{text}\n")

    return write
