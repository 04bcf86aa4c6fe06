"""Dropout from fewer random bits: the right fraction, scale and gradient, and else torch's."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable

import pytest
import torch
from helpers.tiny_models import make_lora, make_tiny_model
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lightpeft
from lightpeft.acceleration.dropouts import FewBitDropout, short_draws, shorten_draws


def make_dropout(p: float) -> nn.Dropout:
    dropout = nn.Dropout(p)
    shorten_draws(dropout)
    return dropout


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (1001, 1001)])
def test_a_fraction_is_dropped_and_the_rest_scaled(p: float, shape: tuple[int, ...]):
    torch.manual_seed(0)
    x = torch.randn(shape) + 5

    output = make_dropout(p)(x)

    is_kept = output != 0
    n, rounded = x.numel(), round(p * 2**16) / 2**16
    error = math.sqrt(p * (1 - p) * n)
    assert abs(int((~is_kept).sum()) - p * n) <= 4 * error + 1
    torch.testing.assert_close(output[is_kept], x[is_kept] / (1 - rounded))


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    is_kept = make_dropout(0.5)(torch.ones(400, 4001)) != 0

    centred = is_kept.double() - 0.5
    for lag in range(1, 9):  # four elements share a draw
        products = centred[:, lag:] * centred[:, :-lag]
        assert abs(products.mean()) < 4 * 0.25 / math.sqrt(products.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_dropped_has_no_gradient(dtype: torch.dtype):
    x = torch.randn(64, 33, dtype=dtype, requires_grad=True)
    output = make_dropout(0.25)(x)
    output.backward(torch.ones_like(output))

    assert x.grad is not None
    assert output.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(output, x * x.grad, rtol=1e-2, atol=0)
    assert set(x.grad.unique().tolist()) == {0.0, float(torch.tensor(4 / 3, dtype=dtype))}


def test_a_tensor_with_other_strides_gives_the_same():
    x = torch.randn(6, 7).t()
    outputs = []
    for each in (x, x.contiguous()):
        torch.manual_seed(0)
        outputs.append(make_dropout(0.5)(each))
    assert torch.equal(*outputs)


def test_draws_are_on_the_device_of_the_input():
    x = torch.ones(100)
    with torch.device("meta"):
        output = make_dropout(0.5)(x)

    assert output.device == x.device
    assert 0 < int((output == 0).sum()) < 100


def test_the_seed_says_what_is_dropped():
    dropout, x = make_dropout(0.5), torch.ones(100)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    again = dropout(x)

    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_checkpointing_drops_the_same_elements_again():
    dropout = make_dropout(0.5)
    x = torch.randn(100, requires_grad=True)
    output = checkpoint(lambda y: dropout(y).square(), x, use_reentrant=False)
    (gradient,) = torch.autograd.grad(output.sum(), x)

    torch.testing.assert_close(gradient, 2 * output.sqrt() * 2 * x.sign())


CALLS: list[Callable[[nn.Dropout, Tensor], Tensor]] = [
    lambda dropout, x: dropout.eval()(x),
    lambda dropout, x: dropout(input=x),
    lambda dropout, x: dropout(x.to("meta")).new_zeros(1, device="cpu"),
    lambda dropout, x: dropout.__setattr__("p", 1.0) or dropout(x),
    lambda dropout, x: dropout.__setattr__("p", 0.0) or dropout(x),
    lambda dropout, x: dropout.__setattr__("inplace", True) or dropout(x),
]


@pytest.mark.parametrize("call", CALLS)
def test_all_else_is_as_in_torch(call: Callable[[nn.Dropout, Tensor], Tensor]):
    outputs = []
    for dropout in (nn.Dropout(0.5), make_dropout(0.5)):
        torch.manual_seed(0)
        outputs.append(call(dropout, torch.ones(1000)))
    assert torch.equal(*outputs)


def test_a_missing_input_is_the_error_of_torch():
    with pytest.raises(TypeError, match="input"):
        make_dropout(0.5)()


def test_accelerate_names_dropouts_and_undo_restores_them():
    model = get_peft_model(make_tiny_model(hidden_dropout_prob=0.5), make_lora()).train()
    stock = copy.deepcopy(model)
    report = lightpeft.accelerate(model)

    dropouts = {path for path, each in stock.named_modules() if type(each) is nn.Dropout}
    assert dropouts
    assert set(report.dropouts) == dropouts
    assert all(isinstance(model.get_submodule(path), FewBitDropout) for path in dropouts)

    lightpeft.undo_acceleration(model)

    assert [*map(type, model.modules())] == [*map(type, stock.modules())]


def test_draws_are_short_within_a_with_statement():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))
    with contextlib.suppress(KeyboardInterrupt), short_draws(model):
        assert isinstance(model[0], FewBitDropout)
        raise KeyboardInterrupt

    assert [*map(type, model)] == [nn.Dropout, nn.Linear]


def test_a_model_without_lora_keeps_its_dropouts():
    model = make_tiny_model(hidden_dropout_prob=0.5)
    assert lightpeft.accelerate(model).dropouts == ()
    assert not any(isinstance(each, FewBitDropout) for each in model.modules())
