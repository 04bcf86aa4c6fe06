"""Prompt and completion token by token: where one ends, what is cut, what is learned from."""

import json
import random

import pytest
import torch
from helpers.data_cards import make_data_card
from helpers.generation_workspace import encode_words, make_tokenizer
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks.base import IGNORED
from pipeline.tasks.prompt_completion import (
    find_unused_fields,
    render_chat,
    tokenize_pairs,
    truncate_middle,
    truncate_pair,
)
from pipeline.tasks.text_generation import CausalLM, Seq2SeqLM

END = encode_words("</s>")
TURNS = [
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": "w3"},
    {"role": "user", "content": "w4"},
    {"role": "assistant", "content": "w5 w6"},
]

KINDS = (CausalLM, Seq2SeqLM)


def pairs(*rows: tuple[str, str]) -> dict:
    prompts, completions = zip(*rows, strict=True)
    nothing = [None] * len(rows)
    return {"prompt": [*prompts], "completion": [*completions], "messages": nothing}


def chats(*rows: list) -> dict:
    nothing = [None] * len(rows)
    return {"prompt": nothing, "completion": nothing, "messages": [*map(json.dumps, rows)]}


def bytes_tokenizer(*, begins: bool, ends: bool) -> PreTrainedTokenizerFast:
    """Byte pairs as GPT-2 has them, with tokens of several letters; special tokens as asked."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["Answer: 42", "abab ab\n\n\n\n"] * 9, trainer)
    template = f"{'<s> ' if begins else ''}$A{' </s>' if ends else ''}"
    backend.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def test_only_the_completion_and_the_end_of_text_are_learned_from():
    task = CausalLM(make_data_card(max_length=16))
    encoded = task.encode(pairs(("w1 w2", "w3"), ("", "w4 w5")), make_tokenizer())

    assert encoded["input_ids"] == [encode_words("w1 w2 w3 </s>"), encode_words("</s> w4 w5 </s>")]
    assert encoded["labels"] == [
        [IGNORED] * 2 + encode_words("w3 </s>"),
        [IGNORED, *encode_words("w4 w5 </s>")],
    ]
    assert encoded["length"] == [4, 4]
    assert encoded["num_truncated"] == [0, 0]


def test_a_cue_is_for_decoders_only():
    row = pairs(("w1 w2", "w3")) | {"cue": ["\nw9"]}
    decoder, reader = (
        task(make_data_card(max_length=16)).encode(row, make_tokenizer()) for task in KINDS
    )

    assert decoder["input_ids"] == [encode_words("w1 w2 w9 w3 </s>")]
    assert reader["input_ids"] == [encode_words("w1 w2")]


def test_a_batch_is_padded_behind_and_padding_is_not_learned_from():
    task = CausalLM(make_data_card(max_length=16))
    encoded = task.encode(pairs(("w1 w2 w7", "w3"), ("w1", "w4")), make_tokenizer())
    rows = [{name: encoded[name][row] for name in ("input_ids", "labels")} for row in range(2)]
    batch = task.make_collator(make_tokenizer())(rows)

    assert batch["input_ids"].tolist() == [
        encode_words("w1 w2 w7 w3 </s>"),
        encode_words("w1 w4 </s> <pad> <pad>"),
    ]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [
        [IGNORED] * 3 + encode_words("w3 </s>"),
        [IGNORED, *encode_words("w4 </s>"), IGNORED, IGNORED],
    ]


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_prompt_and_completion_are_the_tokens_of_the_whole_text(begins, ends):
    words = bytes_tokenizer(begins=begins, ends=ends)
    texts = [("Answer:", "42"), ("Answer:\n", "42"), ("", "abab"), ("ab", " ab"), ("x ", "y")]
    joined = ["Answer: 42", "Answer:\n42", "abab", "ab ab", "x y"]

    for (prompt, completion), text in zip(
        tokenize_pairs(pairs(*texts), words), joined, strict=True
    ):
        inner = words(text, add_special_tokens=False)["input_ids"]
        starts = begins or prompt == [0]  # a text without a prompt begins with the token for it
        assert prompt + completion == [0] * starts + inner + [1]
        assert prompt


def test_a_token_across_the_end_of_the_prompt_is_split_there():
    words = bytes_tokenizer(begins=False, ends=False)
    (prompt, completion), *_ = tokenize_pairs(pairs(("ab\n\n", "\n\nab")), words)

    assert len(words("\n\n\n\n")["input_ids"]) < len(words("\n\n")["input_ids"]) * 2
    assert prompt == words("ab\n\n")["input_ids"]  # as it is when the model is asked
    assert words.decode(completion) == "\n\nab</s>"


def test_a_chat_s_last_answer_is_learned_from_with_what_ends_its_turn():
    task = CausalLM(make_data_card(max_length=20))
    encoded = task.encode(chats(TURNS, TURNS[:2]), make_tokenizer())

    prompt = encode_words("<u> w1 w2 </s> <a> w3 </s> <u> w4 </s> <a>")
    assert encoded["input_ids"][0] == prompt + encode_words("w5 w6 </s>")
    assert encoded["labels"][0] == [IGNORED] * len(prompt) + encode_words("w5 w6 </s>")
    assert encoded["labels"][1] == [IGNORED] * 5 + encode_words("w3 </s>")


def test_a_template_that_writes_an_answer_otherwise_keeps_its_prompt():
    words = make_tokenizer()
    words.chat_template = words.chat_template.replace("%}<a>{%", "%}<a> : {%")

    assert render_chat(TURNS[:2], None, words) == ("<u> w1 w2 </s>\n<a> : ", "w3")
    with pytest.raises(DataError, match="writes a last turn with tool_calls otherwise"):
        render_chat([TURNS[0], {"role": "assistant", "tool_calls": [CALL]}], None, words)


CALL = {"function": {"name": "w9", "arguments": {"w8": 1}}}
TOOL_CHAT = (
    "{% for t in tools or [] %}{{ t.name }} {% endfor %}"
    "{% for m in messages %}<{{ m.role[0] }}> {{ m.reasoning_content }} {{ m.content }}"
    "{% for c in m.tool_calls or [] %} {{ c.function.name }} "
    "{% for key in c.function.arguments %}{{ key }}{% endfor %}{% endfor %} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.mark.parametrize("task", KINDS)
def test_a_chat_template_gets_messages_whole_and_tools(task):
    words = make_tokenizer()
    words.chat_template = TOOL_CHAT
    turns = [
        {"role": "user", "content": "w1", "name": "w7"},
        {"role": "assistant", "tool_calls": [CALL], "reasoning_content": "w2"},
    ]
    rows = chats(turns, TURNS[:2]) | {"tools": [json.dumps([{"name": "w5"}]), None]}
    encoded = task(make_data_card(max_length=20)).encode(rows, words)

    prompts = encode_words("w5 <u> w1 </s> <a>"), encode_words("<u> w1 w2 </s> <a>")
    answers = encode_words("w2 w9 w8 </s>"), encode_words("w3 </s>")
    if task is Seq2SeqLM:
        assert encoded["input_ids"] == [*prompts]
        assert encoded["labels"] == [*answers]
    else:
        assert encoded["input_ids"] == [p + a for p, a in zip(prompts, answers, strict=True)]
        assert encoded["labels"][0] == [IGNORED] * 5 + answers[0]
    unused = find_unused_fields(zip(rows["messages"], rows["tools"], strict=True), words)
    assert unused == ("name",)
    words.chat_template = make_tokenizer().chat_template
    answered = json.dumps([*turns, TURNS[1]])
    unused = find_unused_fields([(answered, rows["tools"][0])], words)
    assert unused == ("name", "reasoning_content", "tool_calls", "tools")


@pytest.mark.parametrize("task", KINDS)
def test_each_row_is_a_chat_or_a_pair_whatever_the_first_one_is(task):
    both = [pairs(("w1 w2", "w3")), chats(TURNS[:2])]
    alone = [task(make_data_card(max_length=16)).encode(rows, make_tokenizer()) for rows in both]
    for order in ((0, 1, 0), (1, 0, 1)):
        rows = {name: [both[n][name][0] for n in order] for name in both[0]}
        encoded = task(make_data_card(max_length=16)).encode(rows, make_tokenizer())
        assert encoded == {name: [alone[n][name][0] for n in order] for name in encoded}


def test_chats_need_a_template_that_takes_them():
    words = make_tokenizer()
    words.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"chat template of model.name refuses a row: roles must"):
        tokenize_pairs(chats(TURNS), words)

    words.chat_template = None
    with pytest.raises(ConfigError, match=r"tokenizer of model.name has no chat template"):
        tokenize_pairs(chats(TURNS), words)


@pytest.mark.parametrize("task", [CausalLM, Seq2SeqLM])
def test_a_tokenizer_without_an_end_of_text_is_refused(task):
    words = make_tokenizer(eos_token=None)
    with pytest.raises(ConfigError, match="no end-of-text token"):
        task(make_data_card(max_length=16)).encode(pairs(("w1", "w2")), words)


def test_a_long_prompt_loses_its_middle_and_a_long_completion_its_end():
    assert truncate_middle([*range(9)], 4) == [0, 1, 7, 8]
    assert truncate_middle([*range(9)], 3) == [0, 1, 8]
    assert truncate_middle([*range(9)], 1) == [0]
    assert truncate_pair([*range(20)], [50, 51], length=8) == ([0, 1, 2, 17, 18, 19], [50, 51])
    # A quarter of the length is the prompt's, if it needs it.
    assert truncate_pair([*range(20)], [*range(50, 70)], length=8) == ([0, 19], [*range(50, 56)])
    assert truncate_pair([1], [*range(50, 70)], length=8) == ([1], [*range(50, 57)])


def test_no_row_gets_too_long_or_loses_its_completion_and_losses_are_counted():
    draw = random.Random(0)
    for length in (8, 9, 31):
        sizes = [(draw.randint(1, 40), draw.randint(1, 40)) for _ in range(200)]
        rows = pairs(*((" ".join(["w1"] * a), " ".join(["w2"] * b)) for a, b in sizes))
        encoded = CausalLM(make_data_card(max_length=length)).encode(rows, make_tokenizer())
        for (a, b), row, labels, lost in zip(
            sizes, encoded["input_ids"], encoded["labels"], encoded["num_truncated"], strict=True
        ):
            learned = len(labels) - labels.count(IGNORED)
            assert len(row) == len(labels) == min(a + b + 1, length) == a + b + 1 - lost
            assert 1 <= learned <= b + 1
            if b + 1 <= length - length // 4:
                assert learned == b + 1


def test_seq2seq_reads_the_prompt_and_learns_the_completion():
    task = Seq2SeqLM(make_data_card(max_length=4))
    rows = pairs(("w1 w2 w3 w4 w5 w6", "w7"), ("w1", "w2 w3 w4 w5 w6"))
    encoded = task.encode(rows, make_tokenizer())

    assert encoded["input_ids"] == [encode_words("w1 w2 w3 w4"), encode_words("w1")]
    assert encoded["labels"] == [encode_words("w7 </s>"), encode_words("w2 w3 w4 w5")]
    assert encoded["length"] == [6, 5]
    assert encoded["num_truncated"] == [2, 2]
    batch = task.make_collator(make_tokenizer())(
        [{name: encoded[name][row] for name in ("input_ids", "labels")} for row in range(2)]
    )
    assert batch["attention_mask"].tolist() == [[1] * 4, [1, 0, 0, 0]]
    assert torch.equal(batch["labels"][0], torch.tensor(encode_words("w7 </s>") + [IGNORED] * 2))
