"""Chats as ShareGPT's format has them: `conversations` of {from, value}."""

from __future__ import annotations

import json
from typing import Any

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


def as_messages(chat: Any) -> Any:
    """Return a chat of {from, value}, or such a list as JSON, as messages of {role, content}.

    Anything else is returned unchanged, also a chat with a speaker that has no role.
    """
    try:
        turns = json.loads(chat) if isinstance(chat, str) else chat
    except ValueError:
        return chat
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return chat
    if not all(_ROLES.get(str(turn.get("from"))) and "value" in turn for turn in turns):
        return chat
    return [_as_message(turn) for turn in turns]


def _as_message(turn: dict[str, Any]) -> dict[str, Any]:
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {"role": _ROLES[turn["from"]], "content": turn["value"]} | others
