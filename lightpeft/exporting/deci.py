"""Write a merged Llama with a feed-forward width per layer, as vLLM and llama.cpp read DeciLM.

Read in their code: vllm/model_executor/models/nemotron_nas.py, and conversion/deci.py and
src/models/deci.cpp of llama.cpp. What both have in common decides what is written:

- Widths are not stored: ``ffn_mult`` is, and both round ``2 / 3 * ffn_mult * hidden_size`` up to a
  multiple of 256. Zero neurons fill a layer up to it.
- Every layer with attention has all heads, and of the size ``hidden_size / num_attention_heads``,
  which the converter of llama.cpp writes. Zeros stand for pruned ones.
- A layer without attention is one with ``no_op``, but for the first one, where vLLM has no residual
  to normalize. A layer without FFN is not: llama.cpp would skip its attention as well.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedConfig, PreTrainedModel

from lightpeft.core.block_shape import AttentionBlock, Block, find_layer
from lightpeft.core.errors import PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.serialization import write_json
from lightpeft.exporting import configuration_decilm
from lightpeft.exporting.merging import pad_merged

_CLASSES = ("LlamaForCausalLM", "MistralForCausalLM")
_ROPE_TYPES = ("default", "linear", "llama3")
_MULTIPLE = 256
_NO_OP = {"no_op": False, "replace_with_linear": False}


@dataclass(frozen=True)
class DeciModel:
    """What is written.

    Attributes:
        model: the class that writes the weights, on the meta device.
        weights: under Llama's names.
        config: of config.json.
        notes: what was filled with zeros, for the record.
    """

    model: PreTrainedModel
    weights: dict[str, Tensor]
    config: dict[str, Any]
    notes: tuple[str, ...]


def check_deci(model_class: str, config: PreTrainedConfig) -> None:
    """Refuse a model that DeciLM's readers would compute otherwise.

    Args:
        model_class: its name in transformers.
        config: with all heads.

    Raises:
        PlanError: says what they can't read.
    """
    problem = ""
    if model_class not in _CLASSES:
        problem = f"is for {' and '.join(_CLASSES)}, got {model_class}"
    elif config.hidden_act != "silu":
        problem = f"needs hidden_act silu, got {config.hidden_act}"
    elif config.head_dim * config.num_attention_heads != config.hidden_size:
        problem = (
            f"needs heads of hidden_size / num_attention_heads, got head_dim {config.head_dim}, "
            f"hidden_size {config.hidden_size}, num_attention_heads {config.num_attention_heads}"
        )
    elif getattr(config, "sliding_window", None):
        problem = f"needs full attention, got sliding_window {config.sliding_window}"
    elif (rope := config.rope_parameters["rope_type"]) not in _ROPE_TYPES:
        problem = f"needs a rope_type of {', '.join(_ROPE_TYPES)}, got {rope}"
    if problem:
        raise PlanError(f"format deci {problem}; take format merged or padded")


def find_ffn_mult(neurons: int, hidden_size: int) -> float:
    """Return the `ffn_mult` that the readers make `neurons`, a multiple of 256, of."""
    return 3 * neurons / (2 * hidden_size)


def make_deci(merged: PreTrainedModel, plan: PruningPlan, config: PreTrainedConfig) -> DeciModel:
    """Return what `write_deci` writes.

    Args:
        merged: from `merge_adapter`; its class passes `check_deci`.
        plan: that it was pruned by.
        config: of the model with all heads and neurons.
    """
    rest, (empty, weights) = plan.without_layers, pad_merged(merged, plan, config)
    group = config.num_attention_heads // config.num_key_value_heads
    layers: dict[int, dict[str, Any]] = {}
    kept = width = 0
    for block in rest.shape.blocks:
        index = int((find_layer(block.path) or "").rpartition(".")[2])
        layer = layers.setdefault(index, {})
        if isinstance(block, AttentionBlock):
            is_empty = _drop_attention(weights, block, rest, index)
            layer["attention"] = _NO_OP | {
                "n_heads_in_group": None if is_empty else group,
                "no_op": is_empty,
            }
        else:
            units = rest.list_remaining_units(block.path)
            neurons = len(units) + -len(units) % _MULTIPLE
            _narrow(weights, block, units, neurons)
            layer["ffn"] = _NO_OP | {"ffn_mult": find_ffn_mult(neurons, config.hidden_size)}
            kept, width = kept + len(units), width + neurons
    notes = (f"feed-forward blocks have {kept:,} neurons, with zeros {width:,}",)
    blocks = [layers[index] for index in sorted(layers)]
    return DeciModel(empty, weights, _make_config(empty.config, blocks), notes)


def write_deci(deci: DeciModel, folder: Path, *, max_shard: str) -> None:
    """Write weights, config and config class.

    Args:
        deci: from `make_deci`.
        folder: that exists.
        max_shard: as `max_shard_size` of transformers.
    """
    deci.model.save_pretrained(folder, state_dict=deci.weights, max_shard_size=max_shard)
    write_json(folder / "config.json", deci.config)
    shutil.copy(str(configuration_decilm.__file__), folder)


def _drop_attention(
    weights: dict[str, Tensor], block: AttentionBlock, plan: PruningPlan, index: int
) -> bool:
    """Remove the weights of an emptied block, if nothing of it is left to compute."""
    if plan.heads[block.path].kept or not index or f"{block.output_projection}.bias" in weights:
        return False
    norm = f"{find_layer(block.path)}.input_layernorm."
    for name in [x for x in weights if x.startswith((f"{block.path}.", norm))]:
        del weights[name]
    return True


def _narrow(weights: dict[str, Tensor], block: Block, units: tuple[int, ...], neurons: int) -> None:
    """Keep the neurons of a block, and fill up with zeros."""
    kept = list(units)
    for path, linear in block.linears.items():
        weight, missing = weights[f"{path}.weight"], neurons - len(kept)
        if linear.pruned_dim == "in":
            weights[f"{path}.weight"] = pad(weight[:, kept], (0, missing))
            continue
        weights[f"{path}.weight"] = pad(weight[kept], (0, 0, 0, missing))
        if f"{path}.bias" in weights:
            weights[f"{path}.bias"] = pad(weights[f"{path}.bias"][kept], (0, missing))


def _make_config(config: PreTrainedConfig, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return config.json; RoPE is written as before transformers 5, which llama.cpp reads."""
    raw: dict[str, Any] = config.to_dict()
    raw.pop("sliding_window", None)
    rope = raw.pop("rope_parameters")
    theta, is_scaled = rope.pop("rope_theta"), rope["rope_type"] != "default"
    raw |= {k: x for k, x in rope.items() if k == "original_max_position_embeddings"}
    return raw | {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": configuration_decilm.DeciLMConfig.model_type,
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "rope_theta": theta,
        "rope_scaling": rope if is_scaled else None,
        "block_configs": blocks,
    }
