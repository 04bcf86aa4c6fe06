"""Questions with several choices, and a workspace that all stages run in."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from helpers.data_cards import make_data_card
from helpers.stage_workspace import WORDS, make_tokenizer, save_base, set_params
from helpers.task_files import write_rows
from helpers.tiny_models import make_tiny_model

from pipeline.tasks.base import Task

_SETTINGS: dict[str, dict[str, Any]] = {
    "data": {
        "task": "files",
        "train": "train.jsonl",
        "max_length": 16,
        "max_truncated": 1.0,
        "max_unknown": 1.0,
    },
    "estimate": {"steps": 4, "batch_size": 8},
    "finetune": {"steps": 12, "batch_size": 8, "evaluate_every": 6, "save_every": 6},
    "benchmark": {"batch_sizes": [3], "length": 8, "warmup": 0, "rounds": 3},
}
_DECODER = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def draw_questions(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts and choices of several lengths, two to five choices a row."""
    draw = random.Random(seed)

    def draw_text(most: int) -> str:
        return " ".join(draw.choices(WORDS[4:], k=draw.randint(1, most)))

    rows = []
    for _ in range(count):
        choices = [draw_text(5) for _ in range(draw.randint(2, 5))]
        label = draw.randrange(len(choices))
        rows.append({"question": draw_text(9), "choices": choices, "label": label})
    return rows


def encode(
    task_class: type[Task], rows: list[dict[str, Any]], *, max_length: int
) -> tuple[Any, Dataset]:
    """The task, and questions as the stage prepare leaves them."""
    task = task_class(make_data_card(max_length=max_length))
    columns = {name: [row[name] for row in rows] for name in ("choices", "label")}
    columns["prompt"] = [row["question"] for row in rows]
    return task, Dataset.from_dict(columns | task.encode(columns, make_tokenizer()))


def make_tiny_decoder(name: str = "llama", **changes: Any) -> transformers.PreTrainedModel:
    """A causal language model whose weights are of order 1, so that 1e-4 means something."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **(_DECODER | changes))
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape) * 1.5 * weight.shape[-1] ** -0.5)
    return model.eval()


def write_workspace(folder: Path, model: str) -> None:
    """A model, 90 questions and params.yaml, for the methods light and vanilla."""
    base = (
        make_tiny_model(pad_token_id=0).base_model if model == "bert" else make_tiny_decoder(model)
    )
    save_base(folder, base)
    write_rows(folder / "train.jsonl", draw_questions(90))
    set_params(folder, methods=["light", "vanilla"], **_SETTINGS)
