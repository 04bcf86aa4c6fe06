"""Every named task: a row as its data set has it, and what becomes of it."""

import contextlib
import itertools

import pytest
from helpers.hub_rows import CLASSIFY, OTHERS, SUPER

from pipeline.common.errors import ConfigError
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.dataset_spec import DatasetSpec, RowError
from pipeline.metrics.definitions import METRICS
from pipeline.tasks.registry import SCHEMAS

ROWS = CLASSIFY | SUPER | OTHERS
COLUMNS = {
    "text-classification": [
        {"text", "text_pair", "label"},
        {"text", "text_pair", "label", "group"},
    ],
    "multiple-choice": [
        {"prompt", "choices", "label"},
        {"prompt", "choices", "label", "group"},
        {"prompt", "choices", "label", "answers", "group"},
    ],
    "text-generation": [{"prompt", "completion"}, {"prompt", "cue", "completion"}, {"messages"}],
    "token-classification": [{"tokens", "tags"}],
    "question-answering": [{"question", "context", "answers"}],
    "image-classification": [{"image", "label"}],
}

TEXTS = ("text-classification", "multiple-choice", "text-generation")
MAY_BE_EMPTY = [("alpaca", "input", None), ("alpaca", "input", " "), ("hellaswag", "ctx_b", " ")]


def spec(**changed) -> DatasetSpec:
    fixed = {
        "kind": "text-classification",
        "hub_id": "me/jokes",
        "metric": "f1",
        "classes": ("dull", "good"),
    }
    return DatasetSpec(**fixed | {"template": dict} | changed)


def test_every_task_has_a_row_here():
    assert CATALOG.keys() == ROWS.keys()


@pytest.mark.parametrize("name", CATALOG)
def test_a_row_of_the_hub_becomes_a_row_of_the_kind(name):
    row, expected = ROWS[name]
    converted = CATALOG[name].template(row)

    assert converted == expected
    assert set(converted) in COLUMNS[CATALOG[name].kind]
    if CATALOG[name].kind == "multiple-choice":
        assert 0 <= converted["label"] < len(converted["choices"])
    if CATALOG[name].classes:
        assert set(converted.get("tags", [converted.get("label")])) <= set(CATALOG[name].classes)


@pytest.mark.parametrize(
    ("name", "unlabelled"),
    [
        ("glue/sst2", {"label": -1}),
        ("glue/stsb", {"label": -1.0}),
        ("super_glue/copa", {"label": -1}),
        ("super_glue/multirc", {"label": -1}),
        ("super_glue/record", {"answers": []}),
        ("super_glue/record", {"answers": ["Mars"]}),
        ("super_glue/wic", {"label": -1}),
        ("super_glue/wsc", {"label": -1}),
        ("commonsense_qa", {"answerKey": ""}),
        ("hellaswag", {"label": ""}),
        ("piqa", {"label": -1}),
        ("winogrande", {"answer": ""}),
        ("cifar10", {"label": None}),
    ],
)
def test_a_row_without_its_label_is_none(name, unlabelled):
    assert CATALOG[name].template(ROWS[name][0] | unlabelled) is None


@pytest.mark.parametrize("name", [name for name in CATALOG if CATALOG[name].kind in TEXTS])
def test_a_missing_or_blank_text_is_a_bad_row_and_no_word_of_it(name):
    (row, expected), schema = ROWS[name], SCHEMAS[CATALOG[name].kind]
    texts = [column for column, value in row.items() if isinstance(value, str)]
    for column, value in itertools.product(texts, (None, " ")):
        with contextlib.suppress(RowError):
            converted = CATALOG[name].template(row | {column: value})
            is_expected = converted in (None, expected) or (name, column, value) in MAY_BE_EMPTY
            assert is_expected or schema.find_error(schema.postprocess(converted)), (column, value)


def test_every_task_is_measured_by_known_measures_and_fits_its_kind():
    for name, task in CATALOG.items():
        assert {
            task.metric,
            task.selection_metric or task.metric,
            *task.metrics,
        } <= METRICS.keys(), name
        assert task.metrics[0] == task.metric, name
        assert {"train"} <= set(task.splits) <= {"train", "validation", "test"}, name


def test_leaderboards_choose_the_metrics():
    reported = {name: CATALOG[name].metrics for name in CATALOG}

    assert reported["glue/cola"][0] == "mcc"
    assert reported["glue/mrpc"] == reported["glue/qqp"] == ("f1", "accuracy")
    assert reported["glue/stsb"] == ("pearson", "spearman")
    assert reported["super_glue/cb"] == ("accuracy", "f1_macro")
    assert reported["super_glue/multirc"][:2] == ("multirc_f1a", "multirc_em")
    assert reported["super_glue/record"] == ("record_f1", "record_em")
    assert reported["gsm8k"] == ("final_number", "perplexity")
    assert reported["conll2003"][0] == "entity_f1"


def test_only_labelled_splits_are_read():
    assert CATALOG["glue/rte"].splits == {"train": "train", "test": "validation"}
    assert CATALOG["glue/mnli"].splits["test"] == "validation_matched"
    assert CATALOG["glue/mnli-mismatched"].splits["test"] == "validation_mismatched"
    assert CATALOG["arc-easy"].splits == {name: name for name in ("train", "validation", "test")}
    assert CATALOG["gsm8k"].splits == {"train": "train", "test": "test"}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("conll2003", {"ner_tags": [3, -1, 1, 2]}, "tag must be from 0 to 8 or a name, got -1"),
        ("conll2003", {"ner_tags": [3, 9, 1, 2]}, "tag must be from 0 to 8 or a name, got 9"),
        ("conll2003", {"ner_tags": None}, "ner_tags must be a list, got None"),
        ("glue/sst2", {"label": 2}, "class number must be from 0 to 1, got 2"),
        ("super_glue/multirc", {"idx": "1-2-3"}, "idx must be an object, got '1-2-3'"),
        ("super_glue/record", {"entities": ["Ann", None]}, "entities must hold texts, got"),
        ("hellaswag", {"endings": ["He stops.", None]}, "endings must hold texts, got"),
        ("no_robots", {"messages": ["Hi"]}, "messages must be objects, got"),
        ("piqa", {"label": [1]}, r"\[1\] is no integer"),
        ("piqa", {"label": 0.5}, "0.5 is no integer"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_column(name, values, message):
    with pytest.raises(RowError, match=message):
        CATALOG[name].template(ROWS[name][0] | values)


def test_arc_has_letters_or_digits():
    row = {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}}

    assert CATALOG["arc-easy"].template(row | {"answerKey": "2"})["label"] == 1


def test_a_stem_ends_without_a_space():
    row = OTHERS["openbookqa"][0] | {"question_stem": " The sun is "}

    assert CATALOG["openbookqa"].template(row)["prompt"] == "The sun is"


def test_a_sentence_that_starts_with_its_blank_is_a_prompt_and_one_without_is_a_bad_row():
    template, row = CATALOG["winogrande"].template, OTHERS["winogrande"][0]
    converted = template(row | {"sentence": "_ was hungry, so Ian ate."})

    assert converted["prompt"] == "_ was hungry, so Ian ate."
    assert converted["choices"][0] == "Ian was hungry, so Ian ate."
    with pytest.raises(RowError, match=r"a blank, _, got 'Ian ate\.'"):
        template(row | {"sentence": "Ian ate."})


def test_alpaca_without_input_leaves_its_part_out():
    row = {"instruction": "Name a colour.", "input": "", "output": "Red.", "text": ""}
    converted = CATALOG["alpaca"].template(row)

    assert "Input" not in converted["prompt"]
    assert converted["prompt"].endswith("### Instruction:\nName a colour.\n\n### Response:\n")


def test_a_question_of_squad_2_without_an_answer_keeps_empty_lists():
    row = OTHERS["squad_v2"][0] | {"answers": {"text": [], "answer_start": []}}

    converted = CATALOG["squad_v2"].template(row)
    assert converted["answers"] == {"text": [], "answer_start": []}
    assert METRICS["squad_f1"]([converted["answers"]["text"]], [""]) == 1


def test_a_chosen_entity_is_measured_against_all_names_of_the_right_one():
    converted = CATALOG["super_glue/record"].template(SUPER["super_glue/record"][0])
    scores = [
        METRICS["record_f1"]([converted["answers"]], [converted["choices"][chosen]])
        for chosen in range(3)
    ]

    assert scores == [0, 1, 1]


def test_wsc_marks_the_span_nearest_to_its_word():
    row = SUPER["super_glue/wsc"][0] | {"span1_text": "it", "span2_text": "he"}
    text = "he and it sit; it met he"
    converted = CATALOG["super_glue/wsc"].template(
        row | {"text": text, "span1_index": 4} | {"span2_index": 6}
    )

    assert converted["text"] == "he and it sit; *it* met #he#"


def test_wsc_marks_the_word_where_a_span_stands_nowhere():
    row = SUPER["super_glue/wsc"][0] | {"text": "Ann, and Bob left; they ran.", "span2_index": 4}
    converted = CATALOG["super_glue/wsc"].template(
        row | {"span1_index": 0, "span1_text": "Ann and Bob"}
    )

    assert converted["text"] == "*Ann,* and Bob left; #they# ran."
    for index, message in ((99, "has no word 99"), (-1, "span2_index must be a word's number")):
        with pytest.raises(RowError, match=message):
            CATALOG["super_glue/wsc"].template(row | {"span2_index": index})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "poem"}, r"kind must be one of text-classification.*got 'poem'"),
        ({"metric": "bleu"}, "of kind text-classification must be among accuracy, .*; got bleu"),
        ({"metrics": ("accuracy",)}, "f1 is not among metrics"),
        (
            {"metric": "squad_f1"},
            "of kind text-classification must be among accuracy, .*; got squad_f1",
        ),
        (
            {"metrics": ("f1", "pearson")},
            "of kind text-classification must be among .*; got pearson",
        ),
        ({"selection_metric": "perplexity"}, "got perplexity"),
        ({"metric": "pearson"}, "metric pearson is for regression, so classes must be empty"),
        (
            {"metric": "pearson", "classes": (), "metrics": ("pearson", "f1")},
            "of regression must be among pearson, spearman; got f1",
        ),
        (
            {"kind": "multiple-choice", "metric": "pearson"},
            "of kind multiple-choice must be among .*; got pearson",
        ),
        ({"classes": ("a", "a")}, "classes must differ"),
        (
            {"kind": "image-classification", "classes": ()},
            "kind image-classification needs classes",
        ),
        ({"splits": {"test": "test"}}, r"splits must be train.*got test"),
        ({"splits": {"train": "train", "dev": "dev"}}, "splits must be train"),
    ],
)
def test_a_spec_with_contradictory_fields_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        spec(**changed)
