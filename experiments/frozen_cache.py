"""Measure what a cache of the frozen layers saves: python -m experiments.frozen_cache

A BERT of MiniLM's size with random weights and without dropout, a third of whose heads and neurons
and half of whose PEFT modules are cut (the modules by depth), is trained for three epochs with and
without the cache. Both take turns at each batch; the first epoch fills the cache.
"""

from __future__ import annotations

import copy
import random
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import torch
import typer
from peft import PeftModel
from torch import Tensor, nn

from lightpeft.benchmark.run import BenchmarkConfig, build_method_model
from lightpeft.modeling.frozen_layers import find_frozen_layers
from lightpeft.pruning.prune import get_plan
from pipeline.tasks.batching import pad_rows
from pipeline.training.frozen_cache import NUMBERS, FrozenCache

_ROWS, _BATCH, _EPOCHS = 96, 16, 3


class _Training:
    """A model, its optimizer and perhaps a cache; adds up the CPU seconds of its steps."""

    def __init__(self, model: PeftModel, cache: FrozenCache | None) -> None:
        self.model, self.cache = model, cache
        self.optimizer = torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad], lr=5e-4
        )
        self.seconds = 0.0

    def step(self, batch: dict[str, Any]) -> float:
        """Train on one batch, and return its loss."""
        start, inputs = process_time(), dict(batch)
        numbers = inputs.pop(NUMBERS)

        def compute() -> Tensor:
            loss: Tensor = self.model(**inputs).loss
            return loss

        loss = (
            compute()
            if self.cache is None
            else self.cache.compute_loss(compute, inputs | {NUMBERS: numbers})
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds += process_time() - start
        return loss.item()


def main() -> None:
    """Print the CPU seconds of each epoch with and without the cache, and how far losses differ."""
    draw = random.Random(0)
    rows = [[draw.randint(1, 30000) for _ in range(draw.randint(16, 64))] for _ in range(_ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        trainings = _make_trainings([*map(len, rows)], Path(folder))
        for epoch in range(_EPOCHS):
            order, worst = draw.sample(range(_ROWS), _ROWS), 0.0
            for training in trainings:
                training.seconds = 0.0
            for start in range(0, _ROWS, _BATCH):
                batch = _make_batch(rows, order[start : start + _BATCH])
                turns = trainings if start // _BATCH % 2 else trainings[::-1]
                losses = [training.step(batch) for training in turns]
                worst = max(worst, abs(losses[0] - losses[1]))
            plain, cached = (training.seconds for training in trainings)
            typer.echo(
                f"epoch {epoch + 1}: {plain:.1f} s, with the cache {cached:.1f} s, "
                f"{plain / cached:.2f}x, losses differ by {worst:.1e} at most"
            )


def _make_trainings(lengths: list[int], folder: Path) -> list[_Training]:
    config = BenchmarkConfig(shape="minilm", ratio=0.333, modules=0.5)
    model = build_method_model(config, "pruned", torch.device("cpu")).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    other = copy.deepcopy(model)
    base = other.get_base_model()
    layers = find_frozen_layers(base, get_plan(other))
    assert layers is not None
    typer.echo(f"{len(layers.frozen)} of {base.config.num_hidden_layers} layers are frozen")
    cache = FrozenCache(base, layers, lengths=lengths, repeated=range(len(lengths)), folder=folder)
    return [_Training(model, None), _Training(other, cache)]


def _make_batch(rows: list[list[int]], numbers: list[int]) -> dict[str, Any]:
    ids, mask = pad_rows([rows[number] for number in numbers], 0)
    labels = torch.tensor([number % 2 for number in numbers])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, NUMBERS: numbers}


if __name__ == "__main__":
    typer.run(main)
