"""The schema of text generation: a prompt and its completion, or a chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from datasets import Features, Value

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks.schema import (
    InputColumns,
    Row,
    RowSchema,
    Template,
    list_columns,
    make_question_prompt,
    name_texts,
    require_column,
)
from pipeline.tasks.sharegpt import convert_to_messages, find_bad_turn
from pipeline.tasks.text_columns import find_text_columns
from pipeline.tasks.text_template import compile_template

# Columns that say that a question and its answer are of another form.
_OTHER_KINDS = {"label", "choices", "context"}


def make_pair_template(prompt: str | None, completion: str) -> Template:
    """Return a template for a column of prompts (None: all are empty) and one of completions."""

    def map_row(row: Row) -> Row:
        return _make_row("" if prompt is None else row.get(prompt), row.get(completion))

    return map_row


def make_chat_template(messages: str) -> Template:
    """Return a template for a column of chats, and the column `tools` if there is one."""

    def map_row(row: Row) -> Row:
        chat = {"messages": convert_to_messages(row.get(messages)), "tools": row.get("tools")}
        return {"prompt": None, "completion": None} | chat

    return map_row


def convert_instruction(row: Row) -> Row:
    """Map an instruction, its input if it has one, and the output."""
    task, text = row.get("instruction"), row.get("input") or ""
    if not isinstance(task, str) or not isinstance(text, str):
        return _make_row(text if isinstance(task, str) else task, row.get("output"))
    context = f"### Input:\n{text}\n\n" if text.strip() else ""
    prompt = f"### Instruction:\n{task}\n\n{context}### Response:\n"
    return _make_row(prompt, row.get("output"))


def convert_question(row: Row) -> Row:
    """Map a question and its answer."""
    question = row.get("question")
    if isinstance(question, str):
        question = make_question_prompt(question)
    return _make_row(question, row.get("answer"))


def _make_row(prompt: Any, completion: Any) -> Row:
    return {"prompt": prompt, "completion": completion, "messages": None}


# Columns that a file has -> what they become; the first that fits.
_LAYOUTS: dict[tuple[str, ...], Template] = {
    ("messages",): make_chat_template("messages"),
    ("prompt", "completion"): make_pair_template("prompt", "completion"),
    ("instruction", "output"): convert_instruction,
    ("question", "answer"): convert_question,
    ("conversations",): make_chat_template("conversations"),
}


def match_layout(names: Sequence[str]) -> Template | None:
    """Return the template for a file with these columns; None if they are of another schema."""
    if list(names) == ["text"]:
        return make_pair_template(None, "text")
    if _OTHER_KINDS & set(names):
        return None
    return next((t for columns, t in _LAYOUTS.items() if set(columns) <= set(names)), None)


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template from the columns that data.text and data.label name, or from the names.

    data.label holds completions, data.text or data.template their prompts; alone, data.text holds
    chats or plain text, and data.template makes plain text.
    """
    if section.template is not None:
        fill = compile_template(section.template, first, label=section.label)
        if section.label is None:
            return lambda row: _make_row("", fill(row))
        completion = require_column(section.label, first, "data.label")
        return lambda row: _make_row(fill(row), row.get(completion))
    if section.text is None and section.label is None:
        template = match_layout(list_columns(first))
        if template is None and find_text_columns(first) == ["text"]:  # beside metadata
            return make_pair_template(None, "text")
        if template is None:
            known = ", ".join("+".join(names) for names in _LAYOUTS)
            raise DataError(
                f"data.text auto needs the columns {known}, or text alone, found "
                f"{', '.join(list_columns(first))}; name them in data.text and data.label"
            )
        return template
    if not isinstance(section.text, str):
        raise ConfigError(
            f"data.text must name one column, of prompts, chats or plain text, "
            f"for data.kind: text-generation, got {section.text or 'auto'}"
        )
    text = require_column(section.text, first, "data.text")
    if section.label is not None:
        return make_pair_template(text, require_column(section.label, first, "data.label"))
    values = [row.get(text) for row in first]
    return (
        make_chat_template(text)
        if any(read_chat(convert_to_messages(value)) for value in values)
        else make_pair_template(None, text)
    )


def read_chat(value: Any) -> list[Row] | None:
    """Return the messages of a chat with all their fields; None if the value is no chat.

    A message is an object with a role, and text as its content or tool calls. Content in parts of
    text is joined by newlines, as vLLM does it. Fields that are null
    count as absent: a column of objects gives each the fields of all. Arguments of a tool call that
    are JSON, as OpenAI's format has them, are parsed, because chat templates write them as JSON.
    """
    messages = _parse_objects(value)
    if messages is None:
        return None
    messages = [_drop_nulls(message) for message in messages]
    for message in messages:
        calls = message.get("tool_calls", [])
        if not isinstance(message.get("role"), str) or not isinstance(calls, list):
            return None
        if "content" in message:
            message["content"] = _join_parts(message["content"])
        if not isinstance(message.get("content", "" if calls else None), str):
            return None
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and "arguments" in function:
                function["arguments"] = _parse_arguments(function["arguments"])
    return messages


def _parse_objects(value: Any) -> list[Row] | None:
    """Return a list of objects, which may be JSON; None if the value is something else."""
    try:
        objects = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    is_list = isinstance(objects, list) and all(isinstance(each, dict) for each in objects)
    return objects if is_list else None


def _drop_nulls(value: Any) -> Any:
    """Return a value without the fields of objects that are null, or lists of no tool calls."""
    if isinstance(value, dict):
        fields = {key: _drop_nulls(field) for key, field in value.items() if field is not None}
        return {key: field for key, field in fields.items() if (key, field) != ("tool_calls", [])}
    return [*map(_drop_nulls, value)] if isinstance(value, list) else value


def _join_parts(content: Any) -> Any:
    """Return parts {type: text, text} as one text; any other content is returned unchanged."""
    parts = content if isinstance(content, list) else []
    values = [part.get("text") for part in parts if isinstance(part, dict)]
    texts = [value for value in values if isinstance(value, str)]
    return "\n".join(texts) if texts and len(texts) == len(parts) else content


def _parse_arguments(arguments: Any) -> Any:
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else None
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else arguments


def store_chat(row: Row) -> Row:
    """Return the row with its messages and tools as JSON; what can't be read stays as it is."""
    messages, tools = read_chat(row.get("messages")), _parse_objects(row.get("tools") or None)
    chat = {"messages": messages, "tools": tools and _drop_nulls(tools)}
    return row | {k: json.dumps(v, ensure_ascii=False) for k, v in chat.items() if v is not None}


def find_error(row: Row) -> str | None:
    """Return why a row is bad: prompt, completion or last turn is missing, or of another type."""
    if row.get("messages") is not None:
        if row.get("tools") and _parse_objects(row["tools"]) is None:
            return "tools that are no list of objects"
        return _find_chat_error(row["messages"])
    prompt, completion = row.get("prompt"), row.get("completion")
    if prompt is None:
        return "no prompt"
    if completion is None:
        return "no completion"
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return "text of another type"
    return None if completion.strip() else "empty completion"


def _find_chat_error(messages: Any) -> str | None:
    turns = read_chat(messages)
    if turns is None:
        return "no messages of role and content"
    if not turns or turns[-1]["role"] != "assistant":
        return "no final assistant turn"
    if len(turns) < 2:
        return "no prompt"
    is_empty = not turns[-1].get("content", "").strip() and "tool_calls" not in turns[-1]
    return "empty completion" if is_empty else None


_ANY_TEXT = "x"  # a completion of a row to predict; its prompt is tokenized without it


def add_target(row: Row, classes: Sequence[str]) -> Row:
    """Return a row to predict with a completion, or its chat with a last turn of the assistant."""
    if row.get("messages") is None:
        return row | {"completion": _ANY_TEXT, "messages": None}
    turns = _parse_objects(row["messages"])
    if turns is None or (turns and turns[-1].get("role") == "assistant"):
        return row  # for `find_error`; or a chat with its answer
    return row | {"messages": [*turns, {"role": "assistant", "content": _ANY_TEXT}]}


TEXT_METRICS = ("exact_match", "final_number", "rouge1", "rouge2", "rougeL")
_TEXT = Value("string")
SCHEMA = RowSchema(
    kind="text-generation",
    features=Features(
        {
            "prompt": _TEXT,
            "cue": _TEXT,  # behind the prompt, of decoders only
            "completion": _TEXT,
            "messages": _TEXT,  # JSON, because their fields differ from row to row
            "tools": _TEXT,  # JSON
        }
    ),
    metrics=(*TEXT_METRICS, "perplexity"),
    build_template=build_template,
    supports_text_template=True,
    postprocess=store_chat,
    find_error=find_error,
    matches_columns=lambda names: match_layout(names) is not None,
    inputs=InputColumns(
        required=(("prompt",), ("messages",)),
        optional=("cue", "tools"),
        add_target=add_target,
        read_texts=name_texts("prompt"),
    ),
    identity_columns=("prompt", "completion", "messages"),
    row_name=lambda row: find_bad_turn(row.get("messages")),
    model_requirement="a decoder, such as llama, or an encoder-decoder, such as t5",
)
