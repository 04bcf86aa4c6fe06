"""Measure a decoder's perplexity right after it was pruned, before any fine-tuning.

    python -m experiments.cut_perplexity MODEL SCORES TEXTS --criterion taylor --criterion energy

MODEL is `smollm2`, a Hub id, or a folder with a tokenizer; SCORES is what the stage estimate wrote
for it; TEXTS is a file of JSON lines. A text is the values of its columns, joined by newlines.
"""

from __future__ import annotations

import copy
import json
import math
from enum import StrEnum
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

import lightpeft
from lightpeft import PruningConfig, Scores
from lightpeft.modeling.slicing import slice_base
from pipeline.tasks.base import IGNORED
from pipeline.tasks.model_files import find_folder

_BATCH_SIZE = 8


def _read_choices(setting: str) -> type[StrEnum]:
    """Return an option's choices: the values that a setting of `PruningConfig` may have."""
    values = get_args(PruningConfig.model_fields[setting].annotation)
    return StrEnum(setting, {value: value for value in values})


Criterion, Scope = _read_choices("criterion"), _read_choices("neuron_scope")
HeadScope, Granularity = _read_choices("head_scope"), _read_choices("head_granularity")


def read_texts(path: Path, columns: list[str], count: int) -> list[str]:
    """Return the texts of the first `count` rows, the shortest first."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, count)]
    return sorted(("\n".join(row[column] for column in columns) for row in rows), key=len)


@torch.no_grad()
def compute_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int
) -> float:
    """Return the perplexity per token of texts truncated to `length` tokens."""
    loss, num_tokens = 0.0, 0
    for start in range(0, len(texts), _BATCH_SIZE):
        batch = tokenizer(
            texts[start : start + _BATCH_SIZE],
            max_length=length,
            truncation=True,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        mask = batch["attention_mask"]
        labels = batch["input_ids"].masked_fill(mask == 0, IGNORED)
        count = int(mask[:, 1:].sum())
        output = model(input_ids=batch["input_ids"], attention_mask=mask, labels=labels)
        loss, num_tokens = loss + float(output.loss) * count, num_tokens + count
    return math.exp(loss / num_tokens)


def main(  # typer reads the options from the parameters, hence so many
    model: Annotated[str, typer.Argument(help="smollm2, a Hub id, or a folder.")],
    scores: Annotated[Path, typer.Argument(help="Folder that the stage estimate wrote.")],
    texts: Annotated[Path, typer.Argument(help="JSON lines.")],
    column: Annotated[list[str], typer.Option()] = ("instruction", "output"),
    rows: Annotated[int, typer.Option(min=1)] = 40,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a text.")] = 160,
    layers: Annotated[list[float], typer.Option()] = (0.0,),
    heads: float = 0.0,
    neurons: float = 0.3333,
    criterion: Annotated[list[Criterion], typer.Option()] = (Criterion.taylor,),
    neuron_scope: Annotated[list[Scope], typer.Option()] = tuple(Scope),
    head_scope: Annotated[list[HeadScope], typer.Option()] = (HeadScope.layer,),
    head_granularity: Annotated[list[Granularity], typer.Option()] = (Granularity.kv_group,),
) -> None:
    """Print the perplexity of the unpruned model, and for every combination of settings."""
    logging.disable_progress_bar()
    source = find_folder(model) or model
    tokenizer = AutoTokenizer.from_pretrained(source)
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    estimated, read = Scores.load(scores), read_texts(texts, list(column), rows)
    settings_names = ("layers", "criterion", "neuron_scope", "head_scope", "head_granularity")
    print(f"| heads | neurons | {' | '.join(settings_names).replace('_', ' ')} | perplexity |")
    print("|---|---|---|---|---|---|---|---:|")
    perplexity = compute_perplexity(base, tokenizer, read, length)
    print(f"| 0 | 0 | 0 | | | | | {perplexity:.1f} |", flush=True)
    for values in product(layers, criterion, neuron_scope, head_scope, head_granularity):
        settings: dict[str, Any] = dict(zip(settings_names, values, strict=True))
        config = PruningConfig(heads=heads, neurons=neurons, modules=0.0, ranks=0.0, **settings)
        pruned = copy.deepcopy(base)
        slice_base(pruned, lightpeft.make_plan(estimated, config))
        perplexity = compute_perplexity(pruned, tokenizer, read, length)
        cells = (f"{heads:g}", f"{neurons:g}", *map(str, values), f"{perplexity:.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
