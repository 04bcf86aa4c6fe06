"""Hub ids: GLUE's short names, other data sets, and what is said without a network."""

import time
from dataclasses import replace
from types import SimpleNamespace

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.arrow_writer import ArrowWriter
from helpers.data_cards import data_card
from helpers.task_files import read, section
from huggingface_hub import constants

from pipeline.common import hub_access as offline
from pipeline.common.data_card import DataOrigin, HubDataset
from pipeline.common.errors import ConfigError, DataError
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.hub import load_hub_id, load_spec
from pipeline.data.sources import resolve_source
from pipeline.data.splits import SplitSpec, three_splits


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


def test_glue_takes_public_validation_as_test(hub, tmp_path):
    task = read(tmp_path, task="glue/mrpc")

    assert hub.calls == [("nyu-mll/glue", "mrpc", None)]
    assert (task.classes, task.source.metric) == (["not_equivalent", "equivalent"], "f1")
    assert task.splits["test"]["text"][:] == ["validation 0", "validation 1"]
    assert task.splits["test"]["text_pair"][:] == ["x", "x"]
    assert task.splits["test"]["label"][:] == ["equivalent", "not_equivalent"]
    assert [len(task.splits[name]["label"]) for name in ("train", "validation")] == [54, 6]
    assert task.origins["test"] == DataOrigin(source="glue/mrpc, validation")


def test_at_most_a_thousand_rows_of_train_become_validation(hub):
    rows = Dataset.from_dict({"text": [f"x{i}" for i in range(20_000)], "label": [0, 1] * 10_000})
    hub.splits = DatasetDict({"train": rows, "test": rows.select(range(10))})
    source = load_hub_id("someone/reviews", label=None)
    tables = {split: Dataset.from_list(list(rows())) for split, rows in source.rows.items()}
    splits, _ = three_splits(
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


@pytest.mark.parametrize("task", ["glue/sst2", "someone/reviews"])
def test_offline_is_one_line_at_once(task, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"can't be reached; use data\.task: files.*HF_HOME"
    ) as caught:
        resolve_source(section(task=task), seed=0)

    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_used(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(offline, "_answers", lambda url: True)
    with offline.offline_if_unreachable() as is_offline:
        assert not is_offline


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


COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


def cached(folder, commit: str) -> DatasetDict:
    """The rows of MRPC as `datasets` reads them from its cache, where folders name the commit."""
    folder = folder / "mrpc" / "0.0.0" / commit
    folder.mkdir(parents=True)
    splits = DatasetDict()
    for name, rows in mrpc().items():
        with ArrowWriter(features=rows.features, path=str(folder / f"{name}.arrow")) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        splits[name] = Dataset.from_file(str(folder / f"{name}.arrow"))
    return splits


def test_the_revision_reaches_the_hub_and_the_commit_that_was_read_the_data_set(hub, tmp_path):
    hub.splits = cached(tmp_path, COMMIT)
    source = read(tmp_path, task="glue/mrpc", revision="v1").source

    assert hub.calls == [("nyu-mll/glue", "mrpc", "v1")]
    assert source.hub_dataset == HubDataset(
        id="nyu-mll/glue", requested_revision="v1", revision=COMMIT
    )


def test_without_a_revision_the_spec_s_own_is_read(hub):
    spec = replace(CATALOG["glue/mrpc"], revision="refs/convert/parquet")
    source = load_spec("glue/mrpc", spec)
    load_spec("glue/mrpc", spec, revision="v1")
    load_hub_id("someone/texts", label=None, revision="v2")
    load_hub_id("someone/texts", label=None)

    revisions = [revision for *_, revision in hub.calls]
    assert revisions == ["refs/convert/parquet", "v1", "v2", None]
    assert source.hub_dataset.revision is None


def test_another_commit_than_the_one_asked_for_is_refused(hub, tmp_path):
    hub.splits = cached(tmp_path, OTHER_COMMIT)
    with pytest.raises(DataError, match=f"revision {COMMIT} of someone/texts is not in the hub's"):
        load_hub_id("someone/texts", label=None, revision=COMMIT)


@pytest.mark.parametrize("settings", [{"task": "docstrings"}, {"train": "a.jsonl"}])
def test_a_revision_of_rows_that_are_not_the_hub_s_is_refused(settings):
    with pytest.raises(ConfigError, match=r"^data\.revision .* got 'main'$"):
        resolve_source(section(**settings, revision="main"), seed=0)


CARD = data_card(
    hub_dataset=HubDataset(id="nyu-mll/glue", requested_revision="main", revision=COMMIT)
)


def test_a_run_with_an_older_commit_than_the_hub_s_is_told_once(monkeypatch):
    looked_up = []

    def repo_info(self, name, **options):
        looked_up.append((name, options["revision"], options["repo_type"]))
        return SimpleNamespace(sha=OTHER_COMMIT)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(offline, "_answers", lambda url: True)
    monkeypatch.setattr(offline.HfApi, "repo_info", repo_info)

    assert CARD.describe_newer_commits() == [
        "dataset nyu-mll/glue: this run uses commit aaaaaaaaaaaa, the hub has bbbbbbbbbbbb now; "
        "to read it: dvc repro --force prepare"
    ]
    assert looked_up == [("nyu-mll/glue", "main", "dataset")]
    monkeypatch.setattr(offline.HfApi, "repo_info", lambda *_, **__: SimpleNamespace(sha=COMMIT))
    assert CARD.describe_newer_commits() == []


def test_a_run_without_the_hub_is_told_nothing_of_commits(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(offline, "_answers", lambda url: False)
    assert CARD.describe_newer_commits() == []

    def fail(*_, **__):
        raise OSError("the hub is down")

    monkeypatch.setattr(offline, "_answers", lambda url: True)
    monkeypatch.setattr(offline.HfApi, "repo_info", fail)
    assert CARD.describe_newer_commits() == []
    assert CARD.model_copy(update={"hub_dataset": None}).describe_newer_commits() == []
