"""Choosing by a decoder equals a full pass for every choice, however rows are batched."""

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from helpers.choice_workspace import questions, tiny_decoder
from helpers.data_cards import data_card
from helpers.stage_workspace import WORDS, tokenizer
from helpers.tiny_models import lora
from peft import get_peft_model
from scipy.special import softmax
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks.multiple_choice_lm import MultipleChoiceLM, score_choices, tokenize_choices

DECODERS = {
    "llama": {},
    "llama, shared keys": {"num_key_value_heads": 2},
    "gpt2": {"n_positions": 24},
    "opt": {"ffn_dim": 64, "max_position_embeddings": 24, "word_embed_proj_dim": 32},
    "gemma3_text": {
        "head_dim": 8,
        "num_key_value_heads": 2,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mistral": {"sliding_window": 5, "num_key_value_heads": 2},
    "bloom": {"n_head": 4},
}
# Learned positions are only just enough for the longest prompt with its own choices.
PROMPTS = (3, 21, 1, 9)
CHOICES = ((1, 4), (3, 2, 1), (10, 1, 5, 2), (2, 2))


def ids(count: int) -> list[int]:
    return torch.randint(2, len(WORDS), (count,)).tolist()


def alone(model, prompt: list[int], choice: list[int]) -> float:
    """Log-likelihood by a pass over the whole text, without cache and padding."""
    said = model(input_ids=torch.tensor([prompt + choice])).logits[0].log_softmax(dim=-1)
    return sum(float(said[len(prompt) - 1 + n, word]) for n, word in enumerate(choice))


def characters(*, whole: str = "", before: str = "", behind: str = "") -> PreTrainedTokenizerFast:
    """Characters and a merge; spaces are tokens; with special tokens around each text."""
    letters = {c: n for n, c in enumerate("#^! abcdefgh?\n")}
    merged = [(whole[0], whole[1:])] if whole else []
    made = Tokenizer(models.BPE(letters | ({whole: len(letters)} if whole else {}), merged))
    made.pre_tokenizer = pre_tokenizers.Split("|", "isolated")
    if before or behind:
        around = [(mark, letters[mark]) for mark in before + behind]
        single = f"{before} $A {behind}".strip()
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="#", bos_token=before or None, eos_token=behind or None
    )


def encoded(rows: list[dict], *, most: int = 32) -> tuple[MultipleChoiceLM, Dataset]:
    """The kind, and rows as prepare leaves them."""
    kind = MultipleChoiceLM(data_card(max_length=most))
    columns = {name: [row[name] for row in rows] for name in ("choices", "label")}
    columns["prompt"] = [row["question"] for row in rows]
    return kind, Dataset.from_dict(columns | kind.encode(columns, tokenizer()))


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_running_a_prompt_once_gives_what_a_pass_for_every_choice_gives(name):
    model = tiny_decoder(name.partition(",")[0], **DECODERS[name])
    model.config.use_cache = False  # as load_model leaves it
    prompts, choices = [*map(ids, PROMPTS)], [[*map(ids, sizes)] for sizes in CHOICES]
    found = score_choices(model, prompts, choices, padding=0)

    for prompt, mine, values in zip(prompts, choices, found, strict=True):
        wanted = [alone(model, prompt, choice) for choice in mine]
        assert values == pytest.approx(wanted, abs=1e-4)


@torch.no_grad()
def test_a_prompt_runs_once_whatever_the_number_of_its_choices():
    model, seen = tiny_decoder(), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    score_choices(model, [ids(5), ids(7)], [[ids(3)] * 4, [ids(1)] * 2], padding=0)
    score_choices(model, [ids(5)], [[ids(1)] * 3], padding=0)

    assert seen == [(2, 7), (6, 2), (1, 5)]


def test_the_best_mean_over_tokens_wins_and_the_loss_is_that_of_training():
    kind, rows = encoded(questions(20))
    model = get_peft_model(tiny_decoder(), lora(task_type="CAUSAL_LM"))
    one, many = (kind.predict(model, rows, tokenizer(), batch_size=n) for n in (1, 20))
    batch = kind.collator(tokenizer())([rows[n] for n in range(20)])
    with torch.no_grad():
        loss = float(model(**batch).loss)
        means = [
            [alone(model, row["prompt_ids"], choice) / len(choice) for choice in row["choice_ids"]]
            for row in rows
        ]

    np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)
    assert many.predictions.tolist() == [int(np.argmax(row)) for row in means]
    assert one.loss == pytest.approx(loss, abs=1e-4)
    assert many.loss == pytest.approx(loss, abs=1e-4)


def test_what_is_as_likely_after_the_neutral_prompt_is_no_reason_to_choose():
    _, rows = encoded(questions(20))
    rows = concatenate_datasets([rows, rows])  # each choice comes again, when it is known
    neutral = WORDS[4]
    kind = MultipleChoiceLM(data_card(max_length=32, neutral_prompt=neutral))
    model = get_peft_model(tiny_decoder(), lora(task_type="CAUSAL_LM"))
    one, many = (kind.predict(model, rows, tokenizer(), batch_size=n) for n in (1, 20))
    before = tokenizer()(neutral)["input_ids"]
    with torch.no_grad():
        gains = [
            [
                alone(model, row["prompt_ids"], choice) - alone(model, before, choice)
                for choice in row["choice_ids"]
            ]
            for row in rows
        ]

    np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)
    for row, found in zip(gains, many.scores, strict=True):
        np.testing.assert_allclose(found[: len(row)], softmax(row), atol=1e-4)


def test_choices_fit_behind_a_long_neutral_prompt_too():
    rows = {"prompt": ["w1"], "choices": [["w2 " * 30, "w3"]], "label": [0]}
    kind = MultipleChoiceLM(data_card(max_length=12, neutral_prompt="w4 " * 5))
    made = kind.encode(rows, tokenizer())

    assert list(map(len, made["choice_ids"][0])) == [7, 1]
    assert made["num_truncated"] == [30 - 7]

    kind = MultipleChoiceLM(data_card(max_length=12, neutral_prompt="w4 " * 7))
    with pytest.raises(ConfigError, match=r"neutral_prompt must be at most 6 tokens.*got 7"):
        kind.encode(rows, tokenizer())


def test_only_the_right_choice_is_taught():
    kind, rows = encoded(questions(5))
    batch = kind.collator(tokenizer())([rows[n] for n in range(5)])

    for row, said, text, real in zip(
        rows, batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True
    ):
        right = row["choice_ids"][row["label"]]
        assert said[said != -100].tolist() == right
        assert text[real == 1].tolist() == row["prompt_ids"] + right


@pytest.mark.parametrize(
    ("words", "prompt", "start", "first"),
    [
        (characters(), "ab?", "ab?", " cd"),
        (characters(), "ab\n", "ab\n", "cd"),
        (characters(before="^", behind="!"), "ab?", "^ab?", " cd"),
        # Across the seam, `? ` is one token of both texts: choices start with it.
        (characters(whole="? "), "ab?", "ab", "? cd"),
    ],
)
def test_prompt_and_choice_are_the_tokens_of_one_text(words, prompt, start, first):
    before, (after, other) = tokenize_choices(prompt, ["cd", "ce"], words)

    assert "".join(words.convert_ids_to_tokens(before)) == start
    assert "".join(words.convert_ids_to_tokens(after)) == first
    assert "".join(words.convert_ids_to_tokens(other)) == first[:-1] + "e"


@pytest.mark.parametrize(
    ("prompt", "choice", "message"),
    [("--", "a", "the prompt '--' has no token"), ("a\n", "--", r"a choice of \['--'\] has no")],
)
def test_texts_without_tokens_are_one_line(prompt, choice, message):
    words = characters()
    words.backend_tokenizer.normalizer = normalizers.Replace("-", "")
    with pytest.raises(DataError, match=message):
        tokenize_choices(prompt, [choice], words)


def test_of_a_long_row_the_start_of_the_prompt_is_cut_behind_its_first_token():
    kind, words = MultipleChoiceLM(data_card(max_length=10)), characters(before="^")
    rows = {"prompt": ["abcdefgh?", "abc"], "choices": [["gg", "gh"], ["a" * 20, "b"]]}
    found = kind.encode(rows | {"label": [0, 1]}, words)
    texts = [words.convert_ids_to_tokens(prompt) for prompt in found["prompt_ids"]]

    assert ["".join(text) for text in texts] == ["^defgh?", "^abc"]
    assert [[len(choice) for choice in row] for row in found["choice_ids"]] == [[3, 3], [6, 2]]
    assert (found["length"], found["num_truncated"]) == ([10, 10], [3, 15])


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ConfigError, match="Slow can't tell which text a token is from"):
        MultipleChoiceLM(data_card(max_length=16)).encode(
            {"prompt": [], "choices": [], "label": []}, Slow()
        )
