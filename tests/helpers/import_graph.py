"""Which of this project's modules a module reaches, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Launching a stage and naming the package's parts change no result.
_NEUTRAL = {"pipeline/__main__.py", "pipeline/__init__.py", "lightpeft/__init__.py"}


def find_reached(start: str) -> set[str]:
    """Paths, relative to the repository, of the modules that `start` imports at any depth."""
    modules: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in modules:
            modules.add(path)
            waiting += find_imported(path)
    return modules - _NEUTRAL


def find_imported(path: str) -> set[str]:
    """Paths of this project's modules that the module at `path` imports itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = {f"{name.replace('.', '/')}.py" for name in names}
    return {p for p in paths if p.startswith(("lightpeft/", "pipeline/")) and (ROOT / p).is_file()}
