"""Stage prepare: what it makes of the classes of local files."""

from pathlib import Path

import pytest
from helpers.params_file import change_params
from helpers.stage_workspace import write_files

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError
from pipeline.common.paths import Paths
from pipeline.stages import prepare

PATHS = Paths()


@pytest.fixture
def workspace(cwd: Path) -> Path:
    """A folder with params.yaml, a tokenizer, and rows of which a quarter are fraud."""
    rows = [f"w{i % 60} w{i // 60},{('fraud', 'ham', 'ham', 'ham')[i % 4]}" for i in range(100)]
    return write_files(cwd, rows, metric="f1")


def prepared_card() -> DataCard:
    prepare.main(PATHS)
    return DataCard.read(PATHS.prepared)


def test_f1_is_of_the_rarer_class_and_named(workspace, capsys):
    assert prepared_card().positive_class == "fraud"
    assert "metric f1 of fraud, also accuracy, mcc" in capsys.readouterr().out


def test_f1_of_a_task_with_an_order_of_classes_is_of_the_second(workspace):
    (workspace / "own.py").write_text(
        "from pipeline.data.dataset_spec import DatasetSpec\n"
        "OWN = DatasetSpec(kind='text-classification', template=dict, metric='f1', "
        "classes=('fraud', 'ham'))\n"
    )
    change_params(workspace, data={"task": "own.py:OWN"})

    assert prepared_card().positive_class == "ham"


def test_a_setting_names_the_class_of_f1(workspace):
    change_params(workspace, data={"positive_class": "ham"})
    assert prepared_card().describe_metric("f1") == "f1 of ham"

    change_params(workspace, data={"positive_class": "frod"})
    with pytest.raises(ConfigError, match=r"a class, got 'frod'; did you mean fraud\?"):
        prepare.main(PATHS)


@pytest.mark.parametrize("metric", ["f1_macro", "balanced_accuracy"])
def test_metrics_of_unbalanced_classes_are_selectable_for_files(workspace, metric):
    change_params(workspace, data={"metric": metric})

    assert prepared_card().metric == metric


def test_class_weights_are_in_the_card_and_told(workspace, capsys):
    change_params(workspace, data={"class_weights": "balanced"})
    card = prepared_card()
    counts = card.splits["train"].labels

    assert card.class_weights == tuple(sum(counts.values()) / (2 * n) for n in counts.values())
    assert "class weights in the loss: fraud 2, ham 0.667" in capsys.readouterr().out

    rows = [f"w{i % 60} w{i // 60},0.{i}" for i in range(100)]
    (workspace / "train.csv").write_text("\n".join(["text,label", *rows]))
    change_params(workspace, data={"metric": "auto"})
    with pytest.raises(
        ConfigError, match="must be none for text-classification of numbers, got balanced"
    ):
        prepare.main(PATHS)
