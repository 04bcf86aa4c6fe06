"""Rows of multiple choice, and encoders that compare pairs."""

import json

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from helpers.choice_workspace import draw_questions, encode
from helpers.data_cards import make_data_card
from helpers.stage_workspace import make_tokenizer
from helpers.task_files import make_section, read, write_rows
from helpers.tiny_models import make_lora, make_tiny_config
from peft import get_peft_model
from tokenizers.processors import TemplateProcessing

from lightpeft.profiling.random_batches import make_random_batch
from pipeline.common.data_card import DroppedRows
from pipeline.common.errors import ConfigError, DataError, PipelineError
from pipeline.tasks.batching import build_dataloader
from pipeline.tasks.multiple_choice import MultipleChoice
from pipeline.tasks.multiple_choice_lm import MultipleChoiceLM
from pipeline.tasks.multiple_choice_schema import SCHEMA, build_template
from pipeline.tasks.registry import choose_task

GOOD = {"prompt": "p", "choices": ["a", "b"], "label": 1}


def cleaned(row: dict, **changes: object) -> dict:
    """A clean row of a found one, as the settings say."""
    return build_template(make_section(train="x", **changes), [row])(row)


@pytest.fixture(scope="module")
def model():
    """A tiny encoder with LoRA and a fresh head of order 1."""
    torch.manual_seed(0)
    bert = transformers.BertForMultipleChoice(make_tiny_config("bert", pad_token_id=0))
    with torch.no_grad():
        bert.classifier.weight.normal_()
    return get_peft_model(bert, make_lora(task_type=None, modules_to_save=["classifier"])).eval()


@pytest.mark.parametrize(
    ("label", "number"), [(2, 2), ("2", 2), (" C ", 2), (2.0, 2), (None, None), ("", None)]
)
def test_labels_are_numbers_digits_or_letters(label, number):
    row = {"question": " why? ", "choices": '["a", 2, " c "]', "label": label}

    prompt = "Question: why?\nAnswer:"
    expected = {"prompt": prompt, "choices": ["a", "2", "c"], "label": number}
    assert cleaned(row) == expected | {"group": None}


def test_a_prompt_stays_as_it_is():
    row = {"prompt": " The sun is ", "question": "w1", "choices": ["a", "b"], "label": 0}

    assert cleaned(row)["prompt"] == "The sun is"


def test_two_columns_make_one_prompt(tmp_path):
    row = {"passage": "It rains.", "question": "Why?", "choices": ["a", "b"], "gold": 0}
    columns = {"text": ["passage", "question"], "label": "gold"}

    assert cleaned(row, **columns)["prompt"] == "It rains.\nQuestion: Why?\nAnswer:"
    assert cleaned(row, **columns)["group"] == "It rains."
    assert cleaned(row, text=["question", "passage"], label="gold")["prompt"] == "Why? It rains."
    assert SCHEMA.find_error(cleaned(row | {"question": " "}, **columns)) == "empty prompt"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": 3}, "prompt of another type"),
        ({"choices": None}, "no choices"),
        ({"choices": "a, b"}, "choices that are no list"),
        ({"choices": ["a"], "label": 0}, "fewer than two choices"),
        ({"choices": ["a", " "]}, "empty choice"),
        ({"choices": ["a", None]}, "choice of another type"),
        ({"label": None}, "no label"),
        ({"label": "a choice"}, "label of another type"),
        ({"label": 2}, "label out of range"),
        ({"label": -1}, "label out of range"),
    ],
)
def test_bad_rows_have_a_reason(changes, reason):
    assert SCHEMA.find_error(GOOD | changes) == reason


def test_a_file_with_choices_is_read_and_its_bad_rows_are_counted(tmp_path):
    rows = [*draw_questions(30), {"question": "w1", "choices": ["a"], "label": 0}]
    train = write_rows(tmp_path / "a.jsonl", rows)
    dataset = read(tmp_path, train=train, max_bad_rows=0.1)

    assert dataset.schema is SCHEMA
    assert dataset.classes == []
    assert dataset.dropped == {"train: fewer than two choices": DroppedRows(rows=1, first=31)}
    assert sum(len(split) for split in dataset.splits.values()) == 30


def test_a_csv_holds_choices_as_json(tmp_path):
    lines = [f'"is it {n}?","[""no"", ""yes""]",B' for n in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["prompt,choices,label", *lines]))

    train = read(tmp_path, train=str(tmp_path / "a.csv")).splits["train"]
    assert train["choices"][0] == ["no", "yes"]
    assert set(train["label"]) == {1}


@pytest.mark.parametrize(
    ("row", "changes", "error", "message"),
    [
        ({"a": "x", "b": "y"}, {}, DataError, r"one column of text beside choices.*found a, b"),
        ({"a": "x"}, {"text": "choices"}, ConfigError, "choices must differ"),
        ({"a": "x"}, {"label": "lable"}, DataError, "did you mean 'label'"),
    ],
)
def test_columns_that_do_not_fit_are_one_line(row, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        cleaned(row | {"choices": ["a", "b"], "label": 0}, **changes)

    assert "\n" not in str(caught.value)


def test_the_model_decides_and_one_that_can_not_is_refused():
    tasks = {
        "bert": MultipleChoice,
        "modernbert": MultipleChoice,
        "llama": MultipleChoiceLM,
        "opt": MultipleChoiceLM,
    }
    for name, task in tasks.items():
        assert choose_task(SCHEMA, [], transformers.AutoConfig.for_model(name)) is task
    for name in ("t5", "bart", "vit"):
        with pytest.raises(ConfigError, match=f"'{name}' does not support .*multiple-choice"):
            choose_task(SCHEMA, [], transformers.AutoConfig.for_model(name))


def test_a_long_prompt_loses_its_start_and_the_question_behind_it_stays():
    question = {"question": "w1 " * 20 + "w5 w6 w7 w8 w9", "choices": ["w2 w3", "w4 " * 12]}
    _, rows = encode(MultipleChoice, [question | {"label": 0}], max_length=10)
    first, second = (make_tokenizer().decode(ids) for ids in rows[0]["input_ids"])

    assert first == "w1 w1 w1 w5 w6 w7 w8 w9 w2 w3"
    assert second == "w5 w6 w7 w8 w9 w4 w4 w4 w4 w4"
    assert (rows[0]["length"], rows[0]["num_truncated"]) == (10, 27)


def test_a_short_prompt_stays_whole_and_its_long_choice_loses_its_end():
    choices = ["w2 w3 w4 w5 w6 w7 w8 w9", "w2"]
    _, rows = encode(
        MultipleChoice, [{"question": "good bad", "choices": choices, "label": 0}], max_length=8
    )
    first, second = (make_tokenizer().decode(ids) for ids in rows[0]["input_ids"])

    assert (first, second) == ("good bad w2 w3 w4 w5 w6 w7", "good bad w2")
    assert (rows[0]["length"], rows[0]["num_truncated"]) == (8, 2)


@pytest.mark.parametrize(
    ("pair", "names", "text", "types"),
    [
        (
            "[CLS] $A [SEP] $B:1 [SEP]:1",
            ["token_type_ids"],
            "[CLS] w7 w8 w9 [SEP] w2 w3 [SEP]",
            [0] * 5 + [1] * 3,
        ),
        ("[CLS] $A [SEP] [SEP] $B [SEP]", [], "[CLS] w8 w9 [SEP] [SEP] w2 w3 [SEP]", None),
    ],
    ids=["bert", "roberta"],
)
def test_special_tokens_stay_and_types_tell_the_choice(pair, names, text, types):
    words = make_tokenizer()
    words.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    marks = [(mark, words.convert_tokens_to_ids(mark)) for mark in ("[CLS]", "[SEP]")]
    processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=marks)
    words.backend_tokenizer.post_processor = processor
    words.model_input_names = [*words.model_input_names, *names]
    row = {"prompt": ["w5 w6 w7 w8 w9"], "choices": [["w2 w3", "w4"]], "label": [0]}
    encoded = MultipleChoice(make_data_card(max_length=8)).encode(row, words)

    assert words.decode(encoded["input_ids"][0][0]) == text
    assert encoded["attention_mask"][0][0] == [1] * 8
    assert ("token_type_ids" in encoded) == (types is not None)
    assert types is None or encoded["token_type_ids"][0][0] == types
    assert (encoded["length"], encoded["num_truncated"]) == ([8], [2 if types else 3])


@pytest.mark.parametrize("task", [MultipleChoice, MultipleChoiceLM])
def test_a_tokenizer_that_can_not_tell_texts_apart_is_refused(task):
    slow = type("Slow", (), {"is_fast": False})()
    nothing = {"prompt": [], "choices": [], "label": []}

    with pytest.raises(ConfigError, match=r"fast tokenizer.*prompt.*; Slow does not"):
        task(make_data_card(max_length=8)).encode(nothing, slow)


def test_a_batch_is_as_wide_as_its_longest_row():
    task, rows = encode(MultipleChoice, draw_questions(6), max_length=16)
    batch = next(iter(build_dataloader(rows, task, make_tokenizer(), [[*range(6)]])))
    counts = [len(choices) for choices in rows["choices"]]
    blank = batch["attention_mask"].sum(dim=2) == 1

    assert batch["input_ids"].shape[:2] == (6, max(counts))
    assert (~blank).sum(dim=1).tolist() == counts
    assert batch["labels"].tolist() == rows["label"]


def test_what_a_model_says_of_a_row_does_not_depend_on_its_batch(model):
    task, rows = encode(MultipleChoice, draw_questions(20), max_length=16)
    one, many = (task.predict(model, rows, make_tokenizer(), batch_size=n) for n in (1, 20))

    np.testing.assert_allclose(one.scores, many.scores, atol=1e-5)
    assert one.loss == pytest.approx(many.loss, abs=1e-5)
    assert (many.predictions < [len(choices) for choices in rows["choices"]]).all()
    shares = many.scores[np.arange(20), many.labels]
    assert many.loss == pytest.approx(-np.log(shares).mean(), rel=1e-4)


def test_training_gives_a_finite_loss_and_gradient_with_blank_choices(model):
    task, rows = encode(MultipleChoice, draw_questions(6), max_length=16)
    batch = next(iter(build_dataloader(rows, task, make_tokenizer(), [[*range(6)]])))
    loss = model(**batch).loss
    loss.backward()

    assert loss.isfinite()
    assert all(w.grad.isfinite().all() for w in model.parameters() if w.grad is not None)


def test_a_model_that_says_no_number_is_an_error(model):
    task, rows = encode(MultipleChoice, draw_questions(4), max_length=16)
    broken = np.zeros((4, 5))
    broken[2, 0] = np.nan

    with pytest.raises(PipelineError, match="row 3 is not a number"):
        task.to_predictions(rows, broken, 0.0)


def test_where_several_choices_are_right_texts_are_compared():
    task, rows = encode(MultipleChoice, draw_questions(2), max_length=16)
    rows = rows.add_column("answers", [["a", "b"], ["c"]])
    predictions = task.to_predictions(rows, np.eye(2, 5), 0.0)

    assert predictions.labels.tolist() == [["a", "b"], ["c"]]
    assert predictions.predictions.tolist() == [rows["choices"][0][0], rows["choices"][1][1]]
    assert json.loads(task.make_table(predictions).to_json())["label"]["0"] == ["a", "b"]
    rows = rows.remove_columns("answers").add_column("answers", [["a", "b"], None])
    predictions = task.to_predictions(rows, np.eye(2, 5), 0.0)
    assert predictions.labels.tolist()[1] == [rows["choices"][1][rows["label"][1]]]


def test_other_right_choices_are_left_out_of_training_but_not_of_evaluation(model):
    question = {"prompt": ["w1"], "choices": [["w2", "w3", "w4", "w5"]], "label": [2]}
    question["answers"] = [["w4", "w2"]]
    task = MultipleChoice(make_data_card(max_length=16))
    rows = Dataset.from_dict(question | task.encode(question, make_tokenizer()))
    batch = next(iter(build_dataloader(rows, task, make_tokenizer(), [[0]])))

    assert [make_tokenizer().decode(ids) for ids in batch["input_ids"][0]] == [
        "w1 w3",
        "w1 w4",
        "w1 w5",
    ]
    assert batch["labels"].tolist() == [1]
    assert task.predict(model, rows, make_tokenizer(), batch_size=1).scores.shape == (1, 4)


def test_the_benchmark_feeds_the_choices_of_one_question(model):
    batch = make_random_batch(model, batch_size=3, length=7)

    assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 3, 7)
    assert model(**batch).loss.isfinite()
