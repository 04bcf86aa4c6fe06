"""Predict rows without labels by a result of the stage `finetune`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset

from lightpeft.core.names import DIGESTS
from pipeline.common.console import Progress, find_device, log
from pipeline.common.data_card import DataCard
from pipeline.common.errors import DataError, PipelineError
from pipeline.common.files import hash_file
from pipeline.common.params import ModelSection
from pipeline.common.paths import Paths
from pipeline.common.text import quantify
from pipeline.prediction.input_rows import complete_rows
from pipeline.prediction.output_file import PredictionFile
from pipeline.tasks import method_models
from pipeline.tasks.base import Processor, Task
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.tasks.schema import Row

_BATCHES = 8  # whose rows are predicted, and then stored, together


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What to predict, and by what.

    Attributes:
        result: folder that the stage `finetune` wrote, of any method.
        source: a file of rows, or the texts of one row.
        out: file of predictions; None: standard output.
        data: folder with the data card; None: the result, or the data/prepared of its pipeline.
        model: name or folder of the base model; None: as the data card names it.
        batch_size: rows of a batch.
        max_new_tokens: tokens to generate; None: as many as train's longest completion.
    """

    result: Path
    source: Path | tuple[str, ...]
    out: Path | None = None
    data: Path | None = None
    model: str | None = None
    batch_size: int = 32
    max_new_tokens: int | None = None

    @property
    def chunk(self) -> int:
        """Rows that are predicted together."""
        return _BATCHES * self.batch_size


def main(config: PredictConfig) -> None:
    """Predict all rows, in their order; a killed run goes on where it stopped.

    Raises:
        PipelineError, LightPeftError: a row, the result or a setting is wrong; one line.
    """
    transformers.logging.set_verbosity_error()
    card = _read_card(config)
    schema = make_task(card).schema
    _check_texts(config, card)
    # All rows are checked first: a bad one is found before hours have passed.
    count = sum(1 for _ in complete_rows(config.source, schema, card.labels))
    if config.out is None:
        for outputs in _predict_chunks(config, card):
            for row in outputs:
                sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        return
    with PredictionFile(config.out, _make_key(config, card), chunk=config.chunk) as file:
        start = file.done
        progress = Progress("predict", count - start, unit="row")
        if start:
            log("predict", f"{quantify(start, 'row')} of {count:,} were predicted before")
        for outputs in _predict_chunks(config, card, start=start) if start < count else ():
            file.append(outputs)
            progress(file.done - start)
        if file.done != count:
            raise DataError(f"{config.source} has changed: it had {quantify(count, 'row')}")
        file.finish()
    log("predict", f"{quantify(count, 'row')} in {config.out}")


def _read_card(config: PredictConfig) -> DataCard:
    """Read the data card that the result was trained with."""
    folder = config.data or config.result
    if config.data is None and not (folder / "card.json").exists():
        # The result of an older version, in its pipeline's folder.
        root = config.result.resolve().parent.parent.parent
        if Paths(root).locate_model(config.result.name) == config.result.resolve():
            folder = Paths(root).prepared
    if not (folder / "card.json").exists():
        raise PipelineError(
            f"{config.result} has no card.json, which the stage finetune writes into its results; "
            "name the folder that has it with --data"
        )
    card = DataCard.read(folder)
    changes: dict[str, Any] = {}
    if config.max_new_tokens is not None:
        changes["max_new_tokens"] = config.max_new_tokens
    if config.model is not None:
        changes["model"] = card.model.model_copy(update={"name": config.model, "revision": None})
    return card.model_copy(update=changes)


def _check_texts(config: PredictConfig, card: DataCard) -> None:
    """Refuse two texts of a command line as a pair if the model was trained on single texts.

    Raises:
        PipelineError: says how to predict several rows.
    """
    is_single = "text" in card.columns and "text_pair" not in card.columns
    if is_single and isinstance(config.source, tuple) and len(config.source) > 1:
        raise PipelineError(
            f"--text is given {len(config.source)} times, but this model was trained on single "
            "texts, not on pairs; for several rows, write a file for --file"
        )


def _make_key(config: PredictConfig, card: DataCard) -> str:
    """Return a digest of all that the predictions depend on, but for the machine."""
    digests, source = config.result / DIGESTS, config.source
    weights = [digests] if digests.exists() else sorted(config.result.glob("*.safetensors"))
    values = [
        *map(hash_file, weights),
        hash_file(source) if isinstance(source, Path) and source.is_file() else str(source),
        json.dumps(card.to_json(), sort_keys=True),
        str(config.batch_size),
    ]
    return hashlib.sha256("\n".join(values).encode()).hexdigest()[:32]


def _predict_chunks(
    config: PredictConfig, card: DataCard, *, start: int = 0
) -> Iterator[list[Row]]:
    """Yield the predictions of some rows after the other, from a row number on."""
    task = make_task(card)
    model, processor = _load(config, task)
    rows = complete_rows(config.source, task.schema, card.labels)
    first = start
    rows = islice(rows, start, None)
    while chunk := list(islice(rows, config.chunk)):
        try:
            outputs = task.predict_unlabeled(
                model, encode(task, chunk, processor), processor, batch_size=config.batch_size
            )
        except PipelineError as error:
            last = first + len(chunk)
            raise type(error)(f"rows {first + 1:,} to {last:,}: {error}") from error
        yield [{"row": number, **row} for number, row in enumerate(outputs, start=first + 1)]
        first += len(chunk)


def _load(config: PredictConfig, task: Task) -> tuple[method_models.Model, Processor]:
    section = ModelSection(name=task.card.model.name)  # of the commit that the card names
    processor = load_processor(section, task)
    # The result has the weights of a new head, so the seed that it starts from is not needed.
    base, _ = load_model(section, task, seed=0)
    return method_models.load(base, config.result).to(find_device()), processor


def encode(task: Task, rows: Sequence[Row], processor: Processor) -> Dataset:
    """Return encoded rows without the columns that are empty, as the stage `prepare` does."""
    columns = {name: [row[name] for row in rows] for name in task.schema.features}
    encoded = columns | task.encode(columns, processor)
    return Dataset.from_dict(
        {
            name: values
            for name, values in encoded.items()
            if any(value is not None for value in values)
        }
    )
