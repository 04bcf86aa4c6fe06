"""Model types without registered names: what is found by structure, proved, remembered, refused."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from helpers.architecture_matrix import (
    build,
    build_parts,
    compute_logits,
    draw_plans,
    gradients,
    make_batch,
)
from helpers.unregistered_architectures import BY_STRUCTURE, REFUSED
from peft import PeftModel
from torch import nn

import lightpeft
from lightpeft.core.block_shape import KEPT_WHOLE
from lightpeft.core.errors import ModelError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling import layer_removal, proof
from lightpeft.modeling.adapters import get_peft_model_unmapped, load_adapter_state_dict
from lightpeft.modeling.families import FAMILIES
from lightpeft.pruning.adapter_slicing import slice_adapter, zero_pad_adapter

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def masked(model: hf.PreTrainedModel, scores: Scores, plan: PruningPlan) -> PeftModel:
    """A copy with LoRA in which what the plan prunes is multiplied by 0."""
    adapted = get_peft_model_unmapped(copy.deepcopy(model), scores.peft).eval()
    kept_lora = zero_pad_adapter(slice_adapter(scores.adapter, plan), plan)
    load_adapter_state_dict(adapted, scores.adapter | kept_lora)
    for name, rank in plan.ranks.items():
        if not rank.kept:
            for factor in ("A", "B"):
                nn.init.zeros_(
                    adapted.get_parameter(f"base_model.model.{name}.lora_{factor}.default.weight")
                )
    for block in plan.shape.blocks:
        units = torch.zeros(block.units)
        units[list(plan.units[block.path].kept)] = 1
        columns = plan.shape.linears[block.output_projection].inputs // block.units
        keep = units.repeat_interleave(columns)
        projection = adapted.get_base_model().get_submodule(block.output_projection)
        projection.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep,))
    return adapted


def test_types_matched_by_structure_are_not_registered():
    assert not {*BY_STRUCTURE, *REFUSED} & {*FAMILIES}


@pytest.mark.parametrize("name", BY_STRUCTURE)
def test_what_was_proved_is_true_of_outputs_and_lora_gradients(name: str):
    model, scores = build_parts(name)
    whole = compute_logits(model, make_batch(name)).detach()
    for plan in draw_plans(name, scores):
        reference = masked(model, scores, plan)
        wanted = compute_logits(reference, make_batch(name))
        assert (wanted - whole).abs().max() > 1e-2

        pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)

        torch.testing.assert_close(compute_logits(pruned, make_batch(name)), wanted, **CLOSE)
        full, found = gradients(reference, name), gradients(pruned, name)
        scale = max(float(x.abs().max()) for x in full.values())
        for path, expected in slice_adapter(full, plan).items():
            torch.testing.assert_close(found[path], expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("name", "heads", "whole", "neurons"),
    [
        ("deepseek_v3", 2, 2, 2),  # latent attention; a dense layer and a shared expert
        ("gpt_neox_japanese", 5, 1, 2),  # the last layer adds a bias to its attention's output
        ("gpt_oss", 16, 0, 0),  # a sink per head; experts keep their neurons
        ("minimax", 9, 1, 0),  # linear attention in every second layer
        ("olmo2", 2, 2, 2),  # norms over all heads of a token
        ("phi", 16, 0, 2),
        ("qwen3_next", 9, 1, 2),  # gated delta net, and attention with a gate in its queries
    ],
)
def test_heads_that_cannot_be_cut_count_as_one(name: str, heads: int, whole: int, neurons: int):
    shape = lightpeft.inspect_model(build(name))

    assert sum(shape.heads.values()) == heads
    assert [x.head_count_rule for x in shape.attention_blocks].count(KEPT_WHOLE) == whole
    assert len(shape.neurons) == neurons


@pytest.mark.parametrize("name", REFUSED)
def test_type_whose_code_counts_heads_elsewhere_is_refused_in_one_line(name: str):
    model = build(name)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}

    with pytest.raises(ModelError) as caught:
        lightpeft.inspect_model(model)

    text = str(caught.value)
    assert text.startswith(f"model type '{name}' can't be pruned: pruned")
    assert text.endswith("(proved on a small model)")
    assert "\n" not in text
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lightpeft"


@pytest.mark.parametrize("name", ["gemma", "codegen"])
def test_result_is_remembered(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    model = build(name)
    first = result_of(model)
    monkeypatch.setattr(proof, "find_difference", None)

    assert result_of(model) == first
    assert len(list(cache.iterdir())) == 1


def test_type_whose_layers_cannot_be_skipped_keeps_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    assert any(stack.prunable for stack in lightpeft.inspect_model(build("gemma")).stacks)
    for file in cache.iterdir():
        file.unlink()

    def find_none(args: object, kwargs: object) -> None:
        raise KeyError("hidden_states")

    monkeypatch.setattr(layer_removal, "get_hidden_states", find_none)
    shape = lightpeft.inspect_model(build("gemma"))

    assert not any(stack.prunable for stack in shape.stacks)
    assert "KeyError('hidden_states')" in next(cache.iterdir()).read_text()


def test_damaged_result_is_proved_again(cache: Path):
    first = result_of(build("gemma"))
    (file,) = cache.iterdir()
    for text in ("", "{}", '{"reading": {"colour": 1}}', "[]", '{"refused": 3'):
        file.write_text(text)

        assert result_of(build("gemma")) == first
        assert "reading" in json.loads(file.read_text())


def test_proof_that_takes_long_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    result_of(build("gemma"))
    assert not caplog.messages
    (file,) = cache.iterdir()
    file.unlink()
    monkeypatch.setattr(proof, "_PATIENCE", 0.0)

    result_of(build("gemma"))

    assert [text[:35] for text in caplog.messages] == ["proving that gemma can be pruned: t"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_cache_that_cannot_be_written_is_done_without(cache: Path):
    cache.mkdir()
    cache.chmod(0o500)

    assert result_of(build("gemma"))
    assert not list(cache.iterdir())


def test_cache_that_is_a_file_is_done_without(cache: Path):
    cache.write_text("")

    assert result_of(build("gemma"))


def test_proof_leaves_random_numbers_and_settings_alone(cache: Path):
    model = build("gemma")
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)

    lightpeft.inspect_model(model)

    assert torch.equal(torch.rand(3), wanted)


def result_of(model: hf.PreTrainedModel) -> object:
    try:
        return lightpeft.inspect_model(model)
    except ModelError as error:
        return str(error)


def test_layers_that_share_keys_and_values_keep_their_heads():
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 40}
    config = hf.Gemma4TextConfig(
        **sizes,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )

    shape = lightpeft.inspect_model(hf.Gemma4ForCausalLM(config))

    assert {block.head_count_rule for block in shape.attention_blocks} == {KEPT_WHOLE}
    assert len(shape.neurons) == 4


def test_multiple_choice_model_is_proved_with_its_choices():
    config = hf.CamembertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    )

    shape = lightpeft.inspect_model(hf.CamembertForMultipleChoice(config))

    assert list(shape.heads.values()) == [4, 4]


def test_proof_is_on_the_cpu_whatever_the_default_device(cache: Path):
    with torch.device("meta"):
        model = hf.GemmaForCausalLM(BY_STRUCTURE["gemma"].config())

        assert lightpeft.inspect_model(model).heads
        assert len(list(cache.iterdir())) == 1


def test_only_proofs_are_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "build_small_models", out_of_memory)
    with pytest.raises(ModelError, match="'gemma' can't be pruned: no memory"):
        lightpeft.inspect_model(build("gemma"))
    assert not cache.exists()


def out_of_memory(*_: object, **__: object) -> None:
    raise ModelError("no memory")


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        (hf.BeitForImageClassification, {"use_relative_position_bias": True}),
        (hf.SwinForImageClassification, {}),
    ],
)
def test_position_biases_are_cut_with_their_heads(
    made: type[hf.PreTrainedModel], settings: dict[str, bool]
):
    with torch.device("meta"):
        model = made(made.config_class(**settings))

    shape = lightpeft.inspect_model(model)

    assert all(block.units > 1 for block in shape.attention_blocks)
