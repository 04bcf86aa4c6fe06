"""Extract names, signatures and descriptions from the sources of the installed libraries.

Files are parsed with `ast` and never imported. All built-in tasks are made from these.
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
from pathlib import Path
from typing import NamedTuple

from pipeline.common.console import Progress, note
from pipeline.common.errors import DataError

STANDARD_LIBRARY = "python"
LIBRARIES = {  # name on PyPI -> package; all are dependencies of this project
    "torch": "torch",
    "transformers": "transformers",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "pandas": "pandas",
    "numpy": "numpy",
    "networkx": "networkx",
    "sympy": "sympy",
}

_SKIPPED_FOLDERS = set("tests test testing idle_test site-packages dist-packages _vendor".split())
# modular_*.py of transformers repeat the text of the modeling files generated from them.
_SKIPPED_FILES = ("test_", "modular_")
# Names made of these words alone do not say what is done.
_UNINFORMATIVE = set(
    "apply call callback decorator do doit dummy execute fn forward func function helper impl init "
    "inner internal main method new process run setup step wrapped wrapper".split()
)
_MAX_PARAMETERS = 12  # in a signature
# First paragraphs that are a signature, a parameter list, an example or only a reference.
_NO_DESCRIPTION = re.compile(r"\S+ ?\(|\S+ ?:|>>>|\.\.|see |refer to|deprecated|alias ", re.I)


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Pair(NamedTuple):
    """The words of a function or class name, and the first paragraph of its docstring."""

    library: str
    name: str
    description: str


def read_all_libraries() -> dict[Pair, str]:
    """Return the usable pairs of all libraries, each with its signature."""
    signatures: dict[Pair, str] = {}
    names = (STANDARD_LIBRARY, *LIBRARIES)
    progress = Progress("prepare", 0)
    gc.disable()  # syntax trees have no cycles, and parsing takes a third less
    try:
        for number, library in enumerate(names, start=1):
            signatures |= read_library(library)
            progress.count(number, f"of {len(names)} libraries read")
    finally:
        gc.enable()
    return signatures


def read_installed_versions() -> dict[str, str]:
    """Return the versions of the libraries that the rows are made from, for the data card."""
    return {STANDARD_LIBRARY: platform.python_version()} | {
        library: importlib.metadata.version(library) for library in LIBRARIES
    }


def read_library(library: str) -> dict[Pair, str]:
    """Return the pairs of an installed library with their signatures, in the order of its files.

    Equal pairs keep the first signature. Files that can't be parsed are skipped, and counted in a
    line of the log.

    Raises:
        DataError: the library is not installed.
    """
    root = _find_root_folder(library)
    signatures: dict[Pair, str] = {}
    unparsable = []
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            continue
        if path.name.startswith(_SKIPPED_FILES):
            continue
        tree = _parse(path)
        if tree is None:
            unparsable.append(path)
            continue
        for node, doc in _find_documented_definitions(tree.body):
            if (words := split_name(node.name)) and (text := extract_first_paragraph(doc)):
                pair = Pair(library, " ".join(words), text)
                if pair not in signatures:
                    signatures[pair] = format_signature(node)
    if unparsable:
        note(
            f"source files of {library} that can't be parsed, skipped: {len(unparsable)} "
            f"(first: {unparsable[0].relative_to(root)})",
        )
    return signatures


def format_signature(node: Definition) -> str:
    """Return the line of a definition without annotations and defaults: `def f(seq, *more):`.

    Parameters after the first 12 are replaced by `...`.
    """
    if isinstance(node, ast.ClassDef):
        keyword, parameters = "class", [ast.unparse(base) for base in node.bases]
    else:
        keyword, parameters = "def", _list_parameter_names(node.args)
    if isinstance(node, ast.AsyncFunctionDef):
        keyword = "async def"
    if len(parameters) > _MAX_PARAMETERS:
        parameters = [*parameters[:_MAX_PARAMETERS], "..."]
    brackets = "" if keyword == "class" and not parameters else f"({', '.join(parameters)})"
    return f"{keyword} {node.name}{brackets}:"


def split_name(name: str) -> list[str]:
    """Split `mk_tuple` or `MkTuple` into `mk`, `tuple`; return [] for uninformative names."""
    if name.startswith("__") and name.endswith("__"):
        return []
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().split("_")
    words = [word for word in parts if word]
    return words if len("".join(words)) > 2 and not _UNINFORMATIVE.issuperset(words) else []


def extract_first_paragraph(doc: str) -> str:
    """Return the first paragraph in one line; "" unless a description of 30 to 300 characters."""
    text = " ".join(re.split(r"\n\s*\n", doc.strip(), maxsplit=1)[0].split())
    return text if 30 <= len(text) <= 300 and not _NO_DESCRIPTION.match(text) else ""


def _find_root_folder(library: str) -> Path:
    """Return the folder of a library without importing it."""
    if library == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(LIBRARIES[library])
    if spec is None or spec.origin is None:
        raise DataError(f"data.task docstrings reads the source of {library}; pip install it")
    return Path(spec.origin).parent


def _parse(path: Path) -> ast.Module | None:
    """Return the syntax tree (empty without docstrings), or None if the file can't be parsed."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return ast.Module(body=[], type_ignores=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def _find_documented_definitions(
    body: Sequence[ast.stmt | ast.ExceptHandler],
) -> Iterator[tuple[Definition, str]]:
    """Yield the functions and classes with docstrings, except those inside functions."""
    for node in body:
        if isinstance(node, Definition):
            doc = ast.get_docstring(node, clean=False)
            if doc:
                yield node, doc
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                yield from _find_documented_definitions(getattr(node, block, []))


def _list_parameter_names(args: ast.arguments) -> list[str]:
    """Return the parameters' names in order; a lone `*` or `/` is left out."""
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    names += [f"*{args.vararg.arg}"] if args.vararg else []
    names += [arg.arg for arg in args.kwonlyargs]
    return names + ([f"**{args.kwarg.arg}"] if args.kwarg else [])
