"""`predict`: rows without labels, resumed without a difference, and mistakes in one line.

That each kind of task predicts what `evaluate` does is checked by run_stages of tests/helpers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_cards import make_data_card
from helpers.import_graph import ROOT
from helpers.stage_workspace import (
    draw_rows,
    load_base_model,
    make_card,
    make_tokenizer,
    write_workspace,
)
from helpers.task_files import write_rows

import lightpeft
from lightpeft.core.scores import Scores
from pipeline.__main__ import run
from pipeline.common.paths import Paths
from pipeline.prediction import predict
from pipeline.prediction.output_file import PredictionFile
from pipeline.tasks import method_models
from pipeline.tasks.registry import make_task
from pipeline.tasks.text_classification import TextClassification

PATHS = Paths()
RESULT = "artifacts/models/light"


def save_result(task_name: str = "text-classification") -> None:
    """A result in the current folder, as `finetune` writes it, but with random weights."""
    base, _ = load_base_model(Path(), task_name)
    scores = Scores.load(PATHS.scores)
    plan = lightpeft.PruningPlan.load(PATHS.locate_plan("light"))
    model = lightpeft.prune(base, plan, scores)
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad and weight.dim() > 1:  # of LoRA and of the head
            torch.nn.init.normal_(weight)
    lightpeft.save(model, PATHS.locate_model("light"))
    make_card(task_name).write(PATHS.locate_model("light"))


@pytest.fixture
def rows(space: Path, in_space: None) -> list[dict[str, Any]]:
    """Forty texts, also as in.jsonl, beside a result."""
    if not PATHS.locate_model("light").exists():
        save_result()
    rows = [{"id": n, "text": text} for n, text in enumerate(draw_rows(40, seed=5)["text"])]
    write_rows(Path("in.jsonl"), rows)
    return rows


def predict_file(out: str, *options: str) -> list[dict[str, Any]]:
    run("predict", RESULT, "--file", "in.jsonl", "-o", out, "--batch-size", "2", *options)
    return [json.loads(line) for line in Path(out).read_text().splitlines()]


def test_classes_have_the_probabilities_of_the_model(rows):
    found = predict_file("out.jsonl")
    base, _ = load_base_model(Path())
    model = lightpeft.load(base, RESULT)
    task, tokenizer = make_task(make_card()), make_tokenizer()
    encoded = predict.encode(task, [_label(row) for row in rows], tokenizer)
    expected = task.predict(model, encoded, tokenizer, batch_size=8).scores

    assert [row["row"] for row in found] == [*range(1, 41)]
    scores = np.array([[*row["scores"].values()] for row in found])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert [row["prediction"] for row in found] == [
        ("no", "yes")[best] for best in expected.argmax(axis=1)
    ]
    assert len({row["prediction"] for row in found}) == 2


def _label(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["text"], "text_pair": None, "label": "no", "group": None}


def test_text_is_printed_as_the_file_has_it(rows, capsys):
    (first, *_) = predict_file("out.jsonl")
    capsys.readouterr()
    run("predict", RESULT, "--text", rows[0]["text"])

    printed = json.loads(capsys.readouterr().out)
    assert printed["prediction"] == first["prediction"]
    assert printed["scores"] == pytest.approx(first["scores"], abs=1e-5)


def test_killed_run_goes_on_where_it_stopped(rows, monkeypatch, capsys):
    predict_file("whole.jsonl")
    append, calls = PredictionFile.append, []

    def fail(file: PredictionFile, outputs: list[dict[str, Any]]) -> None:
        append(file, outputs)
        with Path("killed.jsonl.part").open("a") as part:
            part.write('{"row": 17, "predi')  # what a kill leaves of the next line
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "append", fail)
        with pytest.raises(SystemExit):
            predict_file("killed.jsonl")
    assert not Path("killed.jsonl").exists()

    run_task = TextClassification.predict_unlabeled

    def count(self, model, rows, processor, **options):
        calls.append(len(rows))
        return run_task(self, model, rows, processor, **options)

    monkeypatch.setattr(TextClassification, "predict_unlabeled", count)
    predict_file("killed.jsonl")

    assert calls == [16, 8]
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not Path("killed.jsonl.part").exists()
    assert "16 rows of 40 were predicted before" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["rows", "model", "settings"])
def test_part_of_other_predictions_is_not_continued(rows, tmp_path, capsys, change):
    wrong = '{"row": 1, "prediction": "wrong"}\n' * 16
    config = predict.PredictConfig(result=Path(RESULT), source=Path("in.jsonl"), batch_size=2)
    key = predict._make_key(config, make_card())
    Path("out.jsonl.part").write_text(json.dumps({"key": key}) + "\n" + wrong)
    options = []
    if change == "rows":
        write_rows(Path("in.jsonl"), rows[::-1])
    elif change == "model":
        other = Path(shutil.copytree(RESULT, tmp_path / "other"))
        (other / "SHA256SUMS").write_bytes((other / "SHA256SUMS").read_bytes() + b"\n")
        key = predict._make_key(
            predict.PredictConfig(result=other, source=config.source), make_card()
        )
        Path("out.jsonl.part").write_text(json.dumps({"key": key}) + "\n" + wrong)
    else:
        options = ["--max-new-tokens", "5"]
    found = predict_file("out.jsonl", *options)

    assert "wrong" not in {row["prediction"] for row in found}
    assert "out.jsonl.part is of other rows, another model or other sett" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"text": "good"}\n{"sentence": "bad"}',
            r"row 2: no 'text' \(it has sentence; text-class",
        ),
        ('{"text": "good"}\n\n{"text": " "}', r"in\.jsonl row 2: empty text"),
        ('{"text": "good"}\n{"text": 5}', r"in\.jsonl row 2: text of another type"),
        ('{"text": "good"}\n{"text": null}', r"in\.jsonl row 2: no 'text'"),
        ('{"text": "good"}\ngood', r"in\.jsonl line 2 is not JSON: .*"),
        ('{"text": "good"}\n["good"]', r"in\.jsonl line 2 is not a JSON object but a list"),
        ('{"text": "\\ud800"}', r"in\.jsonl row 1: text with an unpaired surrogate"),
        ("", r"in\.jsonl is empty"),
    ],
)
def test_bad_row_is_one_line_before_the_model_is_loaded(rows, monkeypatch, lines, message):
    Path("in.jsonl").write_text(lines)
    monkeypatch.setattr(predict, "_load", None)
    with pytest.raises(SystemExit, match=rf"^error: .*{message}[^\n]*$"):
        predict_file("bad.jsonl")
    assert not Path("bad.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([RESULT], "predict needs either --text or --file"),
        ([RESULT, "--text", "a", "--file", "in.jsonl"], "predict needs either --text or --file"),
        ([RESULT, "--file", "in.jsonl"], "predict --file needs --output"),
        ([RESULT, "--file", "in.jsonl", "-o", "."], r"--output must be a file, got the folder \."),
        (
            [RESULT, "--file", "in.jsonl", "-o", "./in.jsonl"],
            "--output must be another file than --file, got in.jsonl for both",
        ),
        ([RESULT, "--file", "no.jsonl", "-o", "out"], "no.jsonl does not exist"),
        ([RESULT, "--text", "a", "--text", "b", "--text", "c"], "a row has 2 texts, text and te.*"),
        ([RESULT, "--text", ""], "--text row 1: empty text"),
        (["nowhere", "--text", "good"], "nowhere is not a folder"),
        (["artifacts/plans/light", "--text", "good"], "artifacts/plans/light has no card.json.*"),
        (
            [RESULT, "--text", "good", "--model", "./no"],
            r"model.name \./no is not a folder that .*",
        ),
    ],
)
def test_mistake_is_one_line(rows, words, message):
    with pytest.raises(SystemExit, match=rf"^error: {message}$"):
        run("predict", *words)


def test_two_texts_are_no_pair_for_a_model_of_single_texts(rows, tmp_path):
    folder = Path(shutil.copytree(RESULT, tmp_path / "light"))
    make_data_card(columns={"text": ("text",), "label": ("label",)}).write(folder)
    with pytest.raises(SystemExit, match=r"--text is given 2 times, .* single texts"):
        run("predict", str(folder), "--text", "good", "--text", "bad")


def test_result_is_used_away_from_its_pipeline(rows, space, tmp_path, monkeypatch, capsys):
    found = predict_file("out.jsonl")
    for source in ("in.jsonl", RESULT):
        copy = shutil.copytree if Path(source).is_dir() else shutil.copy
        copy(source, tmp_path / Path(source).name)
    monkeypatch.chdir(tmp_path)
    words = ["--file", "in.jsonl", "-o", "out.jsonl", "--batch-size", "2"]
    run("predict", "light", *words, "--model", str(space / "base"))

    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == found


def test_older_result_has_the_data_card_of_its_pipeline(rows, capsys):
    card = Path(RESULT, "card.json")
    text = card.read_text()
    card.unlink()
    try:
        run("predict", RESULT, "--text", "good")
        assert json.loads(capsys.readouterr().out)["scores"].keys() == {"no", "yes"}
    finally:
        card.write_text(text)


def test_numbers_are_predicted(tmp_path, monkeypatch, capsys):
    write_workspace(tmp_path, task_name="text-regression")
    monkeypatch.chdir(tmp_path)
    save_result("text-regression")
    run("predict", RESULT, "--text", "good w1 w2")

    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"row", "prediction"}
    assert isinstance(printed["prediction"], float)


def test_fully_fine_tuned_model_predicts(rows, capsys):
    torch.manual_seed(1)
    base, _ = load_base_model(Path())
    torch.nn.init.normal_(base.classifier.weight)
    method_models.save(base, Path("full"))
    make_card().write(Path("full"))
    encoded = make_tokenizer()("good w1 w2", return_tensors="pt")
    expected = base.eval()(**encoded).logits.softmax(dim=-1)[0].tolist()
    run("predict", "full", "--text", "good w1 w2")

    scores = [*json.loads(capsys.readouterr().out)["scores"].values()]
    assert scores == pytest.approx(expected, abs=1e-6)  # they are written with six decimals


@pytest.mark.parametrize("missing", [False, True])
def test_lightpeft_finds_the_command_where_the_package_is_installed(tmp_path, missing):
    """A stand-in for the metadata that pip installs; where that is installed, both are found."""
    group, name = "lightpeft.commands", "guess" if missing else "predict"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = project["entry-points"][group]["predict"].replace(
        "pipeline", "nowhere" * missing or "pipeline"
    )
    info = tmp_path / "stand_in-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {entry}\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "lightpeft", name, "out", "--text", "good"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr == (
        "error: lightpeft guess needs nowhere: pip install 'lightpeft[nowhere]'\n"
        if missing
        else "error: out is not a folder\n"
    )
