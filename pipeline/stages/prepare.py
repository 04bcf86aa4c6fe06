"""Stage `prepare`: a data set -> encoded rows in three splits, with a data card.

Rows are streamed from file to file, so memory does not grow with their number (except for
the built-in tasks, which are read into memory).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from transformers import PreTrainedConfig

from pipeline.common.console import collect_notes, log, note
from pipeline.common.data_card import DataCard, ModelOrigin, SplitStatistics
from pipeline.common.data_facts import describe_columns
from pipeline.common.errors import ConfigError
from pipeline.common.params import DataSection, PrepareParams
from pipeline.common.paths import Paths
from pipeline.common.scratch import make_scratch_folder
from pipeline.common.text import quantify, suggest_name
from pipeline.data.loading import LoadedDataset, read_dataset
from pipeline.data.packing import check_packable, pack
from pipeline.data.preview import read_first_rows
from pipeline.data.statistics import check_limits, count_repeats, describe, read_column
from pipeline.data.summary import describe_raw, describe_row, summarize_card
from pipeline.tasks import labels
from pipeline.tasks.base import Columns, Processor, Task
from pipeline.tasks.model_files import describe_origin
from pipeline.tasks.model_loading import build_empty_model, load_config, load_processor
from pipeline.tasks.positions import check_lengths, count_position_embeddings
from pipeline.tasks.registry import choose_task
from pipeline.tasks.schema import hash_texts
from pipeline.tasks.vocabulary import (
    check_special_tokens,
    check_token_ids,
    count_token_embeddings,
)

_ROWS_PER_PROCESS = 50_000  # for fewer, starting a process takes longer than it saves


def main(paths: Paths, *, preview: int | None = None) -> None:
    """Prepare the data that params.yaml names; or show that many rows, and write nothing."""
    params, out = PrepareParams.load(paths.params), paths.prepared
    datasets.disable_progress_bars()
    if preview is not None:
        for line in preview_lines(params, preview):
            log("prepare", line)
        return
    with make_scratch_folder(out) as scratch:
        card = write_prepared(scratch, params)
        shutil.rmtree(out, ignore_errors=True)
        (scratch / "prepared").rename(out)
    for line in summarize_card(card):
        log("prepare", line)


def preview_lines(params: PrepareParams, count: int) -> Iterator[str]:
    """Yield the first rows of train: as read, as the model sees them, and their targets.

    Raises:
        ConfigError, DataError: the rows, the model and the settings don't fit; one line.
    """
    section = params.data.model_copy(update={"positive_class": None})  # not seen yet, perhaps
    params = params.model_copy(update={"data": section})
    config = load_config(params.model)
    dataset, rows = read_first_rows(section, count, seed=params.seed)
    if not all(isinstance(clean, str) for _, clean in rows):  # else no class tells the task
        task, processor, _ = _bind_task(params, dataset, config)
        yield describe_columns(task.card)
    for number, (raw, clean) in enumerate(rows, start=1):
        yield f"row {number} as read: {describe_raw(raw)}"
        if isinstance(clean, str):
            yield f"row {number} is bad: {clean}"
            continue
        encoded = task.encode({name: [value] for name, value in clean.items()}, processor)
        row = clean | {name: values[0] for name, values in encoded.items()}
        shown = describe_row(task, row, processor)
        cut = f", {row['num_truncated']:,} more cut" if row["num_truncated"] else ""
        length = quantify(row["length"], "token")
        yield f"row {number} for the model, {length}{cut}: {shown.describe()}"


def write_prepared(scratch: Path, params: PrepareParams) -> DataCard:
    """Write splits, tokenizer and card into the folder `prepared` of an empty folder.

    Returns:
        The card.

    Raises:
        ConfigError, DataError: the rows, the model and the settings don't fit; one line.
    """
    config = load_config(params.model)  # before rows, which can take long to read, are read
    with collect_notes() as notes:
        dataset = read_dataset(params.data, scratch, seed=params.seed)
        task, processor, vocabulary = _bind_task(params, dataset, config)
    out, text_hashes = scratch / "prepared", {}
    splits: dict[str, SplitStatistics] = {}
    card_changes: dict[str, Any] = {}
    for split, rows in dataset.splits.items():
        encoded = _encode(rows, task, processor, texts=dataset.schema.identity_columns, name=split)
        check_token_ids(encoded, task, processor, vocabulary, split=split)
        splits[split] = describe(encoded, task, processor)
        check_limits(splits[split], params, split)
        text_hashes[split] = read_column(encoded, "text_hash")
        if split == "train":
            card_changes = task.compute_train_statistics(encoded, processor)
            if params.data.class_weights == "balanced":
                card_changes["class_weights"] = task.balance_classes(splits[split])
            card_changes["first_row"] = describe_row(task, encoded[0], processor)
            if params.data.packing:
                encoded = pack(encoded, scratch / "packed.arrow", length=params.data.max_length)
                splits[split] = splits[split].model_copy(update={"packed": len(encoded)})
        encoded.save_to_disk(out / split)
    card_changes |= {
        # Later stages depend on the card, so they run again if a local model's files change.
        "model": describe_origin(params.model),
        "splits": splits,
        "notes": tuple(notes),
        "repeats_of_train": count_repeats(text_hashes),
    }
    card = task.card.model_copy(update=card_changes)
    processor.save_pretrained(out / "tokenizer")
    card.write(out)
    return card


def _bind_task(
    params: PrepareParams, dataset: LoadedDataset, config: PreTrainedConfig
) -> tuple[Task, Processor, int | None]:
    """Return the task with a card that lacks what depends on encoded rows, and its tokenizer.

    The last value is how many tokens the model has embeddings for, if it reads tokens.
    """
    task_class = choose_task(dataset.schema, dataset.classes, config)
    if params.data.class_weights != "none" and not task_class.supports_class_weights:
        raise ConfigError(
            f"data.class_weights must be none for {task_class.describe()}, got balanced"
        )
    if params.data.packing:
        _check_packing(task_class, config.model_type)
    task = task_class(_make_card(params, dataset, task_class, config))
    processor = load_processor(params.model, task)
    if task.fixed_length:
        check_lengths(params, None, task.card.max_length)
    else:
        positions = count_position_embeddings(build_empty_model(params.model, task, config))
        limits = (positions, getattr(processor, "model_max_length", None))
        check_lengths(params, min((n for n in limits if n is not None), default=None), None)
    vocabulary = count_token_embeddings(config)
    check_special_tokens(processor, vocabulary, model=params.model.name)
    return task, processor, vocabulary


def _make_card(
    params: PrepareParams, dataset: LoadedDataset, task: type[Task], config: Any
) -> DataCard:
    """Return the data card without what depends on the model's files and on encoded rows."""
    source = dataset.source
    metrics = list(source.metrics or task.metrics)
    metric = params.data.metric or source.metric or metrics[0]
    allowed = dict.fromkeys((*metrics, *task.optional))
    if metric not in allowed:
        raise ConfigError(
            f"data.metric must be auto or one of {', '.join(allowed)} for {task.describe()}, "
            f"got {metric}"
        )
    task.check_metric(metric, params.evaluate, config)
    positive_class = _find_positive_class(params.data, dataset, "f1" in allowed)
    neutral = params.data.neutral_prompt or source.neutral_prompt
    if params.data.neutral_prompt not in (None, "none") and not task.supports_neutral_prompt:
        raise ConfigError(
            f"data.neutral_prompt must be auto or none for {task.describe()}, got {neutral!r}"
        )
    metrics = [*dict.fromkeys((*metrics, metric))]
    classes = dataset.classes
    if dataset.splits:  # a preview may not have seen every class
        classes = _order_classes(classes, task, config)
    return DataCard(
        task=params.data.task,
        model=ModelOrigin(name=params.model.name),
        kind=task.schema.kind,
        task_name=task.name,
        labels=tuple(classes),
        metric=metric,
        metrics=tuple(metrics),
        positive_class=positive_class,
        selection_metric=source.selection_metric or task.selection_metric or metric,
        max_length=task.find_max_length(params.data.max_length, config),
        columns=dataset.columns,
        ignored_columns=dataset.ignored_columns,
        dropped=dataset.dropped,
        sources=dataset.origins,
        hub_dataset=source.hub_dataset,
        baseline=source.baseline,
        neutral_prompt=neutral if task.supports_neutral_prompt and neutral != "none" else None,
    )


def _order_classes(classes: list[str], task: type[Task], config: Any) -> list[str]:
    """Return the classes in the order of the checkpoint's head, if it was trained for them."""
    if not classes or not task.has_trained_head(config):
        return classes
    trained = [config.id2label[index] for index in sorted(config.id2label)]
    ordered = labels.order_like(classes, trained)
    if ordered is None:
        note(
            f"model.name has a head for other classes, {labels.shorten(trained)}: a new one is "
            "trained; id2label of its config.json must name those of the data to keep it",
        )
    return ordered or classes


def _find_positive_class(section: DataSection, dataset: LoadedDataset, has_f1: bool) -> str | None:
    """Return the class of F1 that params.yaml names, or that the source's order of two says.

    None: it depends on the rows of train, or F1 is the mean over the classes.
    """
    chosen, classes = section.positive_class, dataset.classes
    if chosen is None:
        return classes[1] if dataset.source.kind and len(classes) == 2 else None
    if not has_f1:
        raise ConfigError(f"data.positive_class is for the metric f1 of classes, got {chosen!r}")
    if chosen not in classes:
        hint = suggest_name(chosen, classes)
        raise ConfigError(f"data.positive_class must be auto or a class, got {chosen!r}; {hint}")
    return chosen


def _check_packing(task: type[Task], model_type: str) -> None:
    """Refuse packing if packed rows would attend to each other, or have one label each."""
    if not task.supports_packing:
        raise ConfigError(f"data.packing must be false for {task.describe()}")
    check_packable(model_type)


def _encode(
    rows: Dataset, task: Task, processor: Any, *, texts: tuple[str, ...], name: str
) -> Dataset:
    """Return the rows with the model's inputs and a hash of their texts as further columns."""

    def encode(columns: Columns) -> Columns:
        keys = zip(*(columns[column] for column in texts), strict=True)
        return task.encode(columns, processor) | {"text_hash": [hash_texts(key) for key in keys]}

    processes = min(os.cpu_count() or 1, len(rows) // _ROWS_PER_PROCESS)
    if processes:
        datasets.enable_progress_bars()
    table = rows.data
    empty = [name for name in rows.column_names if table.column(name).null_count == len(table)]
    return rows.map(
        encode,
        batched=True,
        num_proc=processes if processes > 1 else None,
        remove_columns=empty,
        new_fingerprint=name,  # so that equal rows give equal bytes
        desc=f"[prepare] encoding {name}",
    )
