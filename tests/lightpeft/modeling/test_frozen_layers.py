"""Layers below the lowest trained one: no graph, and what enters that one can stand for them."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from weakref import WeakSet

import pytest
import torch
from helpers.architecture_matrix import build, compute_loss, draw_scores, gradients, make_batch
from helpers.architectures import ARCHITECTURES
from peft import PeftModel
from torch.autograd.graph import saved_tensors_hooks

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import ModelError
from lightpeft.modeling.checkpointing import enable_checkpointing
from lightpeft.modeling.frozen_layers import FrozenLayers, find_frozen_layers

FAST = ("bert", "modernbert", "opt", "qwen3", "vit")
SEVERAL_STACKS = {n for n, x in ARCHITECTURES.items() if x.kind in ("seq2seq", "audio", "clip")}
REPEATED = "albert"  # its layers run again after trained ones
WITH_IMAGES = "gemma3"  # whose tower is another stack


@dataclass(eq=False)
class Saved:
    """A tensor that the backward pass needs, for as long as it does."""

    tensor: torch.Tensor


def cut_by_depth(name: str, modules: float = 0.5) -> PeftModel:
    """A pruned model in training; the PEFT modules of the lower of its four layers are gone."""
    model = build(name, layers=4)
    scores = draw_scores(model)
    config = PruningConfig(heads=0, neurons=0, modules=modules, module_criterion="depth", ranks=0)
    torch.manual_seed(0)
    pruned = lightpeft.prune(model, lightpeft.make_plan(scores, config), scores, warm_start=False)
    for path, weight in pruned.named_parameters():
        if "lora_B" in path:
            torch.nn.init.normal_(weight, std=0.1)
    return pruned.train()


def find(model: PeftModel) -> FrozenLayers:
    frozen = find_frozen_layers(model.get_base_model(), lightpeft.get_plan(model))
    assert frozen is not None
    return frozen


def compare_with_and_without_frozen_layers(name: str) -> None:
    model = cut_by_depth(name)
    frozen = find(model)
    with frozen.record() as seen:
        expected = gradients(model, name)
    model.zero_grad()
    runs: list[int] = []
    for layer in frozen.frozen:
        next(layer.children()).register_forward_hook(lambda *_: runs.append(1))

    with frozen.replace(lambda hidden: seen[0]):
        replaced = gradients(model, name)

    assert not runs
    assert expected.keys() == replaced.keys()
    for path, gradient in expected.items():
        torch.testing.assert_close(replaced[path], gradient, rtol=0, atol=0)
    model.eval()(**make_batch(name))
    assert runs


@pytest.mark.parametrize("name", FAST)
def test_states_stand_for_the_frozen_layers_in_every_gradient(name: str):
    compare_with_and_without_frozen_layers(name)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {*FAST, REPEATED, WITH_IMAGES}))
def test_states_stand_for_the_frozen_layers_of_every_architecture(name: str):
    if name in SEVERAL_STACKS:
        with pytest.raises(ModelError, match="stacks of layers"):
            find(cut_by_depth(name, modules=0.25))
    else:
        compare_with_and_without_frozen_layers(name)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_frozen_layers_run_without_a_graph(name: str, checkpointing: bool):
    model = cut_by_depth(name)
    if checkpointing:
        enable_checkpointing(model)
    frozen = find(model)
    outputs: list[torch.Tensor] = []
    saved: WeakSet[Saved] = WeakSet()
    bytes_below: list[int] = []
    for layer in frozen.frozen:
        layer.register_forward_hook(lambda *seen: outputs.append(seen[-1]))

    def save(tensor: torch.Tensor) -> Saved:
        kept = Saved(tensor)
        saved.add(kept)
        return kept

    def count(*_: object) -> None:
        gc.collect()
        bytes_below.append(sum(kept.tensor.nbytes for kept in saved))

    hook = frozen.trained.register_forward_pre_hook(count)
    with saved_tensors_hooks(save, lambda kept: kept.tensor):
        loss = compute_loss(model, make_batch(name))
        hook.remove()
        assert saved
        loss.backward()

    assert len(frozen.frozen) == 2
    assert len(outputs) == 2
    assert all((x if torch.is_tensor(x) else x[0]).grad_fn is None for x in outputs)
    assert bytes_below == [0]


def test_checkpointed_layers_are_computed_again_from_the_states():
    model = cut_by_depth("bert")
    frozen = find(model)
    with frozen.record() as seen:
        expected = gradients(model, "bert")
    model.zero_grad()
    enable_checkpointing(model)

    with frozen.replace(lambda hidden: seen[0]):
        loss = compute_loss(model, make_batch("bert"))
    loss.backward()  # after the frozen layers are back

    for path, gradient in expected.items():
        weight = model.get_parameter(path.replace(".weight", ".default.weight"))
        torch.testing.assert_close(weight.grad, gradient)


def test_nothing_is_frozen_below_a_trained_first_layer():
    model = cut_by_depth("bert", modules=0.0)

    assert find_frozen_layers(model.get_base_model(), lightpeft.get_plan(model)) is None


def test_an_encoder_decoder_with_frozen_layers_is_refused():
    model = cut_by_depth("bart", modules=0.25)
    with pytest.raises(ModelError, match=r"^it has 2 stacks of layers: .*encoder\.layers, "):
        find(model)


def test_layers_that_run_again_after_trained_ones_are_refused():
    model = cut_by_depth(REPEATED)
    with find(model).record(), pytest.raises(ModelError, match="depends on trained weights"):
        model(**make_batch(REPEATED))


def test_states_that_depend_on_a_trained_weight_are_refused():
    model = cut_by_depth("bert")
    model.get_input_embeddings().weight.requires_grad_(True)
    with find(model).record(), pytest.raises(ModelError, match="depends on trained weights"):
        model(**make_batch("bert"))
