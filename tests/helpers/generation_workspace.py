"""A workspace for tasks that generate: a tiny saved model with its language head, rows, params."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from helpers.architectures import ARCHITECTURES
from helpers.stage_workspace import make_word_tokenizer, set_params
from helpers.task_files import write_rows
from transformers import PreTrainedTokenizerFast

from pipeline.common.data_card import DataCard
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.stages import prepare
from pipeline.tasks.base import Task
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task

WORDS = ("<pad>", "<s>", "</s>", "?", ":", "<u>", "<a>")
WORDS += tuple(f"w{number}" for number in range(50 - len(WORDS)))
CHAT = (
    "{% for m in messages %}<{{ m.role[0] }}> {{ m.content }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
MODELS = {
    "llama": "llama, shared keys and values",
    "gpt2": "gpt2",
    "opt": "opt",
    "t5": "t5",
    "bart": "bart",
}
STAGES = {
    "peft": {"r": 4, "alpha": 8},
    "estimate": {"steps": 4, "batch_size": 8},
    "finetune": {"steps": 12, "batch_size": 8, "evaluate_every": 8, "save_every": 8},
    "evaluate": {"batch_size": 16, "bootstrap": 20},
    "benchmark": {"batch_sizes": [2], "length": 8, "warmup": 0, "rounds": 3},
}


def make_tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    """Whole words; with an end of text and a chat template unless changed."""
    special = {"pad_token": "<pad>", "eos_token": "</s>"}
    words = make_word_tokenizer(WORDS, unknown="?", **special | changes)
    words.add_special_tokens({"additional_special_tokens": ["<u>", "<a>"]})
    words.chat_template = CHAT
    return words


def encode_words(text: str) -> list[int]:
    """The words' numbers."""
    return [WORDS.index(word) for word in text.split()]


def draw_copying_rows(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Prompts of one to five words and a colon, and their last word as the completion."""
    draw = random.Random(seed)
    prompts = [draw.choices(WORDS[7:27], k=draw.randint(1, 5)) for _ in range(count)]
    return [{"prompt": f"{' '.join(words)} :", "completion": words[-1]} for words in prompts]


def write_workspace(
    folder: Path, model: str, rows: list[dict[str, Any]], **sections: dict[str, Any]
) -> Path:
    """A saved model with its tokenizer, rows in train.jsonl, params.yaml."""
    architecture = ARCHITECTURES[MODELS[model]]
    base = getattr(transformers, architecture.model)(architecture.config())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if weight.dim() > 1:  # of order 1, so that words and places are told apart
                scale = 1 if "emb" in name else weight.shape[-1] ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    base.save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    write_rows(folder / "train.jsonl", rows)
    data = {"task": "files", "train": "train.jsonl", "max_length": 16, "max_truncated": 1.0}
    settings = STAGES | sections
    set_params(folder, **settings | {"data": data | sections.get("data", {})})
    return folder


def run_prepare(folder: Path) -> DataCard:
    """Run prepare; its card."""
    prepare.main(Paths())
    return DataCard.read(Paths(folder).prepared)


def load_prepared(folder: Path, card: DataCard) -> tuple[Task, Any, Any]:
    """The kind, the unpruned model and the tokenizer of a prepared workspace."""
    section, task = load_params(folder / "params.yaml").model, make_task(card)
    return task, load_model(section, task, 0)[0], load_processor(section, task)
