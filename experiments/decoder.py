"""Train a small Llama from scratch on the docstrings of installed libraries, offline.

    python -m experiments.decoder OUT_FOLDER

About 10 M parameters are trained on the training split of the built-in tasks of the same seed: each
name, and some signatures, followed by the description. Rows of validation and test and their
near-duplicates are left out. OUT_FOLDER becomes a checkpoint with its tokenizer: a model for the
pipeline to fine-tune on docstrings-choice or docstrings-lm. A GPU is used if there is one. If the
training is killed, the same command resumes from its last checkpoint.

The default 1,200 steps reach a perplexity of 96 per token of a validation description, and answer
41.8 % of docstrings-choice's test questions without fine-tuning, scored against the neutral prompt
(chance is 25 %). They took 41 minutes on a core shared with other work
(experiments/results/decoder.json).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils import logging

from experiments.pretraining import Settings, pretrain
from pipeline.data.docstrings.choice import make_name_prompt
from pipeline.data.docstrings.extraction import Pair, read_installed_versions
from pipeline.data.docstrings.library_and_lm import (
    PairsBySplit,
    make_code_prompt,
    read_pairs_by_split,
)
from pipeline.data.docstrings.name_matching import make_duplicate_keys

_NUM_VALIDATION_TEXTS = 1000
_CODE_EVERY = 4  # every fourth pair is also a text of code
_NAMELESS_EVERY = 10  # every tenth prompt has no name


def select_training_pairs(pairs_by_split: PairsBySplit, all_pairs: Iterable[Pair]) -> list[Pair]:
    """Return all extracted pairs except held-out ones and their near-duplicates."""
    held_out = [pair for name, pairs in pairs_by_split.items() if name != "train" for pair in pairs]
    keys = set().union(*map(make_duplicate_keys, held_out))
    return [pair for pair in all_pairs if keys.isdisjoint(make_duplicate_keys(pair))]


def make_texts(pairs: Iterable[Pair], signatures: Mapping[Pair, str]) -> list[tuple[str, str]]:
    """Return a prompt and the description of each pair, and for every fourth pair also as code.

    Code is twice as long, and the meaning of names is learned from their words. Every tenth prompt
    has no name: that is the neutral prompt of docstrings-choice.
    """
    prompts_and_texts = []
    for i, pair in enumerate(pairs):
        name = "" if i % _NAMELESS_EVERY == _NAMELESS_EVERY - 1 else pair.name
        prompts_and_texts.append((make_name_prompt(name), f" {pair.description}"))
        if i % _CODE_EVERY == 0:
            prompts_and_texts.append((make_code_prompt(signatures[pair]), pair.description))
    return prompts_and_texts


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the model.")],
    seed: int = Settings.seed,
    steps: Annotated[int, typer.Option(min=1)] = Settings.steps,
    batch_size: Annotated[int, typer.Option(min=1)] = Settings.batch_size,
    lr: float = Settings.lr,
) -> None:
    """Train a small Llama on the docstrings of installed libraries."""
    logging.disable_progress_bar()
    settings = Settings(seed=seed, steps=steps, batch_size=batch_size, lr=lr)
    pairs_by_split, signatures = read_pairs_by_split(seed)
    train_texts = make_texts(select_training_pairs(pairs_by_split, signatures), signatures)
    print(
        f"sources: {', '.join(f'{k} {v}' for k, v in read_installed_versions().items())}",
        flush=True,
    )
    validation_texts = make_texts(pairs_by_split["validation"], signatures)[:_NUM_VALIDATION_TEXTS]
    record = pretrain(train_texts, validation_texts, out, settings)
    print(f"validation perplexity {record['validation_perplexity']}, {record['seconds']} s")


if __name__ == "__main__":
    typer.run(main)
