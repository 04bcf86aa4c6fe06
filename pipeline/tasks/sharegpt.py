"""Chats as ShareGPT's format has them: `conversations` of {from, value}."""

from __future__ import annotations

import json
from typing import Any

_CALLS = ("function_call", "function-call")
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function-response": "tool",
    **dict.fromkeys(_CALLS, "assistant"),
}


def convert_to_messages(chat: Any) -> Any:
    """Return a chat of {from, value}, or such a list as JSON, as messages of {role, content}.

    The value of a `function_call` is JSON of one call or a list of them, {name, arguments}; it
    becomes `tool_calls`. Anything else is returned unchanged, also a chat with a turn that
    `find_bad_turn` names.
    """
    turns = _read_turns(chat)
    if not turns or find_bad_turn(turns):
        return chat
    return [_convert_turn(turn) for turn in turns]


def find_bad_turn(chat: Any) -> str | None:
    """Return what is wrong with a chat of {from, value}; None: nothing, or it is no such chat."""
    for turn in _read_turns(chat):
        speaker = turn["from"]
        if speaker not in _ROLES:
            return f"from {speaker!r} is none of {', '.join(_ROLES)}"
        if speaker in _CALLS and _read_calls(turn["value"]) is None:
            return f"{speaker} must be JSON of name and arguments, got {turn['value']!r}"
    return None


def _read_turns(chat: Any) -> list[dict[str, Any]]:
    """Return the turns of a chat; none if it is no list of {from, value}."""
    try:
        turns = json.loads(chat) if isinstance(chat, str) else chat
    except ValueError:
        return []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return []
    fits = all(isinstance(turn.get("from"), str) and "value" in turn for turn in turns)
    return turns if fits else []


def _convert_turn(turn: dict[str, Any]) -> dict[str, Any]:
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    said: dict[str, Any] = {"content": turn["value"]}
    if turn["from"] in _CALLS:
        calls = _read_calls(turn["value"]) or []
        said = {"tool_calls": [{"type": "function", "function": call} for call in calls]}
    return {"role": _ROLES[turn["from"]]} | said | others


def _read_calls(value: Any) -> list[dict[str, Any]] | None:
    """Return the calls that a turn makes; None if it holds something else."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    calls = calls if isinstance(calls, list) else [calls]
    is_call = [isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls]
    return calls if calls and all(is_call) else None
