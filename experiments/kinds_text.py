"""Small text data sets for `experiments.kinds`, from the sources of installed libraries.

All rows of a source file lie in one split, and no row occurs twice.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.docstrings.extraction import extract_first_paragraph, split_name

Row = dict[str, Any]
Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGES = ("networkx", "numpy", "pandas", "scipy", "sklearn")  # their docstrings have sections
_SPLITS = ("test", "test", "validation", *["train"] * 7)
_MARKUP = re.compile(r"(?::[\w:]+:)?(``?)([^`<>]{1,60}?)\1(?![`_])")  # ``code``, :class:`Name`, `x`
_WORD = re.compile(r"\w+|[^\w\s]")
_SECTION = re.compile(r"^([A-Z]\w+(?: \w+)*)\n-{3,} *\n", re.MULTILINE)
_ITEM = re.compile(r"^(\w+)[^\n]*\n((?: +\S.*(?:\n|$))+)", re.MULTILINE)  # a name, then its text
_SENTENCE = re.compile(r"(.{15,150}?)\.?(?:$|(?<=\.) )")
_QUESTIONS = {"Parameters": "What is {item} of {name}?", "Returns": "What does {name} return?"}
_MAX_CONTEXT, _LONG_SIGNATURE, _SHORT_SIGNATURE = 250, 150, 60  # characters


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A function of a library with its docstring; `split` is that of its file."""

    split: str
    name: str
    doc: str
    node: Function


def read_definitions() -> Iterator[Definition]:
    """Yield the documented functions of installed packages, parsed and never imported."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed: pip install {package}")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            if not {"tests", "testing"}.intersection(path.parts):
                name = f"{package}/{path.relative_to(root).as_posix()}"
                yield from find_definitions(path.read_text(encoding="utf-8"), name)


def find_definitions(source: str, file_name: str) -> Iterator[Definition]:
    """Yield the documented functions of a file; a hash of its name decides the split."""
    split = _SPLITS[_hash_below(file_name, len(_SPLITS))]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, Function)
            and split_name(node.name)
            and (doc := ast.get_docstring(node))
        ):
            yield Definition(split=split, name=node.name, doc=doc, node=node)


def make_length_row(definition: Definition) -> Row | None:
    """Return signature and description, labelled with log2 of the number of code lines."""
    text, code = extract_first_paragraph(definition.doc), definition.node.body[1:]
    signature = extract_signature(definition)
    if not text or not code or len(signature) > _LONG_SIGNATURE:
        return None
    lines = (code[-1].end_lineno or 0) - code[0].lineno + 1
    return {"signature": signature, "description": text, "log_lines": f"{math.log2(lines):.3f}"}


def extract_signature(definition: Definition) -> str:
    """Return the name and the parameters as they are written."""
    return f"{definition.name}({ast.unparse(definition.node.args)})"


def make_markup_row(definition: Definition) -> Row | None:
    """Return the words of a paragraph; those between backticks are tagged CODE."""
    paragraphs = (" ".join(part.split()) for part in definition.doc.split("\n\n"))
    text = next((part for part in paragraphs if _is_prose(part)), None)
    if text is None:
        return None
    tokens: list[str] = []
    tags: list[str] = []
    end = 0
    for match in _MARKUP.finditer(text):
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
    """Whether a paragraph is short, has code markup, and is no example, list, table or formula."""
    plain = _MARKUP.sub("", text)
    odd = re.search(r">>>|\.\. |::|--|==|\*\*|:math|[`<>|\\{}]", plain) or ":math:" in text
    return 40 <= len(text) <= 250 and _MARKUP.search(text) is not None and not odd


def make_answer_row(definition: Definition) -> Row | None:
    """Return a question about a parameter or result, answered by the docstring."""
    summary, *parts = _SECTION.split(definition.doc)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    context = " ".join(
        " ".join([summary, *(sections.get(name, "") for name in _QUESTIONS)]).split()
    )
    items = [
        (question.format(name=definition.name, item=name), sentence[1])
        for section, question in _QUESTIONS.items()
        for name, text in _ITEM.findall(sections.get(section, ""))
        if (sentence := _SENTENCE.match(" ".join(text.split()))) and context.count(sentence[1]) == 1
    ]
    if not items or len(context) > _MAX_CONTEXT:
        return None
    question, text = items[_hash_below(context, len(items))]
    answers = {"text": [text], "answer_start": [context.index(text)]}
    return {"question": question, "context": context, "answers": answers}


def make_call_row(definition: Definition) -> Row | None:
    """Return a signature and its shortest call: only parameters without default."""
    args = definition.node.args
    positional = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    required = positional[: len(positional) - len(args.defaults)]
    required = required[1:] if required[:1] in (["self"], ["cls"]) else required
    required += [
        f"{arg.arg}={arg.arg}"
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if default is None
    ]
    signature = extract_signature(definition)
    if len(signature) > _SHORT_SIGNATURE:
        return None
    return {"prompt": signature, "completion": f"{definition.name}({', '.join(required)})"}


def _hash_below(text: str, count: int) -> int:
    """Return a number below `count`, always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % count


def write_rows(
    folder: Path, make: Callable[[Definition], Row | None], definitions: Iterable[Definition]
) -> None:
    """Write SPLIT.jsonl for each split, without duplicate rows."""
    seen: set[str] = set()
    lines: dict[str, list[str]] = {split: [] for split in ("train", "validation", "test")}
    for definition in definitions:
        row = make(definition)
        if row and (key := json.dumps([*row.values()][:2])) not in seen:
            seen.add(key)
            lines[definition.split].append(json.dumps(row))
    for split, rows in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{row}\n" for row in rows))
