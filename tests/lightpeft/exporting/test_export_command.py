"""`lightpeft export` finds the base model of a result, its class and its labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_models import draw_random_scores, make_tiny_config, make_uneven_plan
from transformers import AutoModelForSequenceClassification, BertTokenizer

import lightpeft
from lightpeft.cli import run
from lightpeft.exporting.record import ExportRecord


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A classifier of three classes, trained from a checkpoint with a head of two."""
    base = tmp_path / "base"
    AutoModelForSequenceClassification.from_config(make_tiny_config("bert")).save_pretrained(base)

    def load_base() -> AutoModelForSequenceClassification:
        return AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=3, ignore_mismatched_sizes=True
        )

    scores = draw_random_scores(load_base())
    model = lightpeft.prune(load_base(), make_uneven_plan(scores), scores)
    lightpeft.save(model, tmp_path / "result")
    return tmp_path / "result"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("to", ["compact", "lifted", "merged", "padded"])
def test_result_is_exported_by_the_base_that_it_names(
    to: str, result: Path, capsys: pytest.CaptureFixture[str]
):
    out = result.with_name("out")

    run("export", str(result), "--to", to, "-o", str(out))

    record = ExportRecord.read(out)
    assert capsys.readouterr().out == f"{record}\n"
    assert (record.to, record.model_class) == (to, "BertForSequenceClassification")
    assert not (out / "tokenizer.json").exists()


@pytest.mark.usefixtures("in_process")
def test_tokenizer_and_dtype_go_with_it(result: Path):
    (result.parent / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword")
    BertTokenizer(str(result.parent / "vocab.txt")).save_pretrained(result.parent / "base")
    out = result.with_name("out")

    run("export", str(result), "--to", "merged", "-o", str(out), "--dtype", "bfloat16")

    assert BertTokenizer.from_pretrained(out).tokenize("word") == ["word"]
    assert str(lightpeft.from_pretrained(out, dtype="auto").dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "gguf"], "format must be one of compact, .*, got 'gguf'"),
        (["--to", "merged", "--base", "./nowhere"], "base model ./nowhere can't be loaded: .*"),
        (
            ["--to", "merged", "--dtype", "float16"],
            ".* base weights .* than float16 .*take bfloat16",
        ),
        (["--to", "merged", "--class", "BertModel"], "BertModel has no head like .* as --class"),
        (["--to", "merged", "--class", "os"], "--class must be a model class .*, got 'os'"),
        (
            ["--to", "merged", "--class", "BertConfig"],
            "--class must be .*, got 'BertConfig'",
        ),
        (["--to", "merged", "--class", "LlamaForCausalLM"], "base model .* can't be loaded: .*"),
        (["--to", "merged", "-o", "."], ".* has no exported.json, so it holds something else .*"),
        ([], "Missing option '--to'; see lightpeft --help"),
    ],
)
def test_mistake_is_one_line(options: list[str], message: str, result: Path):
    with pytest.raises(SystemExit, match=rf"^error: {message}$"):
        run("export", str(result), "-o", str(result.with_name("out")), *options)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", "cut", "base model .* can't be loaded: .*"),
        ("config.json", '{"model_type": "bert", "hidden_size": "x"}', "base model .*: .*"),
        ("tokenizer_config.json", "[]", "the tokenizer of .* can't be loaded: .*"),
    ],
)
def test_damaged_base_model_is_one_line(file: str, content: str, message: str, result: Path):
    (result.parent / "base" / file).write_text(content)
    with pytest.raises(SystemExit, match=rf"^error: {message}$"):
        run("export", str(result), "-o", str(result.with_name("out")), "--to", "merged")


def test_folder_without_result_is_one_line(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"^error: .*nowhere is no folder of a result"):
        run("export", str(tmp_path / "nowhere"), "--to", "merged", "-o", str(tmp_path / "out"))
