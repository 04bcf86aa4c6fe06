"""An export is checked in a fresh process, and replaces the earlier one only then."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import build, draw_scores
from helpers.quantizers import quantize_stand_in
from helpers.tiny_models import (
    check_unchanged,
    draw_random_scores,
    make_pruned_model,
    make_tiny_model,
    make_uneven_plan,
)
from peft import PeftModel
from safetensors.torch import load_file, save_file

import lightpeft
from lightpeft import LightPeftError, PruningConfig
from lightpeft.exporting import check, reload
from lightpeft.exporting.record import RECORD, ExportRecord

UNIFORM = PruningConfig(heads=0.5, neurons=0.5, neuron_scope="layer", modules=0, ranks=0)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_llama() -> PeftModel:
    """A pruned Llama whose config says all that its plan keeps."""
    model = build("llama, one key and value per head")
    scores = draw_scores(model)
    return lightpeft.prune(model, lightpeft.make_plan(scores, UNIFORM), scores)


def test_lifted_adapter_is_loaded_by_a_fresh_process_without_lightpeft(tmp_path: Path):
    record = lightpeft.export(
        make_pruned_model(), tmp_path / "out", format="lifted", base=make_tiny_model()
    )

    assert record.max_difference < 1e-5 < 1e-2 < record.largest_output
    assert record.without_lightpeft
    assert ExportRecord.read(tmp_path / "out") == record
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("in_process")
def test_config_of_a_stock_model_says_what_is_kept(tmp_path: Path):
    record = lightpeft.export(make_llama(), tmp_path / "out", format="stock")

    assert record.max_difference < 1e-4
    assert record.without_lightpeft
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["num_attention_heads"], config["intermediate_size"]) == (4, 16)


def test_process_of_a_stock_format_can_not_import_lightpeft(tmp_path: Path):
    save_file({}, tmp_path / "batch")
    request = {"format": "merged", "folder": "", "attention": "", "sys_path": sys.path}
    request["batch"] = str(tmp_path / "batch")
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request | {"block_lightpeft": True}))

    assert check.run_reload(path).endswith("lightpeft is blocked in this process")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("to", ["compact", "lifted", "merged", "padded"])
def test_neither_the_model_nor_its_base_is_changed(to: str, tmp_path: Path):
    model, base = make_pruned_model().train(), make_tiny_model()

    with check_unchanged(model), check_unchanged(base):
        lightpeft.export(model, tmp_path / "out", format=to, base=base)

    assert model.training


def add_to_outputs(amount: float) -> Callable[[Path], str]:
    """Return a reload that computes other outputs."""

    def reload_wrongly(request: Path) -> str:
        values = json.loads(request.read_text())
        model = reload.load_export(values).eval()
        outputs = reload.compute_outputs(model, load_file(values["batch"]))
        save_file({name: row + amount for name, row in outputs.items()}, values["outputs"])
        return ""

    return reload_wrongly


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (add_to_outputs(0.01), r"padded: reloaded, the export's outputs differ by 0\.01 .*nothing"),
        (add_to_outputs(float("nan")), "outputs differ by nan"),
        (
            lambda request: "ValueError: no such model",
            "can't load the export; nothing was .*no such",
        ),
    ],
)
def test_failed_check_leaves_the_earlier_export(
    wrong: Callable[[Path], str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check, "run_reload", add_to_outputs(0))
    lightpeft.export(make_pruned_model(), tmp_path / "out", format="merged")
    before = read_files(tmp_path / "out")
    monkeypatch.setattr(check, "run_reload", wrong)

    with pytest.raises(LightPeftError, match=message):
        lightpeft.export(make_pruned_model(seed=1), tmp_path / "out", format="padded")

    assert read_files(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_export_leaves_the_earlier_one(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text("earlier")
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from lightpeft.core.serialization import replace_whole_directory\n"
        f"with replace_whole_directory(Path(sys.argv[1]), {RECORD!r}) as new:\n"
        "    (new / 'weights').write_text('new')\n"
        "    os.kill(os.getpid(), 9)\n"
    )

    done = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], check=False)

    assert done.returncode == -signal.SIGKILL
    assert read_files(tmp_path / "out") == {RECORD: b"earlier"}


@pytest.mark.usefixtures("in_process")
def test_export_takes_the_place_of_another_format_as_a_whole(tmp_path: Path):
    lightpeft.export(make_pruned_model(), tmp_path / "out", format="merged")
    lightpeft.export(make_pruned_model(), tmp_path / "out", format="lifted", base=make_tiny_model())

    assert sorted(read_files(tmp_path / "out")) == [
        *("README.md", "SHA256SUMS", "adapter_config.json", "adapter_model.safetensors"),
        "exported.json",
    ]


@pytest.mark.usefixtures("in_process")
def test_folder_with_other_files_is_not_replaced(tmp_path: Path):
    lightpeft.save(make_pruned_model(), tmp_path / "result")
    before = read_files(tmp_path / "result")

    for folder in (tmp_path, tmp_path / "result", tmp_path / "result/plan.json"):
        with pytest.raises(LightPeftError, match=r"has no exported.json, so it holds something"):
            lightpeft.export(make_pruned_model(), folder)

    assert read_files(tmp_path / "result") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_can_not_be_written_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="out"):
        lightpeft.export(make_pruned_model(), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf"}, "format must be one of compact, .*padded, onnx, deci, got 'gguf'"),
        ({"format": "lifted"}, "lifted is checked on the unpruned base model: pass base="),
        ({"format": "stock"}, "a bert config can't say what this plan keeps: fewer heads; .*"),
    ],
)
def test_what_can_not_be_exported_is_refused(options: dict[str, str], message: str, tmp_path: Path):
    with pytest.raises(LightPeftError, match=message):
        lightpeft.export(make_pruned_model(), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["t5", "bloom"])
def test_heads_that_share_a_table_or_slopes_have_no_stock_config(name: str, tmp_path: Path):
    model = build(name)
    scores = draw_scores(model)
    config = UNIFORM.model_copy(update={"neurons": 0.0})
    pruned = lightpeft.prune(model, lightpeft.make_plan(scores, config), scores)
    with pytest.raises(LightPeftError, match=f"a {name} config can't say"):
        lightpeft.export(pruned, tmp_path / "out", format="stock")


def test_uneven_widths_have_no_stock_config(tmp_path: Path):
    model = make_tiny_model()
    scores = draw_random_scores(model)
    config = lightpeft.PruningConfig(heads=0.0, neurons=0.5, align=1)
    pruned = lightpeft.prune(model, lightpeft.make_plan(scores, config), scores)
    with pytest.raises(LightPeftError, match="different numbers of neurons per layer"):
        lightpeft.export(pruned, tmp_path / "out", format="stock")


def test_base_of_another_plan_is_refused(tmp_path: Path):
    with pytest.raises(LightPeftError, match="the plan was made for base weights"):
        lightpeft.export(
            make_pruned_model(), tmp_path / "out", format="compact", base=make_tiny_model(seed=1)
        )


@pytest.mark.parametrize("to", ["merged", "padded"])
def test_merging_into_a_quantized_base_is_refused_with_what_to_do(to: str, tmp_path: Path):
    model = make_tiny_model()
    scores = draw_random_scores(model)
    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores, quantize=quantize_stand_in)
    with pytest.raises(LightPeftError, match=r"is quantized.*onto the unquantized base .*load"):
        lightpeft.export(pruned, tmp_path / "out", format=to)


@pytest.mark.usefixtures("in_process")
def test_bfloat16_is_exported_as_it_is(tmp_path: Path):
    model = make_tiny_model().bfloat16()
    scores = draw_random_scores(model)
    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores)

    record = lightpeft.export(pruned, tmp_path / "out")

    assert record.tolerance == 5e-2
    loaded = lightpeft.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == torch.bfloat16


@pytest.mark.usefixtures("in_process")
def test_lifted_adapter_that_scales_otherwise_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def halve(folder: Path, out: Path, **base: Any) -> None:
        expand(folder, out, **base)
        config = json.loads((out / "adapter_config.json").read_text())
        config["lora_alpha"] /= 2
        (out / "adapter_config.json").write_text(json.dumps(config))

    expand = lightpeft.expand_adapter
    monkeypatch.setattr("lightpeft.exporting.export.expand_adapter", halve)
    with pytest.raises(LightPeftError, match="lifted: reloaded, the export's outputs differ"):
        lightpeft.export(
            make_pruned_model(),
            tmp_path / "out",
            format="lifted",
            base=copy.deepcopy(make_tiny_model()),
        )
