"""Load an export in a fresh process and write what it computes: python -I reload.py REQUEST

Runs as a file, so that it works where lightpeft can't be imported: nothing of lightpeft is imported
at the top.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOT_COMPARED = ("loss", "past_key_values")
ONNX_FILE = "model.onnx"


class _Blocker(importlib.abc.MetaPathFinder):
    """Refuse to import lightpeft."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "lightpeft":
            raise ModuleNotFoundError("lightpeft is blocked in this process", name=name)


def compute_outputs(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the logits, or all floating-point outputs of a model without logits.

    Args:
        model: in evaluation mode.
        batch: its keyword arguments.
    """
    import torch

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # some models draw numbers, such as the patches to leave out
        outputs = dict(model(**batch).items())
    if "logits" in outputs:
        outputs = {"logits": outputs["logits"]}
    return {
        name: value.float().clone(memory_format=torch.contiguous_format)
        for name, value in outputs.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and name not in NOT_COMPARED
    }


def load_stock(folder: str, attention: str) -> Any:
    """Load a folder with the transformers class that its config names, in float32."""
    import torch
    import transformers

    name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["architectures"]
    model, info = getattr(transformers, name[0]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ValueError(f"{folder} has {problem}: {min(info[problem])}")
    return model


def load_deci(folder: str, attention: str) -> Any:
    """Load a Llama with a width per layer by the formulas of DeciLM's readers, in float32.

    As vllm/model_executor/models/nemotron_nas.py does, and conversion/deci.py of llama.cpp; their
    layers are those of Llama, here transformers'.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama import modeling_llama as llama

    raw = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    blocks = raw.pop("block_configs")
    foreign = ("architectures", "auto_map", "model_type", "num_key_value_heads")
    options = {name: value for name, value in raw.items() if name not in foreign}
    config = LlamaConfig(**options, attn_implementation=attention)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        for index, (layer, block) in enumerate(zip(model.model.layers, blocks, strict=True)):
            width = int(2 * block["ffn"]["ffn_mult"] * config.hidden_size / 3)
            config.intermediate_size = width + -width % 256
            layer.mlp = llama.LlamaMLP(config)
            if block["attention"]["no_op"]:
                layer.input_layernorm, layer.self_attn = torch.nn.Identity(), torch.nn.Module()
                layer.self_attn.forward = lambda hidden_states, **_: (
                    torch.zeros_like(hidden_states),
                    None,
                )
                continue
            group = block["attention"]["n_heads_in_group"]
            config.num_key_value_heads = config.num_attention_heads // group
            layer.self_attn = llama.LlamaAttention(config, index)
    model.model.rotary_emb = llama.LlamaRotaryEmbedding(config)
    weights: dict[str, Any] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        weights |= {name: weight.float() for name, weight in load_file(path).items()}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    return model


def run_export(request: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an export computes, run as its readers do."""
    if request["format"] != "onnx":
        return compute_outputs(load_export(request).eval(), batch)
    import onnxruntime
    import torch

    path = str(Path(request["folder"]) / ONNX_FILE)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {x.name: batch[x.name].numpy() for x in session.get_inputs()})
    names = [x.name for x in session.get_outputs()]
    return {name: torch.from_numpy(x) for name, x in zip(names, outputs, strict=True)}


def load_export(request: Mapping[str, Any]) -> Any:
    """Load an export as its readers do."""
    folder, attention = request["folder"], request["attention"]
    if request["format"] == "merged":
        from lightpeft import from_pretrained

        return from_pretrained(folder, dtype="float32", attn_implementation=attention)
    if request["format"] == "deci":
        return load_deci(folder, attention)
    if request["format"] not in ("compact", "lifted"):
        return load_stock(folder, attention)
    base = load_stock(request["base"], attention)
    if request["format"] == "compact":
        import lightpeft

        return lightpeft.load(base, folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder)


def main(path: str) -> None:
    """Do what a request says: see `lightpeft.exporting.check.check_export`."""
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    sys.path[:] = request["sys_path"]
    if request["block_lightpeft"]:
        sys.meta_path.insert(0, _Blocker())
    from safetensors.torch import load_file, save_file

    save_file(run_export(request, load_file(request["batch"])), request["outputs"])


if __name__ == "__main__":
    main(sys.argv[1])
