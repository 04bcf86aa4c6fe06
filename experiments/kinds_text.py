"""Small data sets of text for `experiments.kinds`, from the sources of installed libraries.

A file of a library lies whole in one split, and no row comes twice.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.docstrings.extraction import first_paragraph, name_words

Row = dict[str, Any]
Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGES = ("networkx", "numpy", "pandas", "scipy", "sklearn")  # their docstrings have sections
_SPLITS = ("test", "test", "validation", *["train"] * 7)
_MARKED = re.compile(r"(?::[\w:]+:)?(``?)([^`<>]{1,60}?)\1(?![`_])")  # ``code``, :class:`Name`, `x`
_WORD = re.compile(r"\w+|[^\w\s]")
_SECTION = re.compile(r"^([A-Z]\w+(?: \w+)*)\n-{3,} *\n", re.MULTILINE)
_ITEM = re.compile(r"^(\w+)[^\n]*\n((?: +\S.*(?:\n|$))+)", re.MULTILINE)  # a name, then its text
_SENTENCE = re.compile(r"(.{15,150}?)\.?(?:$|(?<=\.) )")


_ASKED = {"Parameters": "What is {item} of {name}?", "Returns": "What does {name} return?"}
_LONGEST, _LONG_SIGNATURE, _SHORT_SIGNATURE = 250, 150, 60  # letters


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A function of a library with its docstring; `split` is that of its file."""

    split: str
    name: str
    doc: str
    node: Function


def read_definitions(packages: Sequence[str] = PACKAGES) -> Iterator[Definition]:
    """The documented functions of installed packages, read and never imported."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed: pip install {package}")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            if not {"tests", "testing"}.intersection(path.parts):
                place = f"{package}/{path.relative_to(root).as_posix()}"
                yield from definitions_in(path.read_text(encoding="utf-8"), place)


def definitions_in(source: str, place: str) -> Iterator[Definition]:
    """The documented functions of one file; its place among the packages decides the split."""
    split = _SPLITS[_draw(place, len(_SPLITS))]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, Function)
            and name_words(node.name)
            and (doc := ast.get_docstring(node))
        ):
            yield Definition(split=split, name=node.name, doc=doc, node=node)


def length_row(found: Definition) -> Row | None:
    """Signature and description, and the binary logarithm of the lines of code below them."""
    text, code = first_paragraph(found.doc), found.node.body[1:]
    signature = signature_of(found)
    if not text or not code or len(signature) > _LONG_SIGNATURE:
        return None
    lines = (code[-1].end_lineno or 0) - code[0].lineno + 1
    return {"signature": signature, "description": text, "log_lines": f"{math.log2(lines):.3f}"}


def signature_of(found: Definition) -> str:
    """A name, and the parameters as they are written."""
    return f"{found.name}({ast.unparse(found.node.args)})"


def markup_row(found: Definition) -> Row | None:
    """Words of a paragraph without its backticks; what stood between them is CODE."""
    paragraphs = (" ".join(part.split()) for part in found.doc.split("\n\n"))
    text = next((part for part in paragraphs if _is_prose(part)), None)
    if text is None:
        return None
    tokens: list[str] = []
    tags: list[str] = []
    end = 0
    for match in _MARKED.finditer(text):
        for part, inside in ((text[end : match.start()], False), (match[2].lstrip("~"), True)):
            words = _WORD.findall(part)
            tokens += words
            tags += (
                ["B-CODE", *["I-CODE"] * (len(words) - 1)][: len(words)]
                if inside
                else ["O" for _ in words]
            )
        end = match.end()
    rest = _WORD.findall(text[end:])
    return {"tokens": tokens + rest, "tags": tags + ["O"] * len(rest)}


def _is_prose(text: str) -> bool:
    """Whether a paragraph is short, has markup, and is no example, list, table or formula."""
    plain = _MARKED.sub("", text)
    odd = re.search(r">>>|\.\. |::|--|==|\*\*|:math|[`<>|\\{}]", plain) or ":math:" in text
    return 40 <= len(text) <= 250 and _MARKED.search(text) is not None and not odd


def answer_row(found: Definition) -> Row | None:
    """One of a function's parameters or results, asked for in its docstring without headings."""
    summary, *parts = _SECTION.split(found.doc)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    context = " ".join(" ".join([summary, *(sections.get(name, "") for name in _ASKED)]).split())
    items = [
        (question.format(name=found.name, item=name), told[1])
        for section, question in _ASKED.items()
        for name, text in _ITEM.findall(sections.get(section, ""))
        if (told := _SENTENCE.match(" ".join(text.split()))) and context.count(told[1]) == 1
    ]
    if not items or len(context) > _LONGEST:
        return None
    question, text = items[_draw(context, len(items))]
    answers = {"text": [text], "answer_start": [context.index(text)]}
    return {"question": question, "context": context, "answers": answers}


def call_row(found: Definition) -> Row | None:
    """A signature, and the shortest call of it: only what has no default."""
    args = found.node.args
    plain = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    needed = plain[: len(plain) - len(args.defaults)]
    needed = needed[1:] if needed[:1] in (["self"], ["cls"]) else needed
    needed += [
        f"{arg.arg}={arg.arg}"
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if default is None
    ]
    signature = signature_of(found)
    if len(signature) > _SHORT_SIGNATURE:
        return None
    return {"prompt": signature, "completion": f"{found.name}({', '.join(needed)})"}


def _draw(text: str, count: int) -> int:
    """A number below `count`, always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % count


def write_rows(
    folder: Path, make: Callable[[Definition], Row | None], found: Iterable[Definition]
) -> None:
    """Write SPLIT.jsonl of each split, each row once; every split gets what its files hold."""
    seen: set[str] = set()
    lines: dict[str, list[str]] = {split: [] for split in ("train", "validation", "test")}
    for definition in found:
        row = make(definition)
        if row and (key := json.dumps([*row.values()][:2])) not in seen:
            seen.add(key)
            lines[definition.split].append(json.dumps(row))
    for split, rows in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{row}\n" for row in rows))
