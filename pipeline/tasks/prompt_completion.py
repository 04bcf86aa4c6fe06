"""Tokenize prompts and completions, or chats, and truncate them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import partial

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.text import join_lines
from pipeline.tasks.base import Columns
from pipeline.tasks.schema import Row
from pipeline.tasks.tokenization import map_groups

Ids = list[int]
_TRIED_CHATS = 20  # without a field of their messages


def tokenize_pairs(rows: Columns, processor: PreTrainedTokenizerBase) -> list[tuple[Ids, Ids]]:
    """Return the tokens of prompt and completion of each row for a decoder, not truncated.

    The whole text is tokenized and split where the prompt ends; if a token spans the boundary, both
    are tokenized separately. A prompt has at least the BOS token, and a completion ends in the EOS
    token.
    """
    is_chat = [messages is not None for messages in rows["messages"]]
    texts = render_rows(rows, processor, joined=True)

    def tokenize(numbers: list[int]) -> list[tuple[Ids, Ids]]:
        # A chat template writes the special tokens itself.
        special = not is_chat[numbers[0]]
        return _tokenize_texts([texts[number] for number in numbers], processor, special=special)

    return map_groups(is_chat, tokenize)


def _tokenize_texts(
    texts: list[tuple[str, str]], processor: PreTrainedTokenizerBase, *, special: bool
) -> list[tuple[Ids, Ids]]:
    end = get_eos_token_id(processor)
    prompts = _encode_texts([prompt for prompt, _ in texts], processor, special=special)
    full_texts = _encode_texts(
        [prompt + rest for prompt, rest in texts], processor, special=special
    )
    begin = end if processor.bos_token_id is None else processor.bos_token_id
    pairs = []
    for prompt, full, (_, rest) in zip(prompts, full_texts, texts, strict=True):
        if full[: len(prompt)] == prompt:
            completion = full[len(prompt) :]
        else:
            completion = processor(rest, add_special_tokens=False)["input_ids"]
        pairs.append((prompt or [begin], ensure_eos(completion, end, processor)))
    return pairs


def render_rows(
    rows: Columns, processor: PreTrainedTokenizerBase, *, joined: bool
) -> list[tuple[str, str]]:
    """Return prompt and completion of each row as text; with `joined` as one text for a decoder.

    Raises:
        ConfigError, DataError: as `render_chat`.
    """
    count = len(rows["messages"])
    names = ("prompt", "completion", "messages", "cue", "tools")
    columns = (rows.get(name) or [None] * count for name in names)
    texts = []
    for prompt, completion, messages, cue, tools in zip(*columns, strict=True):
        if messages is not None:
            chat = json.loads(messages), json.loads(tools) if tools else None
            texts.append(render_chat(*chat, processor))
        else:
            texts.append(
                _join(f"{prompt}{cue or ''}", completion) if joined else (prompt, completion)
            )
    return texts


def render_chat(
    messages: list[Row], tools: list[Row] | None, processor: PreTrainedTokenizerBase
) -> tuple[str, str]:
    """Return the text before a chat's last answer, and that answer with the end of its turn.

    Raises:
        ConfigError: the tokenizer has no chat template.
        DataError: the template refuses the chat, or its prompt does not lead to the answer.
    """
    if not processor.chat_template:
        raise ConfigError(
            "the tokenizer of model.name has no chat template, which rows with messages need; "
            "take an instruction-tuned model, or rows with prompt and completion"
        )
    render = partial(processor.apply_chat_template, tools=tools, tokenize=False)
    try:
        prompt, text = render(messages[:-1], add_generation_prompt=True), render(messages)
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(
            f"the chat template of model.name refuses a row: {join_lines(error)}"
        ) from error
    if text.startswith(prompt):
        return prompt, text.removeprefix(prompt)
    # Some templates render the last turn differently from its prompt.
    if "tool_calls" in messages[-1]:
        raise DataError(
            "the chat template of model.name writes a last turn with tool_calls otherwise than the "
            "prompt before it; take rows that end in an answer"
        )
    return prompt, messages[-1]["content"]


def find_unused_fields(
    chats: Iterable[tuple[str, str | None]], processor: PreTrainedTokenizerBase
) -> tuple[str, ...]:
    """Return the fields of messages, and `tools`, that change no text of the chat template.

    Args:
        chats: messages and tools as JSON.
        processor: a tokenizer with a chat template.
    """
    tried: Counter[str] = Counter()
    used: set[str] = set()
    for chat, tools_json in chats:
        messages, tools = json.loads(chat), json.loads(tools_json) if tools_json else None
        fields = {key for message in messages for key in message} | ({"tools"} if tools else set())
        for field in sorted(fields - {"role", "content"} - used):
            tried[field] += 1
            if tried[field] > _TRIED_CHATS:
                continue
            others = [{key: m[key] for key in m if key != field} for m in messages]
            try:
                without = render_chat(others, None if field == "tools" else tools, processor)
            except (DataError, KeyError):  # the template, or the last turn, needs it
                without = None
            if without != render_chat(messages, tools, processor):
                used.add(field)
    return tuple(sorted({*tried} - used))


def _join(prompt: str, completion: str) -> tuple[str, str]:
    """Return the texts with a space before the completion unless one is not needed."""
    is_joined = not prompt or prompt[-1].isspace() or completion[0].isspace()
    return prompt, completion if is_joined else f" {completion}"


def _encode_texts(
    texts: list[str], processor: PreTrainedTokenizerBase, *, special: bool
) -> list[Ids]:
    """Return token ids without the end-of-text token that some tokenizers add."""
    end = processor.eos_token_id
    probe = processor("a", add_special_tokens=special)["input_ids"]
    token_ids = processor(texts, add_special_tokens=special, verbose=False)["input_ids"]
    return [ids[:-1] for ids in token_ids] if special and probe[-1:] == [end] else token_ids


def ensure_eos(completion: Ids, end: int, processor: PreTrainedTokenizerBase) -> Ids:
    """Return the completion up to its end-of-text token, which is added if there is none."""
    if end in completion:
        last = len(completion) - completion[::-1].index(end)
        if not processor.decode(completion[last:]).strip():  # a chat's newline between turns
            return completion[:last]
    return [*completion, end]


def get_eos_token_id(processor: PreTrainedTokenizerBase) -> int:
    """Return the id of the end-of-text token.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if processor.eos_token_id is None:
        raise ConfigError(
            "the tokenizer of model.name has no end-of-text token, so no text would ever end"
        )
    return int(processor.eos_token_id)


def truncate_pair(prompt: Ids, completion: Ids, *, length: int) -> tuple[Ids, Ids]:
    """Truncate a row that is longer than `length` tokens.

    The prompt is truncated first, in its middle: its start is the instruction, its end is what
    the completion follows. It keeps a quarter of the length; then the completion loses its end.
    """
    completion = completion[: length - min(len(prompt), length // 4)]
    return truncate_middle(prompt, length - len(completion)), completion


def truncate_middle(ids: Ids, length: int) -> Ids:
    """Return at most `length` tokens, half from the start and half from the end."""
    if len(ids) <= length:
        return ids
    head = (length + 1) // 2
    return ids[:head] + ids[len(ids) - (length - head) :]
