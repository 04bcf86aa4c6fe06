"""docs/architecture.md names folders, files and functions that exist."""

from __future__ import annotations

import ast
import re

from helpers.import_graph import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def definitions(path: str) -> set[str]:
    """Return the functions, classes, methods, fields and constants that a module defines."""
    names: set[str] = set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for prefix, body in [("", tree.body)] + [
        (f"{node.name}.", node.body) for node in tree.body if isinstance(node, ast.ClassDef)
    ]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                names |= {prefix + t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


def test_every_function_that_is_named_exists():
    named = re.findall(r"`?([\w/]+\.py):([\w.]+\w)", TEXT)

    assert [f"{path}:{name}" for path, name in named if name not in definitions(path)] == []


def test_every_folder_of_the_packages_is_described():
    described = set(re.findall(r"^\| ([a-z][\w/]+) \|", TEXT, re.MULTILINE))
    packages = {
        f"{package}/{path.name}"
        for package in ("lightpeft", "pipeline")
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").is_file()
    }

    assert packages <= described
    assert [
        folder for folder in described if folder != "folder" and not (ROOT / folder).is_dir()
    ] == []
