"""Read a model's shape from its weights, and refuse what a family's names don't account for."""

from __future__ import annotations

from collections.abc import Set

from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from lightpeft.core.block_shape import (
    AttentionBlock,
    Block,
    FeedForwardBlock,
    LinearShape,
    layer_of,
)
from lightpeft.core.errors import ModelError
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.blocks import (
    BlockMatch,
    check_layers,
    find_blocks,
    get_linear,
    per_head_parameters,
)
from lightpeft.modeling.families import BIAS_TABLE, HEAD_SIZES, families_of
from lightpeft.modeling.fingerprint import in_out_features
from lightpeft.modeling.moe import MoEBlock, find_moe_blocks
from lightpeft.modeling.non_block_parameters import (
    count_matmul_weights,
    count_non_block_parameters,
)


def inspect_model(model: PreTrainedModel) -> ModelShape:
    """Read from a model's weights what can be pruned, blocks in execution order.

    Args:
        model: a plain transformers model: not wrapped by peft, not pruned before.

    Raises:
        ModelError: the architecture is not supported, no block has the expected linears, or a
            block holds something that its family does not account for (names it).

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
        >>> shape = lightpeft.inspect_model(ViTModel(ViTConfig(num_hidden_layers=1, **sizes)))
        >>> shape
        ModelShape(vit: 1 attention block with 4 heads, 1 feed-forward block with 64 neurons)
        >>> shape.blocks[1].output_projection
        'layers.0.mlp.fc2'

    Example:
        >>> shape = lightpeft.inspect_model(base_model)
        >>> shape.heads
        {'bert.encoder.layer.0.attention': 4, 'bert.encoder.layer.1.attention': 4}
    """
    _check_plain(model)
    families = families_of(model)
    matches = list(find_blocks(model, families))
    moe_blocks = find_moe_blocks(model, families)
    if not matches and not moe_blocks:
        raise ModelError(
            f"{type(model).__name__} has no {model.config.model_type} blocks that lightpeft knows"
        )
    check_layers(model, families, matches, (block.path for block in moe_blocks))
    blocks = _build_blocks(model, matches, moe_blocks)
    linears = {path: linear for block in blocks for path, linear in block.linears.items()}
    _check_parameters(matches, linears)
    moe_weights = {
        path: weight for block in moe_blocks for path, weight in block.unpruned_weights().items()
    }
    counted = set(linears) | {f"{block.path}.{BIAS_TABLE}" for block in matches}
    counted |= {f"{block.path}.{name}" for block in matches for name in per_head_parameters(block)}
    counted |= {name for path in moe_weights for name in (path, path.rpartition(".")[0])}
    _check_rest(model, [*moe_blocks, *matches], counted)
    parameters = count_non_block_parameters(model, counted)
    if moe_weights:
        parameters["feed_forward"] = sum(weight.numel() for weight in moe_weights.values())
    return ModelShape(
        model_type=model.config.model_type,
        blocks=blocks,
        non_block_parameters=parameters,
        matmul_weights=count_matmul_weights(model, counted),
        layer_repeats=_layer_repeats(model),
    )


def _check_plain(model: PreTrainedModel) -> None:
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            raise ModelError(
                f"{name} is a PEFT module; pass the plain model, not one wrapped by peft"
            )


def _layer_repeats(model: PreTrainedModel) -> dict[str, int]:
    """Return path of each module that runs several times in a row -> how often.

    ALBERT's layers share weights in groups; the formula is that of its `AlbertTransformer`.
    """
    groups = [p for p, m in model.named_modules() if type(m).__name__ == "AlbertLayerGroup"]
    if not groups:
        return {}
    depth = model.config.num_hidden_layers
    group_of_layer = [int(layer / (depth / len(groups))) for layer in range(depth)]
    return {path: group_of_layer.count(index) for index, path in enumerate(groups)}


def _build_blocks(
    model: PreTrainedModel, matches: list[BlockMatch], moe_blocks: list[MoEBlock]
) -> tuple[Block, ...]:
    """Return the matched blocks with their linears, both in the order of the model's modules."""
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    owners = _position_bias_owners(matches)
    last_attention = {layer_of(block.path): block.path for block in matches if block.is_attention}
    moe_weights = {last_attention[x.layer]: x.count_matmul_weights() for x in moe_blocks}
    blocks: list[Block] = []
    for match in matches:
        unordered = _attention_linears(match) if match.is_attention else _ffn_linears(match)
        linears = dict(sorted(unordered.items(), key=lambda item: order[item[0]]))
        units = linears[f"{match.path}.{match.output_projection}"].units
        if not match.is_attention:
            blocks.append(FeedForwardBlock(path=match.path, units=units, linears=linears))
            continue
        extra, owner = per_head_parameters(match), owners.get(match.path)
        extra_size = sum(weight.numel() for weight in extra.values()) // units
        table = getattr(owner.module, BIAS_TABLE, None) if owner else None
        blocks.append(
            AttentionBlock(
                path=match.path,
                units=units,
                linears=linears,
                attention_core=match.family.attention_core,
                head_count_rule=match.family.head_count_rule,
                per_head_weights=tuple(f"{match.path}.{name}" for name in extra),
                parameters_per_head=table.weight.shape[0] if table else extra_size,
                position_bias_owner=owner.path if owner else "",
                moe_matmul_weights=moe_weights.get(match.path, 0),
            )
        )
    # BERT's feed-forward block contains its attention block, so it was found first.
    return tuple(sorted(blocks, key=lambda block: order[next(iter(block.linears))]))


def _position_bias_owners(matches: list[BlockMatch]) -> dict[str, BlockMatch]:
    """Return path of a T5 attention block -> block of its stack that computes its position bias."""
    owners: dict[str, BlockMatch] = {}
    by_stack: dict[tuple[str, str], BlockMatch] = {}
    for block in matches:
        if block.is_attention and block.family.head_count_rule == "bias_table":
            # Self-attention and cross-attention of a stack have biases of their own.
            stack = (str(layer_of(block.path)).rpartition(".")[0], block.path.rpartition(".")[2])
            if hasattr(block.module, BIAS_TABLE) or stack not in by_stack:
                by_stack[stack] = block
            owners[block.path] = by_stack[stack]
    return owners


def _attention_linears(block: BlockMatch) -> dict[str, LinearShape]:
    """Return the linears of an attention block by their paths.

    Raises:
        ModelError: the block says no head size, or a linear is of a size its heads don't explain.
    """
    core = block.module.get_submodule(block.family.attention_core)
    size = int(next((getattr(core, name) for name in HEAD_SIZES if hasattr(core, name)), 0))
    if not size:
        raise block.unsupported_error(f"none of {', '.join(HEAD_SIZES)} says how wide a head is")
    if getattr(core, "slow_but_exact", False):  # Bloom: reads its projection's weight by itself
        raise block.unsupported_error("it bypasses its output projection (slow_but_exact)")
    rows = {name: _in_out_features(block, name)[1] for name in block.input_projections}
    heads = _in_out_features(block, block.output_projection)[0] // size
    segments: dict[str, tuple[str, ...]]
    if block.family.fused_qkv:
        (fused,) = block.input_projections
        groups = (rows[fused] // size - heads) // 2
        is_interleaved = block.family.fused_qkv == "interleaved"
        segments = {fused: ("interleaved",) if is_interleaved else ("units", "groups", "groups")}
    else:
        query, key, value = block.input_projections
        groups = rows[key] // size
        segments = {query: ("units",), key: ("groups",), value: ("groups",)}
    if groups < 1 or heads % groups:
        raise block.unsupported_error(
            f"{heads} heads of {size} can't share {groups} keys and values"
        )
    if groups == heads:  # nothing is shared: each head has its own key and value
        segments = {
            name: tuple("units" if segment == "groups" else segment for segment in row)
            for name, row in segments.items()
        }
    extra = [x for x in block.family.per_head_extra if get_linear(block.module, x) is not None]
    segments |= dict.fromkeys((*extra, block.output_projection), ("units",))
    return _linear_shapes(block, segments, unit_size=size, heads_per_kv_group=heads // groups)


def _ffn_linears(block: BlockMatch) -> dict[str, LinearShape]:
    """Return the linears of a feed-forward block by their paths."""
    segments: dict[str, tuple[str, ...]] = dict.fromkeys(block.input_projections, ("units",))
    if block.family.fused_gate_up:
        segments = dict.fromkeys(block.input_projections, ("units", "units"))
    segments[block.output_projection] = ("units",)
    return _linear_shapes(block, segments, unit_size=1, heads_per_kv_group=1)


def _linear_shapes(
    block: BlockMatch,
    segments: dict[str, tuple[str, ...]],
    *,
    unit_size: int,
    heads_per_kv_group: int,
) -> dict[str, LinearShape]:
    """Return the linears by their paths, once all agree on the number of units."""
    units = _in_out_features(block, block.output_projection)[0] // unit_size
    linears = {}
    for name, linear_segments in segments.items():
        inputs, outputs = _in_out_features(block, name)
        linear = LinearShape(
            inputs=inputs,
            outputs=outputs,
            bias=block.module.get_submodule(name).bias is not None,
            pruned_dim="in" if name == block.output_projection else "out",
            unit_size=unit_size,
            segments=linear_segments,
            heads_per_kv_group=heads_per_kv_group,
        )
        expected = linear.pruned_shape(units)
        if expected != (inputs, outputs):
            raise block.unsupported_error(
                f"{name} is {outputs} x {inputs}, "
                f"but {units} units make it {expected[1]} x {expected[0]}"
            )
        linears[f"{block.path}.{name}"] = linear
    return linears


def _in_out_features(block: BlockMatch, name: str) -> tuple[int, int]:
    return in_out_features(block.module.get_submodule(name))


def _check_parameters(matches: list[BlockMatch], linears: dict[str, LinearShape]) -> None:
    """Refuse a block with a parameter that nothing accounts for: it may be as wide as the heads."""
    attention = {block.path for block in matches if block.is_attention}
    for block in matches:
        output = linears[f"{block.path}.{block.output_projection}"]
        extra, family = per_head_parameters(block), block.family
        for name, weight in block.module.named_parameters():
            owner = f"{block.path}.{name}".rpartition(".")[0]
            is_nested = any(owner.startswith(f"{path}.") for path in attention - {block.path})
            if owner in linears or name in extra or (not block.is_attention and is_nested):
                continue
            child = name.rpartition(".")[0]
            is_expected = child in family.norms and weight.shape == (output.outputs,)
            is_expected |= child in family.head_norms and weight.shape == (output.unit_size,)
            is_expected |= child == BIAS_TABLE and family.head_count_rule == "bias_table"
            if not is_expected:
                raise block.unsupported_error(
                    f"its family does not account for {name} of shape {tuple(weight.shape)}"
                )


def _check_rest(
    model: PreTrainedModel, blocks: list[MoEBlock | BlockMatch], counted: Set[str]
) -> None:
    """Refuse what nothing accounts for: in a MoE block anything, in the rest of a layer matrices.

    A layer may have norms of its own, but no other experts and no other attention.
    """
    checked = [(block.path, 0) for block in blocks if isinstance(block, MoEBlock)]
    checked += [(layer, 2) for layer in dict.fromkeys(str(layer_of(x.path)) for x in blocks)]
    for parent, dim in checked:
        for name, weight in model.get_submodule(parent).named_parameters():
            path = f"{parent}.{name}"
            if weight.dim() >= dim and not {path, path.rpartition(".")[0]} & counted:
                raise ModelError(
                    f"{parent} can't be pruned: its family does not account for {name} "
                    f"of shape {tuple(weight.shape)}"
                )
