"""Hub ids: GLUE's short names, other data sets, and what is said without a network."""

import time

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import constants

from pipeline.common import hub_access as offline
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.hub import load_hub_id, load_spec
from pipeline.data.loading import read_dataset
from pipeline.data.sources import resolve_source
from pipeline.data.splits import SplitSpec, three_splits

_UNSET = ("train", "validation", "test", "text", "label", "kind", "metric", "neutral_prompt")
AUTO = dict.fromkeys(_UNSET, "auto")
LIMITS = {"max_length": 16, "packing": False, "max_bad_rows": 0.0, "max_truncated": 1.0}


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


def test_glue_takes_public_validation_as_test(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, revision: asked.append(names) or mrpc()
    )
    section = DataSection.model_validate(AUTO | LIMITS | {"task": "glue/mrpc"})
    task = read_dataset(section, tmp_path, seed=0)

    assert asked == [("nyu-mll/glue", "mrpc")]
    assert (task.classes, task.source.metric) == (["not_equivalent", "equivalent"], "f1")
    assert task.splits["test"]["text"][:] == ["validation 0", "validation 1"]
    assert task.splits["test"]["text_pair"][:] == ["x", "x"]
    assert task.splits["test"]["label"][:] == ["equivalent", "not_equivalent"]
    assert [len(task.splits[name]["label"]) for name in ("train", "validation")] == [54, 6]
    assert task.origins["test"] == {"from": "glue/mrpc, validation"}


def test_at_most_a_thousand_rows_of_train_become_validation(monkeypatch):
    rows = Dataset.from_dict({"text": [f"x{i}" for i in range(20_000)], "label": [0, 1] * 10_000})
    found = DatasetDict({"train": rows, "test": rows.select(range(10))})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, revision: found)
    source = load_hub_id("someone/reviews", label=None)
    tables = {split: Dataset.from_list(list(rows())) for split, rows in source.rows.items()}
    splits, _ = three_splits(
        tables, source.origins, SplitSpec(stratify_by="label", max_rows=source.most, seed=0)
    )

    assert {name: len(table["label"]) for name, table in splits.items()} == {
        "train": 19_000,
        "validation": 1000,
        "test": 10,
    }


def test_a_configuration_can_follow_the_id(monkeypatch):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, revision: asked.append(names) or mrpc()
    )
    load_hub_id("someone/texts/german", label=None)

    assert asked == [("someone/texts", "german")]


@pytest.mark.parametrize("task", ["glue/sst2", "someone/reviews"])
def test_offline_is_one_line_at_once(task, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"can't be reached; use data\.task: files.*HF_HOME"
    ) as caught:
        resolve_source(DataSection.model_validate(AUTO | LIMITS | {"task": task}), seed=0)

    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_used(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(offline, "_answers", lambda url: True)
    with offline.offline_if_unreachable() as is_offline:
        assert not is_offline


def test_an_unknown_glue_task_names_the_nearest(tmp_path):
    section = DataSection.model_validate(AUTO | LIMITS | {"task": "glue/sst3"})
    with pytest.raises(ConfigError, match=r"got 'glue/sst3'; did you mean glue/sst2\?"):
        read_dataset(section, tmp_path, seed=0)


def test_a_split_that_the_catalogue_expects_is_missed_by_name(monkeypatch):
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, revision: DatasetDict({"train": mrpc()["train"]})
    )
    with pytest.raises(DataError, match="glue/mrpc has no split validation among train"):
        load_spec("glue/mrpc", CATALOG["glue/mrpc"])


def test_a_data_set_without_labelled_train_rows_is_refused(monkeypatch):
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, revision: DatasetDict({"test": mrpc()["validation"]})
    )
    with pytest.raises(DataError, match="has no split train with labels in column 'label'"):
        load_hub_id("someone/texts", label=None)
