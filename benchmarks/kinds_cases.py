"""One task of each kind for `benchmarks.kinds`: lines of params.yaml, data, a trivial method."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from peft import LoraConfig, get_peft_model

from benchmarks import kinds_models, kinds_text
from lightpeft.config import load_params
from pipeline.common import read_json
from pipeline.docstrings_choice import build_choice
from pipeline.docstrings_tasks import build_lm
from pipeline.kind import objects
from pipeline.kinds import kind_of
from pipeline.measures import find_measure
from pipeline.metrics import score
from pipeline.models import load_model, load_processor

DATA = Path("data/local")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task of one kind.

    Attributes:
        model, data: in the README's words.
        changes: the lines of params.yaml that differ, as YAML.
        make: writes files of data and model under data/local of the current folder.
        baseline: the trivial method in words, and its metric on the prepared test rows.
        needs: a folder of a model that must be there before, by its name under data/local.
    """

    model: str
    data: str
    changes: str
    make: Callable[[], None]
    baseline: tuple[str, Callable[[], float]]
    needs: str | None = None


def _texts(make: Callable[[kinds_text.Definition], kinds_text.Row | None]) -> Callable[[], None]:
    return lambda: kinds_text.write_rows(DATA, make, kinds_text.read_definitions())


def _tables(build: Callable[[int], Any]) -> Callable[[], None]:
    def make() -> None:
        tables, _ = build(load_params().seed)
        for split, table in tables.items():
            rows = (
                dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)
            )
            (DATA / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    return make


def _images() -> None:
    kinds_models.write_digits(DATA)
    kinds_models.write_vit(DATA / "vit")


def _calls() -> None:
    _texts(kinds_text.call_row)()
    lines = (DATA / "train.jsonl").read_text().splitlines()
    kinds_models.write_bart(DATA / "bart", [json.loads(line)["prompt"] for line in lines])


def _said(labels: str, says: Callable[[Dataset], list[Any]]) -> Callable[[], float]:
    """The metric of the card for what a rule says of the test rows."""

    def measured() -> float:
        rows, card = load_from_disk("prepared/test"), read_json(Path("prepared/card.json"))
        truth = rows[labels]
        if labels == "answers":
            truth = [answers["text"] for answers in truth]
        return find_measure(card["metric"])(objects(truth), objects(says(rows)))

    return measured


def _commonest(rows: Dataset) -> list[int]:
    return [int(np.bincount(rows["label"]).argmax())] * len(rows)


def _longest(rows: Dataset) -> list[int]:
    return [int(np.argmax([len(text) for text in choices])) for choices in rows["choices"]]


def _looks_like_code(rows: Dataset) -> list[list[str]]:
    """A word with an underscore, a digit, or a capital letter behind its first."""

    def odd(word: str) -> bool:
        return "_" in word or any(sign.isdigit() for sign in word) or word[1:] != word[1:].lower()

    return [["B-CODE" if odd(word) else "O" for word in words] for words in rows["tokens"]]


def _last_sentence(rows: Dataset) -> list[str]:
    return [context.rstrip(".").rsplit(". ", 1)[-1] for context in rows["context"]]


def _untrained() -> float:
    """The metric of the model as it comes."""
    params, card = load_params(), read_json(Path("prepared/card.json"))
    kind = kind_of(card)
    model = get_peft_model(
        load_model(params.model, kind, 0)[0], LoraConfig(task_type=kind.task_type)
    )
    said = kind_of(card | {"metrics": [card["metric"]]}).predict(
        model,
        load_from_disk("prepared/test"),
        load_processor(params.model, kind),
        batch_size=params.evaluate.batch_size,
    )
    return float(score(card, said)[card["metric"]])


_FILES = """\
data:
  task: files
  train: data/local/train.jsonl
  validation: data/local/validation.jsonl
  test: data/local/test.jsonl
"""

CASES: dict[str, Case] = {
    "regression": Case(
        model="MiniLM",
        data="how many lines of code (log2) has a function of this name and description?",
        changes=f"""\
{_FILES}\
  text:
  - name
  - description
  label: log_lines
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_texts(kinds_text.length_row),
        baseline=(
            "words of the description",
            _said("label", lambda rows: [len(text.split()) for text in rows["text_pair"]]),
        ),
    ),
    "choice": Case(
        model="MiniLM",
        data="which of four descriptions is this name's?",
        changes=f"""\
{_FILES}\
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_tables(build_choice),
        baseline=("the longest", _said("label", _longest)),
    ),
    "likelihood": Case(
        model="small Llama",
        data="the same, by a decoder",
        changes=f"""\
model: {{name: data/local/llama}}
{_FILES}\
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_tables(build_choice),
        baseline=("before fine-tuning", _untrained),
        needs="llama",
    ),
    "causal": Case(
        model="small Llama",
        data="a description for this signature",
        changes=f"""\
model: {{name: data/local/llama}}
{_FILES}\
  max_length: 128
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
evaluate: {{max_new_tokens: 0}}
""",
        make=_tables(build_lm),
        baseline=("before fine-tuning", _untrained),
        needs="llama",
    ),
    "seq2seq": Case(
        model="tiny BART, trained here to copy signatures",
        data="the shortest call of a function of this signature",
        changes=f"""\
model: {{name: data/local/bart}}
{_FILES}\
  metric: exact_match
estimate: {{steps: 100, lr: 2.0e-3}}
finetune: {{steps: 400, lr: 2.0e-3}}
""",
        make=_calls,
        baseline=("the signature itself", _said("completion", lambda rows: rows["prompt"])),
    ),
    "tokens": Case(
        model="MiniLM",
        data="which words of this paragraph did its author mark as code?",
        changes=f"""\
{_FILES}\
  max_length: 96
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_texts(kinds_text.markup_row),
        baseline=("words with _, digits or capitals inside", _said("tags", _looks_like_code)),
    ),
    "answer": Case(
        model="MiniLM",
        data="what is this parameter, what does this function return?",
        changes=f"""\
{_FILES}\
  max_length: 128
estimate: {{steps: 60, lr: 1.0e-3}}
finetune: {{steps: 240, lr: 1.0e-3}}
""",
        make=_texts(kinds_text.answer_row),
        baseline=("the last sentence", _said("answers", _last_sentence)),
    ),
    "image": Case(
        model="tiny ViT, trained here on the digits 0 to 4",
        data="digits 5 to 9",
        changes="""\
model: {name: data/local/vit}
data:
  task: files
  train: data/local/train
  test: data/local/test
estimate: {steps: 200, lr: 2.0e-3}
finetune: {steps: 800, lr: 2.0e-3}
benchmark: {length: 17}
""",
        make=_images,
        baseline=("the commonest digit", _said("label", _commonest)),
    ),
}
