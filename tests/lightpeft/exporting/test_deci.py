"""Format deci is what the published readers of DeciLM make the pruned model of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import draw_plan, draw_scores
from helpers.deci_llama_cpp import compute_logits, convert
from helpers.tiny_models import make_pruned_model
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    dynamic_module_utils,
)

import lightpeft
from lightpeft import LightPeftError, PruningConfig
from lightpeft.contents.facts import make_facts
from lightpeft.contents.recognize import read_contents
from lightpeft.exporting.deci import check_deci, find_ffn_mult
from lightpeft.exporting.record import ExportRecord

pytestmark = pytest.mark.usefixtures("in_process")
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 600,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def make_pruned(
    *, layers: float = 0, model_class: Any = LlamaForCausalLM, **sizes: Any
) -> PeftModel:
    """A pruned decoder: with layers pruned, or without attention and FFN of layers 0 and 2."""
    config = {LlamaForCausalLM: LlamaConfig, MistralForCausalLM: MistralConfig}[model_class]
    torch.manual_seed(0)
    model = model_class._from_config(config(**SIZES | sizes), attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn_like(weight)
            weight.copy_(noise / 8**0.5 if weight.dim() == 2 else weight + noise / 5)
    scores = draw_scores(model)
    plan = draw_plan(scores, empty=True)
    if layers:
        ratios = {"layers": layers, "heads": 0, "neurons": 0.4}
        plan = lightpeft.make_plan(scores, PruningConfig(**ratios, align=1))
    return lightpeft.prune(model, plan, scores).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 8},
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 7.0},
        },
        {"layers": 0.5},
        {"model_class": MistralForCausalLM, "sliding_window": None},
    ],
)
def test_llama_cpp_computes_what_the_pruned_model_computes(options: Any, tmp_path: Path):
    model = make_pruned(**options)

    record = lightpeft.export(model, tmp_path / "out", format="deci")

    converted, ids = convert(tmp_path / "out"), torch.arange(3, 12)
    with torch.no_grad():
        expected = model(input_ids=ids[None]).logits[0]
    torch.testing.assert_close(compute_logits(converted, ids), expected, rtol=1e-4, atol=1e-4)
    assert record.max_difference < 1e-4 < 0.1 < record.largest_output
    assert record.without_lightpeft
    if "layers" in options:
        assert converted.heads == [8, 8]
    else:
        assert converted.heads == [8, 8, 8 if "attention_bias" in options else 0, 8]
    assert len(set(converted.widths)) > 1 or "layers" in options


def test_vllm_reads_each_layer_by_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lightpeft.export(make_pruned(rope_parameters=LLAMA3), tmp_path / "out", format="deci")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")

    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)

    names = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for index, block in enumerate(config.block_configs):
        assert not block.ffn.no_op
        assert not hasattr(block.ffn, "hidden_act")
        assert int(2 * block.ffn.ffn_mult * config.hidden_size / 3) % 256 in (0, 255)
        linears = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm"]
        if not block.attention.no_op:
            assert config.num_attention_heads // block.attention.n_heads_in_group == 4
            linears += [f"self_attn.{x}_proj" for x in "qkvo"] + ["input_layernorm"]
        names |= {f"model.layers.{index}.{x}.weight" for x in linears}
    assert names == load_file(tmp_path / "out/model.safetensors").keys()
    assert [block.attention.no_op for block in config.block_configs] == [False, False, True, False]
    assert config.architectures == ["DeciLMForCausalLM"]
    assert config.rope_parameters == LLAMA3
    raw = json.loads((tmp_path / "out/config.json").read_text())
    assert (raw["rope_theta"], raw["original_max_position_embeddings"]) == (5e5, 32)
    assert raw["rope_scaling"]["rope_type"] == "llama3"


def test_every_width_survives_the_readers_formula():
    for hidden_size in (32, 576, 2048, 3072, 4096, 5120, 8192, 16384):
        for neurons in range(256, 60_000, 256):
            width = int(2 * find_ffn_mult(neurons, hidden_size) * hidden_size / 3)
            assert width + -width % 256 == neurons


def test_record_card_and_inspect_say_what_zeros_fill(tmp_path: Path):
    record = lightpeft.export(make_pruned(layers=0.5), tmp_path / "out", format="deci")

    kept = sum(
        len(x.kept) for x in lightpeft.PruningPlan.load(tmp_path / "out/plan.json").neurons.values()
    )
    note = f"feed-forward blocks have {kept:,} neurons, with zeros 1,024"
    assert record.notes == (note,)
    assert str(record).endswith(f"; {note}")
    assert ExportRecord.read(tmp_path / "out") == record
    assert f"- {note}\n" in (tmp_path / "out/README.md").read_text()
    facts = make_facts(read_contents(tmp_path / "out"))
    assert "configuration_decilm.py" in facts["digests_checked"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "needs hidden_act silu, got gelu"),
        ({"head_dim": 8}, "got head_dim 8, hidden_size 32, num_attention_heads 8"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "got dynamic",
        ),
    ],
)
def test_what_its_readers_compute_otherwise_is_refused(changes: Any, message: str, tmp_path: Path):
    with pytest.raises(LightPeftError, match=f"format deci .*{message}; take format merged"):
        check_deci("LlamaForCausalLM", LlamaConfig(**SIZES | changes))


def test_sliding_window_and_other_classes_are_refused(tmp_path: Path):
    with pytest.raises(LightPeftError, match="needs full attention, got sliding_window 6"):
        check_deci("MistralForCausalLM", MistralConfig(**SIZES, sliding_window=6))
    with pytest.raises(LightPeftError, match=r"is for LlamaForCausalLM .*BertForSequence"):
        lightpeft.export(make_pruned_model(), tmp_path / "out", format="deci")
    assert not list(tmp_path.iterdir())
