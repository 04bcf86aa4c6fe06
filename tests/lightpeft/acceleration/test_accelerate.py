"""An accelerated model stays a stock PeftModel, says what was left, and can be made stock again."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import make_lora, make_tiny_batch, make_tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

import lightpeft
from lightpeft.acceleration.dropouts import shorten_draws
from lightpeft.modeling.adapters import cast_trainable_to_float32


def make_model(
    family: str = "bert", *, dtype: torch.dtype = torch.float32, **changes: object
) -> PeftModel:
    """A classifier with a LoRA adapter that changes its output."""
    torch.manual_seed(0)
    model = get_peft_model(make_tiny_model(family).to(dtype), make_lora(**changes))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    cast_trainable_to_float32(model)
    return model.eval()


def repickle(model: PeftModel) -> PeftModel:
    """Return a copy."""
    return pickle.loads(pickle.dumps(model))


def compute(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the logits, with their graph."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model(**make_tiny_batch()).logits


def compute_gradients(model: nn.Module) -> list[Tensor]:
    """Return the gradients of the trained weights."""
    model.zero_grad()
    compute(model).sum().backward()
    return [weight.grad for weight in model.parameters() if weight.requires_grad]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_undo_restores_stock_bit_for_bit(dtype: torch.dtype):
    model = make_model(dtype=dtype)
    expected, types = compute(model, dtype=dtype), [type(m) for m in model.modules()]

    lightpeft.accelerate(model)
    accelerated = [type(m) for m in model.modules()]
    lightpeft.undo_acceleration(model)

    assert accelerated != types
    assert torch.equal(compute(model, dtype=dtype), expected)
    assert [type(m) for m in model.modules()] == types
    assert not any({"forward", "operands", "siblings"} & set(vars(m)) for m in model.modules())


def test_accelerating_twice_is_accelerating_once():
    model = make_model(dtype=torch.bfloat16)

    assert lightpeft.accelerate(model) == lightpeft.accelerate(model)
    lightpeft.undo_acceleration(model)
    assert {type(m) for m in model.modules() if isinstance(m, Linear)} == {Linear}


def add_second_adapter(model: PeftModel) -> None:
    model.add_adapter("second", make_lora(init_lora_weights=False))


def activate_both(model: PeftModel) -> None:
    add_second_adapter(model)
    for module in model.modules():
        if isinstance(module, Linear):
            module.set_adapter(["default", "second"])


def switch(model: PeftModel) -> None:
    add_second_adapter(model)
    model.set_adapter("second")


def unmerge(model: PeftModel) -> None:
    model.merge_adapter()
    compute(model)
    model.unmerge_adapter()


def scale(model: PeftModel) -> None:
    for module in model.modules():
        if isinstance(module, Linear):
            module.set_scale("default", 3.0)


STATES: list[Callable[[PeftModel], object]] = [
    add_second_adapter,
    activate_both,
    switch,
    unmerge,
    scale,
    lambda model: model.merge_adapter(),
    lambda model: model.base_model.disable_adapter_layers(),
    lambda model: model.requires_grad_(True),
    lambda model: (
        model.base_model.model.bert.encoder.layer[0]
        .output.dense.lora_B["default"]
        .register_forward_hook(lambda module, inputs, output: output * 2)
    ),
]


@pytest.mark.parametrize("change", STATES)
def test_states_of_the_adapter_work_as_in_stock(change: Callable[[PeftModel], object]):
    stock, model = make_model(), make_model()
    lightpeft.accelerate(model)
    for changed in (stock, model):
        torch.manual_seed(1)
        change(changed)

    torch.testing.assert_close(compute(model), compute(stock), rtol=1e-4, atol=1e-4)


def test_dropout_is_that_of_stock_with_the_same_elements_dropped():
    stock = make_model(lora_dropout=0.5).train()
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)
    shorten_draws(stock)

    results = []
    for run in (model, stock):
        torch.manual_seed(0)
        results.append(compute_gradients(run))

    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.norm()))


def test_gradients_accumulate_in_float32():
    model = make_model(dtype=torch.bfloat16).train()
    lightpeft.accelerate(model)

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**make_tiny_batch()).loss
        loss.backward()

    def read() -> Tensor:
        return torch.cat([w.grad.flatten() for w in model.parameters() if w.requires_grad])

    torch.manual_seed(0)
    run()
    once = read().clone()
    torch.manual_seed(0)
    run()

    assert once.dtype == torch.float32
    assert torch.equal(read(), 2 * once)


@pytest.mark.parametrize("r", [1, 3])
def test_gradients_have_the_strides_of_weights(r: int):
    model = make_model(r=r)
    lightpeft.accelerate(model)

    gradients = compute_gradients(model)

    # DistributedDataParallel warns otherwise.
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    assert [g.stride() for g in gradients] == [weight.stride() for weight in weights]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_changes_nothing(dtype: torch.dtype, reentrant: bool):
    model = make_model(dtype=dtype).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.attention_probs_dropout_prob = 0.0
    lightpeft.accelerate(model)
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed.enable_input_require_grads()

    gradients = []
    for run in (model, checkpointed):
        compute(run, dtype=dtype).sum().backward()
        gradients.append([w.grad for w in run.parameters() if w.requires_grad])

    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-2 * float(expected.norm()))


@pytest.mark.parametrize("copy_model", [copy.deepcopy, repickle])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_accelerated_and_apart(
    copy_model: Callable[[PeftModel], PeftModel], dtype: torch.dtype
):
    model = make_model(dtype=dtype)
    lightpeft.accelerate(model)
    expected = compute(model, dtype=dtype)

    copied = copy_model(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()

    assert torch.equal(compute(copied, dtype=dtype), expected)
    lightpeft.undo_acceleration(copied)
    assert {type(m) for m in copied.modules() if isinstance(m, Linear)} == {Linear}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_not_compiled(dtype: torch.dtype):
    model = make_model(dtype=dtype)
    lightpeft.accelerate(model)
    expected = compute(model, dtype=dtype)
    expected.sum().backward()
    gradients = [w.grad for w in model.parameters() if w.requires_grad]
    model.zero_grad()

    got = compute(torch.compile(model, backend="aot_eager"), dtype=dtype)
    got.sum().backward()

    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    for weight, other in zip(
        (w for w in model.parameters() if w.requires_grad), gradients, strict=True
    ):
        assert (weight.grad - other).norm() <= 2 * tolerance * other.norm()
    torch.compiler.reset()


def test_state_dict_and_saved_adapter_are_those_of_stock(tmp_path: Path):
    stock, model = make_model(), make_model()
    lightpeft.accelerate(model)
    for name, saved in (("stock", stock), ("accelerated", model)):
        saved.save_pretrained(tmp_path / name, save_embedding_layers=False)

    assert list(model.state_dict()) == list(stock.state_dict())
    for path in (tmp_path / "stock").iterdir():
        assert path.read_bytes() == (tmp_path / "accelerated" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["merge_and_unload", "unload"])
@pytest.mark.parametrize("change", [lambda model: model, copy.deepcopy, repickle])
def test_what_merging_and_unloading_return_is_stock(name: str, change: Callable[..., PeftModel]):
    stock, model = make_model("llama"), make_model("llama")
    for each in (stock, model):
        each.config.pad_token_id = 0
    accelerated = lightpeft.accelerate(model)
    unloaded, expected = getattr(change(model), name)(), getattr(stock, name)()

    assert accelerated.norms
    assert [*map(type, unloaded.modules())] == [*map(type, expected.modules())]
    assert not any("forward" in vars(module) for module in unloaded.modules())
    assert torch.equal(compute(unloaded), compute(expected))


def test_what_is_left_is_named():
    base = make_tiny_model()
    lora = LoraConfig(
        r=2, target_modules=["query", "word_embeddings"], modules_to_save=["classifier"]
    )
    model = get_peft_model(base.bfloat16(), lora)
    query = model.base_model.model.bert.encoder.layer[1].attention.self.query
    query.base_layer.weight.requires_grad_(True)

    report = lightpeft.accelerate(model)

    prefix = "base_model.model.bert"
    assert report.left == {
        f"{prefix}.embeddings.word_embeddings": "a Embedding of peft",
        f"{prefix}.encoder.layer.1.attention.self.query": "its base layer is trained",
    }
    assert "bert" in str(report)
    assert str(report).startswith("2 of 4 LoRA layers accelerated; 1 left: ")
    assert list(report.autocast) == [prefix]
    assert not report.bodies


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_dora": True}, "DoraLinearVariant"),
        ({"lora_bias": True}, "its adapter has a bias"),
        ({"bias": "all"}, "its base layer is trained"),
    ],
)
def test_another_kind_of_lora_is_left(changes: dict[str, object], why: str):
    model = make_model(**changes)
    expected = compute(model)

    report = lightpeft.accelerate(model)

    assert not report.layers
    assert all(why in reason for reason in report.left.values())
    assert torch.equal(compute(model), expected)


def test_without_autocast_16_bit_adapters_need_none():
    """All in bfloat16, as it is loaded for inference."""
    model = make_model(dtype=torch.bfloat16).bfloat16()
    expected = compute(model)
    lightpeft.accelerate(model)

    with torch.no_grad():
        got = compute(model)

    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.1, atol=0.1)
