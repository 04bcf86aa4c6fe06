"""Tokens that a model has no embedding for are one line at prepare."""

from pathlib import Path

import pytest
from helpers.choice_workspace import write_workspace as choice_workspace
from helpers.generation_workspace import (
    draw_copying_rows,
    load_prepared,
    run_prepare,
    write_workspace,
)
from helpers.params_file import change_params
from helpers.run_stages import write_small_params
from helpers.stage_workspace import make_tokenizer, save_base
from helpers.task_files import write_rows
from helpers.tiny_models import make_tiny_config
from transformers import AutoConfig, AutoTokenizer, Qwen2VLConfig

from pipeline.common.errors import ConfigError
from pipeline.common.paths import Paths
from pipeline.stages import prepare
from pipeline.tasks.vocabulary import count_token_embeddings


@pytest.fixture(params=["llama", "t5", "bart"])
def folder(cwd, request) -> Path:
    return write_workspace(cwd, request.param, draw_copying_rows(60))


def add(folder: Path, *tokens: str, **special: str) -> None:
    """Add tokens to the tokenizer, but no rows to the embeddings."""
    words = AutoTokenizer.from_pretrained(folder / "base")
    words.add_tokens([*tokens])
    words.add_special_tokens(special)
    words.save_pretrained(folder / "base")


def test_a_token_of_the_rows_without_an_embedding_is_refused(folder):
    limit = count_token_embeddings(AutoConfig.from_pretrained(folder / "base"))
    size = len(AutoTokenizer.from_pretrained(folder / "base"))
    add(folder, *(f"new{number}" for number in range(limit - size + 2)))
    run_prepare(folder)  # no row has such a token

    rows = draw_copying_rows(60)
    rows[7]["completion"] = f"new{limit - size + 1}"
    write_rows(folder / "train.jsonl", rows)
    message = rf"has {limit} token embeddings, its tokenizer {limit + 2} tokens: none for 'new\d+' "
    message += rf"\(\w+: {limit + 1}\); .*resize_token_embeddings\({limit + 2}\)"
    with pytest.raises(ConfigError, match=message):
        run_prepare(folder)


def test_a_token_that_only_a_window_of_evaluation_has_is_refused(cwd):
    save_base(cwd, make_tiny_config("bert"))
    context = "good " + "w1 " * 40 + "new40"
    answers = {"text": ["good"], "answer_start": [0]}
    write_rows(
        cwd / "train.jsonl",
        [{"question": "w2", "context": f"{context} w{i}", "answers": answers} for i in range(30)],
    )
    write_small_params(cwd, data={"train": "train.jsonl", "max_truncated": 1.0, "max_unknown": 1.0})
    prepare.main(Paths())  # new40 is an unknown word

    limit = make_tiny_config("bert").vocab_size
    add(cwd, *(f"new{number}" for number in range(limit - len(make_tokenizer()) + 30)))
    with pytest.raises(ConfigError, match=r"'new\d+' \(validation, a window of evaluation: \d+\)"):
        prepare.main(Paths())


def test_a_token_that_only_the_neutral_prompt_has_is_refused(cwd):
    choice_workspace(cwd, "llama")
    add(cwd, "new")
    change_params(cwd, data={"neutral_prompt": "w1"})
    prepare.main(Paths())

    change_params(cwd, data={"neutral_prompt": "w1 new"})
    with pytest.raises(
        ConfigError, match=r"none for 'new' \(validation, data.neutral_prompt: \d+\)"
    ):
        prepare.main(Paths())


def test_a_padding_token_without_an_embedding_is_refused(folder):
    limit = count_token_embeddings(AutoConfig.from_pretrained(folder / "base"))
    size = len(AutoTokenizer.from_pretrained(folder / "base"))
    add(folder, *(f"new{number}" for number in range(limit - size)), pad_token="[PAD]")
    with pytest.raises(ConfigError, match=rf"none for '\[PAD\]' \(pad_token_id: {limit}\)"):
        run_prepare(folder)


def test_embeddings_of_a_model_of_text_and_images_are_those_of_its_text_part():
    config = Qwen2VLConfig(text_config={"vocab_size": 77})

    assert count_token_embeddings(config) == 77
    assert count_token_embeddings(AutoConfig.for_model("vit")) is None
    config = AutoConfig.for_model("llama", vocab_size=50, pad_token_id=50)
    with pytest.raises(ConfigError, match=r"50 token embeddings, but pad_token_id 50 in config"):
        count_token_embeddings(config)


def test_embeddings_of_another_size_than_the_configuration_are_refused(folder):
    card = run_prepare(folder)
    config = AutoConfig.from_pretrained(folder / "base")
    config.vocab_size += 8
    config.save_pretrained(folder / "base")
    with pytest.raises(ConfigError, match=r"has no fitting weights for .*(embed|shared)"):
        load_prepared(folder, card)
