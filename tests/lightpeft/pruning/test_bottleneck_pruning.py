"""Pruned bottleneck adapters are the masked ones; saved ones are loaded; nothing is half done."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import (
    build,
    compute_logits,
    compute_loss,
    draw_plan,
    make_batch,
)
from helpers.architectures import ARCHITECTURES, LLAMA
from helpers.bottleneck import draw_scores, make_even_plan, save_result
from helpers.tiny_models import (
    compute_tiny_logits,
    make_masked_model,
    make_tiny_model,
    make_uneven_plan,
    mask_units,
    plan_that_keeps,
)
from peft import PeftModel
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import lightpeft
from lightpeft import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.modeling.peft_targets import find_block_targets
from lightpeft.peft_methods.bottleneck_layer import BottleneckLayer
from lightpeft.planning.fixed_plans import keep_query_and_value, match_budget
from lightpeft.profiling.workload import compute_plan_cost

PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
CASES = [(name, "houlsby") for name in [*ARCHITECTURES, "gemma", "mpnet"]]
CASES += [(name, "parallel") for name in ("albert", "bart", "bert", "gpt2", LLAMA, "opt", "t5")]
TESTS = Path(__file__).resolve().parents[2]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(("name", "placement"), CASES)
def test_pruned_is_masked_in_outputs_and_gradients(name: str, placement: str):
    model, batch = build(name), make_batch(name, labels=True)
    scores = draw_scores(model, placement=placement, task_type=None, non_linearity="gelu")
    plan = draw_plan(scores, head_granularity="query_head")
    masked = make_masked_model(model, scores, plan)

    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores, verify_batch=batch).eval()

    outputs = [compute_logits(x.base_model.model, batch) for x in (masked, pruned)]
    torch.testing.assert_close(outputs[1], outputs[0], **CLOSE)
    for adapted in (masked, pruned):
        compute_loss(adapted.base_model.model, batch).backward()
    for path, cut in plan.ranks.items():
        layers = [x.get_submodule(f"base_model.model.{path}") for x in (masked, pruned)]
        assert isinstance(layers[1], BottleneckLayer) == bool(cut.kept)
        if cut.kept:
            full, cropped = (x.bottleneck_up["default"].weight.grad for x in layers)
            torch.testing.assert_close(cropped, full[:, list(cut.kept)], **CLOSE)
            assert layers[1].r["default"] == len(cut.kept)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_loaded_is_saved_also_in_a_fresh_process(placement: str, tmp_path: Path):
    pruned = save_result(tmp_path / "out", placement)

    again = lightpeft.load(make_tiny_model(), tmp_path / "out")

    assert torch.equal(compute_tiny_logits(again), compute_tiny_logits(pruned))
    lightpeft.save(again, tmp_path / "again")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    if placement == "parallel":
        program = (
            # First a module of the method itself, by which peft is imported, which imports it.
            "from lightpeft.peft_methods.bottleneck_config import BottleneckConfig\n"
            "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as configs\n"
            "assert configs['LIGHTPEFT_BOTTLENECK'] is BottleneckConfig\n"
            "import lightpeft\n"
            "from helpers.tiny_models import compute_tiny_logits, make_tiny_model\n"
            "from safetensors.torch import save_file\n"
            f"model = lightpeft.load(make_tiny_model(), {str(tmp_path / 'out')!r})\n"
            f"save_file({{'logits': compute_tiny_logits(model)}}, {str(tmp_path / 'logits')!r})\n"
        )
        env = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
        subprocess.run([sys.executable, "-c", program], check=True, env=env)
        assert torch.equal(load_file(tmp_path / "logits")["logits"], compute_tiny_logits(pruned))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_expanded_adapter_is_loaded_by_peft_onto_the_unpruned_base(placement: str, tmp_path: Path):
    pruned = save_result(tmp_path / "out", placement)
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full")

    full = PeftModel.from_pretrained(make_tiny_model(), tmp_path / "full")

    layers = [x for x in full.modules() if isinstance(x, BottleneckLayer)]
    assert {x.r["default"] for x in layers} == {4}
    mask_units(full.base_model.model, lightpeft.get_plan(pruned))
    torch.testing.assert_close(compute_tiny_logits(full), compute_tiny_logits(pruned), **CLOSE)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_whole_layers_go_with_their_adapters_and_the_others_are_renamed(
    placement: str, tmp_path: Path
):
    model = make_tiny_model()
    (stack,) = (scores := draw_scores(model, placement=placement)).layers
    scores = dataclasses.replace(scores, layers={stack: torch.tensor([1.0, 0.0, 1.0])})
    config = PruningConfig(layers=0.4, heads=0.5, neurons=0.5, modules=0, ranks=0.25)
    plan = lightpeft.make_plan(scores, config)
    assert plan.kept_layers == {stack: (0, 2)}
    pruned = lightpeft.prune(model, plan, scores)
    read = pruned.peft_config["default"].block_inputs
    assert [*read] == (pruned.base_model.targeted_module_names if placement == "parallel" else [])
    lightpeft.save(pruned, tmp_path / "out")

    loaded = lightpeft.load(make_tiny_model(), tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full")
    full = PeftModel.from_pretrained(make_tiny_model(), tmp_path / "full")

    assert torch.equal(compute_tiny_logits(loaded), compute_tiny_logits(pruned))
    adapted = {path for path, cut in plan.ranks.items() if cut.kept}
    assert set(full.base_model.targeted_module_names) == adapted


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_parameters_and_flops_are_counted_as_torch_counts_them(placement: str):
    model = make_tiny_model(attention="eager")
    scores = draw_scores(model, placement=placement, modules_to_save=["pooler"])
    plan = make_even_plan(scores)
    pruned = lightpeft.prune(model, plan, scores).train()
    batch = {"input_ids": torch.arange(3, 25).reshape(2, 11), "labels": torch.arange(2)}

    table = compute_plan_cost(plan, length=11)
    with FlopCounterMode(display=False) as counter:
        pruned(**batch).loss.backward()

    sizes = [w.numel() for name, w in pruned.named_parameters() if "bottleneck_" in name]
    assert table.parts["adapter"].parameters == sum(sizes)
    flops = table.total.training_flops_per_token
    assert flops == pytest.approx(counter.get_total_flops() / 22, rel=1e-3)


def test_small_has_the_budget_of_light_and_qv_is_refused():
    scores = draw_scores(make_tiny_model(), r=16)
    light = make_even_plan(scores)
    small = match_budget(scores, light)

    budget, found = (compute_plan_cost(x, length=8).parts["adapter"] for x in (light, small))

    assert abs(found.parameters - budget.parameters) <= 32 + 32 + 1
    with pytest.raises(PlanError, match=r"no PEFT module .* query or value .* were on dense"):
        keep_query_and_value(scores)


def test_a_plan_of_another_method_or_place_is_refused(tmp_path: Path):
    scores = draw_scores(make_tiny_model())
    units = {path: range(n) for path, n in (scores.shape.heads | scores.shape.neurons).items()}
    plan = plan_that_keeps(scores, units, dict.fromkeys(scores.ranks, (0, 1)))
    with pytest.raises(PlanError, match="PEFT modules and ranks are not those of the scores"):
        lightpeft.prune(make_tiny_model(), dataclasses.replace(plan, peft_type="LORA"), scores)
    with pytest.raises(
        PlanError, match=r"method must be LORA or .* or LIGHTPEFT_BOTTLENECK, got 'IA3'"
    ):
        dataclasses.replace(plan, peft_type="IA3")
    query = next(name for name in find_block_targets(scores.shape, None) if "query" in name)
    with pytest.raises(PlanError, match=f"must be on an output projection, got {query}"):
        dataclasses.replace(plan, ranks=plan.ranks | {query: next(iter(plan.ranks.values()))})


def test_several_adapters_of_one_plan_are_loaded_beside_each_other(tmp_path: Path):
    expected = {}
    model = make_tiny_model()
    scores = draw_scores(model, placement="parallel")
    plan = make_uneven_plan(scores)
    for name, factor in (("a1", 1.0), ("b1", 0.5)):
        pruned = lightpeft.prune(make_tiny_model(), plan, scores)
        with torch.no_grad():
            for weight in (x for x in pruned.parameters() if x.requires_grad):
                weight *= factor
        lightpeft.save(pruned, tmp_path / name)
        expected[name] = compute_tiny_logits(pruned)

    loaded = lightpeft.load(model, tmp_path / "a1", adapter_name="a1")
    lightpeft.load(loaded, tmp_path / "b1", adapter_name="b1")

    for name, logits in expected.items():
        loaded.set_adapter(name)
        assert torch.equal(compute_tiny_logits(loaded), logits)
    lightpeft.load(loaded, tmp_path / "a1", adapter_name="b1")
    assert torch.equal(compute_tiny_logits(loaded), expected["a1"])
