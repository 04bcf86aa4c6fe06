"""A checkpoint that is damaged, foreign or mixed up is one line, and changes no model."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from helpers.sealing import edit_plan, seal
from helpers.tiny_models import (
    check_unchanged,
    compute_tiny_logits,
    make_pruned_model,
    make_tiny_model,
)
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import lightpeft
from lightpeft.core.errors import CheckpointError, ModelError
from lightpeft.core.safetensors_header import read_plan_digest
from lightpeft.peft_methods.registry import make_pruned_config
from lightpeft.pruning import prune as prune_module

FILES = ["adapter_config.json", "adapter_model.safetensors", "plan.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lightpeft.save(make_pruned_model(), tmp_path / "out")
    return tmp_path / "out"


def edit_config(folder: Path, **changes: object) -> None:
    """Change settings of the adapter; its digest fits again."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    seal(folder)


@contextmanager
def edited_weights(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Change weights of the adapter, which stays that of its plan; its digest fits again."""
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    yield weights
    save_file(weights, path, {"plan": read_plan_digest(path, CheckpointError)})
    seal(folder)


def refused(folder: Path, base: transformers.PreTrainedModel, message: str) -> None:
    """Loading fails with one line, and the base is as it was."""
    expected = (CheckpointError, ModelError)
    with check_unchanged(base), pytest.raises(expected, match=message) as caught:
        lightpeft.load(base, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_one_line(folder: Path, name: str):
    (folder / name).unlink()

    refused(folder, make_tiny_model(), rf"{name} does not exist")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_file_cut_short_is_one_line(folder: Path, name: str, share: float):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])

    refused(
        folder, make_tiny_model(), rf"{name} is not the file that was saved, .* was it cut short"
    )
    with pytest.raises(CheckpointError, match=name):
        lightpeft.expand_adapter(folder, folder.parent / "lifted")
    assert not (folder.parent / "lifted").exists()


def test_checkpoint_of_another_version_is_one_line_with_what_to_do(folder: Path):
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace("lightpeft-plan-5", "lightpeft-plan-4"))
    seal(folder)

    refused(folder, make_tiny_model(), r"is lightpeft-plan-4, .*; prune and fine-tune again$")


def test_folder_without_digests_is_one_line_with_what_to_do(folder: Path):
    (folder / "SHA256SUMS").unlink()

    refused(
        folder, make_tiny_model(), r"has no SHA256SUMS: .* older .*; prune and fine-tune again$"
    )


def test_every_flipped_bit_is_noticed(folder: Path):
    base, draw = make_tiny_model(), random.Random(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for position in draw.sample(range(len(data)), 25):
            changed = bytearray(data)
            changed[position] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(CheckpointError, match=r"not the file that was saved|sha256sum"):
                lightpeft.load(base, folder)
        path.write_bytes(data)
    lightpeft.load(base, folder)


def test_digests_are_those_of_sha256sum(folder: Path):
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=True)


def test_folder_that_is_not_there_is_one_line(tmp_path: Path):
    refused(tmp_path / "nowhere", make_tiny_model(), r"nowhere is not a folder on this machine; ")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "plan.json"])
def test_file_of_another_plan_with_equal_counts_is_refused(folder: Path, name: str):
    lightpeft.save(make_pruned_model(seed=1), folder.parent / "other")
    shutil.copy(folder.parent / "other" / name, folder / name)
    refused(folder, make_tiny_model(), rf"{name} is not the file that was saved")
    seal(folder)

    refused(folder, make_tiny_model(), r"was not saved with the plan\.json beside it")


def test_safetensors_of_something_else_are_refused(folder: Path):
    save_file({"x": torch.ones(2)}, folder / "adapter_model.safetensors")
    seal(folder)

    refused(folder, make_tiny_model(), r"was not saved with the plan\.json beside it")


@pytest.mark.parametrize("change", ["missing", "left over", "other shape"])
def test_weights_that_the_plan_does_not_describe_are_refused(folder: Path, change: str):
    with edited_weights(folder) as weights:
        name = next(name for name in weights if "lora_A" in name)
        if change == "missing":
            del weights[name]
        elif change == "left over":
            weights[name.replace("layer.", "layer.7")] = weights[name].clone()
        else:
            weights[name] = weights[name][:, :3].contiguous()

    refused(
        folder, make_tiny_model(), r"PEFT weight base_model\.model\.\S+ must have shape .*, got "
    )
    with pytest.raises(CheckpointError, match="must have shape"):
        lightpeft.expand_adapter(folder, folder.parent / "lifted")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold a JSON object, got list"),
        ("{}", "must be of peft_type LORA or LIGHTPEFT_BOTTLENECK, got None"),
        ('{"peft_type": "IA3"}', "must be of peft_type LORA or .*, got 'IA3'"),
        ('{"peft_type": "LORA", "r": "a"}', "damaged: r: Input should be a valid integer, got 'a'"),
        ('{"peft_type": "LORA", "r": 5}', "rank r 5 is not that of plan.json"),
    ],
)
def test_config_of_something_else_is_refused(folder: Path, text: str, message: str):
    (folder / "adapter_config.json").write_text(text)
    seal(folder)

    refused(folder, make_tiny_model(), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "the PEFT method DORA is not that of plan.json"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be .* got 'pissa'"),
        ({"bias": "all"}, "LoraConfig.bias is not supported, got 'all'"),
        ({"lora_dropout": 2}, "lora_dropout: Input should be less than or equal to 1, got 2"),
        ({"lora_alpha": 10**400}, "lora_alpha: Input should be"),
        ({"r": 4.0}, "r: Input should be a valid integer"),
        ({"init_lora_weights": 1}, "init_lora_weights must be true, false or gaussian, got 1"),
        ({"setting_of_peft_9": 7}, "LoraConfig.setting_of_peft_9 is not supported, got 7"),
    ],
)
def test_edited_settings_that_change_the_method_are_refused(
    folder: Path, changes: dict[str, object], message: str
):
    edit_config(folder, **changes)

    refused(folder, make_tiny_model(), message)
    with pytest.raises(CheckpointError, match=message):
        lightpeft.expand_adapter(folder, folder.parent / "lifted")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_type": "SEQ_2_SEQ_LM"}, "the adapter does not fit the model: AttributeError"),
        ({"task_type": "SEQ"}, "task_type: Input should be"),
        ({"modules_to_save": ["no_module"], "task_type": None}, "made for base weights"),
        ({"modules_to_save": ["classifier", "query"]}, "made for base weights"),
        ({"modules_to_save": ["classifier", "dropout"]}, "PEFT weight .* got|does not fit"),
    ],
)
def test_edited_settings_that_do_not_fit_the_model_leave_it_as_it_was(
    folder: Path, changes: dict[str, object], message: str
):
    edit_config(folder, **changes)

    refused(folder, make_tiny_model(), message)


@pytest.mark.parametrize(
    "changes",
    [{"setting_of_peft_9": None}, {"target_modules": [".*"], "rank_pattern": {".*": 1}}],
    ids=["not set", "targets that the plan has itself"],
)
def test_edited_settings_that_are_not_read_change_nothing(folder: Path, changes: dict[str, object]):
    edit_config(folder, **changes)

    assert torch.equal(
        compute_tiny_logits(lightpeft.load(make_tiny_model(), folder)),
        compute_tiny_logits(make_pruned_model()),
    )


def test_plan_without_the_number_of_embeddings_is_one_line(folder: Path):
    raw = json.loads((folder / "plan.json").read_text())
    del raw["shape"]["non_block_parameters"]["embeddings"]
    edit_plan(folder, raw)

    refused(folder, make_tiny_model(), "with 0 parameters of embeddings, but this one has 4,544")


@pytest.mark.parametrize("part", ["classifier", "lora_A"])
def test_weight_of_another_kind_of_numbers_is_refused(folder: Path, part: str):
    with edited_weights(folder) as weights:
        name = next(name for name in weights if part in name)
        weights[name] = weights[name].bool()

    refused(folder, make_tiny_model(), rf"{part}.* must not be of dtype torch\.bool")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weight_that_is_not_finite_is_neither_saved_nor_loaded(folder: Path, value: float):
    model = make_pruned_model()
    head = model.base_model.model.classifier.modules_to_save["default"].weight
    head.data[0, 0] = value
    with pytest.raises(CheckpointError, match=r"nothing was saved: the weight .*classifier"):
        lightpeft.save(model, folder)
    with edited_weights(folder) as weights:
        weights[min(weights)].view(-1)[0] = value

    refused(folder, make_tiny_model(), "holds NaN or infinity")


def test_rehearsal_draws_no_random_numbers_of_the_caller():
    base, plan = make_tiny_model(), lightpeft.get_plan(make_pruned_model())
    config = make_pruned_config(LoraConfig(r=4, task_type="SEQ_CLS"), plan)
    before = torch.get_rng_state()

    prune_module._rehearse(base, plan, config, None)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"made for base weights \w{16}, but these are \w{16}"),
        ({"num_hidden_layers": 2}, "other sizes than this bert model's"),
        ({"vocab_size": 101}, "with 4,544 parameters of embeddings, but this one has 4,576"),
        ({"num_labels": 3}, r"classifier\.bias must have shape \(3,\), got \(2,\)"),
    ],
)
def test_base_of_another_kind_is_refused(folder: Path, changes: dict[str, int], message: str):
    refused(folder, make_tiny_model(**changes), message)


def test_wrapped_base_is_refused(folder: Path):
    base = make_tiny_model()
    lightpeft.load(base, folder)

    refused(folder, base, "pass the plain model, not one wrapped by peft")
