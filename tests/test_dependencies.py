"""pyproject.toml declares what the code imports, not below the versions that are tested."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from helpers.import_graph import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = re.findall(r"(?m)^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"))


def declared(*groups: list[str]) -> set[str]:
    """Return the canonical names of what these lists declare."""
    return {canonicalize_name(Requirement(text).name) for group in groups for text in group}


def imported(package: str) -> set[str]:
    """Return the modules that the files of a folder import from elsewhere."""
    own = {path.name for path in (ROOT, ROOT / "tests") for path in path.iterdir() if path.is_dir()}
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [x.name for x in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            found |= {name.partition(".")[0] for name in names}
    return found - own - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("package", "groups"),
    [
        ("lightpeft", [PROJECT["dependencies"]]),
        ("pipeline", [PROJECT["dependencies"], EXTRAS["pipeline"]]),
        ("experiments", [PROJECT["dependencies"], *EXTRAS.values()]),
        ("tests", [PROJECT["dependencies"], *EXTRAS.values()]),
    ],
)
def test_imports_are_declared(package: str, groups: list[list[str]]):
    installed = packages_distributions()
    # Their tests are skipped without them: quantizers, and the extras onnx and lm-eval.
    optional = {"bitsandbytes", "torchao", "onnx", "onnxruntime", "lm_eval"}

    undeclared = {
        module
        for module in imported(package) - optional
        if not {canonicalize_name(x) for x in installed[module]} & declared(*groups)
    }

    assert "torch" in imported(package)
    assert undeclared == set()


@pytest.mark.parametrize(
    "text", [*PROJECT["dependencies"], *EXTRAS["pipeline"], *EXTRAS["dev"], *EXTRAS["onnx"]]
)
def test_a_lower_bound_is_the_tested_version(text: str):
    requirement = Requirement(text)
    tested = {canonicalize_name(name): Version(pin) for name, pin in PINS}
    pin = tested[canonicalize_name(requirement.name)]
    (bound,) = requirement.specifier

    assert bound.operator == ">="
    assert pin in requirement.specifier
    assert pin.release[:2] == Version(bound.version).release[:2]
