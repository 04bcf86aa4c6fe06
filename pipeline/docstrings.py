"""Built-in task `docstrings`: does this description belong to this function or class name?

Rows come from the source files of the installed libraries, read with `ast`, never imported. Every
description and every name comes once. Half of the descriptions stand beside their own name; the
others beside a name of the same library that shares as many word stems with the description as
the true name does, and of those the one that looks most like it in runs of three letters. So
neither a name nor what it has in common with the text, word by word, says which row is true.
"""

from __future__ import annotations

import ast
import gc
import importlib.metadata
import importlib.util
import platform
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from lightpeft.errors import DataError
from pipeline.tables import Table

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
ROWS = {"train": 12_000, "validation": 1_000, "test": 2_000}
LABELS = ("no", "yes")
_RUN = 3  # letters

_SKIPPED = {"tests", "test", "testing", "idle_test", "site-packages", "dist-packages", "_vendor"}
# modular_*.py of transformers repeat the text of the modeling files that are made from them.
_SKIPPED_FILES = ("test_", "modular_")
# Names that say nothing about what is done.
_SILENT = set(
    "apply call callback decorator do doit dummy execute fn forward func function helper impl init "
    "inner internal main method new process run setup step wrapped wrapper".split()
)
# A first paragraph that is a signature, a parameter list, an example or a mere reference.
_NO_DESCRIPTION = re.compile(r"\S+ ?\(|\S+ ?:|>>>|\.\.|see |refer to|deprecated|alias ", re.I)


class Pair(NamedTuple):
    """A name as words, and the first paragraph of its docstring."""

    library: str
    name: str
    description: str


def build(seed: int) -> tuple[dict[str, Table], dict[str, str]]:
    """Make the splits (text, text_pair, label) and say which versions of what they come from.

    The same seed and the same installed libraries give the same rows.
    """
    rng = random.Random(seed)
    with _no_garbage_collection():
        found = [pair for library in [STANDARD, *LIBRARIES] for pair in read_library(library)]
    return split(distinct(found, rng), seed), {STANDARD: platform.python_version()} | {
        library: importlib.metadata.version(library) for library in LIBRARIES
    }


def read_library(library: str) -> list[Pair]:
    """All usable names and descriptions of one installed library, in the order of its files."""
    root = _root(library)
    return [
        Pair(library, " ".join(words), text)
        for path in sorted(root.rglob("*.py"))
        if not _SKIPPED.intersection(path.relative_to(root).parts)
        and not path.name.startswith(_SKIPPED_FILES)
        for name, doc in _documented(path)
        if (words := name_words(name)) and (text := first_paragraph(doc))
    ]


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


def stems(text: str) -> frozenset[str]:
    """Word stems: the first five letters, so that `computes` and `computation` are one."""
    return frozenset(word[:5] for word in re.findall("[a-z]+", text.lower()))


def runs(text: str, size: int) -> frozenset[str]:
    """Runs of letters, the blanks between words among them."""
    line = f" {' '.join(re.findall('[a-z]+', text.lower()))} "
    return frozenset(line[i : i + size] for i in range(len(line) - size + 1))


def distinct(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """One pair for each name and each description; `rng` picks which.

    Names are compared by their letters, descriptions by their word stems without those of the
    name: so `Returns the sum.` and `Return the sum`, or `The bare Bert model` and `The bare
    Roberta model`, are one, and near-duplicates can't lie on two sides of a split.
    """
    pool = sorted(set(pairs))
    rng.shuffle(pool)
    seen: set[str | frozenset[str]] = set()
    kept = []
    for pair in pool:
        whole = stems(pair.description)
        keys = {"".join(re.findall("[a-z]+", pair.name)), whole, whole - stems(pair.name)}
        if seen.isdisjoint(keys):
            seen |= keys
            kept.append(pair)
    return kept


def split(pairs: Sequence[Pair], seed: int) -> dict[str, Table]:
    """Balanced rows for each split; the pairs left over only lend their names to false rows."""
    share = min(1.0, len(pairs) / (2 * sum(ROWS.values())))
    sizes = {name: 2 * (int(rows * share) // 2) for name, rows in ROWS.items()}
    donors = Donors(pairs[sum(sizes.values()) :], seed)
    rows = [
        (donors.lend(pair) if label == "no" else pair.name, pair.description, label)
        for pair, label in zip(pairs[: sum(sizes.values())], cycle(LABELS), strict=False)
    ]
    splits, start = {}, 0
    for name, size in sizes.items():
        columns = [list(column) for column in zip(*rows[start : start + size], strict=True)]
        splits[name] = dict(zip(("text", "text_pair", "label"), columns, strict=True))
        start += size
    return splits


class Donors:
    """Names of pairs that are no rows themselves, each lent once."""

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        random = np.random.default_rng(seed)
        self._groups = {
            library: _Names([p.name for p in pairs if p.library == library], random)
            for library in sorted({pair.library for pair in pairs})
        }

    def lend(self, pair: Pair) -> str:
        """A name of the pair's library that shares as many stems with its description as its own.

        Where none is left, of those that come nearest to it; of several, the one whose share of
        letter runs in the description is nearest. A name that contains the true one or lies in it
        would make the false row true: it is not taken.

        Raises:
            DataError: the library has no name left.
        """
        group = self._groups.get(pair.library)
        name = group.take(pair) if group else None
        if name is None:
            raise DataError(f"data.task docstrings: {pair.library} has too few documented names")
        return name


class _Names:
    def __init__(self, names: list[str], random: np.random.Generator) -> None:
        self.names = names
        self.stems = _Incidence([stems(name) for name in names])
        self.runs = _Incidence([runs(name, _RUN) for name in names])
        self.free = np.ones(len(names), dtype=bool)
        self.order = random.random(len(names))  # breaks ties

    def take(self, pair: Pair) -> str | None:
        own, text = stems(pair.name), stems(pair.description)
        usable = self.free & (self.stems.shared(own) < np.minimum(self.stems.sizes, len(own)))
        if not usable.any():
            return None
        words = np.abs(self.stems.shared(text) - len(own & text))
        letters, text = runs(pair.name, _RUN), runs(pair.description, _RUN)
        shares = self.runs.shared(text) / np.maximum(self.runs.sizes, 1)
        shares -= len(letters & text) / max(len(letters), 1)
        # A share differs by less than one word; the order by less than any two shares.
        cost = words + 0.5 * np.abs(shares) + 1e-6 * self.order
        chosen = int(np.where(usable, cost, np.inf).argmin())
        self.free[chosen] = False
        return self.names[chosen]


class _Incidence:
    """Which items each of many sets holds."""

    def __init__(self, sets: Sequence[frozenset[str]]) -> None:
        self.sizes = np.array([len(found) for found in sets])
        self._columns = {item: i for i, item in enumerate(sorted(frozenset().union(*sets)))}
        cells = [(row, self._columns[item]) for row, found in enumerate(sets) for item in found]
        rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
        ones: NDArray[np.int16] = np.ones(len(cells), dtype=np.int16)
        self._has = csr_matrix(
            (ones, (rows, columns)), shape=(len(sets), len(self._columns))
        ).tocsc()

    def shared(self, items: frozenset[str]) -> NDArray[np.int64]:
        """How many of these items each set holds."""
        columns = sorted(self._columns[item] for item in items if item in self._columns)
        counts = self._has[:, columns].sum(axis=1)
        return np.asarray(counts, dtype=np.int64).ravel()


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


def _documented(path: Path) -> Iterator[tuple[str, str]]:
    """Names and docstrings of a file's functions and classes; none where it can't be parsed."""
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


def _definitions(body: Sequence[ast.stmt | ast.ExceptHandler]) -> Iterator[tuple[str, str]]:
    """Walk statements of modules and classes; what a function defines inside is its own affair."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            doc = ast.get_docstring(node, clean=False)
            if doc:
                yield node.name, doc
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "handlers", "orelse", "finalbody"):
                yield from _definitions(getattr(node, block, []))
