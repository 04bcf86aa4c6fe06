"""A checkpoint's own head: its classes keep their order, or it starts anew."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.stage_workspace import WORDS, save_base, set_params
from helpers.task_files import write_rows
from helpers.tiny_models import make_tiny_config
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.stages import prepare
from pipeline.tasks.image_classification import ImageClassification
from pipeline.tasks.labels import order_like
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.tasks.text_classification import TextClassification
from pipeline.tasks.token_classification import TokenClassification

CLASSES = ("neutral", "entailment", "contradiction")
DATA = {"task": "files", "train": "train.jsonl", "max_length": 16}
TAGS = ("I-PER", "O", "B-PER")


def rows(auto: type, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of words, each with a class or as many tags."""
    draw, made = random.Random(0), []
    for _ in range(60):
        words = draw.choices(WORDS[4:], k=5)
        labels = draw.choices(classes, k=5)
        pair = {"text": " ".join(words), "more": words[0], "label": labels[0]}
        tagged = {"tokens": words, "tags": labels}
        made.append(pair if auto is AutoModelForSequenceClassification else tagged)
    return made


@pytest.mark.parametrize(
    ("auto", "names", "classes"),
    [
        (AutoModelForSequenceClassification, [name.upper() for name in CLASSES], CLASSES),
        (AutoModelForSequenceClassification, ["LABEL_0", "LABEL_1", "LABEL_2"], ("2", "0", "1")),
        (AutoModelForTokenClassification, list(TAGS), TAGS),
    ],
)
def test_untrained_predictions_are_those_of_the_checkpoint(cwd, auto, names, classes, capsys):
    torch.manual_seed(0)
    config = make_tiny_config("bert", id2label=dict(enumerate(names)), pad_token_id=0)
    saved = auto.from_config(config).eval()
    save_base(cwd, saved)
    write_rows(cwd / "train.jsonl", rows(auto, classes))
    set_params(cwd, data=DATA)

    prepare.main(Paths())
    card, data = DataCard.read(Paths().prepared), read_rows(Paths().prepared, "train")
    section, task = load_params(Path("params.yaml")).model, make_task(card)
    model, _ = load_model(section, task, 0)
    predicted = task.predict(
        model_like_peft(model), data, load_processor(section, task), batch_size=8
    )

    assert "starts anew" not in capsys.readouterr().out
    table = task.make_table(predicted)
    for row, said in zip(data, table.prediction, strict=True):
        with torch.no_grad():
            logits = saved(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        best = logits.argmax(-1).reshape(-1).tolist()
        own = " ".join(names[index].lower().removeprefix("label_") for index in best)
        assert said.lower() == own


def model_like_peft(model: Any) -> Any:
    """The model with the method by which predictions ask for the base model."""
    model.get_base_model = lambda: model
    return model


def test_a_head_for_other_classes_is_told(cwd, capsys):
    config = make_tiny_config("bert", id2label={0: "no", 1: "yes", 2: "maybe"}, pad_token_id=0)
    save_base(cwd, AutoModelForSequenceClassification.from_config(config))
    write_rows(cwd / "train.jsonl", rows(AutoModelForSequenceClassification, CLASSES))
    set_params(cwd, data=DATA)

    prepare.main(Paths())
    assert "has a head for other classes, no, yes, maybe: a new one" in capsys.readouterr().out
    assert DataCard.read(Paths().prepared).labels == tuple(sorted(CLASSES))


def test_names_agree_but_for_case():
    assert order_like(["bad", "good"], ["GOOD", "Bad"]) == ["good", "bad"]
    assert order_like(["0", "1"], ["LABEL_0", "LABEL_1"]) == ["0", "1"]
    assert order_like(["Good", "good"], ["good", "Good"]) == ["good", "Good"]
    for names in (["good"], ["good", "fine"], ["good", "bad", "ugly"], ["good", "GOOD"]):
        assert order_like(["bad", "good"], names) is None


@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        (TextClassification, "RobertaForSequenceClassification"),
        (TokenClassification, "BertForTokenClassification"),
        (ImageClassification, "ViTForImageClassification"),
    ],
)
def test_a_head_is_told_by_the_checkpoints_class(task, architecture):
    assert task.has_trained_head(make_tiny_config("bert", architectures=[architecture]))
    for other in ([], None, ["BertModel"], ["BertForMaskedLM"]):
        assert not task.has_trained_head(make_tiny_config("bert", architectures=other))
