"""Compute the layers below the lowest trained one once per row, instead of once per epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.modeling.frozen_layers import FrozenLayers, find_frozen_layers
from pipeline.common.console import log
from pipeline.common.errors import ConfigError
from pipeline.common.params import FinetuneSection
from pipeline.tasks.batching import count_tokens
from pipeline.tasks.method_models import Model
from pipeline.training.row_states import RowStates
from pipeline.training.training_data import Loader, TrainingData

NUMBERS = "row_numbers"

_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


class FrozenCache:
    """The hidden states that enter the lowest trained layer, for each row of train.

    They depend on the row alone. A batch whose rows have all been seen runs from there; another
    runs as always, and what enters that layer is kept. Padding changes states by rounding only, so
    a row keeps those of its first batch. States have the dtype that the model computes them in.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: FrozenLayers,
        *,
        lengths: Sequence[int],
        repeated: Sequence[int],
        folder: Path,
    ) -> None:
        """Prepare the cache; its file is made at the first batch.

        Args:
            model: the base model.
            layers: of it.
            lengths: tokens of each row of train.
            repeated: the rows that are in several batches.
            folder: on the disk that the states are to be on.
        """
        self._model, self._layers = model, layers
        self._lengths, self._repeated, self._folder = lengths, repeated, folder
        self._states: RowStates | None = None

    def compute_loss(
        self, compute: Callable[[], Tensor], batch: MutableMapping[str, Any]
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            compute: runs the model on the batch and returns its loss.
            batch: made by a loader of `number_rows`; the numbers are removed from it.

        Raises:
            ConfigError: the model or the task does not allow a cache, or the disk is too small.
        """
        rows = batch.pop(NUMBERS)
        if self._states is None or not self._states.has(rows):
            self._check_padding(rows, batch.get("attention_mask"))
        if self._states is None:
            hidden = self._try_replacing(compute, rows)
            self._states = RowStates(
                self._folder,
                {row: self._lengths[row] for row in self._repeated},
                width=hidden.shape[-1],
                dtype=hidden.dtype,
            )
        states = self._states
        if states.has(rows):
            with self._layers.replace(lambda hidden: states.read(rows, like=hidden)):
                return compute()
        with self._layers.record() as seen:
            loss = compute()
        states.write(rows, seen[0])
        return loss

    @torch.no_grad()
    def _try_replacing(self, compute: Callable[[], Tensor], rows: Sequence[int]) -> Tensor:
        """Run the first batch with and without the frozen layers, and return what leaves them.

        Raises:
            ConfigError: the states are not of the rows alone, or the loss depends on more.
        """
        device = self._model.device
        devices = [] if device.type == "cpu" else [device]
        random_states = [_read_random_state(device)]
        hook = self._layers.trained.register_forward_pre_hook(
            lambda *_: random_states.append(_read_random_state(device))
        )
        with torch.random.fork_rng(devices, device_type=device.type), self._layers.record() as seen:
            try:
                expected = compute()
            except ModelError as error:
                raise _refuse(str(error)) from error
            finally:
                hook.remove()
        if not torch.equal(random_states[0], random_states[1]):
            raise _refuse(f"its frozen layers have dropout ({self._name_dropouts()})")
        hidden = seen[0]
        lengths = [self._lengths[row] for row in rows]
        if hidden.dim() != 3 or len(hidden) != len(rows) or hidden.shape[1] < max(lengths):
            raise _refuse(f"{len(rows)} rows of train are {tuple(hidden.shape)} hidden states")
        unpadded = torch.zeros_like(hidden)
        for number, length in enumerate(lengths):
            unpadded[number, :length] = hidden[number, :length]
        with torch.random.fork_rng(devices, device_type=device.type):
            with self._layers.replace(lambda _: unpadded):
                replaced = compute()
        tolerance = _TOLERANCES[hidden.dtype]
        if not torch.allclose(replaced, expected, rtol=tolerance, atol=tolerance):
            raise _refuse("its frozen layers pass more than hidden states on")
        return hidden

    def _name_dropouts(self) -> str:
        """Return the dropouts in the model's configuration, as `name value`."""
        config = self._model.config.get_text_config().to_dict()
        found = [
            f"{name} {value}"
            for name, value in config.items()
            if ("dropout" in name or "pdrop" in name) and isinstance(value, float) and value
        ]
        return ", ".join(found) or "of unknown name"

    def _check_padding(self, rows: Sequence[int], mask: Tensor | None) -> None:
        if mask is None or mask.dim() != 2:
            return
        lengths = torch.tensor([self._lengths[row] for row in rows], device=mask.device)
        if not torch.equal(mask.sum(dim=1), lengths) or not mask[:, 0].all():
            raise _refuse("its rows are not padded on the right")


def make_frozen_cache(
    model: Model, data: TrainingData, settings: FinetuneSection, loader: Loader, *, folder: Path
) -> FrozenCache | None:
    """Return a cache for one training; None if it is not wanted or would save nothing.

    Args:
        model: the pruned model with its adapter.
        data: what it is trained on.
        settings: section `finetune`.
        loader: of the batches.
        folder: on the disk that the states are to be on.

    Raises:
        ConfigError: the model has frozen layers in one of several stacks.
    """
    if not settings.cache_frozen:
        return None
    plan = getattr(model, "lightpeft_plan", None)
    try:
        layers = None if plan is None else find_frozen_layers(model.get_base_model(), plan)
    except ModelError as error:
        raise _refuse(str(error)) from error
    counts = Counter(chain.from_iterable(loader.batch_sampler or ()))
    repeated = [row for row, count in counts.items() if count > 1]
    if not layers or not repeated:
        reason = "no row is in two batches" if layers else "no layer is frozen below a trained one"
        log(data.name, f"finetune.cache_frozen: {reason}, so nothing is kept")
        return None
    return FrozenCache(
        model.get_base_model(),
        layers,
        lengths=count_tokens(data.train),
        repeated=repeated,
        folder=folder,
    )


def number_rows(loader: Loader) -> Loader:
    """Return a loader whose batches also have the list of their rows' numbers."""
    collate = loader.collate_fn

    def collate_numbered(pairs: list[tuple[int, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = collate([row for _, row in pairs])
        return {**batch, NUMBERS: [number for number, _ in pairs]}

    return DataLoader(
        _NumberedRows(loader.dataset),
        batch_sampler=loader.batch_sampler,
        collate_fn=collate_numbered,
        generator=loader.generator,
    )


class _NumberedRows(Dataset[Any]):
    """A data set of pairs: a row's number, and the row."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return number, self.rows[number]

    def __getitems__(self, numbers: list[int]) -> list[tuple[int, Any]]:
        return list(zip(numbers, self.rows.__getitems__(numbers), strict=True))


def _read_random_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)  # type: ignore[no-any-return]


def _refuse(reason: str) -> ConfigError:
    return ConfigError(f"finetune.cache_frozen must be false for this model, got true: {reason}")
