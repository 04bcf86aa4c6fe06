"""A workspace for stage tests: a tiny saved model, prepared data, params.yaml, scores and plans."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from helpers.data_cards import make_data_card
from helpers.params_file import write_params
from helpers.tiny_models import make_lora, make_tiny_config, make_tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import lightpeft
from lightpeft import EstimationConfig, PruningConfig
from lightpeft.core.scores import Scores
from pipeline.common.data_card import DataCard
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.tasks.batching import build_dataloader, count_tokens, shuffle_batches
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import make_task

WORDS = ["[PAD]", "[UNK]", "good", "bad", *(f"w{number}" for number in range(60))]
SETTINGS: dict[str, dict[str, Any]] = {
    "peft": {"r": 4, "alpha": 8, "dropout": 0.1},
    "estimate": {"steps": 4, "batch_size": 8},
    "finetune": {"steps": 24, "batch_size": 8, "evaluate_every": 10, "save_every": 5},
    "evaluate": {"batch_size": 16, "bootstrap": 50},
}
SPLITS = {"train": 60, "validation": 24, "test": 30}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words."""
    return make_word_tokenizer(WORDS, unknown="[UNK]", pad_token="[PAD]")


def make_word_tokenizer(
    words: Sequence[str], *, unknown: str, **options: Any
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; `options` are special tokens and the like."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unknown,
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


def save_base(folder: Path, model: Any) -> None:
    """Save a model, or a config without weights, and the tokenizer of whole words in `base`."""
    model.save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")


def write_files(folder: Path, lines: Sequence[str], **data: Any) -> Path:
    """What `prepare` reads: a config and its tokenizer, lines of texts and labels, params.yaml."""
    save_base(folder, make_tiny_config("bert"))
    (folder / "train.csv").write_text("\n".join(["text,label", *lines]))
    files = {"task": "files", "train": "train.csv", "max_length": 16}
    write_params(folder, {"model": {"name": "base"}, "data": files | data})
    return folder


def draw_rows(count: int, *, seed: int, task_name: str = "text-classification") -> Dataset:
    """Texts of several lengths that are good or bad."""
    draw, words = random.Random(seed), make_tokenizer()
    labels = [draw.randint(0, 1) for _ in range(count)]
    texts = [
        " ".join([("bad", "good")[label], *draw.choices(WORDS[4:], k=draw.randint(2, 14))])
        for label in labels
    ]
    columns = dict(words(texts)) | {"text": texts}
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(
        columns
        | {"label": [float(x) for x in labels] if task_name == "text-regression" else labels}
    )


def make_card(task_name: str = "text-classification") -> DataCard:
    """Return the data card of the workspace's rows."""
    if task_name == "text-regression":
        return make_data_card(task_name=task_name, labels=[], metrics=["pearson", "spearman"])
    return make_data_card(task_name=task_name)


def set_params(folder: Path, **sections: Any) -> None:
    """Write params.yaml: the project's own with the tests' settings and these changes."""
    write_params(folder, {"model": {"name": str(folder / "base")}}, SETTINGS, sections)


def write_workspace(folder: Path, *, task_name: str = "text-classification") -> Path:
    """Everything that `finetune` reads, for the methods light and vanilla."""
    paths = Paths(folder)
    # As pretrained models come: without a task head.
    save_base(folder, make_tiny_model(pad_token_id=0).base_model)
    for seed, (split, count) in enumerate(SPLITS.items()):
        draw_rows(count, seed=seed, task_name=task_name).save_to_disk(paths.prepared / split)
    make_card(task_name).write(paths.prepared)
    set_params(folder)
    scores = _estimate_scores(folder, task_name)
    scores.save(paths.scores)
    zero = dict.fromkeys(("heads", "neurons", "modules", "ranks"), 0.0)
    cuts = {"heads": 0.5, "neurons": 0.5, "modules": 0.25, "ranks": 0.25}
    for method, ratios in {"light": cuts, "vanilla": zero}.items():
        lightpeft.make_plan(scores, PruningConfig(**ratios)).save(paths.locate_plan(method))
    return folder


def load_base_model(folder: Path, task_name: str = "text-classification") -> Any:
    """The workspace's unpruned model with a fresh head, as the stages load it."""
    return load_model(load_params(folder / "params.yaml").model, make_task(make_card(task_name)), 0)


def _estimate_scores(folder: Path, task_name: str) -> Scores:
    model, head = load_base_model(folder, task_name)
    torch.manual_seed(0)
    data = draw_rows(60, seed=0, task_name=task_name)
    order = shuffle_batches(count_tokens(data), batch_size=8, seed=0, grouped=False)
    return lightpeft.estimate(
        model,
        make_lora(lora_dropout=0.1, modules_to_save=head),
        build_dataloader(data, make_task(make_card(task_name)), make_tokenizer(), order),
        EstimationConfig(steps=4),
    )
