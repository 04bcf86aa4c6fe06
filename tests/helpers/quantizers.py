"""Ways to quantize a model in place: a stand-in that is always here, and libraries that may be."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import transformers
from torch import Tensor, nn

Model = transformers.PreTrainedModel


class Packed(nn.Linear):
    """Bytes with a scale per row, in one column: as peft finds it in other libraries."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.scale = nn.Buffer(linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127)
        codes = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes.reshape(-1, 1), requires_grad=False)
        self.bias = linear.bias
        self.W_q = self.weight  # HQQ's name, by which peft knows to call `dequantize`

    def dequantize(self) -> Tensor:
        return self.W_q.reshape(self.out_features, self.in_features) * self.scale

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.dequantize(), self.bias)


def replace(model: Model, packed: Callable[[nn.Linear], nn.Module]) -> None:
    """Put another module in place of every linear of the layers and the pooler."""
    inner = [n for n, m in model.named_modules() if type(m) is nn.Linear]
    for path in inner:
        if "layer" in path or "pooler" in path:
            model.set_submodule(path, packed(model.get_submodule(path)))


def quantize_stand_in(model: Model) -> None:
    replace(model, Packed)


def quantize_torchao_int8(model: Model) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def is_chosen(module: nn.Module, path: str) -> bool:
        return type(module) is nn.Linear and ("layer" in path or "pooler" in path)

    quantize_(model, Int8WeightOnlyConfig(), is_chosen)


def quantize_bitsandbytes_nf4(model: Model) -> None:
    import bitsandbytes as bnb

    def pack_linear(linear: nn.Linear) -> nn.Module:
        weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
        quantized = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, compute_dtype=linear.weight.dtype
        )
        quantized.support_avx512bf16_for_cpu = False  # a kernel for widths that are multiples of 32
        quantized.weight, quantized.bias = weight, linear.bias
        return quantized.to(linear.weight.device)

    replace(model, pack_linear)
    model.is_loaded_in_4bit = True  # by this peft knows


def quantize_bitsandbytes_int8(model: Model) -> None:
    import bitsandbytes as bnb

    def pack_linear(linear: nn.Linear) -> nn.Module:
        weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
        quantized = bnb.nn.Linear8bitLt(
            linear.in_features, linear.out_features, has_fp16_weights=False
        )
        quantized.weight, quantized.bias = weight, linear.bias
        return quantized.to(linear.weight.device)

    replace(model, pack_linear)
    model.is_loaded_in_8bit = True


QUANTIZERS = {"stand-in": quantize_stand_in}
MISSING = []
for library, ways in {
    "torchao": (quantize_torchao_int8,),
    "bitsandbytes": (quantize_bitsandbytes_nf4, quantize_bitsandbytes_int8),
}.items():
    if find_spec(library):
        QUANTIZERS |= {way.__name__: way for way in ways}
    else:
        MISSING += [way.__name__ for way in ways]
