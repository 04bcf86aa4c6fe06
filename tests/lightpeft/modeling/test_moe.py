"""Models with experts: attention heads and dense neurons go, the experts stay whole."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import (
    build,
    build_parts,
    compute_logits,
    compute_outputs,
    draw_plan,
    make_batch,
)
from helpers.tiny_models import make_tiny_batches, mask_units
from peft import LoraConfig, PeftModel

import lightpeft
from lightpeft.core.config import EstimationConfig, PruningConfig
from lightpeft.core.errors import ModelError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.families import FAMILIES
from lightpeft.modeling.family import Family

QWEN2 = "qwen2_moe, shared expert and dense layer"
RATIOS = {"heads": 0.5, "modules": 0.25, "ranks": 0.5}


def test_the_shared_expert_and_dense_layers_have_neurons_and_the_experts_have_none():
    assert lightpeft.inspect_model(build(QWEN2)).neurons == {
        "model.layers.0.mlp": 40,
        "model.layers.1.mlp.shared_expert": 40,
    }
    assert not lightpeft.inspect_model(build("mixtral")).neurons


def test_experts_and_router_keep_their_weights_bit_for_bit():
    model, scores = build_parts(QWEN2)
    before = {n: w.clone() for n, w in model.named_parameters() if ".experts." in n or "gate." in n}
    assert len(before) == 4  # gate_up_proj, down_proj, the router, the shared expert's gate

    pruned = lightpeft.prune(model, draw_plan(scores), scores).get_base_model()

    assert all(torch.equal(pruned.get_parameter(name), old) for name, old in before.items())


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_model_without_neurons_to_cut_goes_all_the_way(name: str, tmp_path: Path):
    model = build(name)
    batches = [make_batch(name, seed=seed, labels=True) for seed in range(2)]
    scores = lightpeft.estimate(model, LoraConfig(r=2), batches, EstimationConfig(steps=4))
    scores.save(tmp_path / "scores")
    scores = Scores.load(tmp_path / "scores")
    assert scores.curve[-1]["neuron_movement"] == 0

    plan = lightpeft.make_plan(scores, PruningConfig(neurons=0.5, **RATIOS))
    plan.save(tmp_path / "plan.json")

    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert plan.neurons == {}
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores, verify_batch=batches[0])
    lightpeft.save(pruned, tmp_path / "out")
    again = lightpeft.load(model, tmp_path / "out")
    assert torch.equal(compute_outputs(again, name), compute_outputs(pruned.eval(), name))


def test_plan_says_that_experts_stay_whole_where_neurons_were_asked_for():
    scores = build_parts(QWEN2)[1]

    pruned = lightpeft.make_plan(scores, PruningConfig(neurons=0.5, **RATIOS))

    assert any(
        note.startswith("the neurons of experts are kept, in 1 layers") and "(80)" in note
        for note in pruned.notes
    )
    spared = lightpeft.make_plan(scores, PruningConfig(neurons=0, **RATIOS))
    assert not any("experts" in note for note in spared.notes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=["gate_up_proj"]), "'gate_up_proj' is no linear"),
        (LoraConfig(target_modules=["gate"]), "'gate' is no linear of a mixtral block"),
        (
            LoraConfig(target_parameters=["mlp.experts.down_proj"]),
            "LoraConfig.target_parameters is not supported",
        ),
    ],
)
def test_experts_carry_no_peft_modules(config: LoraConfig, message: str):
    with pytest.raises(ModelError, match=message):
        lightpeft.estimate(build("mixtral"), config, make_tiny_batches(), EstimationConfig(steps=2))


@pytest.mark.parametrize("block", [".mlp.", ".self_attn."])
@pytest.mark.parametrize("name", [QWEN2, "qwen3_moe, dense layer"])
def test_lifted_adapter_of_one_kind_of_block_leaves_experts_alone(
    name: str, block: str, tmp_path: Path
):
    model, scores = build_parts(name)
    drawn = draw_plan(scores)
    ranks = {
        p: c if block in p else dataclasses.replace(c, kept=()) for p, c in drawn.ranks.items()
    }
    plan = dataclasses.replace(drawn, ranks=ranks)
    adapted = dataclasses.replace(scores.peft, lora_dropout=0.1)
    scores = dataclasses.replace(scores, peft=adapted)
    plan = dataclasses.replace(plan, scores=scores.digest)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores).eval()
    lightpeft.save(pruned, tmp_path / "out")

    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "lifted")

    stock = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "lifted"))
    carriers = [path for path, _ in stock.named_parameters() if "lora_" in path]
    assert carriers
    assert not any(".experts." in path for path in carriers)
    merged = copy.deepcopy(stock).merge_and_unload()
    for expanded in (stock.base_model.model, merged):
        mask_units(expanded, plan)
        torch.testing.assert_close(
            compute_outputs(expanded, name), compute_outputs(pruned, name), rtol=1e-5, atol=1e-5
        )


def test_family_without_neurons_must_keep_experts_whole():
    heads = {"qkv_proj": ("q", "k", "v"), "attn_out_proj": "o"}
    with pytest.raises(ModelError, match="ffn_out_proj must be a child name, got ''"):
        Family(**heads, ffn_in_proj=(), ffn_out_proj="")
    with pytest.raises(ModelError, match=r"Family.unpruned must be a tuple"):
        Family(**heads, ffn_in_proj=(), ffn_out_proj="", unpruned="experts")


def test_every_kernel_of_experts_gives_the_pruned_model_the_same_outputs():
    model, scores = build_parts(QWEN2)
    assert FAMILIES["qwen2_moe"][0].unpruned
    pruned = lightpeft.prune(model, draw_plan(scores), scores)
    by_kernel = {}
    for kernel in ("eager", "batched_mm", "grouped_mm"):
        pruned.config._experts_implementation = kernel
        with torch.no_grad():
            by_kernel[kernel] = compute_logits(pruned, make_batch(QWEN2))

    for kernel in ("batched_mm", "grouped_mm"):
        torch.testing.assert_close(by_kernel[kernel], by_kernel["eager"], rtol=1e-5, atol=1e-5)
