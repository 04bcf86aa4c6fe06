"""Hub ids: named tasks, and other data sets by their splits, columns and classes."""

from dataclasses import replace
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from helpers.task_files import make_section, read

from pipeline.common.data_card import DataOrigin
from pipeline.common.errors import ConfigError, DataError
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.hub import load_hub_id, load_spec
from pipeline.data.sources import resolve_source
from pipeline.data.splits import SplitSpec, make_splits


def mrpc() -> DatasetDict:
    """GLUE's shape: named classes not in the order of the alphabet, and no labels in test."""
    features = Features(
        sentence1=Value("string"),
        sentence2=Value("string"),
        label=ClassLabel(names=["not_equivalent", "equivalent"]),
        idx=Value("int32"),
    )
    labels = {"train": [0, 1] * 30, "validation": [1, 0], "test": [-1, -1]}
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "sentence1": [f"{split} {i}" for i in range(len(values))],
                    "sentence2": ["x"] * len(values),
                    "label": values,
                    "idx": list(range(len(values))),
                },
                features=features,
                split=split,
            )
            for split, values in labels.items()
        }
    )


@pytest.fixture
def hub(monkeypatch):
    """A hub with MRPC's rows, or those that are put in `splits`; its calls are in `calls`."""
    fake = SimpleNamespace(splits=mrpc(), calls=[])

    def load_dataset(hub_id: str, configuration: str | None, *, revision: str | None):
        fake.calls.append((hub_id, configuration, revision))
        return fake.splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return fake


def test_a_value_that_python_cannot_hold_is_one_line(hub):
    far = Features(sentence=Value("string"), label=Value("int64"), when=Value("timestamp[us]"))
    rows = Dataset.from_dict(
        {"sentence": ["a", "b"], "label": [0, 1], "when": [0, 0]}, features=far, split="train"
    )
    when = pa.array([0, 2**62]).cast(pa.timestamp("us"))
    rows._data = rows.data.set_column(2, "when", pa.chunked_array([when]))
    hub.splits = DatasetDict(train=rows)

    with pytest.raises(DataError, match=r"^row 2 of train can't be read: date value"):
        list(load_hub_id("owner/name", label=None).rows["train"]())


def test_glue_takes_public_validation_as_test(hub, tmp_path):
    task = read(tmp_path, task="glue/mrpc")

    assert hub.calls == [("nyu-mll/glue", "mrpc", None)]
    assert (task.classes, task.source.metric) == (["not_equivalent", "equivalent"], "f1")
    assert task.splits["test"]["text"][:] == ["validation 0", "validation 1"]
    assert task.splits["test"]["text_pair"][:] == ["x", "x"]
    assert task.splits["test"]["label"][:] == ["equivalent", "not_equivalent"]
    assert [len(task.splits[name]["label"]) for name in ("train", "validation")] == [54, 6]
    assert task.origins["test"] == DataOrigin(source="glue/mrpc, validation")


def test_lists_of_labels_are_multi_label_rows_with_the_hubs_names(hub, tmp_path):
    features = Features(text=Value("string"), labels=List(ClassLabel(names=["joy", "anger"])))
    columns = {"text": [f"x{i}" for i in range(40)], "labels": [[1, 0], [], [1], [0]] * 10}
    hub.splits = DatasetDict(train=Dataset.from_dict(columns, features=features))

    dataset = read(tmp_path, task="someone/emotions")

    assert dataset.schema.kind == "multi-label-classification"
    assert dataset.classes == ["joy", "anger"]
    assert ["anger", "joy"] in dataset.splits["train"]["label"][:]


def test_at_most_a_thousand_rows_of_train_become_validation(hub):
    rows = Dataset.from_dict({"text": [f"x{i}" for i in range(20_000)], "label": [0, 1] * 10_000})
    hub.splits = DatasetDict({"train": rows, "test": rows.select(range(10))})
    source = load_hub_id("someone/reviews", label=None)
    tables = {split: Dataset.from_list(list(rows())) for split, rows in source.rows.items()}
    splits, _ = make_splits(
        tables, source.origins, SplitSpec(stratify_by="label", max_rows=source.max_drawn, seed=0)
    )

    assert {name: len(table["label"]) for name, table in splits.items()} == {
        "train": 19_000,
        "validation": 1000,
        "test": 10,
    }


def test_a_configuration_can_follow_the_id(hub):
    load_hub_id("someone/texts/german", label=None)

    assert hub.calls == [("someone/texts", "german", None)]


def test_an_unknown_glue_task_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'glue/sst3'; did you mean glue/sst2\?"):
        read(tmp_path, task="glue/sst3")


def test_a_split_that_the_catalogue_expects_is_missed_by_name(hub):
    del hub.splits["validation"]
    with pytest.raises(DataError, match="glue/mrpc has no split validation among train, test"):
        load_spec("glue/mrpc", CATALOG["glue/mrpc"])


def test_a_data_set_without_labelled_train_rows_is_refused(hub):
    del hub.splits["train"]
    with pytest.raises(DataError, match="has no split train with labels in column 'label'"):
        load_hub_id("someone/texts", label=None)


def test_without_a_revision_the_spec_s_own_is_read(hub):
    spec = replace(CATALOG["glue/mrpc"], revision="refs/convert/parquet")
    source = load_spec("glue/mrpc", spec)
    load_spec("glue/mrpc", spec, revision="v1")
    load_hub_id("someone/texts", label=None, revision="v2")
    load_hub_id("someone/texts", label=None)

    revisions = [revision for *_, revision in hub.calls]
    assert revisions == ["refs/convert/parquet", "v1", "v2", None]
    assert source.hub_dataset.revision is None


@pytest.mark.parametrize("settings", [{"task": "docstrings"}, {"train": "a.jsonl"}])
def test_a_revision_of_rows_that_are_not_the_hub_s_is_refused(settings):
    with pytest.raises(ConfigError, match=r"^data\.revision .* got 'main'$"):
        resolve_source(make_section(**settings, revision="main"), seed=0)
