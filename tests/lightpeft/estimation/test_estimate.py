"""The early phase: what it scores, what it leaves behind, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import (
    FAMILIES,
    check_unchanged,
    compute_tiny_logits,
    draw_random_scores,
    estimate_tiny_scores,
    make_lora,
    make_tiny_batch,
    make_tiny_batches,
    make_tiny_model,
)
from peft import AdaLoraConfig, LoftQConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig

import lightpeft
from lightpeft.acceleration.dropouts import FewBitDropout
from lightpeft.core.config import EstimationConfig
from lightpeft.core.errors import ModelError, ScoresError
from lightpeft.core.scores import Scores
from lightpeft.estimation.importance import score_ranks

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FIRST = "bert.encoder.layer.0.attention"


@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_afterwards_what_it_was(family: str):
    model = make_tiny_model(family)
    outputs = compute_tiny_logits(model)

    with check_unchanged(model):
        scores = estimate_tiny_scores(model)

    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.training
    assert torch.equal(compute_tiny_logits(model), outputs)
    head = [name for name in scores.adapter if "lora_" not in name]
    assert head, "the task head is not among the trained weights"
    for name in head:
        start = model.state_dict()[name.removeprefix("base_model.model.")]
        assert not torch.equal(scores.adapter[name], start), f"{name} was not trained"


def test_dropouts_draw_few_bits_until_the_end():
    model = make_tiny_model(hidden_dropout_prob=0.1)
    stock = [*map(type, model.modules())]
    seen: list[bool] = []

    lightpeft.estimate(
        model,
        make_lora(),
        list(make_tiny_batches()),
        EstimationConfig(steps=2),
        progress=lambda *_, **__: seen.append(
            any(isinstance(x, FewBitDropout) for x in model.modules())
        ),
    )

    assert seen == [True, True]
    assert [*map(type, model.modules())] == stock


def test_estimating_twice_from_one_seed_gives_the_same_bytes(tmp_path: Path):
    for name in ("one", "two"):
        estimate_tiny_scores(make_tiny_model(), lora_dropout=0.1).save(tmp_path / name)

    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [
        "SHA256SUMS",
        "adapter_config.json",
        "adapter_model.safetensors",
        "curve.csv",
        "scores.json",
        "scores.safetensors",
    ]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_another_seed_gives_other_scores():
    model, digests = make_tiny_model(), set()
    for seed in range(2):
        torch.manual_seed(seed)
        digests.add(
            lightpeft.estimate(
                model, make_lora(), list(make_tiny_batches()), EstimationConfig(steps=2)
            ).digest
        )

    assert len(digests) == 2


def test_scores_are_means_over_the_second_half_of_the_steps():
    model, config = make_tiny_model(**QUIET), make_lora(init_lora_weights=False)
    batches = [make_tiny_batch(seed=seed) for seed in range(4)]
    torch.manual_seed(0)
    scores = lightpeft.estimate(model, config, batches, EstimationConfig(steps=4, lr=1e-30))

    torch.manual_seed(0)
    wrapped = get_peft_model(model, copy.deepcopy(scores.peft))
    layer = wrapped.get_submodule(f"base_model.model.{FIRST}.self.query")
    weight, expected = layer.lora_A["default"].weight, torch.zeros(4)
    for batch in batches[2:]:
        weight.grad = None
        wrapped(**batch).loss.backward()
        expected += score_ranks(weight.detach(), weight.grad) / 2
    torch.testing.assert_close(scores.ranks[f"{FIRST}.self.query"], expected)


def test_bfloat16_model_is_estimated_in_float32_adapters(tmp_path: Path):
    scores = estimate_tiny_scores(make_tiny_model().bfloat16())
    scores.save(tmp_path)

    assert Scores.load(tmp_path).digest == scores.digest

    assert all(t.dtype == torch.float32 for n, t in scores.adapter.items() if "lora_" in n)
    assert scores.fingerprint == estimate_tiny_scores(make_tiny_model(), steps=2).fingerprint


def test_l1_pulls_the_masks_below_one():
    model = make_tiny_model()
    settings = {"steps": 6, "mask_lr": 0.01}
    batches = list(make_tiny_batches())

    pulled = lightpeft.estimate(model, make_lora(), batches, EstimationConfig(l1=1e6, **settings))
    free = lightpeft.estimate(model, make_lora(), batches, EstimationConfig(l1=0.0, **settings))

    # Adam moves a step of one sign by the learning rate, after one step of warmup.
    rows = [*pulled.heads["mask"].values(), *pulled.neurons["mask"].values()]
    torch.testing.assert_close(torch.cat(rows), torch.full((3 * 68,), 0.94), rtol=0, atol=1e-3)
    assert torch.cat([*free.heads["mask"].values()]).max() > 1


def test_masks_learn_at_their_own_rate():
    model, batches = make_tiny_model(), list(make_tiny_batches())

    slow = lightpeft.estimate(model, make_lora(), batches, EstimationConfig(steps=4, mask_lr=1e-6))

    assert slow.curve[-1]["head_movement_max"] == pytest.approx(4e-6, rel=0.3)


def test_magnitude_is_the_norm_of_all_that_a_unit_owns():
    model = make_tiny_model("distilbert")
    scores = draw_random_scores(model)
    scored = estimate_tiny_scores(model, steps=2)
    block = list(scores.shape.neurons)[1]
    rows, columns = model.get_submodule(block).lin1.weight, model.get_submodule(block).lin2.weight
    expected = (rows.square().sum(1) + columns.square().sum(0)).sqrt()
    torch.testing.assert_close(scored.neurons["magnitude"][block], expected)

    attention = scores.shape.attention_blocks[1]
    block = attention.path
    linears = [model.get_submodule(f"{block}.{x}_lin").weight[8:16] for x in "qkv"]
    linears.append(model.get_submodule(attention.output_projection).weight[:, 8:16])
    expected = torch.cat([part.flatten() for part in linears]).norm()
    torch.testing.assert_close(scored.heads["magnitude"][block][1], expected)


def test_curve_has_a_row_per_step_and_progress_is_told():
    steps: list[int] = []
    scores = lightpeft.estimate(
        make_tiny_model(),
        make_lora(),
        list(make_tiny_batches()),
        EstimationConfig(steps=6),
        progress=lambda step, **values: steps.append(step),
    )

    assert [row["step"] for row in scores.curve] == steps == [1, 2, 3, 4, 5, 6]
    assert scores.curve[0].keys() >= {"task_loss", "head_movement", "neuron_movement_max"}


@pytest.mark.parametrize("targets", ["all-linear", None])
def test_all_linear_means_the_linears_of_the_blocks(targets: str | None):
    scores = estimate_tiny_scores(make_tiny_model(), steps=2, target_modules=targets)

    assert scores.modules.keys() == scores.shape.linears.keys()


def test_targets_are_endings_of_whole_names():
    scores = estimate_tiny_scores(
        make_tiny_model(), steps=2, target_modules=["query", "attention.output.dense"]
    )

    names = {name.removeprefix("bert.encoder.layer.") for name in scores.modules}
    assert names == {
        f"{layer}.attention.{name}" for layer in range(3) for name in ("self.query", "output.dense")
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "all"}, r"LoraConfig\.bias is not supported"),
        ({"lora_bias": True}, r"LoraConfig\.lora_bias is not supported"),
        ({"rank_pattern": {"query": 2}}, r"LoraConfig\.rank_pattern is not supported"),
        ({"exclude_modules": ["query"]}, r"LoraConfig\.exclude_modules is not supported"),
        ({"layers_to_transform": [0], "target_modules": ["query"]}, "layers_to_transform is not"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be true, false or gaussian"),
        ({"init_lora_weights": "olora"}, "init_lora_weights must be .*, got 'olora'"),
        ({"init_lora_weights": "loftq", "loftq_config": LoftQConfig()}, "must be .*, got 'loftq'"),
        ({"init_lora_weights": "corda", "corda_config": CordaConfig()}, "must be .*, got 'corda'"),
        (
            {"target_modules": ["query", "qery"]},
            r"LoraConfig\.target_modules: 'qery' is no linear.*query",
        ),
        (
            {"target_modules": "classifier"},
            r"LoraConfig\.target_modules: 'classifier' is no linear",
        ),
        (
            {"target_modules": "layer.(0"},
            r"LoraConfig\.target_modules: 'layer\.\(0' is no regex: mis",
        ),
        ({"target_modules": []}, r"LoraConfig\.target_modules: .* is no linear"),
        ({"modules_to_save": ["dense"]}, "'dense' would train all of bert"),
        ({"modules_to_save": ["layer.1"]}, "'layer.1' would train all of bert.encoder.layer.1"),
    ],
)
def test_what_cannot_be_sliced_later_is_refused_at_once(changes: dict[str, object], message: str):
    model = make_tiny_model()

    with check_unchanged(model), pytest.raises(ModelError, match=message) as caught:
        estimate_tiny_scores(model, **changes)

    assert "\n" not in str(caught.value)


def test_other_peft_methods_are_refused():
    config = AdaLoraConfig(total_step=10, target_modules=["query"])

    with pytest.raises(ModelError, match="must be LoRA or bottleneck adapters, got AdaLoraConfig"):
        lightpeft.estimate(
            make_tiny_model(), config, list(make_tiny_batches()), EstimationConfig(steps=2)
        )


def test_callers_config_is_left_alone():
    config = make_lora()
    before = config.to_dict()

    lightpeft.estimate(
        make_tiny_model(), config, list(make_tiny_batches()), EstimationConfig(steps=2)
    )

    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (make_tiny_batches(), "ran out after 4 of 6 steps; pass a list or a Data"),
        ([], "ran out after 0 of 6 steps"),
        (
            [{name: make_tiny_batch()[name] for name in ("input_ids", "attention_mask")}],
            "must hold labels, got input_ids, attention_mask",
        ),
    ],
    ids=["iterator", "none", "no labels"],
)
def test_batches_that_run_out_or_lack_labels_are_an_error(batches: object, message: str):
    with pytest.raises(ScoresError, match=message):
        lightpeft.estimate(make_tiny_model(), make_lora(), batches, EstimationConfig(steps=6))


def test_loss_that_is_not_a_number_names_the_step_and_restores_the_model():
    model = make_tiny_model(num_labels=1)
    good = [make_tiny_batch(seed=seed) for seed in range(3)]
    batches = [batch | {"labels": batch["labels"].float()} for batch in good]
    batches[2]["labels"][0] = torch.nan

    message = r"^step 3: .* is not a number; lower lr, or load"
    with check_unchanged(model), pytest.raises(ScoresError, match=message):
        lightpeft.estimate(model, make_lora(), batches, EstimationConfig(steps=6))


def test_the_whole_task_head_is_trained_and_saved():
    scores = estimate_tiny_scores(make_tiny_model("distilbert"), steps=2)

    heads = {name.split(".")[-2] for name in scores.adapter if "lora_" not in name}
    assert heads == {"pre_classifier", "classifier"}


def test_a_loss_of_ones_own_is_what_is_trained_and_scored():
    def twice(output: Any, batch: Any) -> torch.Tensor:
        assert "labels" in batch
        return 2 * output.loss

    own, doubled = (
        lightpeft.estimate(
            make_tiny_model(**QUIET),
            make_lora(),
            make_tiny_batches(4),
            EstimationConfig(steps=2, l1=0, lr=1e-9),
            compute_loss=compute_loss,
        )
        for compute_loss in (None, twice)
    )

    assert doubled.curve[0]["task_loss"] == pytest.approx(2 * own.curve[0]["task_loss"])
    for block, scores in own.heads["taylor"].items():
        torch.testing.assert_close(doubled.heads["taylor"][block], 2 * scores, rtol=1e-3, atol=0)
