"""Stage `prepare`: a task -> tokenized rows in three splits, with a data card."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from lightpeft.config import Params, load_params
from pipeline.common import say, write_json
from pipeline.models import check_lengths, files_digest, load_tokenizer
from pipeline.tables import Table
from pipeline.tasks import CLASS_METRICS, SCORE_METRICS, Task, read_task


def tokenize(
    table: Table, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, int]:
    """Token ids beside the texts, not padded; and how many rows were cut at `max_length`."""
    texts = [table[name] for name in ("text", "text_pair") if name in table]
    whole = tokenizer(*texts, verbose=False)["input_ids"]
    cut = tokenizer(*texts, truncation=True, max_length=max_length)
    names = ("input_ids", "attention_mask", "token_type_ids")
    columns = {name: cut[name] for name in names if name in cut} | table
    return Dataset.from_dict(columns), sum(len(ids) > max_length for ids in whole)


def describe(rows: Dataset, truncated: int, classes: list[str]) -> dict[str, Any]:
    """What the card says of one split."""
    lengths = sorted(map(len, rows["input_ids"]))
    counts = Counter(rows["label"])
    return {
        "rows": len(lengths),
        "mean_tokens": round(sum(lengths) / len(lengths), 2),
        "p50_tokens": lengths[len(lengths) // 2],
        "p95_tokens": lengths[int(len(lengths) * 0.95)],
        "max_tokens": lengths[-1],
        "truncated": truncated,
        "labels": {name: counts[index] for index, name in enumerate(classes)},
    }


def repeats(splits: dict[str, Dataset]) -> dict[str, int]:
    """Rows of validation and test whose texts are in train too: their scores are too good."""
    keys = {
        name: list(zip(rows["text"], rows.to_dict().get("text_pair", rows["text"]), strict=True))
        for name, rows in splits.items()
    }
    known = set(keys.pop("train"))
    return {name: sum(key in known for key in rows) for name, rows in keys.items()}


def write_prepared(out: Path, params: Params, task: Task) -> dict[str, Any]:
    """Write splits, tokenizer and card into a folder beside, and then put it in place of `out`.

    Returns:
        The card.
    """
    tokenizer = load_tokenizer(params.model)
    check_lengths(params, tokenizer.model_max_length)
    length = params.data.max_length
    datasets.disable_progress_bars()
    made = {split: tokenize(table, tokenizer, length) for split, table in task.splits.items()}
    card = {
        "task": params.data.task,
        # Later stages depend on the card: they run again when a local model's files change.
        "model": {"name": params.model.name, "files": files_digest(params.model.name)},
        "kind": "classification" if task.classes else "regression",
        "labels": task.classes,
        "metric": task.metric,
        "metrics": list(CLASS_METRICS if task.classes else SCORE_METRICS),
        "max_length": length,
        "splits": {name: describe(*split, task.classes) for name, split in made.items()},
        "repeats_of_train": repeats({name: rows for name, (rows, _) in made.items()}),
        "dropped": task.dropped,
        "sources": task.origins,
    }
    if task.baseline:
        card["baseline"] = task.baseline
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as part:
        folder = Path(part) / out.name
        for name, (rows, _) in made.items():
            rows.save_to_disk(folder / name)
        tokenizer.save_pretrained(folder / "tokenizer")
        write_json(folder / "card.json", card)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
    return card


def main(out: str) -> None:
    """Make the data of params.yaml ready."""
    params = load_params()
    task = read_task(params.data, seed=params.seed)
    card = write_prepared(Path(out), params, task)
    for name, split in card["splits"].items():
        say(
            "prepare",
            f"{name}: {split['rows']:,} rows, {split['mean_tokens']} tokens, "
            f"{split['truncated']:,} cut at {card['max_length']}",
        )
    kind = f"classes {', '.join(card['labels'])}" if card["labels"] else "regression"
    say("prepare", f"{kind}; metric {card['metric']}")
    for reason, count in card["dropped"].items():
        say("prepare", f"{count:,} rows dropped: {reason}")
    if task.baseline:
        say("prepare", f"{task.baseline['name']}: {task.baseline['accuracy']:.1%} of test")
