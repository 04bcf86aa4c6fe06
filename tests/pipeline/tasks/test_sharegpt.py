"""Chats of ShareGPT's format are read as messages."""

import json

import pytest
from helpers.task_files import read, write_jsonl

from pipeline.common.errors import DataError
from pipeline.tasks.generation_schema import read_chat
from pipeline.tasks.sharegpt import convert_to_messages

CHAT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Hi?"},
    {"from": "gpt", "value": "Yes."},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.mark.parametrize("chat", [CHAT, json.dumps(CHAT), MESSAGES])
@pytest.mark.parametrize(
    ("column", "settings"),
    [
        ("conversations", {}),
        ("messages", {}),
        ("chat", {"text": "chat", "kind": "text-generation"}),
    ],
)
def test_turns_of_from_and_value_are_messages(tmp_path, chat, column, settings):
    train = write_jsonl(tmp_path / "a.jsonl", **{column: [chat] * 20}, id=[*range(20)])
    dataset = read(tmp_path, train=train, validation=train, test=train, **settings)

    assert read_chat(dataset.splits["train"]["messages"][0]) == MESSAGES


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"from": "narrator", "value": "Yes."}, r"from 'narrator' is none of human, "),
        ({"from": "function_call", "value": "add"}, r"function_call must be JSON of .* got 'add'"),
        ({"from": "function_call", "value": "[]"}, r"function_call must be JSON of .* got '\[\]'"),
    ],
)
def test_a_turn_that_can_t_be_read_makes_a_bad_row_that_is_told(tmp_path, turn, message):
    chat = [{"from": "human", "value": "Hi?"}, turn]
    train = write_jsonl(tmp_path / "a.jsonl", conversations=[chat] * 20)

    with pytest.raises(
        DataError, match="20 x no messages of role and content .first: row 1, " + message
    ):
        read(tmp_path, train=train)


@pytest.mark.parametrize("several", [False, True])
def test_calls_of_tools_and_their_results_are_those_of_chat_templates(tmp_path, several):
    call = {"name": "add", "arguments": {"a": 1}}
    chat = [
        {"from": "human", "value": "Add."},
        {"from": "function_call", "value": json.dumps([call, call] if several else call)},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "It is 2."},
    ]
    tools = json.dumps([{"name": "add"}])
    train = write_jsonl(tmp_path / "a.jsonl", conversations=[chat] * 20, tools=[tools] * 20)
    dataset = read(tmp_path, train=train, validation=train, test=train)

    calls = [{"type": "function", "function": call}] * (1 + several)
    assert read_chat(dataset.splits["train"]["messages"][0]) == [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    assert dataset.columns["tools"] == ("tools",)


@pytest.mark.parametrize("value", [None, "Hi", [1], 3, [{"from": 1, "value": "x"}], MESSAGES])
def test_what_is_no_such_chat_stays_as_it_is(value):
    assert convert_to_messages(value) == value
