"""The form of rows to generate: which files are, what becomes of columns, what makes rows bad."""

import json

import pytest
from datasets import Dataset
from helpers.task_files import make_section, read, write_rows

from pipeline.common.data_card import DroppedRows
from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks import generation_schema as generate
from pipeline.tasks import text_classification as classify
from pipeline.tasks.registry import infer_schema

TURNS = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]


def made(folder, row: dict, **settings) -> dict:
    """What a file with such a row becomes, as every split: its row, without empty columns."""
    path = folder / "train.jsonl"
    write_rows(path, [row])
    files = dict.fromkeys(("train", "validation", "test"), str(path))
    task = read(folder, **files, **settings)
    assert task.schema is generate.SCHEMA
    assert task.classes == []
    return {name: value for name, value in task.splits["train"][0].items() if value is not None}


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "2 + 2 =", "completion": "4", "id": 7}, "2 + 2 =", "4"),
        ({"prompt": "", "completion": "4"}, "", "4"),
        (
            {"instruction": "Add.", "input": "2, 2", "output": "4"},
            "### Instruction:\nAdd.\n\n### Input:\n2, 2\n\n### Response:\n",
            "4",
        ),
        (
            {"instruction": "Say 4.", "input": None, "output": "4"},
            "### Instruction:\nSay 4.\n\n### Response:\n",
            "4",
        ),
        ({"question": "2 + 2? ", "answer": "#### 4"}, "Question: 2 + 2?\nAnswer:", "#### 4"),
        ({"text": "To be, or not"}, "", "To be, or not"),
    ],
)
def test_columns_of_the_usual_names_become_prompt_and_completion(tmp_path, row, prompt, completion):
    assert made(tmp_path, row) == {"prompt": prompt, "completion": completion}


@pytest.mark.parametrize(
    "value", [TURNS, json.dumps(TURNS), [turn | {"name": None, "tool_calls": []} for turn in TURNS]]
)
def test_messages_are_a_chat_as_a_list_or_as_json(tmp_path, value):
    stored = {"messages": json.dumps(TURNS)}
    assert made(tmp_path, {"messages": value}) == stored
    assert made(tmp_path, {"talk": value}, kind="text-generation", text="talk") == stored


def test_content_in_parts_of_text_is_one_text(tmp_path):
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there?"}]
    stored = json.dumps([{"role": "user", "content": "Hi\nthere?"}, TURNS[1]])
    row = {"messages": [{"role": "user", "content": parts}, TURNS[1]]}

    assert made(tmp_path, row) == {"messages": stored}
    row["messages"][0]["content"] = [*parts, {"type": "image", "image": "a.png"}]
    assert generate.find_error(row) == "no messages of role and content"


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Köln"}}}
TOOL_TURNS = [
    {"role": "user", "content": "Warm?", "name": "Ann"},
    {"role": "assistant", "tool_calls": [CALL], "reasoning_content": "Ask."},
    {"role": "tool", "content": "20", "tool_call_id": "c1"},
    {"role": "assistant", "content": "Yes."},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("as_json", [False, True])
def test_messages_keep_all_fields_and_the_rows_tools(tmp_path, suffix, as_json):
    row = {"messages": TOOL_TURNS, "tools": TOOLS}
    if as_json:
        function = {"name": "weather", "arguments": json.dumps({"town": "Köln"})}
        asking = TOOL_TURNS[1] | {"tool_calls": [CALL | {"function": function}], "content": None}
        turns = [TOOL_TURNS[0], asking, *TOOL_TURNS[2:]]
        row = {"messages": json.dumps(turns), "tools": json.dumps(TOOLS)}
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        Dataset.from_list([row]).to_parquet(path)
    else:
        write_rows(path, [row])
    files = dict.fromkeys(("train", "validation", "test"), str(path))
    clean = read(tmp_path, **files).splits["train"][0]

    assert json.loads(clean["messages"]) == TOOL_TURNS
    assert json.loads(clean["tools"]) == TOOLS


def test_columns_can_be_named(tmp_path):
    row = {"document": "long", "summary": "short", "label": 1}

    both = made(tmp_path, row, kind="text-generation", text="document", label="summary")
    assert both == {"prompt": "long", "completion": "short"}
    plain = made(tmp_path, row, kind="text-generation", text="document")
    assert plain == {"prompt": "", "completion": "long"}


@pytest.mark.parametrize(
    "names",
    [
        ("text", "label"),
        ("sentence",),
        ("prompt", "completion", "label"),
        ("question", "answer", "label"),
        ("question", "choices", "answer"),
        ("question", "context", "answer"),
        ("text", "source"),
    ],
)
def test_a_file_with_labels_or_choices_is_not_for_generation(names):
    assert infer_schema(make_section(train="x"), [dict.fromkeys(names, "x")]) is not generate.SCHEMA


def test_columns_that_are_named_are_a_classification_s_unless_the_kind_says_otherwise():
    first = [{"question": "2 + 2?", "answer": "yes"}]

    assert infer_schema(make_section(train="x"), first) is generate.SCHEMA
    assert (
        infer_schema(make_section(train="x", text="question", label="answer"), first)
        is classify.SCHEMA
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None, "completion": "4"}, "no prompt"),
        ({"completion": "4"}, "no prompt"),
        ({"prompt": "2"}, "no completion"),
        ({"prompt": "2", "completion": " \n"}, "empty completion"),
        ({"prompt": "2", "completion": 4}, "text of another type"),
        ({"prompt": ["2"], "completion": "4"}, "text of another type"),
        ({"messages": TURNS[:1]}, "no final assistant turn"),
        ({"messages": TURNS[1:]}, "no prompt"),
        ({"messages": []}, "no final assistant turn"),
        ({"messages": [*TURNS[:1], {"role": "assistant", "content": " "}]}, "empty completion"),
        ({"messages": [*TURNS[:1], {"role": "assistant"}]}, "no messages of role and content"),
        ({"messages": [*TURNS[:1], {"role": "assistant", "tool_calls": [CALL]}]}, None),
        ({"messages": [{"role": 1, "content": "Hi?"}, *TURNS]}, "no messages of role and content"),
        ({"messages": TURNS, "tools": "weather"}, "tools that are no list of objects"),
        ({"messages": TURNS, "tools": [1]}, "tools that are no list of objects"),
        ({"messages": TURNS, "tools": "[]"}, None),
        ({"messages": "Hi"}, "no messages of role and content"),
        ({"messages": ["Hi"]}, "no messages of role and content"),
        ({"prompt": "2", "completion": "4"}, None),
        ({"messages": TURNS}, None),
    ],
)
def test_bad_rows_have_a_reason(row, reason):
    assert generate.find_error(row) == reason


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Add.", "input": 2, "output": "4"},
        {"instruction": 2, "output": "4"},
        {"question": 2, "answer": "4"},
    ],
)
def test_a_template_leaves_what_is_no_text_to_the_count_of_bad_rows(row):
    assert generate.find_error(generate.match_layout(list(row))(row)) == "text of another type"


def test_bad_rows_are_counted_and_named(tmp_path):
    rows = [{"prompt": f"{n}", "completion": "4"} for n in range(30)]
    rows.append({"prompt": "3", "completion": ""})
    path = tmp_path / "train.jsonl"
    write_rows(path, rows)

    with pytest.raises(DataError, match=r"1 of 31 rows.* 1 x empty completion \(first: row 31\)"):
        read(tmp_path, train=str(path))
    task = read(tmp_path, train=str(path), max_bad_rows=0.1)
    assert task.dropped == {"train: empty completion": DroppedRows(rows=1, first=31)}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, DataError, r"needs the columns messages, prompt\+completion.*found document, summary"),
        ({"label": "summary"}, ConfigError, "must name one column.*got auto"),
        ({"text": ["document", "summary"]}, ConfigError, "must name one column.*got "),
        ({"text": "documnt"}, DataError, "did you mean 'document'"),
    ],
)
def test_columns_that_make_no_task_are_one_line(tmp_path, settings, error, message):
    path = tmp_path / "train.jsonl"
    write_rows(path, [{"document": "long", "summary": "short"}] * 20)

    with pytest.raises(error, match=message):
        read(tmp_path, train=str(path), kind="text-generation", **settings)
