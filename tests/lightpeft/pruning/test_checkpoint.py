"""Saved is loaded: here, in another process, by stock peft; and damage is one line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import (
    FAMILIES,
    compute_tiny_logits,
    draw_random_scores,
    estimate_tiny_scores,
    make_pruned_model,
    make_tiny_model,
    make_uneven_plan,
    mask_units,
)
from peft import PeftModel
from safetensors.torch import load_file

import lightpeft
from lightpeft.core.errors import ModelError
from lightpeft.modeling.slicing import slice_base
from lightpeft.pruning import checkpoint

TESTS = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_model_is_the_saved_one(family: str, tmp_path: Path):
    model = make_pruned_model(family)
    lightpeft.save(model, tmp_path / "out")

    again = lightpeft.load(make_tiny_model(family), tmp_path / "out")

    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert torch.equal(compute_tiny_logits(model), compute_tiny_logits(again))
    assert lightpeft.get_plan(again) == lightpeft.get_plan(model)


def test_base_model_may_be_in_another_folder(tmp_path: Path):
    make_tiny_model().save_pretrained(tmp_path / "base")
    model_class = type(make_tiny_model())
    model = model_class.from_pretrained(tmp_path / "base")
    scores = draw_random_scores(model)
    lightpeft.save(lightpeft.prune(model, make_uneven_plan(scores), scores), tmp_path / "out")
    (tmp_path / "base").rename(tmp_path / "moved")

    # Warnings are errors.
    loaded = lightpeft.load(model_class.from_pretrained(tmp_path / "moved"), tmp_path / "out")

    assert loaded.peft_config["default"].base_model_name_or_path == str(tmp_path / "moved")


def test_a_fresh_process_loads_the_same_model(tmp_path: Path):
    model = make_pruned_model(use_rslora=True)
    lightpeft.save(model, tmp_path / "out")
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "import lightpeft\n"
        "from helpers.tiny_models import make_tiny_batch, make_tiny_model\n"
        "from safetensors.torch import save_file\n"
        f"model = lightpeft.load(make_tiny_model(), {str(tmp_path / 'out')!r})\n"
        "with torch.no_grad():\n"
        "    found = model(**make_tiny_batch()).logits\n"
        f"save_file({{'logits': found}}, {str(tmp_path / 'logits')!r})\n"
    )

    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
    )

    assert torch.equal(load_file(tmp_path / "logits")["logits"], compute_tiny_logits(model))


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path):
    lightpeft.save(make_pruned_model(), tmp_path / "one")

    lightpeft.save(lightpeft.load(make_tiny_model(), tmp_path / "one"), tmp_path / "two")

    names = ["SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "plan.json"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_fresh_pooler_is_trained_saved_and_lifted_with_the_head(tmp_path: Path):
    model = make_tiny_model()
    scores = estimate_tiny_scores(model, modules_to_save=["classifier", "bert.pooler"])
    pooler = "base_model.model.bert.pooler.dense.weight"
    assert not torch.equal(scores.adapter[pooler], model.bert.pooler.dense.weight)
    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores)
    lightpeft.save(pruned, tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "lifted")

    again = lightpeft.load(make_tiny_model(), tmp_path / "out")
    stock = PeftModel.from_pretrained(make_tiny_model(), str(tmp_path / "lifted"))

    assert torch.equal(compute_tiny_logits(again), compute_tiny_logits(pruned))
    mask_units(stock.base_model.model, lightpeft.get_plan(pruned))
    torch.testing.assert_close(
        compute_tiny_logits(stock), compute_tiny_logits(pruned), rtol=1e-5, atol=1e-5
    )


def test_saved_folder_holds_no_base_weights(tmp_path: Path):
    model = make_pruned_model()
    lightpeft.save(model, tmp_path / "out")

    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")

    assert all(".lora_" in name or ".classifier." in name for name in weights)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(w.numel() for w in weights.values()) == sum(w.numel() for w in trained)


def test_compact_folder_is_a_stock_adapter_of_the_sliced_base(tmp_path: Path):
    model = make_pruned_model(use_rslora=True, r=6, lora_alpha=7)
    lightpeft.save(model, tmp_path / "out")
    base = make_tiny_model()
    slice_base(base, lightpeft.get_plan(model))

    stock = PeftModel.from_pretrained(base, str(tmp_path / "out"))

    torch.testing.assert_close(
        compute_tiny_logits(stock), compute_tiny_logits(model), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True, "r": 3, "lora_alpha": 5}])
@pytest.mark.parametrize("family", FAMILIES)
def test_lifted_adapter_on_the_masked_base_is_the_pruned_model(
    family: str, changes: dict[str, object], tmp_path: Path
):
    model = make_pruned_model(family, **changes)
    lightpeft.save(model, tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "lifted")

    stock = PeftModel.from_pretrained(make_tiny_model(family), str(tmp_path / "lifted"))

    unmasked = compute_tiny_logits(stock)
    mask_units(stock.base_model.model, lightpeft.get_plan(model))
    torch.testing.assert_close(
        compute_tiny_logits(stock), compute_tiny_logits(model), rtol=1e-5, atol=1e-5
    )
    assert (unmasked - compute_tiny_logits(model)).abs().max() > 0.01


def test_lifted_weights_are_the_compact_ones_and_zeros(tmp_path: Path):
    model = make_pruned_model()
    plan = lightpeft.get_plan(model)
    lightpeft.save(model, tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "lifted")
    compact = load_file(tmp_path / "out" / "adapter_model.safetensors")
    lifted = load_file(tmp_path / "lifted" / "adapter_model.safetensors")

    assert compact.keys() == lifted.keys()
    for key, small in compact.items():
        large = lifted[key]
        if ".lora_" not in key:
            assert torch.equal(small, large)
            continue
        name = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
        linear = plan.shape.linears[name]
        shape = (4, linear.inputs) if "lora_A" in key else (linear.outputs, 4)
        assert large.shape == shape
        # Random weights are not zero, so the zeros are exactly what was cut.
        rows, columns = large.any(dim=1), large.any(dim=0)
        assert torch.equal(large[rows][:, columns], small)
        assert large.count_nonzero() == small.numel()


def test_loaded_model_is_frozen_unless_training_goes_on(tmp_path: Path):
    model = make_pruned_model(lora_dropout=0.5)
    lightpeft.save(model, tmp_path / "out")

    frozen = lightpeft.load(make_tiny_model().train(), tmp_path / "out")
    training = lightpeft.load(make_tiny_model(), tmp_path / "out", trainable=True)

    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    names = [{n for n, w in m.named_parameters() if w.requires_grad} for m in (model, training)]
    assert names[0] == names[1] != set()


def test_saving_over_an_older_folder_replaces_it(tmp_path: Path):
    lightpeft.save(make_pruned_model(seed=1), tmp_path / "out")
    model = make_pruned_model()

    lightpeft.save(model, tmp_path / "out")

    assert torch.equal(
        compute_tiny_logits(lightpeft.load(make_tiny_model(), tmp_path / "out")),
        compute_tiny_logits(model),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = make_pruned_model()
    lightpeft.save(model, tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OSError, match="no space"):
        lightpeft.save(make_pruned_model(seed=1), tmp_path / "out")

    assert torch.equal(
        compute_tiny_logits(lightpeft.load(make_tiny_model(), tmp_path / "out")),
        compute_tiny_logits(model),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_an_error_that_names_the_folder_and_leaves_nothing(tmp_path: Path):
    model, (soft, hard) = make_pruned_model(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path}/out'"):
            lightpeft.save(model, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not [*tmp_path.iterdir()]


def test_model_without_a_plan_is_not_saved(tmp_path: Path):
    with pytest.raises(ModelError, match="the model has no plan"):
        lightpeft.save(make_tiny_model(), tmp_path / "out")

    assert not (tmp_path / "out").exists()
