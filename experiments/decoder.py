"""A small decoder, offline: Llama's shape, trained from nothing on the docstrings.

    python -m experiments.decoder OUT_FOLDER

About 10 M parameters see the training side of the built-in tasks of the same seed: each name, and
some signatures, followed by the description. Nothing of validation or test is among it, nor a
near-duplicate of that. OUT_FOLDER is a stock checkpoint with its tokenizer: a model for the
pipeline to fine-tune on docstrings-choice or docstrings-lm. On a GPU if there is one. Where it
was killed, the same command goes on from its last checkpoint.

The default 1,200 steps give a validation perplexity of 96 for each token of a description, and
answer 41.8 % of docstrings-choice's test questions without fine-tuning, compared with the neutral
prompt (chance is 25 %). They took 41 minutes on a core that other work shared
(experiments/results/decoder.json). `--steps` sets more or fewer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers.utils import logging

from experiments.pretraining import Settings, pretrain
from pipeline.data.docstrings.choice import name_prompt
from pipeline.data.docstrings.extraction import Pair, installed_versions
from pipeline.data.docstrings.library_and_lm import PairsBySplit, code_prompt, read_pairs_by_split
from pipeline.data.docstrings.name_matching import duplicate_keys

_VALIDATED = 1000  # texts
_AS_CODE = 4
_NAMELESS = 10


def training_pairs(found: PairsBySplit, everything: Iterable[Pair]) -> list[Pair]:
    """All that was found, near-duplicates included, less what is like a row held out."""
    held = [pair for name, side in found.items() if name != "train" for pair in side]
    keys = set().union(*map(duplicate_keys, held))
    return [pair for pair in everything if keys.isdisjoint(duplicate_keys(pair))]


def texts(pairs: Iterable[Pair], signatures: Mapping[Pair, str]) -> list[tuple[str, str]]:
    """Prompt and description of each pair by its words, and of every fourth also as code.

    Code is twice as long, and what its names mean is learnt from their words. Every tenth has no
    name in its prompt: that is docstrings-choice's neutral prompt.
    """
    found = []
    for i, pair in enumerate(pairs):
        name = "" if i % _NAMELESS == _NAMELESS - 1 else pair.name
        found.append((name_prompt(name), f" {pair.description}"))
        if i % _AS_CODE == 0:
            found.append((code_prompt(signatures[pair]), pair.description))
    return found


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the model")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    for name in ("steps", "batch_size"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=count, default=getattr(Settings, name))
    parser.add_argument("--lr", type=float, default=Settings.lr)
    logging.disable_progress_bar()
    given = vars(parser.parse_args())
    out = given.pop("out")
    settings = Settings(**given)
    found, signatures = read_pairs_by_split(settings.seed)
    known = texts(training_pairs(found, signatures), signatures)
    print(f"sources: {', '.join(f'{k} {v}' for k, v in installed_versions().items())}", flush=True)
    held = texts(found["validation"], signatures)[:_VALIDATED]
    record = pretrain(known, held, out, settings)
    print(f"validation perplexity {record['validation_perplexity']}, {record['seconds']} s")


if __name__ == "__main__":
    main()
