"""Read a model's shape from its weights, and refuse what a family's names don't account for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.errors import ModelError
from lightpeft.families import HEAD_SIZES, Family, families_of, repeats_of
from lightpeft.layout import LinearShape, ModelShape
from lightpeft.outside import others, products

TABLE = "relative_attention_bias"
_SAMPLE = 256


@dataclass(frozen=True)
class _Block:
    """One attention or feed-forward block, found by its children's names."""

    path: str
    module: nn.Module
    family: Family
    attention: bool

    @property
    def ins(self) -> tuple[str, ...]:
        family = self.family
        return family.heads_in if self.attention else family.neurons_in

    @property
    def out(self) -> str:
        return self.family.heads_out if self.attention else self.family.neurons_out

    def refuse(self, why: str) -> ModelError:
        return ModelError(f"{self.path} can't be cut: {why}")


def read_shape(model: PreTrainedModel) -> ModelShape:
    """Read what can be cut from the model's weights, blocks in depth order.

    The model must be plain: not wrapped by peft, not pruned before.

    Raises:
        ModelError: the architecture is not supported, no block has the expected linears, or a
            block holds something that its family does not account for (names it).
    """
    blocks = list(_blocks(model))
    heads: dict[str, int] = {}
    neurons: dict[str, int] = {}
    linears: dict[str, LinearShape] = {}
    per_head: dict[str, int] = {}
    for block in blocks:
        found = _attention(block) if block.attention else _feed_forward(block)
        linears |= found
        units = found[f"{block.path}.{block.out}"].units
        (heads if block.attention else neurons)[block.path] = units
        if block.attention and (own := _own_vectors(block)):
            per_head[block.path] = sum(weight.numel() for weight in own.values()) // units
    if not heads or not neurons:
        raise ModelError(
            f"{type(model).__name__} has no {model.config.model_type} blocks that lightpeft knows; "
            f"pass the plain model, not one wrapped by peft"
        )
    _check_layers(heads, neurons)
    _check_parameters(model, blocks, linears)
    lenders = _lenders(blocks)
    for path, lender in lenders.items():
        table = model.get_submodule(f"{lender}.{TABLE}").weight
        per_head[path] = table.numel() // heads[lender]
    counted = set(linears) | {f"{path}.{TABLE}" for path in lenders}
    counted |= {f"{b.path}.{n}" for b in blocks if b.attention for n in _own_vectors(b)}
    return ModelShape(
        model_type=model.config.model_type,
        heads=heads,
        neurons=neurons,
        # BERT's feed-forward block holds its attention block, so it was found first.
        linears={path: linears[path] for path, _ in model.named_modules() if path in linears},
        others=others(model, counted),
        per_head=per_head,
        lenders=lenders,
        repeats=repeats_of(model),
        products=products(model, counted),
    )


def family_at(model: PreTrainedModel, path: str) -> Family:
    """The family of an attention block that `read_shape` found.

    Raises:
        ModelError: it is none.
    """
    module = model.get_submodule(path)
    for family in families_of(model):
        if _linear(module, family.heads_out) is not None:
            return family
    raise ModelError(f"{path} is no attention block of a {model.config.model_type} model")


def child(module: nn.Module, name: str) -> nn.Module:
    """A submodule by its path; the module itself by an empty one."""
    return module.get_submodule(name) if name else module


def head_size(core: nn.Module) -> int:
    """Rows of one head, as an attention block says."""
    return int(next((getattr(core, name) for name in HEAD_SIZES if hasattr(core, name)), 0))


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


def _blocks(model: PreTrainedModel) -> Iterator[_Block]:
    """Blocks in numbered layers, in the order of the model's modules, outer ones first."""
    known = families_of(model)
    for path, module in model.named_modules():
        if layer_of(path) is None:
            continue
        for attention in (True, False):
            found = [_Block(path, module, family, attention) for family in known]
            whole = [b for b in found if not _missing(b)]
            if whole:
                yield whole[0]
                continue
            for block in found:
                missing = _missing(block)
                if block.out not in missing and set(block.ins) - set(missing):
                    raise block.refuse(f"it has {block.out} but no linear {missing[0]}")


def layer_of(path: str) -> str | None:
    """The numbered layer that a block lies in: the path up to its first number."""
    found = re.match(r"(.*?\.\d+)(?:\.|$)", path)
    return found[1] if found else None


def _missing(block: _Block) -> list[str]:
    return [name for name in (*block.ins, block.out) if _linear(block.module, name) is None]


def _linear(module: nn.Module, name: str) -> nn.Module | None:
    try:
        found = module.get_submodule(name)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Linear | Conv1D) else None


def _attention(block: _Block) -> dict[str, LinearShape]:
    size = head_size(child(block.module, block.family.core))
    if not size:
        raise block.refuse(f"none of {', '.join(HEAD_SIZES)} says how wide a head is")
    rows = {name: _sizes(block.module, name)[1] for name in block.ins}
    runs: dict[str, tuple[str, ...]]
    columns = _sizes(block.module, block.out)[0]
    heads = columns // size
    if block.family.heads_fused:
        groups = (rows[block.ins[0]] // size - heads) // 2
        runs = {block.ins[0]: ("mixed",)}
        if block.family.heads_fused == "blocks":
            runs = {block.ins[0]: ("units", "groups", "groups")}
    else:
        groups = rows[block.ins[1]] // size
        query, key, value = block.ins
        runs = {query: ("units",), key: ("groups",), value: ("groups",)}
    if groups < 1 or heads % groups:
        raise block.refuse(f"{heads} heads of {size} can't share {groups} keys and values")
    if groups == heads:  # nothing is shared: keys and values are the heads' own
        runs = {name: _own(run) for name, run in runs.items()}
    also = [name for name in block.family.heads_also if _linear(block.module, name) is not None]
    runs |= dict.fromkeys((*also, block.out), ("units",))
    found = {
        name: _shape(block, name, unit=size, slots=run, sharing=heads // groups)
        for name, run in runs.items()
    }
    _check_widths(block, found, heads)
    return {f"{block.path}.{name}": linear for name, linear in found.items()}


def _own(run: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("units" if name == "groups" else name for name in run)


def _feed_forward(block: _Block) -> dict[str, LinearShape]:
    run = ("units", "units") if block.family.neurons_fused else ("units",)
    found = {name: _shape(block, name, unit=1, slots=run, sharing=1) for name in block.ins}
    found[block.out] = _shape(block, block.out, unit=1, slots=("units",), sharing=1)
    _check_widths(block, found, found[block.out].inputs)
    return {f"{block.path}.{name}": linear for name, linear in found.items()}


def _shape(
    block: _Block, name: str, *, unit: int, slots: tuple[str, ...], sharing: int
) -> LinearShape:
    inputs, outputs = _sizes(block.module, name)
    return LinearShape(
        inputs=inputs,
        outputs=outputs,
        bias=block.module.get_submodule(name).bias is not None,
        block=block.path,
        side="in" if name == block.out else "out",
        unit=unit,
        slots=slots,
        sharing=sharing,
    )


def _sizes(module: nn.Module, name: str) -> tuple[int, int]:
    """Inputs and outputs of a linear; a Conv1D keeps its weight as (in, out)."""
    linear = module.get_submodule(name)
    assert isinstance(linear.weight, Tensor)
    rows, columns = linear.weight.shape
    return (rows, columns) if isinstance(linear, Conv1D) else (columns, rows)


def _check_widths(block: _Block, found: dict[str, LinearShape], units: int) -> None:
    for name, linear in found.items():
        whole = linear.keep(units)
        if whole != (linear.inputs, linear.outputs):
            raise block.refuse(
                f"{name} is {linear.outputs} x {linear.inputs}, "
                f"but {units} units make it {whole[1]} x {whole[0]}"
            )


def _own_vectors(block: _Block) -> dict[str, Tensor]:
    """Parameters of an attention block, outside its linears, with a row per head."""
    names = dict(block.module.named_parameters())
    return {name: names[name] for name in block.family.heads_also if name in names}


def _check_layers(heads: dict[str, int], neurons: dict[str, int]) -> None:
    """A layer of which only a half is known holds something that would be left as it is."""
    with_heads, with_neurons = ({layer_of(path) for path in blocks} for blocks in (heads, neurons))
    for layer in sorted(filter(None, with_heads ^ with_neurons)):
        kind = "attention" if layer in with_neurons else "feed-forward"
        raise ModelError(f"{layer} can't be cut: it has no {kind} block that lightpeft knows")


def _check_parameters(
    model: PreTrainedModel, blocks: list[_Block], linears: dict[str, LinearShape]
) -> None:
    """Refuse a block with a parameter that nothing accounts for: it may be as wide as the heads."""
    inner = {block.path for block in blocks if block.attention}
    for block in blocks:
        width = linears[f"{block.path}.{block.out}"].outputs
        size = linears[f"{block.path}.{block.out}"].unit
        own = _own_vectors(block) if block.attention else {}
        for name, weight in block.module.named_parameters():
            owner = f"{block.path}.{name}".rpartition(".")[0]
            nested = any(owner.startswith(f"{path}.") for path in inner - {block.path})
            if owner in linears or name in own or (not block.attention and nested):
                continue
            place = name.rpartition(".")[0]
            fits = place in block.family.beside and weight.shape == (width,)
            fits |= place in block.family.beside_heads and weight.shape == (size,)
            fits |= place == TABLE and block.family.quirk == "bias_table"
            if not fits:
                raise block.refuse(
                    f"its family does not account for {name} of shape {tuple(weight.shape)}"
                )


def _lenders(blocks: list[_Block]) -> dict[str, str]:
    """T5's self-attention blocks -> the one in their stack that holds the table of biases."""
    found: dict[str, str] = {}
    holders: dict[tuple[str, str], str] = {}
    for block in blocks:
        if block.attention and block.family.quirk == "bias_table":
            stack = (str(layer_of(block.path)).rpartition(".")[0], block.path.rpartition(".")[2])
            if hasattr(block.module, TABLE):
                holders[stack] = block.path
            if stack in holders:
                found[block.path] = holders[stack]
    return found
