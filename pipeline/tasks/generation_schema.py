"""The schema of text generation: a prompt and its completion, or a chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from datasets import Features, List, Value

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks.schema import (
    Row,
    RowSchema,
    Template,
    column_names,
    question_prompt,
    require_column,
)
from pipeline.tasks.sharegpt import as_messages
from pipeline.tasks.text_columns import find_text_columns
from pipeline.tasks.text_template import compile_template

# Columns that say that a question and its answer are of another form.
_OTHERS = {"label", "choices", "context"}


def pair_template(prompt: str | None, completion: str) -> Template:
    """Return a template for a column of prompts (None: all are empty) and one of completions."""

    def build_template(row: Row) -> Row:
        return _row("" if prompt is None else row.get(prompt), row.get(completion))

    return build_template


def chat_template(messages: str) -> Template:
    """Return a template for a column of chats: lists of {role, content}, or such lists as JSON."""

    def build_template(row: Row) -> Row:
        found = as_messages(row.get(messages))
        read = read_chat(found)
        return {"prompt": None, "completion": None, "messages": found if read is None else read}

    return build_template


def instruction_template(row: Row) -> Row:
    """Map an instruction, its input if it has one, and the output."""
    asked, given = row.get("instruction"), row.get("input") or ""
    if not isinstance(asked, str) or not isinstance(given, str):
        return _row(given if isinstance(asked, str) else asked, row.get("output"))
    context = f"### Input:\n{given}\n\n" if given.strip() else ""
    prompt = f"### Instruction:\n{asked}\n\n{context}### Response:\n"
    return _row(prompt, row.get("output"))


def question_template(row: Row) -> Row:
    """Map a question and its answer."""
    asked = row.get("question")
    if isinstance(asked, str):
        asked = question_prompt(asked)
    return _row(asked, row.get("answer"))


def _row(prompt: Any, completion: Any) -> Row:
    return {"prompt": prompt, "completion": completion, "messages": None}


# Columns that a file has -> what they become; the first that fits.
_LAYOUTS: dict[tuple[str, ...], Template] = {
    ("messages",): chat_template("messages"),
    ("prompt", "completion"): pair_template("prompt", "completion"),
    ("instruction", "output"): instruction_template,
    ("question", "answer"): question_template,
    ("conversations",): chat_template("conversations"),
}


def match_layout(names: Sequence[str]) -> Template | None:
    """Return the template for a file with these columns; None if they are of another schema."""
    if list(names) == ["text"]:
        return pair_template(None, "text")
    if _OTHERS & set(names):
        return None
    return next((made for known, made in _LAYOUTS.items() if set(known) <= set(names)), None)


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template from the columns that data.text and data.label name, or from the names.

    data.label holds completions, data.text or data.template their prompts; alone, data.text holds
    chats or plain text, and data.template makes plain text.
    """
    if section.template is not None:
        fill = compile_template(section.template, first, label=section.label)
        if section.label is None:
            return lambda row: _row("", fill(row))
        completion = require_column(section.label, first, "data.label")
        return lambda row: _row(fill(row), row.get(completion))
    if section.text is None and section.label is None:
        found = match_layout(column_names(first))
        if found is None and find_text_columns(first) == ["text"]:  # beside metadata
            return pair_template(None, "text")
        if found is None:
            known = ", ".join("+".join(names) for names in _LAYOUTS)
            raise DataError(
                f"data.text auto needs the columns {known}, or text alone, found "
                f"{', '.join(column_names(first))}; name them in data.text and data.label"
            )
        return found
    if not isinstance(section.text, str):
        raise ConfigError(
            f"data.text must name one column, of prompts, chats or plain text, "
            f"for data.kind: text-generation, got {section.text or 'auto'}"
        )
    text = require_column(section.text, first, "data.text")
    if section.label is not None:
        return pair_template(text, require_column(section.label, first, "data.label"))
    values = [row.get(text) for row in first]
    return (
        chat_template(text)
        if any(read_chat(as_messages(value)) for value in values)
        else pair_template(None, text)
    )


def read_chat(value: Any) -> list[dict[str, str]] | None:
    """Return the messages of a chat, {role, content} each; None if the value is no chat."""
    try:
        messages = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return None
    made = [{key: each.get(key) for key in ("role", "content")} for each in messages]
    texts = all(isinstance(value, str) for each in made for value in each.values())
    return made if texts else None


def find_error(row: Row) -> str | None:
    """Return why a row is bad: prompt, completion or last turn is missing, or of another type."""
    if row.get("messages") is not None:
        return _wrong_chat(row["messages"])
    prompt, completion = row.get("prompt"), row.get("completion")
    if prompt is None:
        return "no prompt"
    if completion is None:
        return "no completion"
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return "text of another type"
    return None if completion.strip() else "empty completion"


def _wrong_chat(messages: Any) -> str | None:
    turns = read_chat(messages)
    if turns is None:
        return "no messages of role and content"
    if not turns or turns[-1]["role"] != "assistant":
        return "no final assistant turn"
    if len(turns) < 2:
        return "no prompt"
    return None if turns[-1]["content"].strip() else "empty completion"


TEXT_METRICS = ("exact_match", "final_number", "rouge1", "rouge2", "rougeL")
_TEXT = Value("string")
SCHEMA = RowSchema(
    kind="text-generation",
    features=Features(
        {
            "prompt": _TEXT,
            "cue": _TEXT,  # behind the prompt, of decoders only
            "completion": _TEXT,
            "messages": List({"role": _TEXT, "content": _TEXT}),
        }
    ),
    metrics=(*TEXT_METRICS, "perplexity"),
    build_template=build_template,
    supports_text_template=True,
    find_error=find_error,
    matches_columns=lambda names: match_layout(names) is not None,
    identity_columns=("prompt", "completion", "messages"),
    model_requirement="a decoder, such as llama, or an encoder-decoder, such as t5",
)
