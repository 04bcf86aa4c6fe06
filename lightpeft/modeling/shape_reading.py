"""Read a model's shape from its weights, and refuse what a family's names don't account for."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import replace

from transformers import PreTrainedModel

from lightpeft.core.block_shape import (
    KEPT_WHOLE,
    AttentionBlock,
    Block,
    FeedForwardBlock,
    LinearShape,
    find_layer,
    find_stack,
)
from lightpeft.core.errors import ModelError
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.block_linears import find_block_linears
from lightpeft.modeling.blocks import (
    BlockMatch,
    check_layers,
    find_blocks,
    find_per_head_parameters,
    mask_numbers,
)
from lightpeft.modeling.families import BIAS_TABLE
from lightpeft.modeling.family import Family
from lightpeft.modeling.layer_stacks import find_layer_stacks
from lightpeft.modeling.moe import MoEBlock, find_moe_blocks
from lightpeft.modeling.non_block_parameters import (
    count_matmul_weights,
    count_non_block_parameters,
)


def read_shape(
    model: PreTrainedModel,
    families: tuple[Family, ...],
    *,
    by_structure: bool = False,
    skipped: Collection[str] = (),
    keeps_layers: str = "",
) -> ModelShape:
    """Read from a model's weights what can be pruned, blocks in execution order.

    Args:
        model: a plain transformers model, not pruned before.
        families: to match its blocks with.
        by_structure: whether the families are guesses that `prove_reading` checks: an attention
            block that they don't account for keeps all heads, as one unit, and other weights in
            a layer are left as they are.
        skipped: stacks of layers, as `model.vision.layers`, and blocks of all layers, as
            `decoder.layers.*.encoder_attn`, that are left as they are.
        keeps_layers: why no layer can be pruned whole, if a proof showed it.

    Raises:
        ModelError: no block has the expected linears, or a block holds something that its family
            does not account for (names it).
    """
    matches, moe_blocks = _find_blocks(model, families, by_structure=by_structure, skipped=skipped)
    blocks = _build_blocks(model, matches, moe_blocks)
    linears = {path: linear for block in blocks for path, linear in block.linears.items()}
    _check_parameters(matches, linears)
    moe_weights = {
        path: weight
        for block in moe_blocks
        for path, weight in block.find_unpruned_weights().items()
    }
    counted = {*linears, *moe_weights, *(path.rpartition(".")[0] for path in moe_weights)}
    for block in matches:
        names = (BIAS_TABLE, *find_per_head_parameters(block))
        counted |= {f"{block.path}.{name}" for name in names}
    if not by_structure:
        _check_rest(model, [*moe_blocks, *matches], counted)
    parameters = count_non_block_parameters(model, counted)
    if moe_weights:
        parameters["feed_forward"] = sum(weight.numel() for weight in moe_weights.values())
    repeats = _count_layer_repeats(model)
    keeps_layers = keeps_layers or ("its layers share weights" if repeats else "")
    return ModelShape(
        model_type=model.config.model_type,
        blocks=blocks,
        non_block_parameters=parameters,
        matmul_weights=count_matmul_weights(model, counted),
        layer_repeats=repeats,
        stacks=find_layer_stacks(model, blocks, counted, moe_weights, reason=keeps_layers),
    )


def _find_blocks(
    model: PreTrainedModel,
    families: tuple[Family, ...],
    *,
    by_structure: bool,
    skipped: Collection[str],
) -> tuple[list[BlockMatch], list[MoEBlock]]:
    """Return the blocks that are not in a skipped stack, once each layer is known to have both."""
    matches = [
        block
        for block in find_blocks(model, families, by_structure=by_structure)
        if find_stack(block.path) not in skipped
    ]
    dense = [block.path for block in matches if not block.is_attention] if by_structure else None
    moe_blocks = [
        block
        for block in find_moe_blocks(model, families, dense)
        if find_stack(block.path) not in skipped
    ]
    if not matches and (by_structure or not moe_blocks):
        raise ModelError(
            f"{type(model).__name__} has no {model.config.model_type} blocks that lightpeft knows"
        )
    check_layers(model, families, matches, [block.path for block in moe_blocks])
    if by_structure:
        matches = [
            _keep_whole_unless_readable(block)
            for block in matches
            if mask_numbers(block.path) not in skipped
        ]
    return matches, moe_blocks


def _keep_whole_unless_readable(block: BlockMatch) -> BlockMatch:
    """Return an attention block, or what keeps all its heads if its family can't account for it."""
    if not block.is_attention or block.keeps_heads:
        return block
    try:
        _check_parameters([block], find_block_linears(block))
    except ModelError:
        return replace(block, family=block.family.keep_heads())
    return block


def _count_layer_repeats(model: PreTrainedModel) -> dict[str, int]:
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
    owners = _find_position_bias_owners(matches)
    last_attention = {find_layer(block.path): block.path for block in matches if block.is_attention}
    moe_weights = {
        last_attention[block.layer]: block.count_matmul_weights()
        for block in moe_blocks
        if block.layer in last_attention
    }
    blocks: list[Block] = []
    for match in matches:
        unordered = find_block_linears(match)
        linears = dict(sorted(unordered.items(), key=lambda item: order[item[0]]))
        units = linears[f"{match.path}.{match.output_projection}"].units
        if not match.is_attention:
            blocks.append(FeedForwardBlock(path=match.path, units=units, linears=linears))
            continue
        extra, owner = find_per_head_parameters(match), owners.get(match.path)
        extra_size = sum(weight.numel() for weight in extra.values()) // units
        table = getattr(owner.module, BIAS_TABLE, None) if owner else None
        blocks.append(
            AttentionBlock(
                path=match.path,
                units=units,
                linears=linears,
                attention_core=match.family.attention_core,
                head_count_rule=KEPT_WHOLE if match.keeps_heads else match.family.head_count_rule,
                per_head_weights=tuple(f"{match.path}.{name}" for name in extra),
                parameters_per_head=table.weight.shape[0] if table else extra_size,
                position_bias_owner=owner.path if owner else "",
                moe_matmul_weights=moe_weights.get(match.path, 0),
            )
        )
    # BERT's feed-forward block contains its attention block, so it was found first.
    return tuple(sorted(blocks, key=lambda block: order[next(iter(block.linears))]))


def _find_position_bias_owners(matches: list[BlockMatch]) -> dict[str, BlockMatch]:
    """Return path of a T5 attention block -> block of its stack that computes its position bias."""
    owners: dict[str, BlockMatch] = {}
    by_stack: dict[tuple[str, str], BlockMatch] = {}
    for block in matches:
        if block.is_attention and block.family.head_count_rule == "bias_table":
            # Self-attention and cross-attention of a stack have biases of their own.
            stack = (str(find_layer(block.path)).rpartition(".")[0], block.path.rpartition(".")[2])
            if hasattr(block.module, BIAS_TABLE) or stack not in by_stack:
                by_stack[stack] = block
            owners[block.path] = by_stack[stack]
    return owners


def _check_parameters(matches: list[BlockMatch], linears: dict[str, LinearShape]) -> None:
    """Refuse a block with a parameter that nothing accounts for: it may be as wide as the heads."""
    attention = {block.path for block in matches if block.is_attention}
    for block in matches:
        output = linears[f"{block.path}.{block.output_projection}"]
        extra, family = find_per_head_parameters(block), block.family
        if block.by_structure and any(path.startswith(f"{block.path}.") for path in attention):
            continue  # it is a whole layer, whose other weights are left as they are
        for name, weight in block.module.named_parameters():
            owner = f"{block.path}.{name}".rpartition(".")[0]
            is_nested = any(owner.startswith(f"{path}.") for path in attention - {block.path})
            if owner in linears or name in extra or (not block.is_attention and is_nested):
                continue
            child = name.rpartition(".")[0]
            is_expected = child in family.norms and weight.shape == (output.outputs,)
            is_expected |= child in family.head_norms and weight.shape == (output.unit_size,)
            is_expected |= block.by_structure and weight.numel() == 1
            is_expected |= child == BIAS_TABLE and family.head_count_rule == "bias_table"
            if not is_expected:
                raise block.make_unsupported_error(
                    f"its family does not account for {name} of shape {tuple(weight.shape)}"
                )


def _check_rest(
    model: PreTrainedModel, blocks: list[MoEBlock | BlockMatch], counted: Set[str]
) -> None:
    """Refuse what nothing accounts for: in a MoE block anything, in the rest of a layer matrices.

    A layer may have norms of its own, but no other experts and no other attention.
    """
    checked = [(block.path, 0) for block in blocks if isinstance(block, MoEBlock)]
    checked += [(layer, 2) for layer in dict.fromkeys(str(find_layer(x.path)) for x in blocks)]
    for parent, dim in checked:
        for name, weight in model.get_submodule(parent).named_parameters():
            path = f"{parent}.{name}"
            if weight.dim() >= dim and not {path, path.rpartition(".")[0]} & counted:
                raise ModelError(
                    f"{parent} can't be pruned: its family does not account for {name} "
                    f"of shape {tuple(weight.shape)}"
                )
