"""A quantized base: estimated on as it is, cut before it is quantized again."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import (
    build,
    compute_logits,
    compute_loss,
    compute_outputs,
    draw_plan,
    draw_scores,
    make_batch,
)
from helpers.architectures import LLAMA
from helpers.quantizers import MISSING, QUANTIZERS, Packed
from helpers.tiny_models import make_tiny_model
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils.integrations import dequantize_module_weight
from torch import nn

import lightpeft
from lightpeft import BottleneckConfig
from lightpeft.core.config import EstimationConfig, PruningConfig
from lightpeft.core.errors import CheckpointError, ModelError, PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.fingerprint import compute_fingerprint

pytestmark = [
    pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast"),
]
RATIOS = {"heads": 0.5, "neurons": 0.5, "modules": 0.25, "ranks": 0.5}
WAYS = [
    *QUANTIZERS,
    *(pytest.param(name, marks=pytest.mark.skip(reason="not installed")) for name in MISSING),
]


def estimated(name: str, config: PeftConfig | None = None) -> tuple[Scores, PruningPlan]:
    """Scores of the quantized model, and a plan."""
    torch.manual_seed(0)
    model = build(LLAMA)
    QUANTIZERS[name](model)
    batches = [make_batch(LLAMA, seed=seed, labels=True) for seed in range(2)]
    config = config or LoraConfig(r=4)
    scores = lightpeft.estimate(model, config, batches, EstimationConfig(steps=4))
    return scores, lightpeft.make_plan(scores, PruningConfig(**RATIOS))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("family", ["bert", LLAMA])
def test_a_quantized_model_has_the_shape_of_its_checkpoint(name: str, family: str):
    plain = make_tiny_model("bert") if family == "bert" else build(family)
    model = copy.deepcopy(plain)
    QUANTIZERS[name](model)

    shape = lightpeft.inspect_model(model)

    assert shape == lightpeft.inspect_model(plain)
    mark = compute_fingerprint(model, shape)
    assert mark.startswith("quantized-")
    assert compute_fingerprint(plain.bfloat16(), shape, like=mark) == mark
    assert (
        compute_fingerprint(build(LLAMA, seed=1), lightpeft.inspect_model(build(LLAMA)), like=mark)
        != mark
    )
    assert not compute_fingerprint(plain, shape).startswith("quantized-")


@pytest.mark.parametrize("name", WAYS)
def test_plan_of_a_quantized_model_cuts_the_checkpoint_then_quantizes(name: str, tmp_path: Path):
    scores, plan = estimated(name)
    for rows in (*scores.heads.values(), *scores.neurons.values()):
        assert all(row.any() for row in rows.values())

    pruned = lightpeft.prune(
        build(LLAMA), plan, scores, verify_batch=make_batch(LLAMA), quantize=QUANTIZERS[name]
    )

    reference = rounded_like(pruned, lightpeft.prune(build(LLAMA), plan, scores))
    # Of the largest: bitsandbytes rounds activations too, to 8 bits.
    close = {"rtol": 0, "atol": 0.1 if name == "quantize_bitsandbytes_int8" else 1e-5}
    logits = [compute_logits(model, make_batch(LLAMA)).detach() for model in (pruned, reference)]
    scale = logits[1].abs().max()
    torch.testing.assert_close(logits[0] / scale, logits[1] / scale, **close)
    for model in (pruned, reference):
        compute_loss(model, make_batch(LLAMA)).backward()
    other = dict(reference.named_parameters())
    trained = {path: w for path, w in pruned.named_parameters() if w.requires_grad}
    for path, weight in trained.items():
        scale = other[path].grad.abs().max()
        torch.testing.assert_close(weight.grad / scale, other[path].grad / scale, **close)
    assert len(trained) == 2 * sum(bool(cut.kept) for cut in plan.ranks.values())

    lightpeft.save(pruned, tmp_path / "out")
    again = lightpeft.load(build(LLAMA), tmp_path / "out", quantize=QUANTIZERS[name])
    assert torch.equal(
        compute_logits(again, make_batch(LLAMA)), compute_logits(pruned, make_batch(LLAMA))
    )


def rounded_like(quantized: PeftModel, plain: PeftModel) -> PeftModel:
    """The pruned model with the values that quantization left of its weights, unpacked."""
    moved = 0
    for path, module in plain.get_base_model().named_modules():
        other = quantized.get_base_model().get_submodule(path)
        if isinstance(module, nn.Linear) and "layers" in path and "lora" not in path:
            weight = dequantize_module_weight(other).detach()
            moved += not torch.equal(module.weight, weight)
            assert module.weight.shape == weight.shape
            module.weight.data = weight.clone()
    assert moved == 14
    return plain


def test_wrong_checkpoint_is_refused_after_estimating_on_a_quantized_one(tmp_path: Path):
    scores, plan = estimated("stand-in")

    with pytest.raises(PlanError, match=r"base weights quantized-\w{16}, but these are quantized-"):
        lightpeft.prune(build(LLAMA, seed=1), plan, scores)
    lightpeft.save(lightpeft.prune(build(LLAMA), plan, scores), tmp_path / "out")
    with pytest.raises(CheckpointError, match="base weights quantized-"):
        lightpeft.load(build(LLAMA, seed=1), tmp_path / "out")


def test_quantized_embeddings_are_refused():
    model = build(LLAMA)
    QUANTIZERS["stand-in"](model)
    table = model.model.embed_tokens
    table.weight = nn.Parameter(table.weight.detach().to(torch.int8), requires_grad=False)

    with pytest.raises(ModelError, match=r"embed_tokens\.weight is quantized: .* linears only"):
        lightpeft.estimate(
            model, LoraConfig(), [make_batch(LLAMA, labels=True)], EstimationConfig(steps=2)
        )


def test_packed_weights_are_not_cut_and_nothing_is_changed():
    scores, plan = estimated("stand-in")
    model = build(LLAMA)
    QUANTIZERS["stand-in"](model)
    before = compute_outputs(model, LLAMA)

    with pytest.raises(ModelError, match=r"q_proj is quantized, and packed weights can't be"):
        lightpeft.prune(model, plan, scores)

    assert torch.equal(compute_outputs(model, LLAMA), before)
    scores_of_full = draw_scores(build(LLAMA))
    spared = lightpeft.make_plan(
        scores_of_full, PruningConfig(**(RATIOS | {"heads": 0, "neurons": 0}))
    )
    with pytest.raises(PlanError, match=r"base weights \w{16}, but these are quantized-"):
        lightpeft.prune(model, spared, scores_of_full)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    "config",
    [LoraConfig(r=4), LoraConfig(r=4, use_dora=True), BottleneckConfig(r=4, placement="parallel")],
    ids=["lora", "dora", "bottleneck"],
)
def test_plan_that_spares_the_base_applies_to_the_quantized_model_itself(
    name: str, config: PeftConfig
):
    if getattr(config, "use_dora", False) and name == "quantize_bitsandbytes_int8":
        pytest.skip("peft 0.21 loses the scales of bitsandbytes' int8 weights with DoRA, on a CPU")
    scores, _ = estimated(name, config)
    plan = lightpeft.make_plan(scores, PruningConfig(**(RATIOS | {"heads": 0, "neurons": 0})))
    model = build(LLAMA)
    QUANTIZERS[name](model)

    pruned = lightpeft.prune(model, plan, scores).eval()

    expected = lightpeft.prune(build(LLAMA), plan, scores, quantize=QUANTIZERS[name]).eval()
    assert torch.equal(compute_outputs(pruned, LLAMA), compute_outputs(expected, LLAMA))


def test_quantized_linears_that_pass_no_gradient_on_are_refused(monkeypatch: pytest.MonkeyPatch):
    model = build(LLAMA)
    QUANTIZERS["stand-in"](model)
    forward = Packed.forward  # torchao's int8 with dynamic activations does the like
    monkeypatch.setattr(Packed, "forward", lambda self, rows: forward(self, rows).detach())

    with pytest.raises(ModelError, match=r"model\.layers\.\S+_proj passes no gradient on"):
        lightpeft.estimate(
            model, LoraConfig(), [make_batch(LLAMA, labels=True)], EstimationConfig(steps=2)
        )

    assert type(model.model.layers[0].mlp.up_proj) is Packed


def test_quantize_must_change_the_model_in_place():
    model = build(LLAMA)
    scores = draw_scores(model)
    plan = dataclasses.replace(draw_plan(scores))

    with pytest.raises(ModelError, match="must change the model that it is given"):
        lightpeft.prune(model, plan, scores, quantize=copy.deepcopy)
