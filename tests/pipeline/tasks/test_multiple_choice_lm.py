"""Choosing by a decoder equals a full pass for every choice, however rows are batched."""

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from helpers.choice_workspace import draw_questions, encode, make_tiny_decoder
from helpers.data_cards import make_data_card
from helpers.stage_workspace import WORDS, make_tokenizer
from helpers.tiny_models import make_lora
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
    log_probabilities = (
        model(input_ids=torch.tensor([prompt + choice])).logits[0].log_softmax(dim=-1)
    )
    return sum(float(log_probabilities[len(prompt) - 1 + n, word]) for n, word in enumerate(choice))


def characters(*, merge: str = "", before: str = "", behind: str = "") -> PreTrainedTokenizerFast:
    """Characters and a merge; spaces are tokens; with special tokens around each text."""
    letters = {c: n for n, c in enumerate("#^! abcdefgh?\n")}
    merged = [(merge[0], merge[1:])] if merge else []
    backend = Tokenizer(models.BPE(letters | ({merge: len(letters)} if merge else {}), merged))
    backend.pre_tokenizer = pre_tokenizers.Split("|", "isolated")
    if before or behind:
        around = [(mark, letters[mark]) for mark in before + behind]
        single = f"{before} $A {behind}".strip()
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="#", bos_token=before or None, eos_token=behind or None
    )


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_running_a_prompt_once_gives_what_a_pass_for_every_choice_gives(name):
    model = make_tiny_decoder(name.partition(",")[0], **DECODERS[name])
    model.config.use_cache = False  # as load_model leaves it
    prompts, choices = [*map(ids, PROMPTS)], [[*map(ids, sizes)] for sizes in CHOICES]
    scores = score_choices(model, prompts, choices, padding=0)

    for prompt, own_choices, values in zip(prompts, choices, scores, strict=True):
        expected = [alone(model, prompt, choice) for choice in own_choices]
        assert values == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_a_prompt_runs_once_whatever_the_number_of_its_choices():
    model, seen = make_tiny_decoder(), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    score_choices(model, [ids(5), ids(7)], [[ids(3)] * 4, [ids(1)] * 2], padding=0)
    score_choices(model, [ids(5)], [[ids(1)] * 3], padding=0)

    assert seen == [(2, 7), (6, 2), (1, 5)]


def test_the_best_mean_over_tokens_wins_and_the_loss_is_that_of_training():
    task, rows = encode(MultipleChoiceLM, draw_questions(20), max_length=32)
    model = get_peft_model(make_tiny_decoder(), make_lora(task_type="CAUSAL_LM"))
    one, many = (task.predict(model, rows, make_tokenizer(), batch_size=n) for n in (1, 20))
    batch = task.make_collator(make_tokenizer())([rows[n] for n in range(20)])
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
    _, rows = encode(MultipleChoiceLM, draw_questions(20), max_length=32)
    rows = concatenate_datasets([rows, rows])  # each choice comes again, when it is known
    neutral = WORDS[4]
    task = MultipleChoiceLM(make_data_card(max_length=32, neutral_prompt=neutral))
    model = get_peft_model(make_tiny_decoder(), make_lora(task_type="CAUSAL_LM"))
    one, many = (task.predict(model, rows, make_tokenizer(), batch_size=n) for n in (1, 20))
    before = make_tokenizer()(neutral)["input_ids"]
    with torch.no_grad():
        gains = [
            [
                alone(model, row["prompt_ids"], choice) - alone(model, before, choice)
                for choice in row["choice_ids"]
            ]
            for row in rows
        ]

    np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)
    for row, scores in zip(gains, many.scores, strict=True):
        np.testing.assert_allclose(scores[: len(row)], softmax(row), atol=1e-4)


def test_choices_fit_behind_a_long_neutral_prompt_too():
    rows = {"prompt": ["w1"], "choices": [["w2 " * 30, "w3"]], "label": [0]}
    task = MultipleChoiceLM(make_data_card(max_length=12, neutral_prompt="w4 " * 5))
    encoded = task.encode(rows, make_tokenizer())

    assert list(map(len, encoded["choice_ids"][0])) == [7, 1]
    assert encoded["num_truncated"] == [30 - 7]

    task = MultipleChoiceLM(make_data_card(max_length=12, neutral_prompt="w4 " * 7))
    with pytest.raises(ConfigError, match=r"neutral_prompt must be at most 6 tokens.*got 7"):
        task.encode(rows, make_tokenizer())


def test_only_the_right_choice_is_taught():
    task, rows = encode(MultipleChoiceLM, draw_questions(5), max_length=32)
    batch = task.make_collator(make_tokenizer())([rows[n] for n in range(5)])

    for row, labels, text, real in zip(
        rows, batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True
    ):
        right = row["choice_ids"][row["label"]]
        assert labels[labels != -100].tolist() == right
        assert text[real == 1].tolist() == row["prompt_ids"] + right


@pytest.mark.parametrize(
    ("words", "prompt", "start", "first"),
    [
        (characters(), "ab?", "ab?", " cd"),
        (characters(), "ab\n", "ab\n", "cd"),
        (characters(before="^", behind="!"), "ab?", "^ab?", " cd"),
        # Across the seam, `? ` is one token of both texts: choices start with it.
        (characters(merge="? "), "ab?", "ab", "? cd"),
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
    task, words = MultipleChoiceLM(make_data_card(max_length=10)), characters(before="^")
    rows = {"prompt": ["abcdefgh?", "abc"], "choices": [["gg", "gh"], ["a" * 20, "b"]]}
    encoded = task.encode(rows | {"label": [0, 1]}, words)
    texts = [words.convert_ids_to_tokens(prompt) for prompt in encoded["prompt_ids"]]

    assert ["".join(text) for text in texts] == ["^defgh?", "^abc"]
    assert [[len(choice) for choice in row] for row in encoded["choice_ids"]] == [[3, 3], [6, 2]]
    assert (encoded["length"], encoded["num_truncated"]) == ([10, 10], [3, 15])
