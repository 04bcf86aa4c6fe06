"""Fixtures that tests of the tasks made from docstrings share."""

import random

import pytest

from pipeline.data.docstrings.extraction import Pair, read_library
from pipeline.data.docstrings.name_matching import deduplicate


@pytest.fixture(scope="package")
def signatures() -> dict[Pair, str]:
    """The signatures of two libraries, to be quick."""
    return read_library("networkx") | read_library("numpy")


@pytest.fixture(scope="package")
def pairs(signatures: dict[Pair, str]) -> list[Pair]:
    """Their names and descriptions."""
    return deduplicate(list(signatures), random.Random(0))
