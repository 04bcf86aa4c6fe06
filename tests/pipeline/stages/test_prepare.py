"""Stage prepare: what it writes, twice the same, and what it says about wrong input."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from helpers.params_file import change_params
from helpers.run_stages import check_error, check_error_here
from helpers.stage_workspace import make_tokenizer, write_files
from helpers.tiny_models import make_tiny_config
from transformers import AutoTokenizer

from lightpeft.core.reading import read_json
from pipeline.common.data_card import DataCard, HubDataset
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.paths import Paths
from pipeline.data.loading import LoadedDataset, read_dataset
from pipeline.stages import prepare

PATHS = Paths()


@pytest.fixture
def workspace(cwd: Path) -> Path:
    """A folder with params.yaml, a tokenizer, and 100 rows of good and bad words."""
    rows = [f"{('bad', 'good')[i % 2]} w{i % 60} {'w1 ' * (i % 30)},{i % 2}" for i in range(100)]
    return write_files(cwd, [*rows, " ,1"], max_truncated=1.0, max_unknown=1.0)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(workspace):
    prepare.main(PATHS)
    first = hashes(PATHS.prepared)
    prepare.main(PATHS)

    assert hashes(PATHS.prepared) == first
    assert [path.name for path in PATHS.prepared.parent.iterdir()] == ["prepared"]


def test_the_card_counts_what_the_splits_hold(workspace, capsys):
    prepare.main(PATHS)
    card = read_json(PATHS.prepared / "card.json", DataError)

    assert (card["kind"], card["labels"], card["metric"]) == (
        "text-classification",
        ["0", "1"],
        "accuracy",
    )
    assert card["dropped"] == {"train: empty text": {"rows": 1, "first": 101}}
    for name, rows in (("train", 80), ("validation", 10), ("test", 10)):
        split = load_from_disk(str(PATHS.prepared / name))
        lengths = [len(ids) for ids in split["input_ids"]]
        statistics = card["splits"][name]
        assert len(split) == statistics["rows"] == rows
        assert statistics["labels"] == {"0": rows / 2, "1": rows / 2}
        assert statistics["max_tokens"] == max(lengths) == 16
        assert statistics["truncated"] == sum(len(text.split()) > 16 for text in split["text"])
        assert statistics["mean_tokens"] == pytest.approx(sum(lengths) / rows, abs=0.01)
    logged = capsys.readouterr().out
    assert "[prepare] train: 80 rows" in logged
    assert "[prepare] 1 bad row of train: empty text (first: row 101)\n" in logged
    assert "repeat a row of train" not in logged


def test_the_card_names_the_commit_of_the_hub_that_rows_came_from(workspace, monkeypatch):
    origin = HubDataset(id="owner/name", requested_revision="main", revision="c" * 40)

    def read_from_hub(*arguments: Any, **options: Any) -> LoadedDataset:
        dataset = read_dataset(*arguments, **options)
        return replace(dataset, source=replace(dataset.source, hub_dataset=origin))

    monkeypatch.setattr(prepare, "read_dataset", read_from_hub)
    prepare.main(PATHS)

    assert DataCard.read(PATHS.prepared).hub_dataset == origin


def test_rows_hold_ids_texts_and_labels_without_padding(workspace):
    prepare.main(PATHS)
    split = load_from_disk(str(PATHS.prepared / "train"))
    words = AutoTokenizer.from_pretrained(PATHS.prepared / "tokenizer")

    assert split.column_names == [
        "text",
        "label",
        "input_ids",
        "attention_mask",
        "length",
        "num_truncated",
        "text_hash",
    ]
    for row in split:
        assert row["input_ids"] == words(row["text"])["input_ids"][:16]
        assert row["text"].startswith(("bad", "good")[row["label"]])


def test_rows_of_test_that_are_in_train_are_counted_and_told(workspace, capsys):
    (workspace / "test.csv").write_text("text,label\nbad w0 ,0\ngood w99,1\n")
    change_params(workspace, data={"test": "test.csv", "validation": "train.csv"})
    prepare.main(PATHS)
    card = read_json(PATHS.prepared / "card.json", DataError)

    assert card["repeats_of_train"] == {"validation": 100, "test": 1}
    line = "100 of 100 rows of validation and 1 of 2 rows of test repeat a row of train"
    assert f"[prepare] {line}\n" in capsys.readouterr().out


def test_what_was_there_is_replaced_only_by_something_whole(workspace):
    prepare.main(PATHS)
    (PATHS.prepared / "stale").touch()
    before = hashes(PATHS.prepared)
    change_params(workspace, data={"train": "none.csv"})
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        prepare.main(PATHS)
    assert hashes(PATHS.prepared) == before

    change_params(workspace, data={"train": "train.csv"})
    prepare.main(PATHS)
    assert set(hashes(PATHS.prepared)) == set(before) - {"stale"}
    assert sorted(path.name for path in workspace.glob(".*")) == []


def test_a_length_beyond_the_tokenizer_is_refused(workspace):
    words = make_tokenizer()
    words.model_max_length = 12
    words.save_pretrained(workspace / "base")

    with pytest.raises(ConfigError, match=r"data\.max_length must be at most 12"):
        prepare.main(PATHS)
    change_params(workspace, data={"max_length": 12})
    with pytest.raises(ConfigError, match=r"benchmark\.length must be at most 12"):
        prepare.main(PATHS)


@pytest.mark.parametrize(("model", "longest"), [("bert", 40), ("roberta", 38)])
def test_rows_longer_than_the_model_has_positions_for_are_refused(workspace, model, longest):
    make_tiny_config(model).save_pretrained(workspace / "base")  # no weights
    change_params(workspace, data={"max_length": longest})
    prepare.main(PATHS)

    change_params(workspace, data={"max_length": longest + 1})
    with pytest.raises(ConfigError, match=rf"data\.max_length must be at most {longest} for mod"):
        prepare.main(PATHS)


def test_a_model_that_has_no_head_for_the_task_is_one_line(workspace):
    make_tiny_config("resnet").save_pretrained(workspace / "base")
    with pytest.raises(ConfigError, match=r"^model\.name base can't be loaded: Unrecognized"):
        prepare.main(PATHS)


@pytest.mark.parametrize("preview", [None, 1])
def test_a_model_that_is_not_there_is_told_before_rows_are_read(workspace, preview):
    (workspace / "base" / "config.json").unlink()
    (workspace / "train.csv").unlink()
    with pytest.raises(ConfigError, match=r"^model\.name base is a folder without config\.json$"):
        prepare.main(PATHS, preview=preview)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": "none.csv"}, "none.csv does not exist"),
        (
            {"label": "lable"},
            "data.label: train has no column 'lable' among text, label; did",
        ),
        ({"task": "glue/sst2", "train": "auto"}, "data.task glue/sst2 is not in the hub's"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_1(workspace, data, message):
    change_params(workspace, data=data)

    # One in a process of its own, which takes seconds.
    check = check_error if data == {"train": "none.csv"} else check_error_here
    check(workspace, "prepare", message=message)

    assert not PATHS.prepared.exists()


def test_the_card_and_the_log_say_what_was_read(workspace, capsys):
    (workspace / "train.jsonl").write_text(
        "".join(
            f'{{"id": {i}, "text": "{("bad w99", "good")[i % 2]}\\n", "label": {i % 2}}}\n'
            for i in range(100)
        )
    )
    change_params(workspace, data=dict.fromkeys(("train", "validation", "test"), "train.jsonl"))
    prepare.main(PATHS)
    card = DataCard.read(PATHS.prepared)

    assert card.columns == {"text": ("text",), "label": ("label",)}
    assert card.ignored_columns == ("id",)
    assert card.first_row is not None
    assert (card.first_row.prompt, card.first_row.target) == ("bad [UNK]", "0")
    assert (card.splits["test"].unknown, card.splits["test"].only_unknown) == (0.333333, 0)
    logged = capsys.readouterr().out
    assert "[prepare] columns: text, label; ignored: id\n" in logged
    assert "[prepare] first row: bad [UNK] -> 0\n" in logged
    assert "[prepare] classes in train: 0 50, 1 50; metric accuracy" in logged
    assert "33.33% unknown" in logged


def test_the_card_says_how_a_file_was_read_where_that_is_not_obvious(workspace, capsys):
    path = workspace / "train.csv"
    path.write_text(path.read_text().replace(",", ";"))
    change_params(workspace, data=dict.fromkeys(("validation", "test"), "train.csv"))
    prepare.main(PATHS)
    assert DataCard.read(PATHS.prepared).notes == ("train.csv is separated by semicolons",)
    assert "[prepare] train.csv is separated by semicolons\n" in capsys.readouterr().out

    path.write_text(path.read_text().replace(";", ","))
    prepare.main(PATHS)
    assert DataCard.read(PATHS.prepared).notes == ()


def test_rows_of_unknown_tokens_are_told_and_refused(workspace, capsys):
    (workspace / "train.csv").write_text(
        "text,label\n" + "".join(f"{('ดี', 'good')[i % 4 > 0]},{i % 2}\n" for i in range(80))
    )
    change_params(workspace, data={"validation": "train.csv", "test": "train.csv"})
    prepare.main(PATHS)
    assert "20 of 80 rows of train hold nothing but unknown tokens\n" in capsys.readouterr().out

    change_params(workspace, data={"max_unknown": 0.2})
    with pytest.raises(
        DataError,
        match=r"25\.0% of the tokens of train .* model.name base \(20 of 80 rows hold no",
    ):
        prepare.main(PATHS)
