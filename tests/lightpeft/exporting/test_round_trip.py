"""Exported and loaded again, every architecture computes the same, by any plan."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import (
    build_parts,
    compute_outputs,
    draw_plan,
    generate_greedily,
    make_batch,
    shares_heads,
)
from helpers.architectures import ARCHITECTURES, LLAMA
from helpers.exports import reload_here
from hypothesis import given, settings
from hypothesis import strategies as st

import lightpeft
from lightpeft import ExportDetails, LightPeftError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.exporting import check, export
from lightpeft.exporting.reload import load_stock

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
# Whose submodules another one has, under the same names and of the same layout.
LIKE_OTHERS = {
    *("clip_text_model", "clip_vision_model", "deberta-v2, positions shared (v3)", "distilbert"),
    *("electra", "roberta", "xlm-roberta", "falcon, one KV group (7b)", "gemma3_text", "gemma3"),
    *("gemma3_text, one KV group", "llama, one key and value per head", "mistral", "qwen2"),
    *("qwen3", "qwen3_moe, dense layer", "opt, norm behind (350m)", "t5, gated (flan-t5)"),
    "whisper",
}
SOME = ("bert", LLAMA, "gpt2", "t5", "falcon, alibi (rw)", "phi3", "deberta", "albert")


def prune_layers(scores: Scores) -> PruningPlan:
    ratios = dict.fromkeys(("layers", "heads", "neurons", "modules", "ranks"), 0.4)
    return lightpeft.make_plan(scores, lightpeft.PruningConfig(**ratios, align=1))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * (name in LIKE_OTHERS))
        for name in ARCHITECTURES
    ],
)
def test_merged_and_padded_compute_what_the_pruned_model_computes(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    pruned = lightpeft.prune(model, draw_plan(scores, empty=True), scores).eval()
    details = ExportDetails(batch=make_batch(name))

    for to in ("merged", "padded"):
        record = lightpeft.export(pruned, tmp_path / to, format=to, details=details)
        assert record.max_difference <= 1e-4 * record.largest_output
        assert record.largest_output > 0.1

    if ARCHITECTURES[name].generates:
        loaded = lightpeft.from_pretrained(tmp_path / "merged", attn_implementation="eager")
        (tokens, logits), (expected, scores) = (
            generate_greedily(x, name) for x in (loaded, pruned)
        )
        assert torch.equal(tokens, expected)
        torch.testing.assert_close(logits, scores, **CLOSE)


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(SOME),
    to=st.sampled_from(["compact", "lifted", "merged", "padded"]),
    seed=st.integers(0, 10**6),
    empty=st.booleans(),
    by_head=st.booleans(),
)
def test_export_and_reload_is_the_identity(
    name: str, to: str, seed: int, empty: bool, by_head: bool
):
    model, scores = build_parts(name)
    granularity = "query_head" if by_head and shares_heads(name) else "kv_group"
    plan = draw_plan(scores, head_granularity=granularity, empty=empty, seed=seed)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    details = ExportDetails(batch=make_batch(name, seed=seed))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(check, "run_reload", reload_here)

        record = lightpeft.export(pruned, f"{folder}/out", format=to, base=model, details=details)

        assert record.max_difference <= 1e-4 * record.largest_output
        assert record.largest_output > 0.1


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["bert", LLAMA, "t5", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("to", ["lifted", "merged", "padded"])
def test_model_that_lost_layers_is_exported(name: str, to: str, tmp_path: Path):
    model, scores = build_parts(name, layers=5)
    plan = prune_layers(scores)
    assert plan.kept_layers
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)

    record = lightpeft.export(pruned, tmp_path / "out", format=to, base=model)

    assert record.max_difference <= 1e-4 * record.largest_output


@pytest.mark.usefixtures("in_process")
def test_padded_weights_have_the_unpruned_shapes_also_of_a_uniform_plan(tmp_path: Path):
    model, scores = build_parts(LLAMA)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    config = lightpeft.PruningConfig(heads=0.5, neurons=0.5, neuron_scope="layer")
    pruned = lightpeft.prune(model, lightpeft.make_plan(scores, config), scores)
    assert pruned.config.intermediate_size < 40

    lightpeft.export(pruned, tmp_path / "out", format="padded")

    padded = load_stock(str(tmp_path / "out"), "eager")
    assert {name: weight.shape for name, weight in padded.state_dict().items()} == shapes


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("to", ["merged", "stock", "padded"])
def test_dtype_and_generation_config_are_kept_and_lightpeft_loads_it(to: str, tmp_path: Path):
    model, scores = build_parts(LLAMA)
    model.bfloat16().generation_config.max_new_tokens = 7
    ratios = {"heads": 0.5, "neurons": 0.5, "neuron_scope": "layer"} if to == "stock" else {}
    plan = lightpeft.make_plan(scores, lightpeft.PruningConfig(**ratios)) if ratios else None
    pruned = lightpeft.prune(model, plan or draw_plan(scores), scores).eval()

    lightpeft.export(pruned, tmp_path / "out", format=to)

    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    loaded = lightpeft.from_pretrained(tmp_path / "out", **options)
    assert loaded.generation_config.max_new_tokens == 7
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    logits, expected = (compute_outputs(x, LLAMA) for x in (loaded, pruned.float()))
    assert (logits - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("name", ["albert", "deberta", "electra", "modernbert", "xlm-roberta"])
def test_model_of_masked_words_is_checked_without_labels(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    pruned = lightpeft.prune(model, draw_plan(scores), scores)
    assert lightpeft.export(pruned, tmp_path / "out").largest_output > 0.1


@pytest.mark.parametrize("name", ["clip", "whisper"])
def test_model_that_takes_no_random_batch_is_one_line(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    pruned = lightpeft.prune(model, draw_plan(scores), scores)
    with pytest.raises(LightPeftError, match=r"does not run on .* ExportDetails\(batch=\.\.\.\)"):
        lightpeft.export(pruned, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("adapter_config.json", "holds an adapter, not a whole model; .* to lightpeft.load"),
        ("model.onnx", "holds an ONNX graph, which onnxruntime runs"),
        ("config.json", "model.safetensors does not exist"),
    ],
)
def test_folder_of_another_format_is_named(file: str, message: str, tmp_path: Path):
    (tmp_path / file).write_text("{}")
    with pytest.raises(LightPeftError, match=message):
        lightpeft.from_pretrained(tmp_path)


@pytest.mark.usefixtures("in_process")
def test_shards_are_read_and_none_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "_MAX_SHARD", "20KB")
    model, scores = build_parts(LLAMA)
    pruned = lightpeft.prune(model, draw_plan(scores), scores)
    folder = tmp_path / "out"
    lightpeft.export(pruned, folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    options = {"device_map": {"": "cpu"}, "attn_implementation": "eager"}
    loaded = lightpeft.from_pretrained(folder, **options)
    assert type(loaded) is type(model)
    assert not loaded.training
    torch.testing.assert_close(
        compute_outputs(loaded, LLAMA), compute_outputs(pruned.eval(), LLAMA), **CLOSE
    )

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = next(iter(index["weight_map"].values()))
    (folder / shard).rename(tmp_path / shard)
    for outside in (f"../{shard}", str(tmp_path / shard)):
        index["weight_map"] = dict.fromkeys(index["weight_map"], outside)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(LightPeftError, match="which is no file beside it"):
            lightpeft.from_pretrained(folder)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("file", ["config.json", "plan.json", "model.safetensors"])
def test_changed_bit_is_one_line(file: str, tmp_path: Path):
    model, scores = build_parts("bert")
    folder = tmp_path / "out"
    lightpeft.export(lightpeft.prune(model, draw_plan(scores), scores), folder)
    content = bytearray((folder / file).read_bytes())
    content[-9] ^= 1
    (folder / file).write_bytes(content)

    with pytest.raises(LightPeftError, match=f"{file} is not the file that was saved"):
        lightpeft.from_pretrained(folder)


@pytest.mark.parametrize("name", ["os.system", "Trainer", ""])
def test_class_that_is_no_model_of_transformers_is_refused(name: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [name]}))
    with pytest.raises(LightPeftError, match="names no model class of transformers"):
        lightpeft.exporting.load_merged._find_class(tmp_path)
