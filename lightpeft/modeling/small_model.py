"""Build a small model of another's class and structure, with inputs for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.modeling.families import DEPTHS

Batch = dict[str, Tensor]
Kept = Literal["", "head_sizes", "widths"]
_SIDES = "(encoder_|decoder_)?"
_KINDS_OF_LAYERS = {"layer_types", "layers_block_type"}
_HEADS = rf"{_SIDES}n(um)?_{_SIDES}(attention_)?heads?|{_SIDES}attention_heads"
_GROUPS = rf"{_SIDES}(num_key_value_heads|num_kv_heads|n_head_kv)"
_WIDTHS = r"(\w+_)?hidden_size|d_model|n_embd|dim|(word_)?emb(ed)?(ding)?_(proj_)?(dim|size)"
_HEAD_SIZES = r"(global_|qk_nope_|qk_rope_|v_|linear_(key_|value_)?)?head_dim|d_kv|d_head"
_NEURONS = rf"{_SIDES}(intermediate_size(_mlp)?|ffn_dim)|n_inner|d_ff|d_inner|ffn_hidden_size"
_HEAD_SIZE, _VOCABULARY, _LARGEST = 8, 64, 100_000_000
_TOKENS = 40  # of the vocabulary; those above are special
# The most that other sizes may be.
_LIMITS = {
    r"max_position_embeddings|n_positions|max_(source|target)_positions": 64,
    r"\w+_lora_rank|adapter_dim|num_conv_pos_embeddings": 16,
    r"(moe|expert|shared)\w*_(intermediate|hidden)_size": 24,
    r"(mamba_)?chunk_size": 16,  # shorter texts are padded to it
    r"(num|n)_(local_|routed_)?experts|moe_num_experts|rotary_dim": 4,
    r"(linear|mamba)_num_heads": 4,
    r"mamba_head_dim": _HEAD_SIZE,
    r"n_groups": 2,
    r"num_experts_per_tok\w*|moe_(top)?k|num_conv_pos_embedding_groups": 2,
    r"n_group|topk_group|num_expert_groups": 1,
    r"qk_head_dim": 2 * _HEAD_SIZE,
}
# Computed from other settings, or of layers that the small model does not have.
_DROPPED = {"out_features", "out_indices", "stage_names", "label2id", "dtype"}
_DROPPED |= {"quantization_config", "transformers_version"}


def build_small_models(model: PreTrainedModel, *, layers: int) -> Iterator[PreTrainedModel]:
    """Yield models of the class of `model` with random weights of order 1, smallest first.

    Args:
        model: of which class and config; its weights are not read.
        layers: how many layers to keep of each stack.
    """
    kernel = getattr(model.config, "_attn_implementation", None)
    reasons: list[str] = []
    sizes_to_keep: tuple[Kept, ...] = ("", "head_sizes", "widths")
    for keep in sizes_to_keep:
        try:
            config = shrink_config(model.config, layers=layers, keep=keep)
            with torch.device("meta"):
                size = (
                    type(model)._from_config(config, attn_implementation="eager").num_parameters()
                )
            if size > _LARGEST:
                raise ModelError(f"it has {size:,} parameters")
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(0)
                small: PreTrainedModel = type(model)._from_config(
                    config,
                    attn_implementation=kernel if kernel in ("eager", "sdpa") else "eager",
                    dtype=torch.float32,
                )
                _draw_weights(small)
        except Exception as error:  # whatever a model's constructor finds wrong with the sizes
            reasons.append(" ".join(str(error).split())[:150])
            continue
        yield small.eval()
    if len(reasons) == len(sizes_to_keep):
        raise ModelError(f"no small model of its class can be built: {reasons[0]}")


def shrink_config(config: PreTrainedConfig, *, layers: int, keep: Kept = "") -> PreTrainedConfig:
    """Return a config of the same structure, with few layers and tokens, and small widths.

    Query heads per KV group stay as they are.

    Args:
        config: not changed.
        layers: how many to keep of each stack.
        keep: the sizes that stay as they are, because others depend on them in other ways.
    """
    values = _shrink(config.to_dict(), layers, keep)
    small: PreTrainedConfig = type(config).from_dict(values)
    return small


def _shrink(values: dict[str, Any], layers: int, keep: Kept) -> dict[str, Any]:
    integers = {k: v for k, v in values.items() if type(v) is int and v > 0}
    depths = {v for k, v in integers.items() if re.fullmatch(DEPTHS, k)}
    sizes = _choose_sizes(integers, keep)
    small: dict[str, Any] = {}
    for key, value in values.items():
        if key in _DROPPED:
            continue
        if isinstance(value, dict):
            value = _shrink_section(key, value, layers, keep)
        elif isinstance(value, list | tuple) and (len(value) in depths or key in _KINDS_OF_LAYERS):
            value = list(value)[:layers]
        elif "token_id" in key or "token_index" in key:
            value = _shrink_token(value, key)
        elif key in integers and re.fullmatch(DEPTHS, key):
            value = min(value, layers)
        elif key in integers and (key.startswith("vocab_size") or keep != "widths"):
            value = _shrink_size(key, value, sizes)
        if key == "depths":  # layers of each stage; they alternate, so two are of all kinds
            value = [min(depth, 2) for depth in value]
        small[key] = value
    if "mamba_n_heads" in integers and keep != "widths":  # as many channels as widened features
        width = sizes.get(_WIDTHS, _find_setting(integers, _WIDTHS, 0))
        channels = values.get("mamba_expand", 2) * width
        small |= {"mamba_n_heads": 4, "mamba_d_head": channels // 4, "mamba_n_groups": 1}
    return small


def _choose_sizes(integers: dict[str, int], keep: Kept) -> dict[str, int]:
    """Return pattern of names -> size, of what depends on the number of heads, and others."""
    heads = _find_setting(integers, _HEADS, 0)
    groups = _find_setting(integers, _GROUPS, heads or 1)
    sharing = max(1, (heads or 1) // groups)
    new_groups = 1 if groups == 1 else 4 if sharing <= 2 else 2
    sizes = {_HEADS: sharing * new_groups, _GROUPS: new_groups}
    head_size = _HEAD_SIZE
    if keep:
        width = _find_setting(integers, _WIDTHS, 0)
        head_size = integers.get("head_dim") or width // (heads or 1)
    if heads or not keep:  # where stages have other numbers of heads, the size is not known
        sizes[_WIDTHS] = max(sharing * new_groups, 4) * head_size
    if not keep:
        sizes[_HEAD_SIZES] = _HEAD_SIZE
    return sizes | {_NEURONS: 5 * _HEAD_SIZE, r"vocab_size\w*": _VOCABULARY}


def _find_setting(integers: dict[str, int], pattern: str, default: int) -> int:
    return next((size for key, size in integers.items() if re.fullmatch(pattern, key)), default)


def _shrink_section(key: str, section: dict[str, Any], layers: int, keep: Kept) -> dict[str, Any]:
    if key == "id2label":
        return section
    if key == "per_layer_config":
        return {layer: value for layer, value in section.items() if int(layer) < layers}
    if key.startswith("rope_"):
        return section if keep else _shrink_rope(section)
    return _shrink(section, layers, keep)


def _shrink_size(key: str, value: int, sizes: dict[str, int]) -> int:
    for pattern, limit in _LIMITS.items():
        if re.fullmatch(pattern, key):
            return min(value, limit)
    return next((size for pattern, size in sizes.items() if re.fullmatch(pattern, key)), value)


def _shrink_token(value: Any, key: str) -> Any:
    """Return another special token, above those that `make_batches` draws."""
    if key == "pad_token_id" and value is None:  # classifiers need one for several rows
        return 0
    if isinstance(value, list):
        return [_shrink_token(token, key) for token in value]
    is_known = not isinstance(value, int) or value < _VOCABULARY
    return value if is_known else _TOKENS + sum(map(ord, key)) % (_VOCABULARY - _TOKENS)


def _shrink_rope(values: dict[str, Any]) -> dict[str, Any]:
    small = {k: _shrink_rope(v) if isinstance(v, dict) else v for k, v in values.items()}
    for key, value in values.items():
        if key == "mrope_section":
            small[key] = [_HEAD_SIZE // 2 - 2 * (len(value) // 3), *[1] * (len(value) - 1)]
        elif isinstance(value, list):  # a factor per pair of a head's rows
            small[key] = value[: _HEAD_SIZE // 2]
    return small


@torch.no_grad()
def _draw_weights(model: nn.Module) -> None:
    """Draw weights of order 1, so that a wrong unit is no rounding error; scales stay near 1."""
    generator = torch.Generator().manual_seed(0)
    for path, weight in model.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        owner = model.get_submodule(path.rpartition(".")[0])
        if weight.dim() < 2:
            weight.add_(0.2 * drawn)
        elif isinstance(owner, nn.Embedding):
            weight.copy_(0.5 * drawn)
        else:
            is_convolution = "Conv" in type(owner).__name__
            fan = weight[0].numel() if is_convolution else weight.shape[-1]
            weight.copy_(drawn * fan**-0.5)


def make_batches(model: PreTrainedModel) -> Iterator[Batch]:
    """Yield inputs of the kinds that the model may take, likeliest first."""
    names = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)

    def draw_tokens(length: int) -> Tensor:
        return torch.randint(3, _TOKENS, (2, length), generator=generator)

    def draw_values(*size: int) -> Tensor:
        return torch.randn(2, *size, generator=generator)

    decoder: Batch = {}
    if model.config.is_encoder_decoder and "decoder_input_ids" in names:
        decoder = {"decoder_input_ids": draw_tokens(6)}
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 7:] = 0
    text: Batch = {"input_ids": draw_tokens(9)}
    if "attention_mask" in names:
        text["attention_mask"] = mask
    sizes: dict[str, list[tuple[int, ...]]] = {
        "pixel_values": [_find_image_size(model.config)],
        "input_values": [(4000,), (_read_setting(model.config, "max_length", 64), 128)],
        "input_features": [(80, 128), (128, 128), (80, 64), (128, 64), (64, 80), (64, 160)],
    }
    if model.main_input_name in sizes:
        for size in sizes[model.main_input_name]:
            yield {model.main_input_name: draw_values(*size)} | decoder
    else:
        yield text | decoder
        if "pixel_values" in names:
            yield text | decoder | {"pixel_values": draw_values(*_find_image_size(model.config))}
        yield {name: value[None] for name, value in text.items()}  # two choices of one row


def _find_image_size(config: PreTrainedConfig) -> tuple[int, ...]:
    size = _read_setting(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return _read_setting(config, "num_channels", 3), height, width


def _read_setting(config: PreTrainedConfig, name: str, default: Any) -> Any:
    """Return a setting of the config, or of the first of its parts that has it."""
    parts = [config, *(getattr(config, part, None) for part in config.sub_configs)]
    found = (getattr(part, name, None) for part in parts)
    return next((value for value in found if value is not None), default)
