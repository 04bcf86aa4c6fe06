"""The stage `export` writes the model of one method in the form that params.yaml says, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from helpers import run_stages
from helpers.exports import reload_here
from helpers.stage_workspace import save_base
from helpers.tiny_models import make_tiny_model
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lightpeft
from lightpeft.exporting import check
from lightpeft.exporting.record import FORMATS, ExportRecord
from pipeline.__main__ import run
from pipeline.common.data_card import read_rows
from pipeline.common.params import ExportSection
from pipeline.common.paths import Paths

OUT = Path("results/export")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run, with nothing exported."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [
        f"{('bad', 'good')[i % 2]} w{i % 60} w{i % 7},{('no', 'yes')[i % 2]}" for i in range(90)
    ]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]))
    save_base(folder, make_tiny_model(pad_token_id=0).base_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder)
        run_stages.run_stages(patch)
    return folder


@pytest.fixture(autouse=True)
def in_finished(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setattr(check, "run_reload", reload_here)


def write_params(folder: Path, **export: Any) -> None:
    run_stages.write_small_params(folder, data={"train": "train.csv"}, export=export)


def test_formats_are_those_of_the_library_and_none():
    assert get_args(ExportSection.model_fields["format"].annotation) == ("none", *FORMATS)


def test_nothing_is_exported_by_default(finished: Path):
    write_params(finished)
    run("export")
    assert [path.name for path in OUT.iterdir()] == ["exported.json"]
    assert json.loads((OUT / "exported.json").read_text()) == {"to": "none"}


def test_merged_model_has_labels_tokenizer_and_what_was_measured(finished: Path):
    write_params(finished, format="merged")

    run("export")

    model, tokenizer = lightpeft.from_pretrained(OUT), AutoTokenizer.from_pretrained(OUT)
    table = pd.read_csv("results/eval/light/predictions.csv")
    texts = list(read_rows(Paths().prepared, "test")["text"])
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    labels = [model.config.id2label[int(row)] for row in logits.argmax(dim=1)]
    assert labels == list(table["prediction"])
    assert {*labels} <= {"no", "yes"}
    text = ModelCard.load(OUT / "README.md").text
    for fact in ("test accuracy, light", "test accuracy, vanilla", "train speed-up over vanilla"):
        assert f"| {fact} | " in text
    assert "(95 % interval " in text
    assert "- trained on: data.task files" in text
    assert str(finished) not in text


def test_none_leaves_nothing_of_an_earlier_export(finished: Path):
    write_params(finished, format="compact")
    run("export")
    write_params(finished)
    run("export")

    assert [path.name for path in OUT.iterdir()] == ["exported.json"]


@pytest.mark.parametrize("to", ["compact", "padded"])
def test_other_method_and_format(to: str, finished: Path):
    write_params(finished, format=to, method="vanilla")

    run("export")

    assert ExportRecord.read(OUT).to == to
    if to == "padded":
        AutoModelForSequenceClassification.from_pretrained(OUT)


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ({"format": "gguf"}, "export.format must be one of none, compact, .*, got 'gguf'"),
        ({"format": "merged", "method": "qv"}, "export.method must be one of methods .*, got qv"),
        ({"format": "lifted", "method": "full"}, "export.method .* not full or peft.*, got full"),
    ],
)
def test_wrong_setting_is_one_line(export: dict[str, str], message: str, finished: Path):
    write_params(finished, **export)
    with pytest.raises(SystemExit, match=f"^error: params.yaml: {message}"):
        run("export")
