"""Models on several devices, as accelerate spreads them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from helpers.architecture_matrix import build, compute_outputs, draw_plan, draw_scores, make_batch
from helpers.architectures import LLAMA
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lightpeft
from lightpeft.core.config import EstimationConfig, PruningConfig
from lightpeft.core.errors import ModelError
from lightpeft.estimation.importance import ImportanceTracker
from lightpeft.modeling.masks import Masks

FIRST, SECOND = torch.device("cpu"), torch.device("meta")


def test_masks_lie_on_the_device_of_their_layer_and_sums_on_the_first():
    model = build(LLAMA)
    shape = lightpeft.inspect_model(model)
    wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    moved = model.model.layers[1]
    add_hook_to_module(moved, AlignDevicesHook(execution_device=SECOND, io_same_device=True))
    # Tensors without values: mixing devices raises as it does where there are several.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        for path, module in model.named_modules():
            device = SECOND if "layers.1" in path else FIRST
            for name, weight in module.named_parameters(recurse=False):
                empty = torch.empty(weight.shape, device=device)
                module._parameters[name] = nn.Parameter(empty, weight.requires_grad)
        batch = {
            key: fake.from_tensor(value) for key, value in make_batch(LLAMA, labels=True).items()
        }
        with (
            Masks(model, shape, l1=0.1) as masks,
            ImportanceTracker(wrapped, masks, reduction="mean") as tracker,
        ):
            tracker.start_step(batch)
            loss = model(**batch).loss
            (loss + masks.compute_l1_penalty().to(loss.device)).backward()
            tracker.finish_step(1, count=True)

            for path, mask in (masks.heads | masks.neurons).items():
                device = SECOND if "layers.1" in path else FIRST
                assert (mask.device, mask.grad.device) == (device, device)
            modules, ranks, *taylor = tracker.sums.compute_totals()
            assert {modules.device, ranks.device} == {FIRST}
            assert [total.device for total in taylor] == [FIRST, SECOND] * 2


def dispatched(model: nn.Module) -> nn.Module:
    """With accelerate's hooks, as on several devices."""
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    places = dict.fromkeys((*parts, "model.layers.0", "model.layers.1"), "cpu")
    spread: nn.Module = dispatch_model(model, places, main_device="cpu", force_hooks=True)
    assert hasattr(spread.model.layers[1], "_hf_hook")
    return spread


def test_a_dispatched_model_is_estimated_pruned_and_loaded_as_any_other(tmp_path: Path):
    plain = build(LLAMA)
    spread = dispatched(copy.deepcopy(plain))
    batches = [make_batch(LLAMA, seed=seed, labels=True) for seed in range(2)]
    results = []
    for model in (plain, spread):
        torch.manual_seed(0)
        scores = lightpeft.estimate(model, LoraConfig(r=2), batches, EstimationConfig(steps=4))
        plan = lightpeft.make_plan(
            scores, PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.5)
        )
        pruned = lightpeft.prune(model, plan, scores, verify_batch=batches[0])
        pruned(**batches[0]).loss.backward()
        results.append((scores, plan, pruned))

    (one, plan, a), (other, same, b) = results
    assert (one.digest, plan.digest) == (other.digest, same.digest)
    assert torch.equal(compute_outputs(a, LLAMA), compute_outputs(b, LLAMA))
    lightpeft.save(b, tmp_path / "out")
    again = lightpeft.load(dispatched(build(LLAMA)), tmp_path / "out")
    assert torch.equal(compute_outputs(again, LLAMA), compute_outputs(a, LLAMA))


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_a_model_loaded_in_bfloat16_with_a_device_map_is_pruned(device_map: object, tmp_path: Path):
    build(LLAMA).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map=device_map, dtype=torch.bfloat16
    )
    batches = [make_batch(LLAMA, labels=True)]
    scores = lightpeft.estimate(model, LoraConfig(r=2), batches, EstimationConfig(steps=2))
    plan = lightpeft.make_plan(
        scores, PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.5)
    )

    pruned = lightpeft.prune(model, plan, scores, verify_batch=batches[0])

    base = {w.dtype for n, w in pruned.named_parameters() if "lora_" not in n}
    assert base == {torch.bfloat16}
    assert compute_outputs(pruned, LLAMA).isfinite().all()


def test_an_offloaded_model_is_refused_before_anything_changes(tmp_path: Path):
    build(LLAMA).save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        device_map=places | dict.fromkeys(("model.norm", "model.rotary_emb", "lm_head"), "cpu"),
        offload_folder=tmp_path / "offload",
    )
    scores = draw_scores(build(LLAMA))
    before = compute_outputs(model, LLAMA)

    message = r"^model\.layers\.1\.\S+ is not in memory \(device meta\): a model that is offloaded"
    with pytest.raises(ModelError, match=message):
        lightpeft.estimate(
            model, LoraConfig(r=2), [make_batch(LLAMA, labels=True)], EstimationConfig(steps=2)
        )
    with pytest.raises(ModelError, match=message):
        lightpeft.prune(model, draw_plan(scores), scores)
    assert torch.equal(compute_outputs(model, LLAMA), before)
