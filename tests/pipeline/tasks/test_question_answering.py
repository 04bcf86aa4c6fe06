"""Answers in a context: windows, spans, bad rows, and the stages on a tiny model."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from helpers.data_cards import make_data_card
from helpers.run_stages import run_stages, write_small_params
from helpers.stage_workspace import make_tokenizer, save_base
from helpers.tiny_models import make_tiny_config
from transformers import AutoModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.paths import Paths
from pipeline.stages import prepare
from pipeline.tasks.context_windows import find_best_spans, split_into_windows
from pipeline.tasks.question_answering import QuestionAnswering, find_error, find_training_spans
from pipeline.tasks.registry import make_task

FILES = {"train": "train.jsonl", "test": "test.json"}


def question(draw: random.Random, *, answered: bool = True, length: int = 12) -> dict[str, Any]:
    """`good bad` somewhere in a context is the answer to every question."""
    words = draw.choices(["w1", "w2", "w3"], k=draw.randint(4, length))
    position = draw.randrange(len(words))
    if answered:
        words[position : position + 1] = ["good", "bad"]
    start = len(" ".join([*words[:position], ""]))
    answers = {"text": ["good bad"], "answer_start": [start]}
    found = answers if answered else {"text": [], "answer_start": []}
    return {"question": "w5 w6", "context": " ".join(words), "answers": found}


def nested(rows: list[dict[str, Any]]) -> str:
    def answers(row: dict[str, Any]) -> list[dict[str, Any]]:
        lists = row["answers"]
        return [{"text": t, "answer_start": s} for t, s in zip(*lists.values(), strict=True)]

    paragraphs = [
        {"context": row["context"], "qas": [{"question": row["question"], "answers": answers(row)}]}
        for row in rows
    ]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}], "version": "1.1"})


def write(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, train)))
    (folder / "test.json").write_text(nested(test))


@pytest.fixture
def space(cwd: Path) -> Path:
    """A tiny BERT, and questions: train as JSON lines, test as SQuAD's nested JSON."""
    torch.manual_seed(0)
    save_base(cwd, AutoModel.from_config(make_tiny_config("bert")))
    draw = random.Random(0)
    rows = [question(draw) for _ in range(110)]
    write(cwd, rows[:90], rows[90:])
    write_small_params(cwd, data=FILES)
    return cwd


@pytest.mark.parametrize("unanswered", [False, True])
def test_answers_are_learnt_and_measured_through_all_stages(space, monkeypatch, unanswered):
    if unanswered:
        draw = random.Random(0)
        rows = [question(draw, answered=number % 2 == 0) for number in range(110)]
        write(space, rows[:90], rows[90:])
    steps = {"steps": 150, "evaluate_every": 60}
    write_small_params(space, data=FILES, finetune=steps, prune={"ratio": 0.25})
    card, evaluation, table = run_stages(monkeypatch)

    assert (card["kind"], card["metrics"]) == ("question-answering", ["squad_f1", "squad_em"])
    assert card["labels"] == (["no answer", "answer"] if unanswered else [])
    assert evaluation["rows"] == len(table) == 20
    assert evaluation["confusion"] is None
    low, high = evaluation["interval"]
    assert 0.6 < low <= evaluation["squad_f1"] <= high
    right = [json.loads(label) or [""] for label in table.label]
    exact = [prediction in texts for prediction, texts in zip(table.prediction, right, strict=True)]
    assert evaluation["squad_em"] == pytest.approx(sum(exact) / 20)


def test_windows_show_every_token_and_overlap():
    context = " ".join(f"w{number % 60}" for number in range(100))
    rows = {"question": ["good " * 40, "bad"], "context": [context, "w1 w2"]}
    parts = split_into_windows(rows, make_tokenizer(), length=32)

    assert [part.row for part in parts] == [0] * 12 + [1]
    question_tokens = [sum(part.begin < 0) for part in parts]
    assert question_tokens == [16] * 12 + [1]
    seen = [set(part.begin.tolist()) - {-1} for part in parts[:-1]]
    assert set.union(*seen) == {0} | {i + 1 for i, letter in enumerate(context) if letter == " "}
    assert all(len(one & other) == 8 for one, other in itertools.pairwise(seen))
    spans = [context[b:e] for b, e in zip(parts[1].begin, parts[1].end, strict=True) if b >= 0]
    assert spans == context.split()[8:24]


def test_a_row_trains_on_the_window_with_the_most_around_its_answer():
    words = [f"w{number % 60}" for number in range(100)]
    words[50:52] = ["good", "bad"]
    context = " ".join(words)
    answer = {"text": ["good bad"], "answer_start": [context.index("good")]}
    rows = {"question": ["w1"] * 2, "context": [context] * 2}
    rows["answers"] = [answer, {"text": [], "answer_start": []}]
    encoded = QuestionAnswering(
        make_data_card(labels=["no answer", "answer"], max_length=32)
    ).encode(rows, make_tokenizer())

    ids, ends = (
        encoded["input_ids"][0],
        (encoded["start_positions"][0], encoded["end_positions"][0]),
    )
    assert make_tokenizer().decode(ids[ends[0] : ends[1] + 1]) == "good bad"
    assert min(ends[0] - 1, 31 - ends[1]) >= 4
    assert (encoded["start_positions"][1], encoded["end_positions"][1]) == (0, 0)
    assert encoded["input_ids"][1][1:] == make_tokenizer()(context)["input_ids"][:31]
    assert (encoded["label"], encoded["length"], encoded["num_truncated"]) == (
        [1, 0],
        [32, 32],
        [69, 69],
    )


def test_an_answer_longer_than_its_window_is_taught_as_far_as_it_is_seen():
    context = " ".join(["good"] * 60)
    rows = {"question": ["w1"], "context": [context]}
    rows["answers"] = [{"text": [context], "answer_start": [0]}]
    parts = split_into_windows(rows, make_tokenizer(), length=32)

    assert find_training_spans(rows, parts) == [(0, 1, 31)]


def test_the_best_span_is_the_one_that_a_search_of_all_finds():
    draw = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 5, 50, generator=draw).unbind()
    context = torch.rand(5, 50, generator=draw) > 0.3
    score, first, last = find_best_spans(start, end, context)

    for row in range(5):
        inside = np.flatnonzero(context[row]).tolist()
        pairs = [(i, j) for i in inside for j in inside if i <= j < i + 30]
        best = max(pairs, key=lambda pair: float(start[row, pair[0]] + end[row, pair[1]]))
        assert (int(first[row]), int(last[row])) == best
        assert float(score[row]) == pytest.approx(float(start[row, best[0]] + end[row, best[1]]))


class Says(torch.nn.Module):
    """A model that finds token 2 where an answer begins and 3 where it ends, and else token 0."""

    dtype, device = torch.float32, torch.device("cpu")

    def get_base_model(self) -> torch.nn.Module:
        return self

    def forward(self, input_ids: Any, **_: Any) -> Any:
        start, end = (10.0 * (input_ids == token) for token in (2, 3))
        start[:, 0] = 4.0
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


@pytest.mark.parametrize("classes", [[], ["no answer", "answer"]])
@pytest.mark.parametrize("size", [1, 16])
def test_every_window_of_a_row_is_read(space, classes, size):
    draw = random.Random(1)
    rows = [question(draw, answered=n % 3 > 0, length=150) for n in range(9)]
    write(space, [question(draw, answered=n % 3 > 0) for n in range(30)], rows)
    write_small_params(space, data=FILES | {"max_truncated": 1.0})
    prepare.main(Paths())
    card = DataCard.read(Paths().prepared).model_copy(update={"labels": tuple(classes)})
    test = load_from_disk("data/prepared/test")

    predictions = make_task(card).predict(Says(), test, make_tokenizer(), batch_size=size)

    assert predictions.labels.tolist() == [["good bad"] * (n % 3 > 0) for n in range(9)]
    answered = [prediction == "good bad" for prediction in predictions.predictions]
    assert answered == [n % 3 > 0 for n in range(9)]
    assert all((prediction == "") == bool(classes) for prediction in predictions.predictions[::3])
    assert predictions.loss == pytest.approx(stock_loss(test), abs=1e-5)


def stock_loss(test: Any) -> float:
    """The mean of what the stock loss is of each row by itself."""
    losses = []
    for row in test:
        outputs = Says()(torch.tensor([row["input_ids"]]))
        ends = [torch.tensor([row[f"{side}_positions"]]) for side in ("start", "end")]
        both = zip((outputs.start_logits, outputs.end_logits), ends, strict=True)
        losses.append(sum(torch.nn.functional.cross_entropy(*pair) for pair in both) / 2)
    return float(sum(losses) / len(losses))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"answers": {"text": [], "answer_start": []}}, None),
        ({"answers": {"text": ["Bob"], "answer_start": [7]}}, "answer not at its place"),
        ({"answers": {"text": ["."], "answer_start": [-1]}}, "answer not at its place"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "empty answer"),
        ({"answers": {"text": ["Ann"], "answer_start": ["0"]}}, "answers of another shape"),
        ({"answers": {"text": ["Ann"], "answer_start": []}}, "answers of another shape"),
        ({"answers": "Ann"}, "answers of another shape"),
        ({"answers": None}, "no answers"),
        ({"question": None}, "no question or context"),
        ({"context": " "}, "empty text"),
        ({"question": 1}, "text of another type"),
    ],
)
def test_a_bad_row_says_why(change, reason):
    row = {"question": "Who?", "context": "Ann saw Bob.", "answers": {"text": ["Bob", "Ann"]}}
    row["answers"]["answer_start"] = [8, 0]

    assert find_error(row | change) == reason


def test_questions_without_an_answer_need_some_in_train(space):
    draw = random.Random(0)
    write(space, [question(draw)] * 20, [question(draw, answered=False)])

    with pytest.raises(DataError, match="test has questions without an answer, train has none"):
        prepare.main(Paths())


def test_settings_that_leave_no_room_or_no_columns_are_refused(space):
    write_small_params(space, data=FILES | {"max_length": 31})
    with pytest.raises(ConfigError, match=r"data\.max_length must be at least 32 for answers"):
        prepare.main(Paths())

    write_small_params(space, data=FILES | {"text": "question"})
    with pytest.raises(ConfigError, match=r"data\.text must be the columns of question and con"):
        prepare.main(Paths())

    with pytest.raises(ConfigError, match=r"fast tokenizer.*; object does not"):
        QuestionAnswering(make_data_card(labels=[], max_length=32)).encode({}, object())
