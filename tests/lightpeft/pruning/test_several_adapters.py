"""Adapters of one plan on one pruned model: each computes what it computes alone."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import build
from helpers.tiny_models import (
    check_unchanged,
    compute_tiny_logits,
    draw_random_scores,
    make_lora,
    make_tiny_model,
    make_uneven_plan,
)
from peft import LoraConfig, PeftModel, get_peft_model

import lightpeft
from lightpeft.core.errors import CheckpointError, ModelError
from lightpeft.modeling.adapters import cast_trainable_to_float32


def randomize(model: PeftModel, seed: int) -> None:
    """Give an adapter other weights, as another training would."""
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters first and second of one plan, other of another, loud with another lora_alpha."""
    root = tmp_path_factory.mktemp("adapters")
    scores = draw_random_scores(make_tiny_model())
    plan = make_uneven_plan(scores)
    loud = dataclasses.replace(scores, peft=dataclasses.replace(scores.peft, lora_alpha=32))
    for seed, (name, used, chosen) in enumerate(
        [
            ("first", scores, plan),
            ("second", scores, plan),
            ("other", scores, make_uneven_plan(scores, seed=1)),
            ("loud", loud, plan),
        ]
    ):
        model = lightpeft.prune(make_tiny_model(), chosen, used)
        randomize(model, seed)
        lightpeft.save(model, root / name)
    return root


def load(folder: Path, **options: object) -> PeftModel:
    return lightpeft.load(make_tiny_model(), folder, **options)


def test_each_adapter_computes_what_it_computes_alone(folders: Path):
    alone = {name: compute_tiny_logits(load(folders / name)) for name in ("first", "second")}
    model = load(folders / "first", adapter_name="first")
    both = lightpeft.load(model, folders / "second", adapter_name="second")

    assert both is model
    assert not torch.equal(alone["first"], alone["second"])
    assert model.active_adapter == "first"
    for name in ("first", "second", "first"):
        model.set_adapter(name)
        assert torch.equal(compute_tiny_logits(model), alone[name])


def test_deleted_adapter_leaves_the_other(folders: Path):
    model = lightpeft.load(load(folders / "first"), folders / "second", adapter_name="second")
    model.set_adapter("second")
    model.delete_adapter("default")

    assert torch.equal(compute_tiny_logits(model), compute_tiny_logits(load(folders / "second")))
    with pytest.raises(ModelError, match="has no adapter 'default'; it has second"):
        lightpeft.save(model, folders / "no", adapter_name="default")


def test_weights_are_replaced_in_place(folders: Path):
    model = load(folders / "first")
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    lightpeft.load(model, folders / "second")

    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    assert torch.equal(compute_tiny_logits(model), compute_tiny_logits(load(folders / "second")))


def test_saved_adapter_is_the_file_that_was_loaded(folders: Path, tmp_path: Path):
    model = lightpeft.load(load(folders / "first"), folders / "second", adapter_name="second")
    for name in ("default", "second"):
        lightpeft.save(model, tmp_path / name, adapter_name=name)
    model.set_adapter("second")
    lightpeft.save(model, tmp_path / "active")

    for saved, source in (("default", "first"), ("second", "second"), ("active", "second")):
        for file in ("adapter_model.safetensors", "plan.json"):
            assert (tmp_path / saved / file).read_bytes() == (folders / source / file).read_bytes()
        again = compute_tiny_logits(load(tmp_path / saved))
        assert torch.equal(again, compute_tiny_logits(load(folders / source)))


def test_what_the_others_train_stays_as_it_was(folders: Path):
    frozen = load(folders / "first")
    lightpeft.load(frozen, folders / "second", adapter_name="second")
    assert not any(weight.requires_grad for weight in frozen.parameters())

    trained = load(folders / "first", trainable=True)
    before = {name for name, weight in trained.named_parameters() if weight.requires_grad}
    trained.train()
    lightpeft.load(trained, folders / "second", adapter_name="second", trainable=True)
    after = {name for name, weight in trained.named_parameters() if weight.requires_grad}

    assert before < after
    assert after - before == {name.replace(".default.", ".second.") for name in before}
    assert all(module.training for module in trained.modules())
    trained.set_adapter("second")
    assert len(cast_trainable_to_float32(trained)) == len(before)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "other",
            {"adapter_name": "second"},
            CheckpointError,
            "another plan, .*: it keeps heads .*",
        ),
        (
            "loud",
            {},
            CheckpointError,
            r"has lora_alpha 8, this one 32; delete_adap",
        ),
        ("second", {"adapter_name": "b.c"}, ModelError, r"of letters, digits, _ and -, got 'b\.c'"),
        ("second", {"adapter_name": "lora"}, ModelError, "must be no part of 'lora_', got 'lora'"),
        ("second", {"adapter_name": ""}, ModelError, "of letters, digits, _ and -, got ''"),
        (
            "second",
            {"adapter_name": "second", "quantize": id},
            ModelError,
            "quantize is for a base model",
        ),
    ],
)
def test_refused_adapter_leaves_the_model_as_it_was(
    folders: Path, name: str, options: dict, error: type[Exception], message: str
):
    model = load(folders / "first")
    with check_unchanged(model), pytest.raises(error, match=message):
        lightpeft.load(model, folders / name, **options)
    assert list(model.peft_config) == ["default"]


def test_other_head_is_refused(folders: Path, tmp_path: Path):
    model = load(folders / "first")
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.out_features == 2:
            module.weight = torch.nn.Parameter(torch.zeros(3, 32))
    with pytest.raises(CheckpointError, match=r"must have shape \(3, 32\), got \(2, 32\)"):
        lightpeft.load(model, folders / "second", adapter_name="second")


def test_model_without_a_plan_is_refused(folders: Path):
    with pytest.raises(ModelError, match="the model has no plan"):
        lightpeft.load(get_peft_model(make_tiny_model(), make_lora()), folders / "second")


@pytest.mark.parametrize(
    "name", ["llama, shared keys and values", "t5", "gpt2", "qwen3_moe, dense layer"]
)
def test_other_architectures_take_several_adapters(name: str, tmp_path: Path):
    base = build(name)
    scores = draw_random_scores(base, config=LoraConfig(r=4, target_modules="all-linear"))
    plan = make_uneven_plan(scores)
    for seed, adapter in enumerate(("first", "second")):
        model = lightpeft.prune(copy.deepcopy(base), plan, scores)
        randomize(model, seed)
        lightpeft.save(model, tmp_path / adapter)
    model = lightpeft.load(copy.deepcopy(base), tmp_path / "first", adapter_name="first")
    lightpeft.load(model, tmp_path / "second", adapter_name="second")
    model.set_adapter("second")
    alone = lightpeft.load(copy.deepcopy(base), tmp_path / "second")

    ids = {"input_ids": torch.arange(3, 19).reshape(2, 8)}
    if base.config.is_encoder_decoder:
        ids["decoder_input_ids"] = ids["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, alone(**ids).logits)
