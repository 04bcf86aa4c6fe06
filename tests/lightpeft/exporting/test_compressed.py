"""`--compress` writes a small adapter, says what that saves and changes, and checks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_models import (
    compute_tiny_logits,
    draw_random_scores,
    make_lora,
    make_pruned_model,
    make_tiny_batch,
    make_tiny_model,
    make_uneven_plan,
)
from huggingface_hub import ModelCard
from peft import PeftConfig

import lightpeft
from lightpeft import BottleneckConfig, ExportDetails, LightPeftError
from lightpeft.cli import run
from lightpeft.contents.facts import format_contents, make_facts
from lightpeft.contents.recognize import read_contents
from lightpeft.exporting.compressing import make_compressed_model
from lightpeft.exporting.record import ExportRecord

pytestmark = pytest.mark.usefixtures("in_process")
FILES = [
    *("README.md", "SHA256SUMS", "adapter_compressed.safetensors", "adapter_config.json"),
    *("exported.json", "plan.json"),
]


def test_record_says_what_compressing_saves_and_changes(tmp_path: Path):
    model, batch = make_pruned_model(), make_tiny_batch()

    record = lightpeft.export(
        model,
        tmp_path / "out",
        format="compact",
        base=make_tiny_model(),
        details=ExportDetails(batch=batch),
        compress=0.1,
    )

    lightpeft.save(model, tmp_path / "whole")
    found = record.compression
    assert found is not None
    sizes = [
        (tmp_path / name).stat().st_size
        for name in ("whole/adapter_model.safetensors", "out/adapter_compressed.safetensors")
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert [found.bytes_before, found.bytes_after] == sizes
    assert sizes[1] < sizes[0] / 5
    compressed = make_compressed_model(model, 0.1).eval()
    change = compute_tiny_logits(model.eval()) - compute_tiny_logits(compressed)
    assert found.max_change == pytest.approx(float(change.abs().max()), rel=1e-4)
    with torch.no_grad():
        assert found.loss_before == pytest.approx(float(model(**batch).loss), rel=1e-5)
        assert found.loss_after == pytest.approx(float(compressed(**batch).loss), rel=1e-5)
    assert record.max_difference < 1e-5 < found.max_change
    assert ExportRecord.read(tmp_path / "out") == record
    assert str(found) in ModelCard.load(tmp_path / "out/README.md").text


def test_command_compresses_and_its_result_is_exported_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_tiny_model().save_pretrained(tmp_path / "base")
    model = make_pruned_model()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    lightpeft.save(model, tmp_path / "result")
    small = tmp_path / "small"

    run(
        "export", str(tmp_path / "result"), "--to", "compact", "--compress", "0.1", "-o", str(small)
    )
    text = capsys.readouterr().out
    run("export", str(small), "--to", "merged", "-o", str(tmp_path / "merged"))

    record = ExportRecord.read(small)
    assert text == f"{record}\n"
    assert "compressed to the largest 10 % of the changes: adapter 10,756 -> " in text
    assert "loss" not in text
    expected = compute_tiny_logits(lightpeft.load(make_tiny_model(), small))
    merged = lightpeft.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(compute_tiny_logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_inspect_describes_it(tmp_path: Path):
    record = lightpeft.export(
        make_pruned_model(), tmp_path, format="compact", base=make_tiny_model(), compress=0.1
    )

    contents = read_contents(tmp_path)

    facts, text = make_facts(contents), format_contents(contents)
    assert facts["kind"] == "compressed result"
    assert facts["export"]["compression"]["fraction"] == 0.1
    assert facts["digests_checked"] == [FILES[2], FILES[3], FILES[5]]
    assert str(record.compression) in text.replace("\n", " ")
    (tmp_path / FILES[2]).write_bytes((tmp_path / FILES[2]).read_bytes()[:-1] + b"?")
    with pytest.raises(LightPeftError, match=f"{FILES[2]} is not the file that was saved"):
        read_contents(tmp_path)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf"), True, "0.1"])
def test_fraction_out_of_range_is_one_line(fraction: object, tmp_path: Path):
    with pytest.raises(LightPeftError, match=r"^compress must be in \(0, 1\], got .*$"):
        lightpeft.export(
            make_pruned_model(),
            tmp_path / "out",
            format="compact",
            base=make_tiny_model(),
            compress=fraction,
        )
    assert not list(tmp_path.iterdir())


def test_command_refuses_it_before_the_base_model_is_loaded(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"error: compress must be in \(0, 1\], got 2\.0"):
        run("export", str(tmp_path), "--to", "compact", "-o", str(tmp_path), "--compress", "2")


def test_other_format_is_not_compressed(tmp_path: Path):
    with pytest.raises(LightPeftError, match="compress is for format compact, got merged"):
        lightpeft.export(make_pruned_model(), tmp_path / "out", compress=0.1)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (BottleneckConfig(r=4, task_type="SEQ_CLS"), "LIGHTPEFT_BOTTLENECK"),
        (make_lora(use_dora=True), "DORA"),
    ],
)
def test_other_methods_are_not_compressed(config: PeftConfig, kind: str, tmp_path: Path):
    model = make_tiny_model()
    scores = draw_random_scores(model, config=config)
    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores)
    with pytest.raises(LightPeftError, match=f"only LoRA can be compressed, not .*{kind}"):
        lightpeft.export(
            pruned, tmp_path / "out", format="compact", base=make_tiny_model(), compress=0.1
        )
    assert not list(tmp_path.iterdir())
