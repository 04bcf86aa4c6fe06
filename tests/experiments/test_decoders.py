"""Variants of a decoder, pruned, trained and recorded: a tiny model, a few batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from experiments import decoders
from experiments.byte_pairs import BEGIN, train_tokenizer
from pipeline.common.files import read_json
from pipeline.common.params import DataSection

ROWS = [
    {"question": f"What is {n} and {n}?", "choices": [str(2 * n), str(n + 1)], "label": n % 2}
    for n in range(40)
]
QUICK = ["estimate.steps=2", "finetune.steps=4", "peft.r=2", "evaluate.bootstrap=10"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and rows, from which and to which everything goes."""
    tokenizer = train_tokenizer([str(row) for row in ROWS], 280, around=f"{BEGIN} $A")
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("train", "validation"):
        lines = "".join(f"{json.dumps(row)}\n" for row in ROWS)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(decoders, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(decoders, "RUNS", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, name: str, *options: str) -> dict[str, object]:
    arguments = ["run", "arc_easy", name, f"model.name={folder / 'model'}", *QUICK, *options]
    arguments += ["--data", str(folder), "--test-rows", "20"]
    done = CliRunner().invoke(decoders.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return read_json(folder / "results" / "arc_easy" / f"{name.replace(' ', '-')}-0.json")


def test_each_variant_has_its_record_and_a_row(folder: Path):
    vanilla = run(folder, "vanilla", "prune.ratio=0")
    light = run(folder, "light layers", "prune.layers=0.3333", "prune.ratio=0")
    random = run(folder, "random 0.5", "prune.ratio=0.5")

    assert light["base_parameters"] < vanilla["base_parameters"]
    assert random["base_parameters"] < vanilla["base_parameters"]
    assert light["settings"]["prune"] == {"layers": 0.3333, "ratio": 0}
    assert str(folder) not in json.dumps(light["settings"]["data"])
    printed = CliRunner().invoke(decoders.app, ["table"]).output.splitlines()
    assert [line.split(" | ")[1] for line in printed[2:]] == [
        "light layers (seed 0)",
        "random 0.5 (seed 0)",
        "vanilla (seed 0)",
    ]


def test_record_that_exists_is_not_made_again(folder: Path):
    first = run(folder, "vanilla", "prune.ratio=0")
    (folder / "validation.jsonl").unlink()
    assert run(folder, "vanilla", "prune.ratio=0") == first


@pytest.mark.parametrize(
    ("option", "more_parameters"),
    [
        (("--distill", "0.5"), 0),
        (("--heal", "2"), 0),
        (("--heal", "2", "--heal-in", "adapter"), 0),
        (("--heal", "2", "--heal-in", "bias"), 6 * 32),  # of 3 attention blocks and 3 of neurons
    ],
)
def test_what_was_tried_changes_the_training_alone(
    folder: Path, option: tuple[str, ...], more_parameters: int
):
    pruning = ("prune.ratio=0.5", "prune.modules=0", "prune.ranks=0")
    plain = run(folder, "light", *pruning)
    tried = run(folder, "light tried", *pruning, *option)

    assert tried["base_parameters"] == plain["base_parameters"] + more_parameters
    curves = [
        (folder / "runs" / "decoders" / "arc_easy-0" / name / "artifacts/models/light/curve.csv")
        for name in ("light", "light-tried")
    ]
    assert curves[0].read_text() != curves[1].read_text()


@pytest.mark.parametrize("task", decoders.TASKS)
def test_the_settings_of_every_task_are_those_of_params_yaml(task: str) -> None:
    DataSection(task="files", train="train.jsonl", **decoders.TASKS[task])
