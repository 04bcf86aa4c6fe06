"""Decoders as classifiers: the head reads the last token of a row, however it is padded."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.data_cards import make_data_card
from helpers.run_stages import run_stages, write_small_params
from helpers.stage_workspace import make_word_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from experiments.byte_pairs import train_tokenizer
from pipeline.common.params import ModelSection
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task

WORDS = ["<s>", "</s>", "<unk>", "good", "bad", *(f"w{number}" for number in range(20))]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
GPT2 = {"vocab_size": len(WORDS), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "gpt2": GPT2 | {"bos_token_id": 0, "eos_token_id": 1},
    "qwen3": SIZES,
    "gemma3_text": SIZES | {"sliding_window": 6},
}
CARD = make_data_card(max_length=32)
TEXTS = [
    "good w1 w2 w3 w4 w5 w6 w7 w8 w9",
    "bad",
    "w1 w2",
    "w1 w2 </s>",
    "</s>",
    "</s> w3 </s> </s>",
]


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """Whole words, and no padding token, as Llama's and GPT-2's."""
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return make_word_tokenizer(WORDS, unknown="<unk>", **(special | options))


def saved(folder: Path, family: str, **options: Any) -> ModelSection:
    """A tiny decoder without a head, and its tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(FAMILIES[family] | options))
    AutoModel.from_config(config).save_pretrained(folder / "base")
    return ModelSection(name=str(folder / "base"), dtype="float32")


def rows(words: PreTrainedTokenizerFast) -> Dataset:
    columns = dict(words(TEXTS))
    lengths = [len(ids) for ids in columns["input_ids"]]
    labels = [0, 1] * (len(TEXTS) // 2)
    return Dataset.from_dict(columns | {"label": labels, "length": lengths})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", [None, 0])
def test_logits_do_not_depend_on_the_padding(tmp_path, family, side, padding):
    """`padding` is what the model's files say, which is not what its tokenizer pads with."""
    section = saved(tmp_path, family, pad_token_id=padding)
    tokenizer(padding_side=side).save_pretrained(tmp_path / "base")
    task = make_task(CARD)
    words, (model, head) = load_processor(section, task), load_model(section, task, 0)
    model.get_base_model = lambda: model

    predictions = [task.predict(model, rows(words), words, batch_size=size) for size in (1, 3, 6)]

    assert (head, model.config.pad_token_id) == (["score"], words.eos_token_id)
    for other in predictions[1:]:
        np.testing.assert_allclose(predictions[0].scores, other.scores, atol=1e-6)
        assert predictions[0].loss == pytest.approx(other.loss, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_reads_the_last_token_of_the_text(tmp_path, family):
    section = saved(tmp_path, family)
    tokenizer().save_pretrained(tmp_path / "base")
    words, (model, _) = (
        load_processor(section, make_task(CARD)),
        load_model(section, make_task(CARD), 0),
    )
    batch = words(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(**batch).logits
        for row, text in enumerate(TEXTS):
            alone = torch.tensor([words(text)["input_ids"]])
            states = model.base_model(alone).last_hidden_state[0]
            # Ends of text at the end are no text: the token before them has seen as much.
            last = max((n for n, i in enumerate(alone[0]) if i != words.eos_token_id), default=0)
            torch.testing.assert_close(logits[row], model.score(states[last]))


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_are_learnt_through_all_stages(cwd, monkeypatch, family):
    saved(cwd, family)
    tokenizer(padding_side="left").save_pretrained(cwd / "base")
    draw, lines = random.Random(0), ["text,label"]
    for number in range(200):
        label = ("bad", "good")[number % 2]
        lines.append(f"{' '.join(draw.choices(WORDS[5:], k=draw.randint(2, 14)))} {label},{label}")
    (cwd / "train.csv").write_text("\n".join(lines))
    write_small_params(cwd, data={"train": "train.csv", "max_length": 16}, finetune={"steps": 60})

    _, evaluation, table = run_stages(monkeypatch)

    assert evaluation["accuracy"] == (table.label == table.prediction).mean() > 0.8


@pytest.mark.parametrize(("around", "seen"), [("<s> $A", "<s>a b\nc d"), (None, "a b[SEP]c d")])
def test_the_texts_of_a_pair_do_not_run_into_each_other(around, seen):
    words = train_tokenizer(["a b", "c d"], 300, around=around or "<s> $A")
    if not around:
        words.add_special_tokens({"sep_token": "[SEP]"})
        words.backend_tokenizer.post_processor = TemplateProcessing(
            single="$A", pair="$A [SEP] $B", special_tokens=[("[SEP]", words.sep_token_id)]
        )
    columns = {"text": ["a b"], "text_pair": ["c d"], "label": ["no"]}

    encoded = make_task(make_data_card(labels=["no"], max_length=32)).encode(columns, words)

    assert words.decode(encoded["input_ids"][0]) == seen
