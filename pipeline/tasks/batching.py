"""Padded batches of rows. Which rows share a batch depends only on lengths and a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from pipeline.common.ranks import count_processes, get_rank
from pipeline.tasks.base import IGNORED, Batch, Processor, Task
from pipeline.tasks.schema import Row

# Rows are sorted by length among this many batches: enough to save nearly all of the padding,
# few enough that batches go on differing from one pass over the data to the next.
_WINDOW = 50
_LENGTHS, _MULTIPLE = 4, 8  # of compiled training: how many lengths, and of what multiples


def build_dataloader(
    dataset: Dataset,
    task: Task,
    processor: Processor,
    rows: Iterable[list[int]],
    *,
    split: bool = False,
    lengths: Sequence[int] = (),
) -> DataLoader[Batch]:
    """Return batches of the given rows, each padded to its longest row, with `labels`.

    Args:
        dataset: encoded rows.
        task: that they are of.
        processor: its tokenizer or image processor.
        rows: row numbers of each batch.
        split: each process of a stage gets its part of every batch, padded as the batch is.
        lengths: pad a batch further, to the smallest of these lengths that holds it.
    """
    names = [name for name in task.inputs if name in dataset.column_names]
    collate = task.make_collator(processor)
    if lengths:
        collate = partial(_collate_to_length, collate, processor, lengths)
    if split and count_processes() > 1:
        collate = partial(_collate_part, collate, padded=not task.fixed_length)
    return DataLoader(
        dataset.select_columns(names),
        batch_sampler=rows,
        collate_fn=collate,
        # A separate generator, because creating an iterator draws from the global one otherwise.
        generator=torch.Generator(),
    )


def _collate_part(collate: Callable[[list[Row]], Batch], rows: list[Row], *, padded: bool) -> Batch:
    """Return the part of a batch that this process takes: as many rows as the others do."""
    size = len(rows) // count_processes()
    part = slice(get_rank() * size, (get_rank() + 1) * size)
    if not padded:
        return collate(rows[part])
    # Not only for equal sums: padding to the most choices of the batch changes its loss.
    return {name: values[part] for name, values in collate(rows).items()}


def pad_rows(
    rows: Sequence[Sequence[int]], value: int, *, side: str = "right"
) -> tuple[Tensor, Tensor]:
    """Return rows padded to one length with a value, and a mask with 0 at padding."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    masks = [torch.ones_like(tensor) for tensor in tensors]
    padded = pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
    return padded, pad_sequence(masks, batch_first=True, padding_side=side)


def count_tokens(dataset: Dataset) -> list[int]:
    """Return the number of tokens of each row."""
    counts: list[int] = dataset.with_format("numpy")["length"][:].tolist()
    return counts


def count_read_tokens(dataset: Dataset, task: Task) -> list[int]:
    """Return the number of tokens of each row that are padded together as `input_ids`.

    Of encoder-decoders, whose completions are padded by themselves, it is less than all tokens.
    """
    if "labels" in task.token_columns:
        return [len(ids) for ids in dataset["input_ids"]]
    return count_tokens(dataset)


def shuffle_batches(
    lengths: Sequence[int], *, batch_size: int, seed: int, grouped: bool
) -> Iterator[list[int]]:
    """Yield row numbers of full batches endlessly; one pass over the data continues in the next.

    With `grouped`, rows of similar length share a batch, and batches are shuffled afterwards:
    transformers' own grouping runs from the longest to the shortest, again and again.
    """
    generator = torch.Generator().manual_seed(seed)
    size = batch_size * (_WINDOW if grouped else 1)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(len(lengths), generator=generator).tolist()
        window, waiting = waiting[:size], waiting[size:]
        if grouped:
            window.sort(key=lengths.__getitem__)
        starts = torch.arange(0, size, batch_size)
        for start in starts[torch.randperm(len(starts), generator=generator)].tolist():
            yield window[start : start + batch_size]


def choose_lengths(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> list[int]:
    """Return few lengths to pad batches to, ascending: quantiles of their longest rows.

    torch.compile makes a graph or a kernel for each length that it sees.

    Args:
        lengths: tokens of each row.
        batches: row numbers of each batch.

    Returns:
        At most four multiples of 8, the last one as it is: a model may have no further positions.
    """
    longest = sorted(max(lengths[row] for row in batch) for batch in batches)
    parts = range(1, _LENGTHS + 1)
    chosen = [longest[len(longest) * part // _LENGTHS - 1] for part in parts]
    rounded = {min(-(-length // _MULTIPLE) * _MULTIPLE, longest[-1]) for length in chosen}
    return sorted(rounded)


def _collate_to_length(
    collate: Callable[[list[Row]], Batch],
    processor: Processor,
    lengths: Sequence[int],
    rows: list[Row],
) -> Batch:
    """Collate rows and pad their tokens to the next of these lengths."""
    batch = collate(rows)
    ids = batch["input_ids"]
    missing = min(length for length in lengths if length >= ids.shape[-1]) - ids.shape[-1]
    values = {"input_ids": processor.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    labels = batch.get("labels", ids.new_zeros(()))
    if labels.shape == ids.shape and not labels.is_floating_point():  # one a token
        values["labels"] = IGNORED
    padded = {
        name: pad(batch[name], (0, missing), value=value)
        for name, value in values.items()
        if name in batch
    }
    if "position_ids" in batch:  # of packed rows: padding continues the last one, after its end
        positions = batch["position_ids"]
        added = torch.arange(1, missing + 1).expand(len(positions), -1)
        padded["position_ids"] = torch.cat([positions, positions[:, -1:] + added], dim=1)
    return {**batch, **padded}


def sort_batches_by_length(lengths: Sequence[int], *, batch_size: int) -> list[list[int]]:
    """Return row numbers of batches, longest rows first: if memory runs out, it does at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
