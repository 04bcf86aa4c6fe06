"""The lines that the stage prepare logs at its end."""

from __future__ import annotations

from pipeline.common.data_card import DataCard, ModelRow, SplitStatistics
from pipeline.common.data_facts import describe_data
from pipeline.common.text import join_some, quantify, shorten
from pipeline.tasks.base import Processor, Task
from pipeline.tasks.registry import make_task
from pipeline.tasks.schema import Row

_LEAST_SHOWN = 5e-5  # fraction of tokens, 0.01 % when rounded


def describe_row(task: Task, row: Row, processor: Processor) -> ModelRow:
    """Return an encoded row as the model sees it, special tokens included, and its target."""
    ids = task.list_shown_tokens(row)
    return ModelRow(
        prompt=shorten(processor.decode(ids)) if ids else None,
        target=shorten(task.describe_target(row, processor)),
    )


def describe_raw(row: Row) -> str:
    """Return a row as it was read, its values shortened."""
    return join_some([f"{name}={shorten(repr(value), 80)}" for name, value in row.items()])


def summarize_card(card: DataCard) -> list[str]:
    """Return what the stage prepare logs at its end."""
    lines = describe_data(card)
    lines += [_split_line(name, split, card.max_length) for name, split in card.splits.items()]
    shown, *others = sorted(card.metrics, key=lambda name: name != card.metric)
    also = f", also {', '.join(map(card.describe_metric, others))}" if others else ""
    lines.append(f"{_describe_classes(card)}; metric {card.describe_metric(shown)}{also}")
    if card.class_weights:
        weights = zip(card.labels, card.class_weights, strict=True)
        named = join_some([f"{name} {weight:.3g}" for name, weight in weights])
        lines.append(f"class weights in the loss: {named}")
    lines += [
        f"{quantify(bad.rows, 'bad row')} of {reason} (first: {bad.describe_first()})"
        for reason, bad in card.dropped.items()
    ]
    lines += [*make_task(card).list_warnings(), *card.describe_repeats()]
    if card.baseline:
        lines.append(f"{card.baseline.name}: {card.baseline.accuracy:.1%} of test")
    return lines


def _split_line(name: str, split: SplitStatistics, max_length: int) -> str:
    return (
        f"{name}: {quantify(split.rows, 'row')}, {split.mean_tokens} tokens, "
        f"{split.truncated:,} cut at {max_length}"
        + (f", {quantify(split.tokens_lost, 'token')} lost" if split.truncated else "")
        + (f", {split.unknown:.2%} unknown" if (split.unknown or 0) >= _LEAST_SHOWN else "")
        + (f", packed in {quantify(split.packed, 'row')}" if split.packed is not None else "")
    )


def _describe_classes(card: DataCard) -> str:
    if not card.labels:
        return make_task(card).describe()
    counts = card.splits["train"].labels.items()
    return f"classes in train: {join_some([f'{name} {count:,}' for name, count in counts])}"
