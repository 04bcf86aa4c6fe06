"""RMS norms that have Llama's code are one operator each way, and equal to stock."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from lightpeft.acceleration.norms import FusedNorm, fuse_norms
from lightpeft.profiling.kernels import count_kernels


def make_norm(dtype: torch.dtype) -> LlamaRMSNorm:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(64, eps=0.1)
    nn.init.normal_(norm.weight)
    return norm.to(dtype)


def run(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """Return output and gradients."""
    x = x.clone().requires_grad_()
    output = norm(x)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    return [output, *torch.autograd.grad(output, [x, norm.weight], gradient.to(output.dtype))]


def test_norms_are_recognised_by_their_code():
    llama, qwen = LlamaRMSNorm(4), Qwen3RMSNorm(4)
    model = nn.ModuleList([llama, GemmaRMSNorm(4), qwen, T5LayerNorm(4), nn.LayerNorm(4)])

    assert fuse_norms(model) == ["0", "2"]
    assert isinstance(llama, FusedNorm)
    assert isinstance(llama, LlamaRMSNorm)
    assert type(qwen).__name__ == "Qwen3RMSNorm"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_as_exact_as_stock(dtype: torch.dtype):
    stock, x = make_norm(dtype), torch.randn(32, 64).to(dtype)
    norm = copy.deepcopy(stock)
    fuse_norms(norm)
    exact = run(copy.deepcopy(stock).double(), x.double())

    for got, other, expected in zip(run(norm, x), run(stock, x), exact, strict=True):
        error, stocks = ((y - expected).norm() for y in (got, other))
        assert got.dtype == dtype
        assert error <= 1.1 * stocks + 1e-6 * expected.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_other_dtypes_compute_as_stock(autocast: bool):
    stock = make_norm(torch.bfloat16)
    norm = copy.deepcopy(stock)
    fuse_norms(norm)
    x = torch.randn(2, 64, dtype=torch.bfloat16 if autocast else torch.float32)

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(norm(x), stock(x))


def test_a_norm_is_one_operator_each_way():
    norm = make_norm(torch.bfloat16).requires_grad_(False)
    fuse_norms(norm)
    x = torch.randn(2, 64, dtype=torch.bfloat16, requires_grad=True)
    gradients = []

    def step() -> None:
        gradients.append(torch.autograd.grad(norm(x), x, torch.ones(2, 64, dtype=x.dtype))[0])

    step()
    kernels = count_kernels(step)

    assert {name for name in kernels if "norm" in name} == {
        "_fused_rms_norm",
        "_fused_rms_norm_backward",
    }
    assert kernels.total() == 2 + 1
    torch.testing.assert_close(gradients[1], gradients[0])  # counted, it computes the same
