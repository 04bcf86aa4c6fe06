"""Where each architecture keeps its heads and neurons: the only file with module names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.cost import LinearShape, ModelShape
from lightpeft.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Child names of one architecture's attention and feed-forward blocks.

    Attributes:
        heads_in: linears whose rows are heads, relative to the attention block.
        heads_out: the linear that reads the concatenated heads.
        core: the submodule that holds the head size and counts; empty for the block itself.
        neurons_in: linears whose rows are neurons, relative to the feed-forward block.
        neurons_out: the linear that reads the neurons.
    """

    heads_in: tuple[str, ...]
    heads_out: str
    core: str = ""
    neurons_in: tuple[str, ...]
    neurons_out: str


_BERT = Family(
    heads_in=("self.query", "self.key", "self.value"),
    heads_out="output.dense",
    core="self",
    neurons_in=("intermediate.dense",),
    neurons_out="output.dense",
)
_DISTILBERT = Family(
    heads_in=("q_lin", "k_lin", "v_lin"),
    heads_out="out_lin",
    neurons_in=("lin1",),
    neurons_out="lin2",
)
FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
}
_HEAD_COUNTS = ("num_attention_heads", "n_heads")
_HEAD_WIDTHS = ("all_head_size",)
_SAMPLE = 256


def family_of(model: PreTrainedModel) -> Family:
    """The architecture's names.

    Raises:
        ModelError: the architecture is not supported.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"model type {kind!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[kind]


def read_shape(model: PreTrainedModel) -> ModelShape:
    """Read what can be cut from the model's weights, blocks in depth order.

    The model must be plain: not wrapped by peft, not pruned before.

    Raises:
        ModelError: the architecture is not supported, or no block has the expected linears.
    """
    family = family_of(model)
    heads: dict[str, int] = {}
    neurons: dict[str, int] = {}
    linears: dict[str, LinearShape] = {}
    for path, module in model.named_modules():
        if _has_linears(module, (*family.heads_in, family.heads_out)):
            size = _head_size(_child(module, family.core))
            heads[path] = _linear(module, family.heads_out).in_features // size
            linears |= _block_linears(module, path, family.heads_in, family.heads_out, size)
        if _has_linears(module, (*family.neurons_in, family.neurons_out)):
            neurons[path] = _linear(module, family.neurons_out).in_features
            linears |= _block_linears(module, path, family.neurons_in, family.neurons_out, 1)
    if not heads or not neurons:
        raise ModelError(
            f"{type(model).__name__} has no {model.config.model_type} blocks that lightpeft knows; "
            f"pass the plain model, not one wrapped by peft"
        )
    return ModelShape(
        model_type=model.config.model_type,
        heads=heads,
        neurons=neurons,
        # BERT's feed-forward block holds its attention block, so it was found first.
        linears={path: linears[path] for path, _ in model.named_modules() if path in linears},
        others=_others(model, linears),
    )


def set_head_count(model: PreTrainedModel, block: str, kept: int) -> None:
    """Tell an attention block whose weights were sliced how many heads are left."""
    core = _child(model.get_submodule(block), family_of(model).core)
    for name in _HEAD_COUNTS:
        if hasattr(core, name):
            setattr(core, name, kept)
    for name in _HEAD_WIDTHS:
        if hasattr(core, name):
            setattr(core, name, kept * _head_size(core))


def reading_linear(shape: ModelShape, block: str) -> str:
    """Path of the linear that reads a block's heads or neurons: where a mask goes."""
    return next(n for n, x in shape.linears.items() if x.block == block and x.side == "in")


def fingerprint(model: PreTrainedModel, shape: ModelShape) -> str:
    """Tell one base model from another by the weights of its blocks.

    A few values of each block linear are hashed, as bfloat16: the same checkpoint gives the
    same fingerprint whether it was loaded as float32 or as bfloat16.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in shape.linears:
        weight: Tensor = model.get_submodule(name).weight.detach()
        stride = max(1, weight.numel() // _SAMPLE)
        sample = weight.reshape(-1)[::stride][:_SAMPLE].to(torch.bfloat16).cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _head_size(core: nn.Module) -> int:
    return int(getattr(core, "attention_head_size"))  # noqa: B009 (mypy reads modules there)


def _child(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name) if name else module


def _linear(module: nn.Module, name: str) -> nn.Linear:
    found = module.get_submodule(name)
    if not isinstance(found, nn.Linear):
        raise ModelError(f"{name} must be a torch.nn.Linear, got {type(found).__name__}")
    return found


def _has_linears(module: nn.Module, names: tuple[str, ...]) -> bool:
    for name in names:
        try:
            if not isinstance(module.get_submodule(name), nn.Linear):
                return False
        except AttributeError:
            return False
    return True


def _block_linears(
    module: nn.Module, block: str, ins: tuple[str, ...], out: str, unit: int
) -> dict[str, LinearShape]:
    found = {}
    for name in (*ins, out):
        linear = _linear(module, name)
        found[f"{block}.{name}"] = LinearShape(
            inputs=linear.in_features,
            outputs=linear.out_features,
            bias=linear.bias is not None,
            block=block,
            side="in" if name == out else "out",
            unit=unit,
        )
    return found


def _others(model: PreTrainedModel, linears: dict[str, LinearShape]) -> dict[str, int]:
    """Count the parameters outside the block linears, each once, by what they are."""
    counts = {"embeddings": 0, "norms": 0, "head": 0}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        if owner in linears:
            continue
        if isinstance(model.get_submodule(owner), nn.LayerNorm):
            counts["norms"] += parameter.numel()
        elif "embeddings" in owner:
            counts["embeddings"] += parameter.numel()
        else:
            counts["head"] += parameter.numel()
    return counts
