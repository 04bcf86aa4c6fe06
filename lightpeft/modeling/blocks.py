"""Find a model's attention and feed-forward blocks by the names of their children."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.block_shape import find_layer
from lightpeft.core.errors import ModelError
from lightpeft.modeling.family import Family
from lightpeft.modeling.fingerprint import get_in_out_features


@dataclass(frozen=True)
class BlockMatch:
    """A module of the model, taken for an attention or feed-forward block of a family."""

    path: str
    module: nn.Module
    family: Family
    is_attention: bool
    by_structure: bool = False

    @property
    def keeps_heads(self) -> bool:
        """Whether it is an attention block that counts as one head, which is always kept."""
        return self.is_attention and not self.family.qkv_proj

    @property
    def has_fused_gate_up(self) -> bool:
        """Whether its only input projection has the rows of gate, then of up."""
        if not self.by_structure or len(self.input_projections) > 1:
            return self.family.fused_gate_up
        linears = (self.input_projections[0], self.output_projection)
        up, down = (get_in_out_features(self.module.get_submodule(name)) for name in linears)
        return up[1] == 2 * down[0]

    @property
    def input_projections(self) -> tuple[str, ...]:
        """Linears whose rows are units."""
        if self.keeps_heads:
            names = [n for n, child in self.module.named_modules() if _is_linear(child)]
            return tuple(name for name in names if name != self.output_projection)
        return self.family.qkv_proj if self.is_attention else self.family.ffn_in_proj

    @property
    def output_projection(self) -> str:
        """The linear whose input is the units."""
        return self.family.attn_out_proj if self.is_attention else self.family.ffn_out_proj

    @property
    def missing_linears(self) -> list[str]:
        """Linears that the family names and the module does not have."""
        names = (*self.input_projections, self.output_projection)
        return [name for name in names if get_linear(self.module, name) is None]

    @property
    def is_match(self) -> bool:
        """Whether the module has all these linears."""
        return bool(self.input_projections) and not self.missing_linears

    def make_unsupported_error(self, reason: str) -> ModelError:
        """Return the error that names the block."""
        return ModelError(f"{self.path} can't be pruned: {reason}")


def find_blocks(
    model: PreTrainedModel, families: tuple[Family, ...], *, by_structure: bool = False
) -> Iterator[BlockMatch]:
    """Yield blocks in numbered layers, in the order of the model's modules, outer ones first.

    A block is of the first of `families` whose linears it has. By structure, a module with some of
    a family's linears may be something else, and nothing is looked for inside an attention block.

    Raises:
        ModelError: a module is both kinds of block, or lacks some linears of a block (names it).
    """
    attention = ""
    for path, module in model.named_modules():
        if find_layer(path) is None or (attention and path.startswith(attention)):
            continue
        found: list[BlockMatch] = []
        for is_attention in (False, True):
            candidates = [
                BlockMatch(path, module, family, is_attention, by_structure)
                for family in families
                if (family.qkv_proj or not found if is_attention else family.ffn_in_proj)
            ]
            matches = [block for block in candidates if block.is_match]
            found += matches[:1]
            for block in () if matches or by_structure else candidates:
                missing, output = block.missing_linears, block.output_projection
                if output not in missing and set(block.input_projections) - set(missing):
                    raise block.make_unsupported_error(
                        f"it has {output} but no linear {missing[0]}"
                    )
        if len(found) == 2:
            raise found[0].make_unsupported_error(
                "it is an attention and a feed-forward block in one"
            )
        if by_structure and found and found[0].is_attention:
            attention = f"{path}."
        yield from found


def mask_numbers(path: str) -> str:
    """Return a path with an asterisk for each number."""
    return re.sub(r"\.\d+\b", ".*", path)


def get_linear(module: nn.Module, name: str) -> nn.Module | None:
    """Return the Linear or Conv1D of that name, if there is one."""
    try:
        child = module.get_submodule(name)
    except AttributeError:
        return None
    return child if _is_linear(child) else None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def find_per_head_parameters(block: BlockMatch) -> dict[str, Tensor]:
    """Return the parameters of an attention block outside its linears with rows per head.

    Where all heads are one unit, these are all its parameters.
    """
    parameters = dict(block.module.named_parameters())
    if block.keeps_heads:
        linears = (*block.input_projections, block.output_projection)
        return {n: w for n, w in parameters.items() if n.rpartition(".")[0] not in linears}
    names = block.family.per_head_extra if block.is_attention else ()
    return {name: parameters[name] for name in names if name in parameters}


def check_layers(
    model: PreTrainedModel,
    families: tuple[Family, ...],
    blocks: list[BlockMatch],
    moe_blocks: list[str],
) -> None:
    """Refuse a layer without one of its two kinds of blocks: it has it under other names.

    Args:
        model: as it is.
        families: of its architecture.
        blocks: those found in it.
        moe_blocks: paths of MoE blocks, which count as feed-forward blocks.

    Raises:
        ModelError: names the layer.
    """
    layers = {True: set[str](), False: {str(find_layer(path)) for path in moe_blocks}}
    paths = {block.path for block in blocks}
    for block in blocks:
        layers[block.is_attention].add(str(find_layer(block.path)))
    stacks = {layer.rpartition(".")[0] for group in layers.values() for layer in group}
    for stack in sorted(stacks):
        for name, layer in model.get_submodule(stack).named_children():
            path = f"{stack}.{name}"
            for is_attention in (True, False):
                if path not in layers[is_attention] and not (
                    blocks[0].by_structure and _is_accounted_for(layer, path, blocks, moe_blocks)
                ):
                    candidates = [
                        BlockMatch(inner, module, family, is_attention)
                        for inner, module in layer.named_modules(prefix=path)
                        for family in families
                        if inner not in paths
                    ]
                    raise _make_missing_block_error(path, candidates, is_attention=is_attention)


def _is_accounted_for(
    layer: nn.Module, path: str, blocks: list[BlockMatch], moe_blocks: list[str]
) -> bool:
    """Return whether all matrices of a layer are of its blocks."""
    known = tuple(
        f"{prefix}."
        for block in blocks
        for prefix in (
            [block.path]
            if block.is_attention
            else [f"{block.path}.{x}" for x in (*block.input_projections, block.output_projection)]
        )
    ) + tuple(f"{prefix}." for prefix in moe_blocks)
    names = [f"{path}.{name}" for name, weight in layer.named_parameters() if weight.dim() > 1]
    return all(name.startswith(known) for name in names)


def _make_missing_block_error(
    layer: str, candidates: list[BlockMatch], *, is_attention: bool
) -> ModelError:
    """Return the error that names the module which might be the missing block, if one might."""
    for block in candidates:
        output = block.output_projection
        if output and output not in block.missing_linears:
            return block.make_unsupported_error(
                f"it has {output} but no linear {block.input_projections[0]}"
            )
    kind = "attention" if is_attention else "feed-forward"
    return ModelError(f"{layer} can't be pruned: it has no {kind} block that lightpeft knows")
