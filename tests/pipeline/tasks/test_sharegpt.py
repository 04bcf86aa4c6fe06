"""Chats of ShareGPT's format are read as messages."""

import json

import pytest
from helpers.task_files import jsonl, read

from pipeline.common.errors import DataError
from pipeline.tasks.generation_schema import read_chat
from pipeline.tasks.sharegpt import as_messages

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
    train = jsonl(tmp_path / "a.jsonl", **{column: [chat] * 20}, id=[*range(20)])
    dataset = read(tmp_path, train=train, validation=train, test=train, **settings)

    assert read_chat(dataset.splits["train"]["messages"][0]) == MESSAGES


def test_an_unknown_speaker_makes_a_bad_row(tmp_path):
    chat = [{"from": "human", "value": "Hi?"}, {"from": "narrator", "value": "Yes."}]
    train = jsonl(tmp_path / "a.jsonl", conversations=[chat] * 20)

    with pytest.raises(DataError, match="20 x no messages of role and content"):
        read(tmp_path, train=train)


@pytest.mark.parametrize("value", [None, "Hi", [1], 3, [{"from": 1, "value": "x"}], MESSAGES])
def test_what_is_no_such_chat_stays_as_it_is(value):
    assert as_messages(value) == value
