"""The script that trains a decoder from nothing: its pieces, tiny."""

import math
import random
import re
from dataclasses import asdict, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments import pretraining
from experiments.byte_pairs import BEGIN, train_tokenizer
from experiments.decoder import make_texts, select_training_pairs
from experiments.pretraining import (
    Row,
    Settings,
    build_model,
    compute_loss,
    compute_lr_factor,
    deepen,
    draw_batches,
    encode,
    pretrain,
    train,
)
from pipeline.common.files import read_json
from pipeline.data.docstrings.extraction import Pair
from pipeline.data.docstrings.name_matching import make_duplicate_keys

TINY = Settings(
    steps=60, shallow_steps=40, shallow=1, batch_size=8, lr=2e-2, muon_lr=5e-2, max_length=32,
    vocabulary=300, hidden=32, layers=2, neurons=48, heads=4, key_value_heads=2,
)  # fmt: skip
TEXTS = [(f"make {thing}:", f" Make a {thing} of {n} parts.")
         for thing in ("tuple", "tree", "list", "graph") for n in range(10)]  # fmt: skip


def learnt():
    """The tokenizer of the texts."""
    texts = [prompt + text for prompt, text in TEXTS]
    return train_tokenizer(texts, 300, around=f"{BEGIN} $A", lowercase=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tiny model, and its record."""
    out = tmp_path_factory.mktemp("decoder")
    return out, pretrain(TEXTS, TEXTS[:8], out, TINY)


def test_what_is_like_a_held_out_row_is_not_trained_on():
    held = [Pair("a", "mk tuple", "Build a tuple of parts."), Pair("a", "big tree", "Old oak.")]
    same = [Pair("b", "mktuple", "Another thing."), Pair("b", "maker", "Builds a tuple, of parts")]
    new = [Pair("b", "small leaf", "A leaf that is green.")]

    kept = select_training_pairs({"train": new, "validation": held[:1], "test": held[1:]},
                          [*held, *same, *new])  # fmt: skip

    assert kept == new
    assert make_duplicate_keys(held[0]) & make_duplicate_keys(same[0])


def test_pairs_are_asked_for_by_their_words_every_tenth_by_none_and_every_fourth_as_code():
    pairs = [Pair("a", f"mk tuple{i}", f"Make tuple {i}.") for i in range(11)]
    rows = make_texts(pairs, dict.fromkeys(pairs, "def mk_tuple(x):"))

    assert [prompt for prompt, _ in rows if not prompt.startswith("def")] == [
        *(f"mk tuple{i}:" for i in range(9)),
        ":",
        "mk tuple10:",
    ]
    assert [row for row in rows if row[0].startswith("def")] == [
        ('def mk_tuple(x):\n    """', "Make tuple 0."),
        ('def mk_tuple(x):\n    """', "Make tuple 4."),
        ('def mk_tuple(x):\n    """', "Make tuple 8."),
    ]


def test_a_stock_checkpoint_loads_and_generates_what_it_learnt(trained):
    out, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)

    prompt = tokenizer("make tree:", return_tensors="pt")
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)

    assert type(model).__name__ == "LlamaForCausalLM"
    # Which thing, so few steps leave to the rounding of the processor.
    assert re.search(r"make a (tuple|tree|list|graph) of \d parts", tokenizer.decode(tokens[0]))
    assert tokenizer.pad_token_id == model.config.pad_token_id == 0
    assert prompt["input_ids"][0, 0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.eos_token_id == model.config.eos_token_id


def test_the_record_says_how_the_model_was_made(trained):
    out, record = trained

    assert read_json(out / "pretraining.json") == record
    assert record["settings"] == asdict(TINY)
    assert record["loss"][-1] < 0.5 * math.log(300)
    assert 1 < record["validation_perplexity"] < 3


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    out, _ = trained
    pretrain(TEXTS, TEXTS[:8], tmp_path, TINY)

    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_any_text_survives_the_tokenizer_but_for_capitals():
    tokenizer = learnt()
    text = "  Größe of `x` \n\t→ 日本"

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text.lower()


def test_a_word_is_the_same_tokens_in_a_name_and_in_a_description():
    tokenizer = learnt()
    begun, within = (tokenizer(text)["input_ids"] for text in ("tuple", "Make Tuple"))

    assert within[-len(begun) + 1 :] == begun[1:]


def test_a_deepened_model_repeats_the_layers_of_the_shallow_one():
    tokenizer = learnt()
    shallow, model = (build_model(TINY, tokenizer, layers=n) for n in (2, 5))
    deepen(shallow, model)

    for i, layer in enumerate(model.model.layers):
        same = shallow.model.layers[i % 2].state_dict()
        for name, value in layer.state_dict().items():
            assert torch.equal(value, same[name])
    assert torch.equal(model.lm_head.weight, shallow.model.embed_tokens.weight)


def test_rows_end_and_are_cut_and_dropped_by_length():
    tokenizer = learnt()
    rows = [*TEXTS[:1], ("make:", " part" * 50), ("make " * 50, "x")]
    short, long = encode(rows, tokenizer, 16)

    assert short.ids[0] == tokenizer.bos_token_id
    assert short.ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(short.ids[1 : short.prompt]).strip() == TEXTS[0][0]
    assert len(long.ids) == 16


def test_every_epoch_holds_each_row_once_in_batches_of_one_length():
    rows = [Row([1] * n, 1) for n in range(2, 42)]
    source = draw_batches(rows, 8, random.Random(0))
    first, second = ([next(source) for _ in range(5)] for _ in range(2))

    for epoch in (first, second):
        assert sorted(len(row.ids) for batch in epoch for row in batch) == list(range(2, 42))
        assert all(len(batch[-1].ids) - len(batch[0].ids) < 8 for batch in epoch)
    assert first != second


def test_padding_and_prompts_cost_nothing():
    torch.manual_seed(0)
    tokenizer = learnt()
    model = build_model(TINY, tokenizer, layers=2).eval()
    short, long = Row([1, 5, 6, 2], 2), Row([1, 7, 8, 9, 10, 11, 2], 3)

    alone = [compute_loss(model, [row]) for row in (short, long)]
    both, count = compute_loss(model, [short, long])

    assert [tokens for _, tokens in alone] == [2, 4]
    assert count == 6
    torch.testing.assert_close(both, alone[0][0] + alone[1][0], atol=0.05, rtol=0)


def test_the_rate_rises_then_falls_to_a_twentieth():
    settings = Settings(steps=100, warmup=0.1)
    rates = [compute_lr_factor(step, settings) for step in range(101)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.05)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, trained):
    out, _ = trained
    monkeypatch.setattr(pretraining, "_LOG_EVERY", 10)
    monkeypatch.setattr(pretraining, "_SAVE_EVERY", 2)
    steps = iter(range(50))
    original = pretraining.compute_loss

    def killed(*arguments):
        next(steps)
        return original(*arguments)

    monkeypatch.setattr(pretraining, "compute_loss", killed)
    with pytest.raises(StopIteration):
        pretrain(TEXTS, TEXTS[:8], tmp_path, TINY)
    monkeypatch.setattr(pretraining, "compute_loss", original)
    again = pretrain(TEXTS, TEXTS[:8], tmp_path, TINY)

    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path, out)]
    assert weights[0] == weights[1]
    assert len(again["loss"]) == 6
    assert not (tmp_path / "progress").exists()


def test_progress_of_other_settings_or_rows_is_not_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "_LOG_EVERY", 5)
    monkeypatch.setattr(pretraining, "_SAVE_EVERY", 1)
    tokenizer = learnt()
    rows = encode(TEXTS, tokenizer, 32)

    def trained(rows, folder, **changes):
        settings = replace(TINY, steps=10, **changes)
        torch.manual_seed(0)
        model = build_model(settings, tokenizer, layers=1)
        return train(model, rows, settings, steps=range(10), progress=tmp_path / folder)

    first = trained(rows, "progress")
    for number, (others, changes) in enumerate([(rows, {"muon_lr": 1e-3}), (rows[8:], {})]):
        again = trained(others, "progress", **changes)
        assert again == trained(others, f"fresh {number}", **changes)
        assert again != first
        assert trained(others, "progress", **changes) == again


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    model = build_model(TINY, learnt(), layers=2)
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)

    with pytest.raises(RuntimeError, match="non-finite"):
        train(model, [Row([1, 5, 6, 2], 2)], TINY, steps=range(9), progress=tmp_path / "p")
