"""`lightpeft inspect` says what a folder holds without torch, and refuses a damaged one."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fake_run import edit_json
from helpers.folder_mutations import MUTATIONS, Mutation
from helpers.import_graph import ROOT
from helpers.tiny_models import (
    draw_random_scores,
    make_lora,
    make_tiny_model,
    make_uneven_plan,
)
from hypothesis import given, settings
from peft import get_peft_model

import lightpeft
from lightpeft import BottleneckConfig
from lightpeft.cli import run
from lightpeft.contents.facts import format_contents, make_facts
from lightpeft.contents.recognize import read_contents
from lightpeft.core.errors import LightPeftError
from lightpeft.core.names import LORA_KEY
from lightpeft.exporting.record import ExportRecord
from lightpeft.modeling.adapters import get_adapter_state_dict

KINDS = {
    "out": "result",
    "plans": "plan",
    "plans/plan.json": "plan",
    "scores": "scores",
    "full": "expanded adapter",
    "stock": "adapter",
    "base": "checkpoint",
    "base/model.safetensors": "weights",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind, of one model."""
    folder = tmp_path_factory.mktemp("written")
    model = make_tiny_model()
    model.save_pretrained(folder / "base")
    get_peft_model(copy.deepcopy(model), make_lora()).save_pretrained(folder / "stock")
    scores = draw_random_scores(model)
    scores.save(folder / "scores")
    plan = make_uneven_plan(scores)
    plan.save(folder / "plans" / "plan.json")
    lightpeft.save(lightpeft.prune(model, plan, scores), folder / "out")
    lightpeft.expand_adapter(folder / "out", folder / "full")
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copied"))


def test_every_kind_is_recognized_without_torch(written: Path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lightpeft.contents.recognize import read_contents\n"
        "from lightpeft.contents.facts import format_contents\n"
        "for name in sys.argv[1:]:\n"
        "    contents = read_contents(Path(name))\n"
        "    assert format_contents(contents, modules=True)\n"
        "    print(name, contents.kind)\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *KINDS],
        cwd=written, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip

    assert done.stderr == ""
    assert done.stdout.splitlines() == [*(f"{x} {kind}" for x, kind in KINDS.items()), "[]"]


def test_modules_and_parameters_are_those_of_the_loaded_model(written: Path):
    plan = make_facts(read_contents(written / "out"))["plan"]
    model = lightpeft.load(make_tiny_model(), written / "out")
    weights = {LORA_KEY.fullmatch(n): w for n, w in get_adapter_state_dict(model).items()}
    shapes = {(m["linear"], m["factor"]): tuple(w.shape) for m, w in weights.items() if m}
    kept = {path: x for path, x in plan["modules"].items() if x["count"]}

    assert len(kept) < len(plan["modules"])
    assert shapes == {
        key: shape
        for path, x in kept.items()
        for key, shape in (
            ((path, "A"), (x["count"], x["inputs"])),
            ((path, "B"), (x["outputs"], x["count"])),
        )
    }
    adapter = sum(w.numel() for match, w in weights.items() if match)
    assert plan["parameters"]["after"]["adapter"] == adapter


def test_text_names_the_base_the_cuts_and_the_sizes(written: Path, capsys: pytest.CaptureFixture):
    run("inspect", str(written / "out"), "--modules")
    text = capsys.readouterr().out
    plan = lightpeft.PruningPlan.load(written / "out" / "plan.json")
    size = (written / "out" / "adapter_model.safetensors").stat().st_size

    assert plan.summary() in text
    assert f"base        model type bert, fingerprint {plan.fingerprint}\n" in text
    assert f"adapter_model.safetensors: {size:,} bytes" in text
    assert "digests     right for adapter_config.json, adapter_model" in text
    assert text.count(".layer.1.") == sum(
        bool(rank.kept) for path, rank in plan.ranks.items() if ".layer.1." in path
    )


def test_variants_of_lora_and_adapters_are_named(tmp_path: Path):
    model = make_tiny_model()
    shown = {}
    for name, config in (
        ("plain", make_lora()),
        ("dora", make_lora(use_dora=True, use_rslora=True)),
        ("adapter", BottleneckConfig(r=4, placement="parallel", scaling=0.5)),
    ):
        get_peft_model(copy.deepcopy(model), config).save_pretrained(tmp_path / name)
        text = format_contents(read_contents(tmp_path / name))
        shown[name] = next(x for x in text.splitlines() if x.startswith("adapter"))

    assert shown["dora"].replace("use_rslora true, use_dora true, ", "") == shown["plain"]
    assert shown["dora"] != shown["plain"]
    assert shown["adapter"] == (
        "adapter     peft_type LIGHTPEFT_BOTTLENECK, r 4, placement parallel, "
        "non_linearity relu, scaling 0.5"
    )


def test_json_is_for_machines(written: Path, capsys: pytest.CaptureFixture):
    run("inspect", str(written / "full"), "--json")
    facts = json.loads(capsys.readouterr().out)
    plan = lightpeft.PruningPlan.load(written / "out" / "plan.json")

    assert facts["files"][0]["metadata"] == {"expanded_from": plan.digest}
    assert {x["rank"] for x in facts["adapter"]["modules"].values()} == {4}


def test_checkpoint_is_counted_by_layer(written: Path):
    facts = make_facts(read_contents(written / "base"))
    layers = facts["checkpoint"]["values_by_layer"]
    model = make_tiny_model()

    assert layers["bert.encoder.layer.1"] == sum(
        weight.numel() for weight in model.bert.encoder.layer[1].parameters()
    )
    assert sum(layers.values()) == model.num_parameters() == facts["files"][0]["values"]


def test_export_is_described_with_its_check(copied: Path, capsys: pytest.CaptureFixture):
    record = ExportRecord(
        to="merged",
        plan="0" * 16,
        model_class="BertForSequenceClassification",
        max_difference=3e-7,
        largest_output=2.5,
        tolerance=1e-4,
        without_lightpeft=False,
        versions={"torch": "2.13"},
    )
    record.write(copied / "base")
    shutil.copy(copied / "out" / "plan.json", copied / "base")
    run("inspect", str(copied / "base"))
    text = capsys.readouterr().out

    assert f"export      {record}\n" in text
    assert "parameters  36,738 -> " in text
    assert make_facts(read_contents(copied / "base"))["export"]["max_difference"] == 3e-7


def test_onnx_graph_is_described(copied: Path, capsys: pytest.CaptureFixture):
    (copied / "base" / "model.safetensors").rename(copied / "base" / "model.onnx")
    shutil.copy(copied / "out" / "plan.json", copied / "base")
    run("inspect", str(copied / "base"), "--modules")
    text = capsys.readouterr().out

    assert text.startswith("what        ONNX graph of a pruned model, for onnxruntime\n")
    assert "parameters  36,738 -> " in text


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _claim(path: Path) -> None:
    """A header of a tensor that is larger than any memory."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("out", lambda x: _flip(x / "adapter_model.safetensors"), "is not the file that was saved"),
        ("out", lambda x: (x / "plan.json").unlink(), "pruned by the plan .*, but there is no"),
        ("out", lambda x: (x / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
        ("scores", lambda x: _flip(x / "curve.csv"), "is not the file that was saved"),
        ("full", lambda x: (x / "adapter_model.safetensors").unlink(), "has a .* but no adapter_m"),
        ("full", lambda x: _claim(x / "adapter_model.safetensors"), "is not readable safetensors"),
        ("base", lambda x: (x / "model.safetensors").write_bytes(b"\xff" * 99), "long header"),
        ("base", lambda x: (x / "SHA256SUMS").write_text("0  ../x\n"), r"of files, got '\.\."),
        ("base", lambda x: (x / "config.json").write_text("[]"), "must hold a JSON object"),
        ("plans", lambda x: (x / "plan.json").write_text("{}"), "is of format None"),
        ("plans", shutil.rmtree, "does not exist"),
    ],
)  # fmt: skip
def test_damage_is_one_line(
    copied: Path, name: str, damage: Callable[[Path], object], message: str
):
    read_contents(copied / name)
    damage(copied / name)

    with pytest.raises(LightPeftError, match=message) as caught:
        read_contents(copied / name)
    assert "\n" not in str(caught.value)


@settings(deadline=None, database=None, derandomize=True, max_examples=150)
@given(MUTATIONS)
def test_mutated_folder_is_described_or_refused_in_one_line(
    written: Path, mutation: tuple[str, tuple[str, Mutation]]
):
    kind, (what, mutate) = mutation
    with tempfile.TemporaryDirectory() as temporary:
        source = written / {"model": "out", "scores": "scores"}[kind]
        folder = Path(shutil.copytree(source, Path(temporary) / "mutated"))
        mutate(folder)
        try:
            text = format_contents(read_contents(folder), modules=True)
        except LightPeftError as error:
            text = str(error)
            assert len(text) <= 300, what
        assert all(line.isprintable() for line in text.split("\n")), what


def test_names_in_files_cannot_reach_the_terminal(copied: Path, capsys: pytest.CaptureFixture):
    config = copied / "stock" / "adapter_config.json"
    edit_json(config, base_model_name_or_path="a\x1b[2J\nwhat  me")
    run("inspect", str(copied / "stock"))

    lines = capsys.readouterr().out.splitlines()
    assert r"base        name a\x1b[2J\nwhat  me" in lines


def test_file_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,label")
    with pytest.raises(LightPeftError, match="is neither a folder, nor a plan"):
        read_contents(tmp_path / "rows.csv")


def test_pickle_is_not_read(copied: Path):
    folder = copied / "stock"
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")

    with pytest.raises(LightPeftError, match="pickle, which is not read"):
        read_contents(folder)
