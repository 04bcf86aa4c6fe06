"""Bottleneck adapters are a PEFT method like those of peft, placed exactly where they say."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import build, compute_logits, make_batch
from helpers.architectures import LLAMA
from helpers.bottleneck import attach, find_layers
from helpers.tiny_models import compute_tiny_logits, make_tiny_batch, make_tiny_model
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.activations import ACT2FN

from lightpeft import BottleneckConfig
from lightpeft.core.block_shape import FeedForwardBlock
from lightpeft.core.errors import ModelError
from lightpeft.modeling.inspection import inspect_model
from lightpeft.peft_methods.bottleneck_layer import BottleneckLayer

PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
NAMES = ("albert", "bert", "gpt2", LLAMA, "opt", "t5", "bart", "gpt_neox", "falcon, new")
ROOT = Path(__file__).resolve().parents[3]
FFN, ATTENTION = "bert.encoder.layer.0.output.dense", "bert.encoder.layer.0.attention.output.dense"
FIRST = "bert.encoder.layer.0.intermediate.dense"


def compute(layer: BottleneckLayer, x: Tensor, f: Any = torch.relu) -> Tensor:
    """What the documentation says that an adapter adds."""
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    return f(x @ down.weight.T + down.bias) @ up.weight.T + up.bias


def run(program: str) -> None:
    """Run a program in a process of its own."""
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env)


def hook_reference(base: nn.Module, adapted: PeftModel, placement: str, scaling: float) -> None:
    """Make a plain model compute what its adapters say, by hooks on its blocks' linears."""
    entered: dict[str, Tensor] = {}
    for block in inspect_model(base).blocks:
        layer = find_layers(adapted).get(block.output_projection)
        is_here = placement == "houlsby" or isinstance(block, FeedForwardBlock)
        assert (layer is not None) == is_here
        if layer is None:
            continue
        for path, linear in block.linears.items():
            if linear.pruned_dim == "out":

                def keep(_: Any, args: Any, key: str = block.path) -> None:
                    entered[key] = args[0]

                base.get_submodule(path).register_forward_pre_hook(keep)

        def add(_: Any, args: Any, y: Tensor, own: Any = layer, key: str = block.path) -> Tensor:
            return y + scaling * compute(own, entered[key] if placement == "parallel" else y)

        base.get_submodule(block.output_projection).register_forward_hook(add)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_adapters_are_where_the_placement_says_and_start_as_the_identity(name: str, placement: str):
    base, batch = build(name), make_batch(name)
    plain = compute_logits(base, batch)
    fresh = attach(copy.deepcopy(base), placement=placement, init_weights=True)
    assert torch.equal(compute_logits(fresh.base_model.model, batch), plain)

    adapted = attach(copy.deepcopy(base), placement=placement, scaling=0.5)
    hook_reference(base, adapted, placement, 0.5)

    found, expected = (compute_logits(x, batch) for x in (adapted.base_model.model, base))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 0.01
    with adapted.disable_adapter():
        assert torch.equal(compute_logits(adapted.base_model.model, batch), plain)


def test_blocks_that_are_modules_are_bypassed_whole_by_parallel_adapters():
    base, batch = build(LLAMA), make_batch(LLAMA)
    adapted = attach(copy.deepcopy(base), placement="parallel")
    for name, layer in find_layers(adapted).items():
        block = base.get_submodule(name.rpartition(".")[0])
        assert type(block).__name__ == "LlamaMLP"
        block.register_forward_hook(lambda _, args, y, own=layer: y + compute(own, args[0]))

    found, expected = (compute_logits(x, batch) for x in (adapted.base_model.model, base))

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_only_adapters_and_head_are_trained_and_gradients_reach_all_of_them(placement: str):
    model = attach(make_tiny_model(), placement=placement, task_type="SEQ_CLS").train()
    model.base_model.model.activation_checkpointing_enable()
    model(**make_tiny_batch()).loss.backward()

    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}

    assert all("bottleneck_" in name or "classifier" in name for name in trained)
    assert all(weight.grad.abs().sum() > 0 for weight in trained.values())
    assert len(trained) == 4 * len(find_layers(model)) + 2


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_reloaded_is_saved(placement: str, tmp_path: Path):
    settings = {"task_type": "SEQ_CLS", "rank_pattern": {"0.output.*": 5}}
    model = attach(make_tiny_model(), placement=placement, **settings)
    assert {x.r["default"] for x in find_layers(model).values()} == {3, 5}
    model.save_pretrained(tmp_path)

    again = PeftModel.from_pretrained(make_tiny_model(), tmp_path)

    assert torch.equal(compute_tiny_logits(again), compute_tiny_logits(model))
    assert again.peft_config["default"].placement == placement


def test_peft_alone_loads_adapters_once_lightpeft_is_imported(tmp_path: Path):
    base, expected = make_tiny_model(), {}
    base.save_pretrained(tmp_path / "base")
    for placement in PLACEMENTS:
        base = type(base).from_pretrained(tmp_path / "base")
        model = attach(base, placement=placement, task_type="SEQ_CLS")
        expected[placement] = compute_tiny_logits(model)
        model.save_pretrained(tmp_path / placement)

    run(
        "import lightpeft, sys\n"
        "assert 'peft' not in sys.modules and 'torch' not in sys.modules\n"
        "from peft import AutoPeftModelForSequenceClassification as Auto\n"
        "from safetensors.torch import save_file\n"
        "from helpers.tiny_models import compute_tiny_logits\n"
        f"folder, names = {str(tmp_path)!r}, {PLACEMENTS}\n"
        "models = {name: Auto.from_pretrained(f'{folder}/{name}') for name in names}\n"
        "found = {name: compute_tiny_logits(model) for name, model in models.items()}\n"
        "save_file(found, f'{folder}/logits')\n"
    )

    for placement, found in load_file(tmp_path / "logits").items():
        torch.testing.assert_close(found, expected[placement], rtol=1e-6, atol=1e-6)


def test_several_adapters_are_added_switched_and_deleted():
    model = attach(make_tiny_model(), placement="houlsby", task_type="SEQ_CLS")
    first = compute_tiny_logits(model)
    model.add_adapter(
        "second", BottleneckConfig(r=2, placement="parallel", scaling=0.5, init_weights=False)
    )
    assert torch.equal(compute_tiny_logits(model), first)

    model.set_adapter("second")
    second = compute_tiny_logits(model)
    layer = find_layers(model)[FFN]
    assert (layer.r, layer.placement["second"]) == ({"default": 3, "second": 2}, "parallel")
    assert not torch.equal(second, first)
    assert not layer.bottleneck_up["default"].weight.requires_grad
    assert layer.bottleneck_up["second"].weight.requires_grad
    model.set_adapter("default")
    assert torch.equal(compute_tiny_logits(model), first)

    model.delete_adapter("second")
    assert torch.equal(compute_tiny_logits(model), first)
    assert list(find_layers(model)[FFN].bottleneck_down) == ["default"]


def test_an_adapter_for_each_row_is_refused():
    model = attach(make_tiny_model(), task_type="SEQ_CLS")
    with pytest.raises(ModelError, match=r"can't be chosen by row with adapter_names; use set"):
        model(**make_tiny_batch(), adapter_names=["default"] * 4)


def test_active_adapters_read_one_input_and_their_terms_are_added():
    x, outputs = torch.randn(2, 5, 64), {}
    model = attach(make_tiny_model(), placement="pfeiffer")
    model.add_adapter("second", BottleneckConfig(r=2, placement="pfeiffer", init_weights=False))
    layer = find_layers(model)[FFN]
    for names in (["default"], ["second"], ["default", "second"]):
        model.base_model.set_adapter(names)
        outputs[len(outputs)] = layer(x) - layer.base_layer(x)

    torch.testing.assert_close(outputs[0] + outputs[1], outputs[2])


def test_unloading_gives_back_the_base_model():
    base = make_tiny_model()
    expected, hooks = compute_tiny_logits(base), len(base.get_submodule(FIRST)._forward_pre_hooks)
    model = attach(base, placement="parallel")
    assert len(base.get_submodule(FIRST)._forward_pre_hooks) == hooks + 1

    plain = model.unload()

    assert not find_layers(plain)
    assert torch.equal(compute_tiny_logits(plain), expected)
    assert len(plain.get_submodule(FIRST)._forward_pre_hooks) == hooks


def test_a_copied_model_does_not_read_the_inputs_of_the_original():
    model = attach(make_tiny_model(), placement="parallel")
    again = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()

    expected = compute_tiny_logits(attach(make_tiny_model(), placement="parallel"))

    assert torch.equal(compute_tiny_logits(again), expected)
    assert again.unload().get_submodule(FIRST)._forward_pre_hooks == {}


def test_merging_is_one_clear_error_and_changes_nothing():
    model = attach(make_tiny_model(), placement="parallel")
    expected = compute_tiny_logits(model)
    for merge in (
        model.merge_and_unload,
        model.merge_adapter,
        find_layers(model)[FFN].merge,
    ):
        with pytest.raises(ModelError, match="can't be merged: they are not linear; save them"):
            merge()

    assert torch.equal(compute_tiny_logits(model), expected)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_new", "silu", "tanh", "sigmoid"])
def test_non_linearities_are_those_of_transformers(name: str):
    model = attach(make_tiny_model(), placement="pfeiffer", non_linearity=name)
    layer, x = find_layers(model)[FFN], torch.randn(2, 64)

    base = layer.base_layer(x)

    torch.testing.assert_close(layer(x), base + compute(layer, base, ACT2FN[name]))


def test_dropout_drops_units_in_training_only():
    model = attach(make_tiny_model(), placement="pfeiffer", dropout=0.5, r=200)
    layer, x = find_layers(model)[FFN], torch.randn(1, 64)
    assert torch.equal(layer(x), layer(x))
    seen: list[Tensor] = []
    layer.bottleneck_up["default"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    layer.train()(x)
    alive = layer.bottleneck_down["default"](layer.base_layer(x)) > 0

    assert 0.3 < float((seen[0][alive] == 0).float().mean()) < 0.7


def test_another_method_on_one_model_is_refused():
    model = attach(make_tiny_model())
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        model.add_adapter("other", LoraConfig(target_modules=["query"]))
