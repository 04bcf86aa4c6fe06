"""The perplexity of a decoder right after the cut, on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import typer
from helpers.tiny_models import draw_random_scores
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from typer.testing import CliRunner

from experiments.byte_pairs import BEGIN, train_tokenizer
from experiments.cut_perplexity import compute_perplexity, main, read_texts

ROWS = [{"instruction": f"Name {n}.", "output": "a leaf " * n} for n in (3, 1, 2)]


@pytest.fixture
def decoder() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    texts = [" ".join(row.values()) for row in ROWS]
    tokenizer = train_tokenizer(texts, 280, around=f"{BEGIN} $A")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_perplexity_of_padded_batches_is_that_of_single_texts(
    decoder: tuple[LlamaForCausalLM, PreTrainedTokenizerBase], tmp_path: Path
):
    model, tokenizer = decoder
    texts = read_texts(write_rows(tmp_path / "rows.jsonl"), ["instruction", "output"], 3)
    assert [text.partition("\n")[0] for text in texts] == ["Name 1.", "Name 2.", "Name 3."]

    losses = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :12]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))

    assert len({len(loss) for loss in losses}) > 1
    expected = math.exp(float(torch.cat(losses).mean()))
    assert compute_perplexity(model, tokenizer, texts, 12) == pytest.approx(expected, rel=1e-4)


def test_table_has_a_row_for_each_combination(
    decoder: tuple[LlamaForCausalLM, PreTrainedTokenizerBase], tmp_path: Path
):
    for part in decoder:
        part.save_pretrained(tmp_path / "model")
    draw_random_scores(decoder[0], config=LoraConfig(r=2)).save(tmp_path / "scores")
    rows = write_rows(tmp_path / "rows.jsonl")
    app = typer.Typer()
    app.command()(main)
    options = ["--criterion", "taylor", "--criterion", "energy", "--neurons", "0.5"]

    paths = [str(tmp_path / "model"), str(tmp_path / "scores"), str(rows)]
    result = CliRunner().invoke(app, [*paths, *options])

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[3:5] for row in cells] == [
        ["", ""],
        ["taylor", "global"],
        ["taylor", "layer"],
        ["energy", "global"],
        ["energy", "layer"],
    ]
    unpruned, by_taylor, by_energy = (cells[row][-1] for row in (0, 1, 3))
    assert len({unpruned, by_taylor, by_energy}) == 3
