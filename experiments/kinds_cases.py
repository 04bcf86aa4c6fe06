"""One task of each kind for `experiments.kinds`: settings, data, and a trivial baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from peft import LoraConfig, get_peft_model

from experiments import kinds_models, kinds_text
from pipeline.common.console import find_device
from pipeline.common.data_card import DataCard
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.metrics.definitions import find_metric
from pipeline.metrics.scoring import score
from pipeline.tasks.base import make_object_array
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task

DATA = Path("data/local")


def _write_nothing() -> None:
    """Do nothing, for a built-in task and an existing model."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task of one kind.

    Attributes:
        model, data: names in the table of docs/results.md.
        changes: the lines of params.yaml that differ, as YAML.
        make: writes data and model files under data/local of the current folder.
        baseline: name of the trivial method, and a function that returns its metric on test.
        needs: name under data/local of a model folder that must exist.
    """

    model: str
    data: str
    changes: str
    baseline: tuple[str, Callable[[], float]]
    make: Callable[[], None] = _write_nothing
    needs: str | None = None


def _make_text_writer(
    make: Callable[[kinds_text.Definition], kinds_text.Row | None],
) -> Callable[[], None]:
    return lambda: kinds_text.write_rows(DATA, make, kinds_text.read_definitions())


def _write_images() -> None:
    kinds_models.write_digits(DATA)
    kinds_models.write_vit(DATA / "vit")


def _write_calls() -> None:
    _make_text_writer(kinds_text.make_call_row)()
    lines = (DATA / "train.jsonl").read_text().splitlines()
    kinds_models.write_bart(DATA / "bart", [json.loads(line)["prompt"] for line in lines])


def _read_card_baseline() -> float:
    """Return the accuracy of a built-in task's baseline from the data card."""
    baseline = DataCard.read(Paths().prepared).baseline
    assert baseline is not None
    return baseline.accuracy


def _make_baseline(labels: str, predict: Callable[[Dataset], list[Any]]) -> Callable[[], float]:
    """Return a function that computes the card's metric of a rule on the test rows."""

    def measure() -> float:
        rows, card = load_from_disk("data/prepared/test"), DataCard.read(Paths().prepared)
        truth = rows[labels]
        if labels == "answers":
            truth = [answers["text"] for answers in truth]
        return find_metric(card.metric)(make_object_array(truth), make_object_array(predict(rows)))

    return measure


def _predict_most_frequent_class(rows: Dataset) -> list[int]:
    labels = load_from_disk("data/prepared/train")["label"]
    return [int(np.bincount(labels).argmax())] * len(rows)


def _tag_code(rows: Dataset) -> list[list[str]]:
    """Tag words that contain an underscore, a digit, or a capital after the first letter."""

    def is_code(word: str) -> bool:
        return (
            "_" in word
            or any(character.isdigit() for character in word)
            or word[1:] != word[1:].lower()
        )

    return [["B-CODE" if is_code(word) else "O" for word in words] for words in rows["tokens"]]


def _extract_last_sentence(rows: Dataset) -> list[str]:
    return [context.rstrip(".").rsplit(". ", 1)[-1] for context in rows["context"]]


def _measure_untrained() -> float:
    """Return the metric of the model before fine-tuning."""
    params, card = load_params(), DataCard.read(Paths().prepared)
    kind = make_task(card)
    model = get_peft_model(
        load_model(params.model, kind, 0)[0], LoraConfig(task_type=kind.task_type)
    )
    predictions = make_task(card.model_copy(update={"metrics": (card.metric,)})).predict(
        model.to(find_device()),
        load_from_disk("data/prepared/test"),
        load_processor(params.model, kind),
        batch_size=params.evaluate.batch_size,
    )
    return float(score(card, predictions)[card.metric])


_FILES = """\
data: {task: files, train: data/local/train.jsonl, validation: data/local/validation.jsonl,
       test: data/local/test.jsonl"""

CASES: dict[str, Case] = {
    "classification": Case(
        model="MiniLM",
        data="which library is this description from?",
        changes="""\
data: {task: docstrings-library, max_length: 96}
estimate: {steps: 225, lr: 2.0e-3}
finetune: {steps: 900, lr: 2.0e-3}
""",
        baseline=("words, logistic regression", _read_card_baseline),
    ),
    "regression": Case(
        model="MiniLM",
        data="how long (log2 of lines) is the code of this signature and description?",
        changes=f"""\
{_FILES}, text: [signature, description], label: log_lines,
       max_length: 96}}
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_make_text_writer(kinds_text.make_length_row),
        baseline=(
            "words of the description",
            _make_baseline("label", lambda rows: [len(text.split()) for text in rows["text_pair"]]),
        ),
    ),
    "choice": Case(
        model="MiniLM",
        data="which of four descriptions is this name's?",
        changes="""\
data: {task: docstrings-choice, max_length: 40, max_truncated: 1.0}
estimate: {steps: 100, batch_size: 8, lr: 1.0e-3}
finetune: {steps: 400, batch_size: 8, lr: 1.0e-3, evaluate_every: 400}
""",
        baseline=("words and letters in common", _read_card_baseline),
    ),
    "likelihood": Case(
        model="small Llama",
        data="the same, by a decoder",
        changes="""\
model: {name: data/local/llama}
data: {task: docstrings-choice, max_length: 96}
estimate: {steps: 150, lr: 1.0e-3}
prune: {ratio: 0.3333, modules: 0.25, ranks: 0.25, criterion: taylor}
finetune: {steps: 600, lr: 1.0e-3}
""",
        baseline=("before fine-tuning", _measure_untrained),
        needs="llama",
    ),
    "causal": Case(
        model="small Llama",
        data="a description for this signature",
        changes="""\
model: {name: data/local/llama}
data: {task: docstrings-lm, max_length: 128}
estimate: {steps: 150, lr: 1.0e-3}
prune: {ratio: 0.3333, modules: 0.25, ranks: 0.25, criterion: taylor}
finetune: {steps: 600, lr: 1.0e-3}
evaluate: {max_new_tokens: 0}
""",
        baseline=("before fine-tuning", _measure_untrained),
        needs="llama",
    ),
    "seq2seq": Case(
        model="tiny BART, trained here to copy signatures",
        data="the shortest call of a function of this signature",
        changes=f"""\
model: {{name: data/local/bart}}
{_FILES}, metric: exact_match}}
estimate: {{steps: 250, lr: 2.0e-3}}
finetune: {{steps: 1000, lr: 2.0e-3}}
""",
        make=_write_calls,
        baseline=(
            "the signature itself",
            _make_baseline("completion", lambda rows: rows["prompt"]),
        ),
    ),
    "tokens": Case(
        model="MiniLM",
        data="which words of this paragraph did its author mark as code?",
        changes=f"""\
{_FILES}, max_length: 96}}
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_make_text_writer(kinds_text.make_markup_row),
        baseline=(
            "words with _, digits or capitals inside",
            _make_baseline("tags", _tag_code),
        ),
    ),
    "answer": Case(
        model="MiniLM",
        data="what is this parameter, what does this function return?",
        changes=f"""\
{_FILES}, max_length: 96}}
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_make_text_writer(kinds_text.make_answer_row),
        baseline=("the last sentence", _make_baseline("answers", _extract_last_sentence)),
    ),
    "image": Case(
        model="tiny ViT, trained here on the digits 0 to 4",
        data="digits 5 to 9",
        changes="""\
model: {name: data/local/vit}
data: {task: files, train: data/local/train, test: data/local/test}
estimate: {steps: 200, lr: 2.0e-3}
finetune: {steps: 800, lr: 2.0e-3}
benchmark: {length: 17}
""",
        make=_write_images,
        baseline=(
            "the commonest digit of train",
            _make_baseline("label", _predict_most_frequent_class),
        ),
    ),
}
