"""The examples in public docstrings run, offline and on a small model."""

from __future__ import annotations

import copy
import doctest
from functools import cache
from typing import Any

import pytest

import lightpeft
from lightpeft.modeling import families

OPTIONS = doctest.ELLIPSIS
NAMES = [name for name in lightpeft.__all__ if name != "__version__"]


def run(docstring: str, names: dict[str, Any], source: str) -> dict[str, Any]:
    """Run a docstring's examples; return the names that they leave."""
    test = doctest.DocTestParser().get_doctest(docstring, names, source, None, None)
    assert test.examples, f"{source} has no example"
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(test, out=output.append, clear_globs=False)
    assert not runner.failures, "".join(output)
    return test.globs


@cache
def names_of_the_package_example() -> dict[str, Any]:
    return run(str(lightpeft.__doc__), {}, "lightpeft")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the package's example leaves, which the others continue."""
    left = names_of_the_package_example()
    models = {name: copy.deepcopy(left[name]) for name in ("base_model", "model", "pruned")}
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    return left | models


@pytest.mark.parametrize("name", NAMES)
def test_public_docstring_has_an_example_that_runs(name: str, names: dict[str, Any]):
    run(str(getattr(lightpeft, name).__doc__), names, name)
