"""Where autocast is not what an accelerated model expects, it computes as stock peft does."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput

import lightpeft
from lightpeft.modeling.adapters import cast_trainable_to_float32
from lightpeft.profiling.kernels import count_kernels

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
IDS = torch.arange(3, 15).reshape(2, 6)


def wrap(base: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """A model with float32 adapters that change its output."""
    torch.manual_seed(0)
    model = get_peft_model(base, lora)
    cast_trainable_to_float32(model)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_to_another_dtype_computes_as_stock(dtype: torch.dtype):
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    base = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    stock = wrap(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)
    outputs: list[Tensor] = []

    def run(model: PeftModel) -> None:
        with torch.autocast("cpu", other):
            outputs.append(model(input_ids=IDS).logits)

    kernels = [count_kernels(lambda x=x: run(x)).total() for x in (stock, model)]

    assert torch.equal(*outputs)
    assert kernels[0] == kernels[1]


def test_layers_of_a_model_without_head_run_without_autocast():
    base = LlamaModel(LlamaConfig(**SIZES)).bfloat16()
    model = wrap(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    seen: list[bool] = []
    for layer in base.layers:
        layer.mlp.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))

    report = lightpeft.accelerate(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=IDS)

    assert report.bodies == ("base_model.model.layers.0", "base_model.model.layers.1")
    assert seen == [False, False]


def test_float32_outputs_of_an_encoder_are_taken():
    """As `generate` passes them to the decoder: of layer norm on CUDA, autocast makes float32."""
    sizes = {"vocab_size": 20, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    base = BartForConditionalGeneration(BartConfig(**sizes, **heads)).bfloat16()
    stock = wrap(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))

    with torch.autocast("cpu", torch.bfloat16):
        got, expected = (
            x(encoder_outputs=BaseModelOutput(states), decoder_input_ids=IDS).logits
            for x in (model, stock)
        )

    torch.testing.assert_close(got, expected, rtol=0.1, atol=0.05)
