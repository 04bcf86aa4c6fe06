"""Methods without a plan: each trains, and is the same model when it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.architecture_matrix import build
from helpers.data_cards import make_data_card
from helpers.stage_workspace import (
    SPLITS,
    draw_rows,
    load_base_model,
    make_card,
    make_tokenizer,
    set_params,
)
from helpers.tiny_models import compute_tiny_logits, make_tiny_batch, make_tiny_model
from peft import PeftModel
from torch import Tensor

from lightpeft.core.errors import LightPeftError
from pipeline.common.artefacts import UnprunedMethod
from pipeline.common.errors import ConfigError
from pipeline.common.methods import STOCK_PEFT
from pipeline.common.pruning_params import load_params
from pipeline.tasks import method_models
from pipeline.tasks.registry import make_task
from pipeline.training.trainer import TrainingData, train

SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": 9, "tinit": 1, "tfinal": 2, "init_r": 4, "target_r": 2},
    "miss": {"r": 4},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "road": {"group_size": 8},
    "vblora": {"vector_length": 8, "num_vectors": 16},
}
ALL_WEIGHTS = UnprunedMethod(peft_type=None, settings={}, lr=None)


def make_method(name: str, **settings: Any) -> UnprunedMethod:
    settings = SETTINGS.get(name, {}) | settings
    return UnprunedMethod(peft_type=name.upper(), settings=settings, lr=None)


def attach(method: UnprunedMethod, **card: Any) -> method_models.Model:
    task = make_task(make_data_card(**card) if card else make_card())
    torch.manual_seed(0)
    return method_models.attach(make_tiny_model(), method, task, ["classifier"])


def fit(model: method_models.Model) -> None:
    """Train for a few steps, with AdaLoRA's ranks dropped."""
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=0.01)
    for step in range(9):
        model(**make_tiny_batch(seed=step)).loss.backward()
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.eval()


def trained_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: x.detach() for name, x in model.named_parameters() if x.requires_grad}


@pytest.mark.parametrize("name", STOCK_PEFT)
def test_a_method_of_peft_is_trained_and_loads_as_it_was_saved(tmp_path: Path, name: str):
    model = attach(make_method(name))
    before = compute_tiny_logits(model.eval())
    fit(model)

    method_models.save(model, tmp_path / "out")
    loaded = method_models.load(make_tiny_model(), tmp_path / "out").eval()

    assert not torch.allclose(compute_tiny_logits(model), before, atol=1e-3)
    # AdaLoRA loads without the ranks that are zero, and adds up in another order.
    close = {"rtol": 1e-6, "atol": 1e-6 if name == "adalora" else 0}
    torch.testing.assert_close(compute_tiny_logits(loaded), compute_tiny_logits(model), **close)
    assert trained_weights(loaded).keys() == trained_weights(model).keys()
    assert any("classifier.modules_to_save" in key for key in trained_weights(loaded))
    if name != "adalora":  # peft 0.21 warns that AdaLoRA's own keys match no module
        stock = PeftModel.from_pretrained(make_tiny_model(), tmp_path / "out").eval()
        assert torch.equal(compute_tiny_logits(stock), compute_tiny_logits(model))


@pytest.mark.parametrize("architecture", ["bert", "t5", "opt"])
def test_all_weights_are_saved_tied_ones_too(tmp_path: Path, architecture: str):
    model = build(architecture, seed=1).requires_grad_(True)

    method_models.save(model, tmp_path / "out")
    loaded = method_models.load(build(architecture, seed=2), tmp_path / "out")

    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in loaded.state_dict().items())
    assert all(x.requires_grad for x in loaded.parameters())


def run_training(
    space: Path, folder: Path, method: UnprunedMethod, **settings: Any
) -> method_models.Model:
    """Train as the stage does, but keep the checkpoints."""
    steps = {"steps": 12, "save_every": 4, "evaluate_every": 4, "lr": 0.01}
    set_params(space, finetune=steps | settings)
    section = load_params(space / "params.yaml").finetune
    task = make_task(make_card())
    data = TrainingData(
        name="test",
        task=task,
        processor=make_tokenizer(),
        train=draw_rows(SPLITS["train"], seed=0),
        validation=draw_rows(SPLITS["validation"], seed=1),
        estimation_steps=0,
    )
    base, head = load_base_model(space)
    torch.manual_seed(0)
    model = method_models.attach(base, method, task, head)
    train(model, data, section, seed=0, folder=folder)
    return model


@pytest.mark.parametrize("method", [ALL_WEIGHTS, make_method("prompt_tuning")])
@pytest.mark.parametrize("best", [False, True])
def test_a_training_resumes_and_keeps_the_best(space: Path, tmp_path: Path, method, best: bool):
    models = []
    for _ in range(2):
        models.append(run_training(space, tmp_path, method, best_checkpoint=best))
        if not best:
            shutil.rmtree(tmp_path / "checkpoint-12")

    expected = trained_weights(models[0])
    assert all(torch.equal(x, expected[name]) for name, x in trained_weights(models[1]).items())


@pytest.mark.parametrize("name", ["adalora", "delora", "lora"])
def test_rates_of_lora_plus_are_of_lora_alone(space: Path, tmp_path: Path, name: str):
    method = make_method(name)
    plain, fast = (
        trained_weights(run_training(space, tmp_path / str(ratio), method, lora_plus_ratio=ratio))
        for ratio in (1.0, 8.0)
    )

    is_equal = all(torch.equal(weight, plain[key]) for key, weight in fast.items())
    assert is_equal == (name != "lora")


def test_settings_that_peft_refuses_are_one_line():
    message = r"^params.yaml: unknown key baselines.ia3.target_module; did you mean .*_modules\?$"
    with pytest.raises(ConfigError, match=message):
        attach(make_method("ia3", target_module=["query"]))
    with pytest.raises(ConfigError, match=r"^params.yaml: baselines.adalora: [^\n]*total_step"):
        attach(make_method("adalora", total_step=0))
    with pytest.raises(
        ConfigError, match=r"^params.yaml: baselines.vera: [^\n]*negative dim[^\n]*$"
    ):
        attach(make_method("vera", r=-1))


def test_more_virtual_tokens_than_positions_are_one_line():
    positions = make_tiny_model().config.max_position_embeddings
    row = {"rows": 9, "mean_tokens": 8.0, "p50_tokens": 8, "p95_tokens": 9, "max_tokens": 10}
    splits = {"train": row | {"truncated": 0, "tokens_lost": 0, "most_lost": 0, "labels": {}}}
    method = make_method("prompt_tuning", num_virtual_tokens=positions - 9)

    with pytest.raises(
        ConfigError, match=rf"num_virtual_tokens must be at most {positions - 10}, "
    ):
        attach(method, splits=splits)
    attach(make_method("prompt_tuning", num_virtual_tokens=positions - 10), splits=splits)


def test_adalora_is_refused_where_its_own_loss_would_be_lost():
    task = {"class_weights": (0.5, 1.5)}
    with pytest.raises(ConfigError, match=r"^methods: peft:adalora adds .*class_weights: balanced"):
        attach(make_method("adalora"), **task)
    attach(make_method("ia3"), **task)


def test_virtual_tokens_are_refused_where_outputs_would_shift():
    task = {"task_name": "token-classification", "metrics": ["accuracy"]}

    with pytest.raises(ConfigError, match=r"^methods: peft:prompt_tuning .* this is token-class"):
        attach(make_method("prompt_tuning"), **task)


def test_a_prefix_that_peft_can_not_train_further_is_refused():
    with pytest.raises(ConfigError, match=r"^baselines.prefix_tuning.prefix_projection must be"):
        attach(make_method("prefix_tuning", prefix_projection=True))


def test_a_head_that_would_stay_untrained_is_refused():
    message = r"^methods: peft:prompt_tuning would not train pre_classifier, a new module of model"
    with pytest.raises(ConfigError, match=message):
        method_models.attach(
            make_tiny_model("distilbert"),
            make_method("prompt_tuning"),
            make_task(make_card()),
            ["pre_classifier", "classifier"],
        )


def test_weights_of_another_model_are_refused(tmp_path: Path):
    method_models.save(attach(make_method("ia3")), tmp_path / "ia3")
    deeper = make_tiny_model(num_hidden_layers=4)
    with pytest.raises(LightPeftError, match=r"ia3 is of another model, which .* shows$"):
        method_models.load(deeper, tmp_path / "ia3")

    method_models.save(attach(ALL_WEIGHTS), tmp_path / "full")
    with pytest.raises(LightPeftError, match=r"full is of another model: [^\n]*$"):
        method_models.load(make_tiny_model(num_hidden_layers=4), tmp_path / "full")


def test_damaged_folder_of_a_stock_method_is_one_line(tmp_path: Path):
    method_models.save(attach(make_method("ia3")), tmp_path / "ia3")
    (tmp_path / "ia3/adapter_model.safetensors").write_text("cut")
    with pytest.raises(LightPeftError, match=r"ia3 is damaged: [^\n]*$"):
        method_models.load(make_tiny_model(), tmp_path / "ia3")

    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "ia3" / name).unlink()
        with pytest.raises(LightPeftError, match=rf"{name} does not exist$"):
            method_models.load(make_tiny_model(), tmp_path / "ia3")


def test_peft_has_every_method_that_is_offered():
    assert {name.upper() for name in STOCK_PEFT} <= {kind.value for kind in peft.PeftType}
