"""The linears of a block: which of their rows and columns belong to which head or neuron."""

from __future__ import annotations

from torch import nn

from lightpeft.core.block_shape import LinearShape
from lightpeft.modeling.blocks import BlockMatch, get_linear
from lightpeft.modeling.families import HEAD_COUNTS, HEAD_SIZES
from lightpeft.modeling.fingerprint import get_in_out_features


def find_block_linears(block: BlockMatch) -> dict[str, LinearShape]:
    """Return the linears of a block by their paths.

    Raises:
        ModelError: the block says no head size, or a linear is of a size its heads don't explain.
    """
    if not block.is_attention:
        return _find_ffn_linears(block)
    return _find_whole_linears(block) if block.keeps_heads else _find_attention_linears(block)


def _find_whole_linears(block: BlockMatch) -> dict[str, LinearShape]:
    """Return all linears of an attention block that keeps its heads, which are one unit."""
    linears = {}
    for name in (*block.input_projections, block.output_projection):
        inputs, outputs = _get_in_out_features(block, name)
        is_output = name == block.output_projection
        linears[f"{block.path}.{name}"] = LinearShape(
            inputs=inputs,
            outputs=outputs,
            bias=block.module.get_submodule(name).bias is not None,
            pruned_dim="in" if is_output else "out",
            unit_size=inputs if is_output else outputs,
        )
    return linears


def _find_attention_linears(block: BlockMatch) -> dict[str, LinearShape]:
    """Return the linears of an attention block whose heads can be pruned."""
    core = block.module.get_submodule(block.family.attention_core)
    size = _read_attribute(core, HEAD_SIZES)
    if not size and block.by_structure:
        count = _read_attribute(core, HEAD_COUNTS)
        size = _get_in_out_features(block, block.output_projection)[0] // count if count else 0
    if not size:
        raise block.make_unsupported_error(
            f"none of {', '.join(HEAD_SIZES)} says how wide a head is"
        )
    if getattr(core, "slow_but_exact", False):  # Bloom: reads its projection's weight by itself
        raise block.make_unsupported_error("it bypasses its output projection (slow_but_exact)")
    rows = {name: _get_in_out_features(block, name)[1] for name in block.input_projections}
    heads = _get_in_out_features(block, block.output_projection)[0] // size
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
        raise block.make_unsupported_error(
            f"{heads} heads of {size} can't share {groups} keys and values"
        )
    if groups == heads:  # nothing is shared: each head has its own key and value
        segments = {
            name: tuple("units" if segment == "groups" else segment for segment in row)
            for name, row in segments.items()
        }
    extra = [x for x in block.family.per_head_extra if get_linear(block.module, x) is not None]
    segments |= dict.fromkeys((*extra, block.output_projection), ("units",))
    sizes = dict.fromkeys(segments, size)
    sizes |= {name: _get_in_out_features(block, name)[1] // heads or size for name in extra}
    if block.by_structure and not block.family.fused_qkv and rows[query] == 2 * heads * size:
        sizes[query] = 2 * size  # each head's query is followed by its gate (Qwen3-Next)
    return _read_linear_shapes(
        block, segments, unit_sizes=sizes, heads_per_kv_group=heads // groups
    )


def _read_attribute(core: nn.Module, names: tuple[str, ...]) -> int:
    return int(next((getattr(core, name) for name in names if hasattr(core, name)), 0) or 0)


def _find_ffn_linears(block: BlockMatch) -> dict[str, LinearShape]:
    """Return the linears of a feed-forward block by their paths."""
    segments: dict[str, tuple[str, ...]] = dict.fromkeys(block.input_projections, ("units",))
    if block.has_fused_gate_up:
        segments = dict.fromkeys(block.input_projections, ("units", "units"))
    segments[block.output_projection] = ("units",)
    sizes = dict.fromkeys(segments, 1)
    return _read_linear_shapes(block, segments, unit_sizes=sizes, heads_per_kv_group=1)


def _read_linear_shapes(
    block: BlockMatch,
    segments: dict[str, tuple[str, ...]],
    *,
    unit_sizes: dict[str, int],
    heads_per_kv_group: int,
) -> dict[str, LinearShape]:
    """Return the linears by their paths, once all agree on the number of units."""
    output = block.output_projection
    units = _get_in_out_features(block, output)[0] // unit_sizes[output]
    linears = {}
    for name, linear_segments in segments.items():
        inputs, outputs = _get_in_out_features(block, name)
        linear = LinearShape(
            inputs=inputs,
            outputs=outputs,
            bias=block.module.get_submodule(name).bias is not None,
            pruned_dim="in" if name == output else "out",
            unit_size=unit_sizes[name],
            segments=linear_segments,
            heads_per_kv_group=heads_per_kv_group,
        )
        expected = linear.compute_pruned_shape(units)
        if expected != (inputs, outputs):
            raise block.make_unsupported_error(
                f"{name} is {outputs} x {inputs}, "
                f"but {units} units make it {expected[1]} x {expected[0]}"
            )
        linears[f"{block.path}.{name}"] = linear
    return linears


def _get_in_out_features(block: BlockMatch, name: str) -> tuple[int, int]:
    return get_in_out_features(block.module.get_submodule(name))
