"""Read a model's shape from its weights, and refuse what a family's names don't account for."""

from __future__ import annotations

from collections.abc import Set

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.core.shape import LinearShape, ModelShape
from lightpeft.modeling.blocks import (
    Block,
    check_layers,
    child,
    find_blocks,
    get_linear,
    head_size,
    layer_of,
    per_head_parameters,
)
from lightpeft.modeling.families import BIAS_TABLE, HEAD_SIZES, layer_repeats
from lightpeft.modeling.fingerprint import sizes
from lightpeft.modeling.moe import check_moe_blocks, find_moe_blocks, per_token
from lightpeft.modeling.non_block_parameters import others, products


def inspect_model(model: PreTrainedModel) -> ModelShape:
    """Read what can be cut from the model's weights, blocks in depth order.

    The model must be plain: not wrapped by peft, not pruned before.

    Raises:
        ModelError: the architecture is not supported, no block has the expected linears, or a
            block holds something that its family does not account for (names it).
    """
    _check_plain(model)
    blocks = list(find_blocks(model))
    heads: dict[str, int] = {}
    neurons: dict[str, int] = {}
    linears: dict[str, LinearShape] = {}
    per_head: dict[str, int] = {}
    for block in blocks:
        found = _attention(block) if block.attention else _feed_forward(block)
        linears |= found
        units = found[f"{block.path}.{block.out}"].units
        (heads if block.attention else neurons)[block.path] = units
        if block.attention and (own := per_head_parameters(block)):
            per_head[block.path] = sum(weight.numel() for weight in own.values()) // units
    experts = find_moe_blocks(model)
    if not blocks and not experts:
        raise ModelError(
            f"{type(model).__name__} has no {model.config.model_type} blocks that lightpeft knows"
        )
    check_layers(model, blocks, (block.path for block in experts))
    check_moe_blocks(experts, linears)
    _check_parameters(model, blocks, linears)
    lenders = _lenders(blocks)
    for path, lender in lenders.items():
        table = model.get_submodule(f"{lender}.{BIAS_TABLE}").weight
        per_head[path] = table.numel() // heads[lender]
    counted = set(linears) | {f"{path}.{BIAS_TABLE}" for path in lenders}
    counted |= {f"{b.path}.{n}" for b in blocks if b.attention for n in per_head_parameters(b)}
    whole = {name: weight for block in experts for name, weight in block.weights().items()}
    counted |= {part for name in whole for part in (name, name.rpartition(".")[0])}
    _check_rest(model, blocks, counted)
    return ModelShape(
        model_type=model.config.model_type,
        heads=heads,
        neurons=neurons,
        # BERT's feed-forward block holds its attention block, so it was found first.
        linears={path: linears[path] for path, _ in model.named_modules() if path in linears},
        others=others(model, counted) | _sizes_of_experts(whole),
        per_head=per_head,
        lenders=lenders,
        repeats=layer_repeats(model),
        products=products(model, counted),
        experts=per_token(experts, heads),
    )


def _check_plain(model: PreTrainedModel) -> None:
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            raise ModelError(
                f"{name} is a PEFT module; pass the plain model, not one wrapped by peft"
            )


def _sizes_of_experts(whole: dict[str, Tensor]) -> dict[str, int]:
    return {"feed_forward": sum(weight.numel() for weight in whole.values())} if whole else {}


def _attention(block: Block) -> dict[str, LinearShape]:
    core = child(block.module, block.family.attention_core)
    size = head_size(core)
    if not size:
        raise block.refuse(f"none of {', '.join(HEAD_SIZES)} says how wide a head is")
    if getattr(core, "slow_but_exact", False):  # Bloom: reads its projection's weight by itself
        raise block.refuse("it bypasses its output projection (slow_but_exact)")
    rows = {name: sizes(block.module.get_submodule(name))[1] for name in block.ins}
    runs: dict[str, tuple[str, ...]]
    columns = sizes(block.module.get_submodule(block.out))[0]
    heads = columns // size
    if block.family.fused_qkv:
        groups = (rows[block.ins[0]] // size - heads) // 2
        runs = {block.ins[0]: ("interleaved",)}
        if block.family.fused_qkv == "concatenated":
            runs = {block.ins[0]: ("units", "groups", "groups")}
    else:
        groups = rows[block.ins[1]] // size
        query, key, value = block.ins
        runs = {query: ("units",), key: ("groups",), value: ("groups",)}
    if groups < 1 or heads % groups:
        raise block.refuse(f"{heads} heads of {size} can't share {groups} keys and values")
    if groups == heads:  # nothing is shared: keys and values are the heads' own
        runs = {name: _own(run) for name, run in runs.items()}
    also = [
        name for name in block.family.per_head_extra if get_linear(block.module, name) is not None
    ]
    runs |= dict.fromkeys((*also, block.out), ("units",))
    found = {
        name: _shape(block, name, unit=size, slots=run, sharing=heads // groups)
        for name, run in runs.items()
    }
    _check_widths(block, found, heads)
    return {f"{block.path}.{name}": linear for name, linear in found.items()}


def _own(run: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("units" if name == "groups" else name for name in run)


def _feed_forward(block: Block) -> dict[str, LinearShape]:
    run = ("units", "units") if block.family.fused_gate_up else ("units",)
    found = {name: _shape(block, name, unit=1, slots=run, sharing=1) for name in block.ins}
    found[block.out] = _shape(block, block.out, unit=1, slots=("units",), sharing=1)
    _check_widths(block, found, found[block.out].inputs)
    return {f"{block.path}.{name}": linear for name, linear in found.items()}


def _shape(
    block: Block, name: str, *, unit: int, slots: tuple[str, ...], sharing: int
) -> LinearShape:
    inputs, outputs = sizes(block.module.get_submodule(name))
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


def _check_widths(block: Block, found: dict[str, LinearShape], units: int) -> None:
    for name, linear in found.items():
        whole = linear.keep(units)
        if whole != (linear.inputs, linear.outputs):
            raise block.refuse(
                f"{name} is {linear.outputs} x {linear.inputs}, "
                f"but {units} units make it {whole[1]} x {whole[0]}"
            )


def _check_parameters(
    model: PreTrainedModel, blocks: list[Block], linears: dict[str, LinearShape]
) -> None:
    """Refuse a block with a parameter that nothing accounts for: it may be as wide as the heads."""
    inner = {block.path for block in blocks if block.attention}
    for block in blocks:
        width = linears[f"{block.path}.{block.out}"].outputs
        size = linears[f"{block.path}.{block.out}"].unit
        own = per_head_parameters(block) if block.attention else {}
        for name, weight in block.module.named_parameters():
            owner = f"{block.path}.{name}".rpartition(".")[0]
            nested = any(owner.startswith(f"{path}.") for path in inner - {block.path})
            if owner in linears or name in own or (not block.attention and nested):
                continue
            place = name.rpartition(".")[0]
            fits = place in block.family.norms and weight.shape == (width,)
            fits |= place in block.family.head_norms and weight.shape == (size,)
            fits |= place == BIAS_TABLE and block.family.head_count_rule == "bias_table"
            if not fits:
                raise block.refuse(
                    f"its family does not account for {name} of shape {tuple(weight.shape)}"
                )


def _check_rest(model: PreTrainedModel, blocks: list[Block], counted: Set[str]) -> None:
    """Refuse a layer that multiplies by anything outside its blocks: experts, another attention."""
    for layer in dict.fromkeys(str(layer_of(block.path)) for block in blocks):
        for name, weight in model.get_submodule(layer).named_parameters():
            path = f"{layer}.{name}"
            if weight.dim() > 1 and not {path, path.rpartition(".")[0]} & counted:
                raise ModelError(
                    f"{layer} can't be cut: its family does not account for {name} "
                    f"of shape {tuple(weight.shape)}"
                )


def _lenders(blocks: list[Block]) -> dict[str, str]:
    """T5's self-attention blocks -> the one in their stack that holds the table of biases."""
    found: dict[str, str] = {}
    holders: dict[tuple[str, str], str] = {}
    for block in blocks:
        if block.attention and block.family.head_count_rule == "bias_table":
            stack = (str(layer_of(block.path)).rpartition(".")[0], block.path.rpartition(".")[2])
            if hasattr(block.module, BIAS_TABLE):
                holders[stack] = block.path
            if stack in holders:
                found[block.path] = holders[stack]
    return found
