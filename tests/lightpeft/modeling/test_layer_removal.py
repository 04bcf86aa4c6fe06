"""Models that lose whole layers compute what they compute with the same layers skipped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from helpers.architecture_matrix import (
    build,
    compute_logits,
    compute_outputs,
    draw_scores,
    generate_greedily,
    gradients,
    make_batch,
    mask_units,
)
from helpers.architectures import ARCHITECTURES
from peft import LoraConfig, PeftModel

import lightpeft
from lightpeft import LightPeftError, PruningConfig
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.layer_removal import skip_layers
from lightpeft.pruning.verification import slice_and_verify

LAYERS = 5
KEPT_WHOLE = ("albert", "qwen3_moe, dense layer")
NAMES = [name for name in ARCHITECTURES if name not in KEPT_WHOLE]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def build_parts(name: str) -> tuple[hf.PreTrainedModel, Scores]:
    model = build(name, layers=LAYERS)
    return model, draw_scores(model)


def make_plan(scores: Scores, *, layers: float = 0.4, others: float = 0.0) -> PruningPlan:
    config = PruningConfig(
        layers=layers, heads=others, neurons=others, modules=others, ranks=others, align=1
    )
    return lightpeft.make_plan(scores, config)


def make_skipped(model: hf.PreTrainedModel, plan: PruningPlan, scores: Scores) -> PeftModel:
    """The unpruned model with the estimation's adapter, what the plan prunes masked or skipped."""
    whole = make_plan(scores, layers=0.0)
    adapted = lightpeft.prune(copy.deepcopy(model), whole, scores)
    base = adapted.get_base_model()
    mask_units(base, plan)
    skip_layers(base, plan)
    with torch.no_grad():
        for path, ranks in plan.ranks.items():
            gone = sorted(set(range(ranks.total)) - set(ranks.kept))
            base.get_submodule(path).lora_A["default"].weight[gone] = 0
    return adapted.eval()


@pytest.mark.parametrize("name", NAMES)
def test_pruned_layers_are_skipped_layers_in_outputs_and_gradients(name: str):
    model, scores = build_parts(name)
    plan = make_plan(scores)
    assert plan.kept_layers
    skipped = make_skipped(model, plan, scores)
    unpruned = compute_outputs(model, name)

    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores).eval()

    expected = compute_outputs(skipped, name)
    assert (expected - unpruned).abs().max() > 0.05
    torch.testing.assert_close(compute_outputs(pruned, name), expected, **CLOSE)
    of_pruned, of_skipped = gradients(pruned, name), gradients(skipped, name)
    for path in plan.old_paths:
        key = f"base_model.model.{path}.lora_B.weight"
        old = f"base_model.model.{plan.old_paths[path]}.lora_B.weight"
        scale = of_skipped[old].abs().max() + 1e-6
        assert (of_pruned[key] - of_skipped[old]).abs().max() <= 1e-3 * scale


@pytest.mark.parametrize(
    "name", [n for n in NAMES if ARCHITECTURES[n].kind in ("decoder", "seq2seq")]
)
def test_generation_with_the_cache_equals_that_of_the_skipped_model(name: str):
    model, scores = build_parts(name)
    plan = make_plan(scores)
    skipped = make_skipped(model, plan, scores)

    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores).eval()

    tokens, logits = generate_greedily(pruned, name)
    expected_tokens, expected_logits = generate_greedily(skipped, name)
    assert torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(logits, expected_logits, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_saved_is_loaded_lifted_and_merged(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    plan = make_plan(scores, others=0.4)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores).eval()
    lightpeft.save(pruned, tmp_path / "out")

    loaded = lightpeft.load(copy.deepcopy(model), tmp_path / "out")
    assert torch.equal(compute_outputs(loaded, name), compute_outputs(pruned, name))

    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full")
    full = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "full").eval()
    attached = {
        path
        for path in scores.ranks
        if hasattr(full.get_submodule(f"base_model.model.{path}"), "lora_A")
    }
    assert attached == {path for path, ranks in plan.ranks.items() if ranks.kept}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("clip", "gemma3")])
def test_merged_model_is_loaded_from_its_own_config(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    before = copy.deepcopy(model.config.to_dict())
    other = copy.deepcopy(model.config)
    pruned = lightpeft.prune(model, make_plan(scores), scores).eval()

    merged = pruned.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()

    torch.testing.assert_close(
        compute_outputs(loaded, name), compute_outputs(merged, name), **CLOSE
    )
    assert merged.config.to_dict() != before
    assert other.to_dict() == before


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_that_the_plan_counts(name: str):
    model, scores = build_parts(name)
    plan = make_plan(scores, others=0.4)
    rest = plan.without_layers

    pruned = lightpeft.prune(model, plan, scores)

    assert sum(rest.shape.count_parameters(rest.counts).values()) == pruned.num_parameters()


@pytest.mark.parametrize("name", ["bert", "t5", "gpt2", "gemma3_text"])
def test_pruned_layers_are_verified_against_skipped_ones(name: str):
    model, scores = build_parts(name)
    plan = make_plan(scores, others=0.4)
    assert slice_and_verify(model, plan, make_batch(name)) < 1e-5


def test_layers_that_share_weights_are_refused_by_name():
    _, scores = build_parts("albert")
    with pytest.raises(LightPeftError, match=r"no layer of this albert model.*share weights"):
        make_plan(scores)


def test_layers_that_the_config_can_not_say_are_refused_before_the_model_is_changed():
    model, scores = build_parts("qwen3_moe, dense layer")
    # Layer 1 is dense: without the one before it, the config's number of it is another's.
    shape = inspect_model(model)
    assert shape.stacks[0].prunable == (0, 2, 3, 4)
    scores.layers["model.layers"][:] = torch.tensor([0.0, 1, 2, 3, 4])
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(LightPeftError, match="these layers of this qwen3_moe can't be pruned"):
        lightpeft.prune(model, make_plan(scores, layers=0.2), scores)
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "compute with their number"),
        ({"n_layer": 1}, "only one layer"),
    ],
)
def test_gpt2_that_can_not_lose_a_layer_says_why(changes: dict[str, Any], reason: str):
    config = ARCHITECTURES["gpt2"].config()
    for name, value in changes.items():
        setattr(config, name, value)
    scores = draw_scores(hf.GPT2LMHeadModel(config))
    with pytest.raises(LightPeftError, match=reason):
        make_plan(scores)


def test_layer_that_changes_nothing_has_the_lowest_score():
    model = build("llama, shared keys and values", layers=LAYERS)
    with torch.no_grad():
        layer = model.model.layers[2]
        for weight in (*layer.self_attn.o_proj.parameters(), *layer.mlp.down_proj.parameters()):
            weight.zero_()
    ids = torch.arange(3, 27).reshape(3, 8)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    before = compute_logits(model, batch).detach()

    scores = lightpeft.estimate(
        model, LoraConfig(r=2), [batch], lightpeft.EstimationConfig(steps=2, lr=1e-6)
    )

    values = scores.layers["model.layers"]
    assert values.shape == (LAYERS,)
    assert values.argmin() == 2
    assert values[2] < 1e-4 < values.sort().values[1]
    plan = make_plan(scores, layers=0.2)
    assert plan.kept_layers == {"model.layers": (0, 1, 3, 4)}
    pruned = lightpeft.prune(model, plan, scores, warm_start=False, verify_batch=batch)
    torch.testing.assert_close(compute_logits(pruned, batch), before, **CLOSE)


def test_padding_makes_no_difference_to_the_scores_of_layers():
    ids = torch.arange(3, 19).reshape(2, 8)
    padded = torch.nn.functional.pad(ids, (0, 4))
    scores = []
    for tokens in (ids, padded):
        mask, labels = (tokens > 0).long(), torch.tensor([0, 1])
        batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
        torch.manual_seed(0)
        estimated = lightpeft.estimate(
            build("bert", layers=LAYERS),
            LoraConfig(r=2, task_type="SEQ_CLS"),
            [batch],
            lightpeft.EstimationConfig(steps=2),
        )
        scores.append(estimated.layers["bert.encoder.layer"])
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-6)
