"""Names, signatures and descriptions out of the sources of the installed libraries.

Files are read with `ast` and never imported; all built-in tasks are made from what is found here.
"""

from __future__ import annotations

import ast
import gc
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.common.errors import DataError

STANDARD = "python"
LIBRARIES = {  # name on PyPI -> package; all come with this project's own dependencies
    "torch": "torch",
    "transformers": "transformers",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "pandas": "pandas",
    "numpy": "numpy",
    "networkx": "networkx",
    "sympy": "sympy",
}

_SKIPPED = {"tests", "test", "testing", "idle_test", "site-packages", "dist-packages", "_vendor"}
# modular_*.py of transformers repeat the text of the modeling files that are made from them.
_SKIPPED_FILES = ("test_", "modular_")
# Names that say nothing about what is done.
_SILENT = set(
    "apply call callback decorator do doit dummy execute fn forward func function helper impl init "
    "inner internal main method new process run setup step wrapped wrapper".split()
)
_SHOWN = 12  # parameters
# A first paragraph that is a signature, a parameter list, an example or a mere reference.
_NO_DESCRIPTION = re.compile(r"\S+ ?\(|\S+ ?:|>>>|\.\.|see |refer to|deprecated|alias ", re.I)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Pair(NamedTuple):
    """A name as words, and the first paragraph of its docstring."""

    library: str
    name: str
    description: str


def read_all() -> dict[Pair, str]:
    """All usable names and descriptions of all libraries, each with its signature."""
    with _no_garbage_collection():
        found: dict[Pair, str] = {}
        for library in (STANDARD, *LIBRARIES):
            found |= read_library(library)
    return found


def versions() -> dict[str, str]:
    """What the rows were made from, for the data card."""
    return {STANDARD: platform.python_version()} | {
        library: importlib.metadata.version(library) for library in LIBRARIES
    }


def read_library(library: str) -> dict[Pair, str]:
    """Those of one installed library in the order of its files; of equal pairs, the first."""
    root = _root(library)
    found: dict[Pair, str] = {}
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED.intersection(path.relative_to(root).parts):
            continue
        if path.name.startswith(_SKIPPED_FILES):
            continue
        for node, doc in _documented(path):
            if (words := name_words(node.name)) and (text := first_paragraph(doc)):
                pair = Pair(library, " ".join(words), text)
                if pair not in found:
                    found[pair] = signature(node)
    return found


def signature(node: Definition) -> str:
    """The line of a definition without annotations and defaults: `def mk_tuple(seq, *more):`.

    What follows the first 12 parameters is `...`.
    """
    if isinstance(node, ast.ClassDef):
        kind, inside = "class", [ast.unparse(base) for base in node.bases]
    else:
        kind, inside = "def", _parameters(node.args)
    if isinstance(node, ast.AsyncFunctionDef):
        kind = "async def"
    if len(inside) > _SHOWN:
        inside = [*inside[:_SHOWN], "..."]
    brackets = "" if kind == "class" and not inside else f"({', '.join(inside)})"
    return f"{kind} {node.name}{brackets}:"


def name_words(name: str) -> list[str]:
    """Words of an identifier: `mk_tuple`, `MkTuple` are `mk tuple`; [] if it says nothing."""
    if name.startswith("__") and name.endswith("__"):
        return []
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().split("_")
    words = [word for word in parts if word]
    return words if len("".join(words)) > 2 and not _SILENT.issuperset(words) else []


def first_paragraph(doc: str) -> str:
    """The first paragraph as one line; empty if not of 30 to 300 letters or no description."""
    text = " ".join(re.split(r"\n\s*\n", doc.strip(), maxsplit=1)[0].split())
    return text if 30 <= len(text) <= 300 and not _NO_DESCRIPTION.match(text) else ""


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A syntax tree is large, full of new objects and free of cycles: a third less time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _root(library: str) -> Path:
    """The folder of a library, found without importing it."""
    if library == STANDARD:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(LIBRARIES[library])
    if spec is None or spec.origin is None:
        raise DataError(f"data.task docstrings reads the source of {library}; pip install it")
    return Path(spec.origin).parent


def _documented(path: Path) -> Iterator[tuple[Definition, str]]:
    """Functions and classes of a file with docstrings; none where it can't be parsed."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return
    yield from _definitions(tree.body)


def _definitions(
    body: Sequence[ast.stmt | ast.ExceptHandler],
) -> Iterator[tuple[Definition, str]]:
    """Walk statements of modules and classes; what a function defines inside is its own affair."""
    for node in body:
        if isinstance(node, Definition):
            doc = ast.get_docstring(node, clean=False)
            if doc:
                yield node, doc
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                yield from _definitions(getattr(node, block, []))


def _parameters(args: ast.arguments) -> list[str]:
    """Names as they stand between the brackets; a lone `*` or `/` is left out."""
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    names += [f"*{args.vararg.arg}"] if args.vararg else []
    names += [arg.arg for arg in args.kwonlyargs]
    return names + ([f"**{args.kwarg.arg}"] if args.kwarg else [])
