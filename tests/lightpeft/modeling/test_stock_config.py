"""A uniform cut, merged and saved, is loaded by transformers alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import build, compute_logits, draw_scores, make_batch
from helpers.architectures import ARCHITECTURES, LLAMA
from transformers import PreTrainedModel

import lightpeft
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.families import FAMILIES

REGISTERED = [n for n in ARCHITECTURES if ARCHITECTURES[n].config().model_type in FAMILIES]
TOWERS = ("clip", "gemma3")  # a config for each of two parts
# With two layers that share weights or have different ones, which is refused.
ALL_LAYERS_NEEDED = (
    "albert",
    "modernbert",
    "qwen2_moe, shared expert and dense layer",
    "qwen3_moe, dense layer",
    "t5",
    "t5, gated (flan-t5)",
)


def expressible(model: PreTrainedModel) -> set[str]:
    """What the config of an architecture can express."""
    families = FAMILIES[model.config.model_type]
    return set.intersection(*(set(family.config_expressible) for family in families))


def halved(model: PreTrainedModel, parts: set[str]) -> PruningPlan:
    """A plan that keeps half of the units in each layer, the first or the last ones in turn."""
    nothing = lightpeft.PruningConfig(heads=0, neurons=0, modules=0, ranks=0)
    plan = lightpeft.make_plan(draw_scores(model), nothing)

    def halves(units: dict[str, KeptUnits]) -> dict[str, KeptUnits]:
        kept = {}
        for index, (path, x) in enumerate(units.items()):
            half = x.total // 2
            kept[path] = dataclasses.replace(
                x, kept=tuple(range(half)) if index % 2 else tuple(range(x.total - half, x.total))
            )
        return kept

    return dataclasses.replace(plan, **{part: halves(getattr(plan, part)) for part in parts})


@pytest.mark.parametrize("name", [n for n in REGISTERED if n not in TOWERS])
def test_merged_model_is_loaded_from_its_own_config(name: str, tmp_path: Path):
    model = build(name)
    before, parts = model.config, expressible(model)
    if not parts:
        return
    scores, plan = draw_scores(model), halved(model, parts)

    merged = lightpeft.prune(model, plan, scores).eval().merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")

    assert merged.config is not before
    batch = make_batch(name)
    torch.testing.assert_close(compute_logits(loaded.eval(), batch), compute_logits(merged, batch))


@pytest.mark.parametrize("name", [n for n in REGISTERED if n not in TOWERS + ALL_LAYERS_NEEDED])
def test_merged_model_without_a_layer_is_loaded_from_its_own_config(name: str, tmp_path: Path):
    model = build(name)
    scores, neurons = draw_scores(model), 0.5 * ("neurons" in expressible(model))
    config = lightpeft.PruningConfig(
        layers=0.5, heads=0, neurons=neurons, modules=0, ranks=0, uniform=True
    )
    plan = lightpeft.make_plan(scores, config)

    merged = lightpeft.prune(model, plan, scores).eval().merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")

    assert {(x.total, len(x.kept)) for x in plan.layers.values()} == {(2, 1)}
    batch = make_batch(name)
    torch.testing.assert_close(compute_logits(loaded.eval(), batch), compute_logits(merged, batch))


@pytest.mark.parametrize(
    ("name", "parts"),
    [("clip", {"neurons"}), ("t5", {"heads"}), ("bert", {"heads"}), ("bloom", {"neurons"})],
)
def test_config_that_can_not_say_it_stays_as_it_was(name: str, parts: set[str]):
    model = build(name)
    before = model.config.to_dict()

    lightpeft.prune(model, halved(model, parts), draw_scores(model))

    assert model.config.to_dict() == before


@pytest.mark.parametrize("name", [LLAMA, "gemma2"])
def test_numbers_that_a_config_refuses_to_save_are_not_written(name: str, tmp_path: Path):
    model = build(name)
    scores, before = draw_scores(model), model.config.to_dict()
    config = lightpeft.PruningConfig(heads=0.25, neurons=0, modules=0, ranks=0)
    pruned = lightpeft.prune(model, lightpeft.make_plan(scores, config), scores).eval()
    assert [len(x.kept) for x in lightpeft.get_plan(pruned).heads.values()] == [6, 6]  # width: 32
    assert model.config.to_dict() == before

    lightpeft.export(pruned, tmp_path / "merged", format="merged")
    with pytest.raises(lightpeft.LightPeftError, match=r"hidden size \(32\) is not a multiple of"):
        lightpeft.export(pruned, tmp_path / "stock", format="stock")


def test_numbers_that_a_config_refuses_are_the_reason_where_layers_are_pruned_too(tmp_path: Path):
    model = build(LLAMA)
    scores = draw_scores(model)
    config = lightpeft.PruningConfig(layers=0.5, heads=0.25, neurons=0, modules=0, ranks=0)
    pruned = lightpeft.prune(model, lightpeft.make_plan(scores, config), scores)
    with pytest.raises(lightpeft.LightPeftError, match=r"hidden size \(32\) is not a multiple of"):
        lightpeft.export(pruned, tmp_path / "stock", format="stock")


def test_config_of_layers_of_different_widths_stays_as_it_was():
    model = build("bert")
    plan, before = halved(model, {"neurons"}), model.config.to_dict()
    path, units = next(iter(plan.neurons.items()))
    one_less = dataclasses.replace(units, kept=units.kept[1:])
    plan = dataclasses.replace(plan, neurons=plan.neurons | {path: one_less})

    lightpeft.prune(model, plan, draw_scores(model))

    assert model.config.to_dict() == before


def test_config_that_another_model_shares_stays_as_it_was(tmp_path: Path):
    model, name = build("phi3"), "phi3"
    other = type(model)(model.config)
    before, parts = other.config.to_dict(), {"heads", "neurons"}
    scores, plan = draw_scores(model), halved(model, parts)

    pruned = lightpeft.prune(model, plan, scores).eval()
    lightpeft.save(pruned, tmp_path)
    loaded = lightpeft.load(build(name), tmp_path)

    assert other.config.to_dict() == before
    heads = before["num_attention_heads"] // 2
    assert pruned.config.num_attention_heads == loaded.config.num_attention_heads == heads
    assert torch.equal(
        compute_logits(loaded, make_batch(name)), compute_logits(pruned, make_batch(name))
    )
