"""A workspace for stage tests: a tiny saved model, prepared data, params.yaml, scores and plans."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from helpers.data_cards import data_card
from helpers.tiny_models import lora, tiny_model
from ruamel.yaml import YAML
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
from pipeline.tasks.batching import loader, shuffled, token_counts
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import kind_of

ROOT = Path(__file__).parents[2]
WORDS = ["[PAD]", "[UNK]", "good", "bad", *(f"w{number}" for number in range(60))]
SETTINGS: dict[str, dict[str, Any]] = {
    "peft": {"r": 4, "alpha": 8, "dropout": 0.1},
    "estimate": {"steps": 4, "batch_size": 8},
    "finetune": {"steps": 24, "batch_size": 8, "evaluate_every": 10, "save_every": 5},
    "evaluate": {"batch_size": 16, "bootstrap": 50},
}
SPLITS = {"train": 60, "validation": 24, "test": 30}


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words."""
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def rows(count: int, *, seed: int, kind: str = "classification") -> Dataset:
    """Texts of several lengths that are good or bad."""
    draw, words = random.Random(seed), tokenizer()
    labels = [draw.randint(0, 1) for _ in range(count)]
    texts = [
        " ".join([("bad", "good")[label], *draw.choices(WORDS[4:], k=draw.randint(2, 14))])
        for label in labels
    ]
    columns = dict(words(texts)) | {"text": texts}
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(
        columns | {"label": [float(x) for x in labels] if kind == "regression" else labels}
    )


def card(kind: str = "classification") -> DataCard:
    """Return the data card of the workspace's rows."""
    if kind == "regression":
        return data_card(kind=kind, labels=[], metrics=["pearson", "spearman"])
    return data_card(kind=kind)


def set_params(folder: Path, **sections: Any) -> None:
    """Write params.yaml: the project's own with the tests' settings and these changes."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["model"]["name"] = str(folder / "base")
    for changes in (SETTINGS, sections):
        for section, values in changes.items():
            params[section].update(values)
    yaml.dump(params, folder / "params.yaml")


def workspace(folder: Path, *, kind: str = "classification") -> Path:
    """Everything that `finetune` reads, for the methods light and vanilla."""
    paths = Paths(folder)
    # As pretrained models come: without a task head.
    tiny_model(pad_token_id=0).base_model.save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    for seed, (split, count) in enumerate(SPLITS.items()):
        rows(count, seed=seed, kind=kind).save_to_disk(paths.prepared / split)
    card(kind).write(paths.prepared)
    set_params(folder)
    scores = _scores(folder, kind)
    scores.save(paths.scores)
    zero = dict.fromkeys(("heads", "neurons", "modules", "ranks"), 0.0)
    cuts = {"heads": 0.5, "neurons": 0.5, "modules": 0.25, "ranks": 0.25}
    for method, ratios in {"light": cuts, "vanilla": zero}.items():
        lightpeft.make_plan(scores, PruningConfig(**ratios)).save(paths.plan(method))
    return folder


def base_model(folder: Path, kind: str = "classification") -> Any:
    """The workspace's unpruned model with a fresh head, as the stages load it."""
    return load_model(load_params(folder / "params.yaml").model, kind_of(card(kind)), 0)


def _scores(folder: Path, kind: str) -> Scores:
    model, head = base_model(folder, kind)
    torch.manual_seed(0)
    found = rows(60, seed=0, kind=kind)
    order = shuffled(token_counts(found), batch_size=8, seed=0, grouped=False)
    return lightpeft.estimate(
        model,
        lora(lora_dropout=0.1, modules_to_save=head),
        loader(found, kind_of(card(kind)), tokenizer(), order),
        EstimationConfig(steps=4),
    )
