"""Tokenize prompts and completions, or chats, and truncate them."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks.base import Columns

Ids = list[int]


def tokenize_pairs(rows: Columns, processor: PreTrainedTokenizerBase) -> list[tuple[Ids, Ids]]:
    """Return the tokens of prompt and completion of each row for a decoder, not truncated.

    The whole text is tokenized and split where the prompt ends; if a token spans the boundary, both
    are tokenized separately. A prompt has at least the BOS token, and a completion ends in the EOS
    token.
    """
    end, chats = eos_token_id(processor), rows["messages"][0] is not None
    texts = render_chats(rows["messages"], processor) if chats else _joined(rows)
    # A chat template writes the special tokens itself.
    prompts = _ids([prompt for prompt, _ in texts], processor, special=not chats)
    wholes = _ids([prompt + rest for prompt, rest in texts], processor, special=not chats)
    begin = end if processor.bos_token_id is None else processor.bos_token_id
    made = []
    for prompt, whole, (_, rest) in zip(prompts, wholes, texts, strict=True):
        if whole[: len(prompt)] == prompt:
            completion = whole[len(prompt) :]
        else:
            completion = processor(rest, add_special_tokens=False)["input_ids"]
        made.append((prompt or [begin], ensure_eos(completion, end, processor)))
    return made


def render_chats(chats: list[Any], processor: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """Return the text before a chat's last answer, and that answer with the end of its turn.

    Raises:
        ConfigError: the tokenizer has no chat template.
        DataError: the template refuses a chat.
    """
    if not processor.chat_template:
        raise ConfigError(
            "the tokenizer of model.name has no chat template, which rows with messages need; "
            "take an instruction-tuned model, or rows with prompt and completion"
        )
    try:
        return [_chat_text(messages, processor) for messages in chats]
    except TemplateError as error:
        raise DataError(f"the chat template of model.name refuses a row: {error}") from None


def _chat_text(messages: Any, processor: PreTrainedTokenizerBase) -> tuple[str, str]:
    prompt = processor.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    whole = processor.apply_chat_template(messages, tokenize=False)
    # Some templates render the last turn differently from its prompt.
    begun = whole.startswith(prompt)
    return prompt, whole.removeprefix(prompt) if begun else messages[-1]["content"]


def _joined(rows: Columns) -> list[tuple[str, str]]:
    """Return prompts with cues, and completions after a space unless one is not needed."""
    cues = rows.get("cue") or [None] * len(rows["prompt"])
    prompts = [f"{prompt}{cue or ''}" for prompt, cue in zip(rows["prompt"], cues, strict=True)]
    pairs = zip(prompts, rows["completion"], strict=True)
    return [
        (prompt, text if not prompt or prompt[-1].isspace() or text[0].isspace() else f" {text}")
        for prompt, text in pairs
    ]


def _ids(texts: list[str], processor: PreTrainedTokenizerBase, *, special: bool) -> list[Ids]:
    """Return token ids without the end-of-text token that some tokenizers add."""
    end = processor.eos_token_id
    probe = processor("a", add_special_tokens=special)["input_ids"]
    found = processor(texts, add_special_tokens=special, verbose=False)["input_ids"]
    return [ids[:-1] for ids in found] if special and probe[-1:] == [end] else found


def ensure_eos(completion: Ids, end: int, processor: PreTrainedTokenizerBase) -> Ids:
    """Return the completion up to its end-of-text token, which is added if there is none."""
    if end in completion:
        last = len(completion) - completion[::-1].index(end)
        if not processor.decode(completion[last:]).strip():  # a chat's newline between turns
            return completion[:last]
    return [*completion, end]


def eos_token_id(processor: PreTrainedTokenizerBase) -> int:
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
