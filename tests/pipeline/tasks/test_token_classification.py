"""Words with tags: what is read, which token carries a tag, and the stages on a tiny model."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from helpers.data_cards import make_data_card
from helpers.params_file import change_params
from helpers.run_stages import read, run_stages, write_small_params
from helpers.stage_workspace import make_tokenizer, save_base
from helpers.task_files import read as read_rows_of
from helpers.task_files import write_rows
from helpers.tiny_models import make_tiny_config
from transformers import AutoConfig, AutoModel

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.paths import Paths
from pipeline.stages import prepare
from pipeline.tasks.registry import choose_task, make_task
from pipeline.tasks.token_classification import (
    SCHEMA,
    EntityRecognition,
    TokenClassification,
    find_first_tokens,
)

NAMES = ["O", "B-X", "I-X"]


def sentence(draw: random.Random) -> dict[str, list[str]]:
    """Words in which `good` begins an entity and `bad` goes on with it."""
    words = draw.choices(["w1", "w2", "good", "good bad"], k=draw.randint(3, 8))
    words = " ".join(words).split()
    tags = {"good": "B-X", "bad": "I-X"}
    return {"tokens": words, "tags": [tags.get(word, "O") for word in words]}


def conll(rows: list[dict[str, list[str]]]) -> str:
    blocks = ["\n".join(f"{w} N {t}" for w, t in zip(*row.values(), strict=True)) for row in rows]
    return "\n\n".join(["-DOCSTART- -X- O", *blocks])


@pytest.fixture
def space(cwd: Path) -> Path:
    """A tiny BERT, and 120 sentences: train as JSON lines, test as a CoNLL file."""
    save_base(cwd, AutoModel.from_config(make_tiny_config("bert")))
    draw = random.Random(0)
    rows = [sentence(draw) for _ in range(120)]
    write_rows(cwd / "train.jsonl", rows[:90])
    (cwd / "test.conll").write_text(conll(rows[90:]))
    write_small_params(cwd, data={"train": "train.jsonl", "test": "test.conll"})
    return cwd


def test_entities_are_learnt_and_measured_through_all_stages(space, monkeypatch):
    steps = {"steps": 150, "evaluate_every": 60}
    change_params(space, finetune=steps, prune={"ratio": 0.25})
    card, evaluation, table = run_stages(monkeypatch)

    assert (card["task_name"], card["labels"]) == ("entity-recognition", NAMES)
    assert (card["metric"], card["metrics"]) == ("entity_f1", ["entity_f1", "token_accuracy"])
    words = sum(card["splits"]["test"]["labels"].values())
    assert evaluation["rows"] == len(table) == card["splits"]["test"]["rows"] == 30
    assert evaluation["confusion"] is None
    low, high = evaluation["interval"]
    assert 0.5 < low <= evaluation["entity_f1"] <= high
    pairs = zip(" ".join(table.label).split(), " ".join(table.prediction).split(), strict=True)
    right = sum(label == prediction for label, prediction in pairs)
    assert evaluation["token_accuracy"] == pytest.approx(right / words)


def test_words_without_a_token_of_their_own_get_the_outside_tag(space):
    change_params(space, data={"max_length": 8, "max_truncated": 1.0})
    prepare.main(Paths())
    rows = load_from_disk("data/prepared/test")
    cut = [max(len(tags) - 8, 0) for tags in rows["tags"]]
    task, model = make_task(DataCard.read(Paths().prepared)), _says(1)

    predictions = task.predict(model, rows, make_tokenizer(), batch_size=7)

    assert sum(cut) == read("data/prepared/card.json")["splits"]["test"]["tokens_lost"] > 0
    expected = [
        ["B-X"] * min(len(tags), 8) + ["O"] * lost
        for tags, lost in zip(rows["tags"], cut, strict=True)
    ]
    assert predictions.predictions.tolist() == expected
    assert predictions.labels.tolist() == rows["tags"][:]


def _says(tag: int) -> Any:
    """A model that gives every token one tag."""
    import torch
    from transformers.modeling_outputs import TokenClassifierOutput

    class Says(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")

        def get_base_model(self):
            return self

        def forward(self, input_ids, **_):
            logits = torch.nn.functional.one_hot(torch.full_like(input_ids, tag), 3)
            return TokenClassifierOutput(loss=torch.tensor(0.5), logits=logits)

    return Says()


def test_the_first_token_of_a_word_carries_its_tag_and_no_other():
    words = ["New", "York", "", "is", "\u200b", "far"]
    # [CLS] N ew _York (with its space) _ (a space alone) i s far [SEP]
    places = [(0, 0), (0, 1), (1, 3), (3, 8), (8, 9), (10, 11), (11, 12), (15, 18), (0, 0)]

    assert " ".join(words)[15:18] == "far"
    assert find_first_tokens(words, places) == {0: 1, 1: 3, 3: 5, 5: 7}


def test_encoded_rows_agree_with_word_ids():
    words = make_tokenizer()
    task = EntityRecognition(make_data_card(labels=NAMES, max_length=8))
    encoded = task.encode({"tokens": [["good", "w1", "w2"]], "tags": [["B-X", "I-X", "O"]]}, words)

    assert encoded["labels"] == [[1, 2, 0]]
    assert (encoded["words"], encoded["length"], encoded["num_truncated"]) == (
        [[0, 1, 2]],
        [3],
        [0],
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_tags_are_padded_with_their_tokens(side):
    words = make_tokenizer()
    words.padding_side = side
    rows = [{"input_ids": [5] * n, "attention_mask": [1] * n, "labels": [1] * n} for n in (2, 4)]

    batch = TokenClassification(make_data_card(labels=NAMES, max_length=8)).make_collator(words)(
        rows
    )

    np.testing.assert_array_equal(batch["labels"] == -100, batch["input_ids"] == 0)


def test_a_tokenizer_that_cannot_say_where_tokens_come_from_is_refused():
    task = EntityRecognition(make_data_card(labels=NAMES, max_length=8))

    with pytest.raises(ConfigError, match=r"fast tokenizer.*; object does not"):
        task.encode({"tokens": [["a"]], "tags": [["O"]]}, object())


def test_bad_rows_are_counted_and_named(space):
    bad: list[dict[str, Any]] = [
        {"tokens": ["a", "b"], "tags": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a"]},
        {"tags": ["O"]},
        {"tokens": "a b", "tags": ["O", "O"]},
        {"tokens": ["a"], "tags": [" "]},
    ]
    with (space / "train.jsonl").open("a") as file:
        file.writelines("\n" + json.dumps(row) for row in bad)
    change_params(space, data={"max_bad_rows": 0.1})
    prepare.main(Paths())

    assert read("data/prepared/card.json")["dropped"] == {
        "train: tokens and tags of other lengths": {"rows": 1, "first": 91},
        "train: empty text": {"rows": 1, "first": 92},
        "train: no tags": {"rows": 1, "first": 93},
        "train: no tokens": {"rows": 1, "first": 94},
        "train: no list of text": {"rows": 1, "first": 95},
        "train: empty tag": {"rows": 1, "first": 96},
    }


def test_a_tag_that_train_lacks_is_named(space):
    (space / "test.conll").write_text("w1 O\nw2 B-Y\n")

    with pytest.raises(DataError, match=r"1 x label that train does not have .*row 1, 'B-Y'"):
        prepare.main(Paths())


def test_rows_with_a_tag_that_train_lacks_are_dropped_as_bad(space):
    rows = [(["w1", "w2"], ["O", "B-X"])] * 9
    rows.insert(4, (["w1", "w2", "w1"], ["O", "B-Y", "B-Z"]))
    rows.insert(2, (["w1"], []))
    lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
    (space / "test.jsonl").write_text("\n".join(lines))
    change_params(space, data={"test": "test.jsonl", "max_bad_rows": 0.2})
    prepare.main(Paths())
    card = read("data/prepared/card.json")

    assert card["dropped"] == {
        "test: tokens and tags of other lengths": {"rows": 1, "first": 3},
        "test: label that train does not have": {"rows": 1, "first": 6, "name": "'B-Y'"},
    }
    assert (card["splits"]["test"]["rows"], card["labels"]) == (9, NAMES)


def test_tags_that_are_numbers_are_in_order_and_measured_word_by_word(space, capsys):
    rows = [{"tokens": [f"w{i}", "w2"], "ner_tags": [0, i % 11]} for i in range(60)]
    (space / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    change_params(space, data={"test": "auto", "metric": "entity_f1"})
    with pytest.raises(
        ConfigError, match=r"auto or one of token_accuracy, .* token-classification, got entity"
    ):
        prepare.main(Paths())

    change_params(space, data={"metric": "auto"})
    prepare.main(Paths())

    card = read("data/prepared/card.json")
    assert (card["kind"], card["labels"], card["metrics"]) == (
        "token-classification",
        [str(number) for number in range(11)],
        ["token_accuracy"],
    )
    assert (
        "[prepare] tags are numbers: entity F1 needs names such as B-PER" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("single", "end", "inner"), ["SEI", "ULI", "SEM", "WEM"])
def test_schemes_that_mark_ends_become_bio(tmp_path, caplog, single, end, inner):
    tags = [f"{single}-X", "O", "B-X", f"{inner}-X", f"{end}-X", f"{single}-Y"]
    path = tmp_path / "a.conll"
    path.write_text("\n\n".join("\n".join(f"w{n} {tag}" for tag in tags) for n in range(10)))
    dataset = read_rows_of(tmp_path, train=str(path))

    assert dataset.splits["train"]["tags"][0] == ["B-X", "O", "B-X", "I-X", "I-X", "B-Y"]
    assert dataset.classes == ["O", "B-X", "B-Y", "I-X"]
    assert "are read as BIO: B- begins an entity" in caplog.text
    known = ["O", *(f"{prefix}-X" for prefix in ("B", inner, end, single))]
    assert SCHEMA.find_classes(dataset.splits, known) == ["O", "B-X", "I-X"]


def test_bio_tags_among_others_are_told(caplog):
    card = make_data_card(kind="token-classification", labels=("O", "B-X", "I-X", "X"))
    lines = TokenClassification(card).list_warnings()

    assert lines == ["tags are X: entity F1 needs names such as B-PER; measured by token accuracy"]
    tagging = card.model_copy(update={"labels": ("NOUN", "X", "VERB")})
    assert TokenClassification(tagging).list_warnings() == []


def test_tags_with_names_need_no_advice(space, capsys):
    prepare.main(Paths())

    assert "needs names" not in capsys.readouterr().out


def test_one_tag_is_no_task(space):
    Dataset.from_list([{"tokens": ["a"], "tags": ["O"]}] * 20).to_json("train.jsonl")

    with pytest.raises(DataError, match="train has one tag only, 'O'"):
        prepare.main(Paths())


def chosen(names: list[str]) -> type:
    return choose_task(SCHEMA, names, AutoConfig.for_model("bert"))


def test_tags_tell_entities_if_all_begin_or_go_on_with_one():
    assert chosen(NAMES) is EntityRecognition
    assert chosen(["O", "NOUN"]) is chosen(["O", "S-X"]) is TokenClassification
