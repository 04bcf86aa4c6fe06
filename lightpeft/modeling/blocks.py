"""Find a model's attention and feed-forward blocks by the names of their children."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.block_shape import layer_of
from lightpeft.core.errors import ModelError
from lightpeft.modeling.families import Family


@dataclass(frozen=True)
class BlockMatch:
    """A module of the model, taken for an attention or feed-forward block of a family."""

    path: str
    module: nn.Module
    family: Family
    is_attention: bool

    @property
    def input_projections(self) -> tuple[str, ...]:
        """Linears whose rows are units."""
        family = self.family
        return family.qkv_proj if self.is_attention else family.ffn_in_proj

    @property
    def output_projection(self) -> str:
        """The linear whose input is the units."""
        return self.family.attn_out_proj if self.is_attention else self.family.ffn_out_proj

    @property
    def missing_linears(self) -> list[str]:
        """Linears that the family names and the module does not have."""
        names = (*self.input_projections, self.output_projection)
        return [name for name in names if get_linear(self.module, name) is None]

    def unsupported_error(self, reason: str) -> ModelError:
        """Return the error that names the block."""
        return ModelError(f"{self.path} can't be pruned: {reason}")


def find_blocks(model: PreTrainedModel, families: tuple[Family, ...]) -> Iterator[BlockMatch]:
    """Yield blocks in numbered layers, in the order of the model's modules, outer ones first.

    A block is of the first of `families` whose linears it has.

    Raises:
        ModelError: a module is both kinds of block, or lacks some linears of a block (names it).
    """
    for path, module in model.named_modules():
        if layer_of(path) is not None:
            attention = _match(BlockMatch(path, module, family, True) for family in families)
            feed_forward = _match(
                BlockMatch(path, module, family, False) for family in families if family.ffn_in_proj
            )
            if attention and feed_forward:
                raise attention.unsupported_error(
                    "it is an attention and a feed-forward block in one"
                )
            yield from filter(None, (attention, feed_forward))


def _match(candidates: Iterable[BlockMatch]) -> BlockMatch | None:
    """Return the first block that has all its linears; refuse one that has some."""
    candidates = list(candidates)
    for block in candidates:
        if not block.missing_linears:
            return block
    for block in candidates:
        missing, output = block.missing_linears, block.output_projection
        if output not in missing and set(block.input_projections) - set(missing):
            raise block.unsupported_error(f"it has {output} but no linear {missing[0]}")
    return None


def get_linear(module: nn.Module, name: str) -> nn.Module | None:
    """Return the Linear or Conv1D of that name, if there is one."""
    try:
        child = module.get_submodule(name)
    except AttributeError:
        return None
    return child if isinstance(child, nn.Linear | Conv1D) else None


def per_head_parameters(block: BlockMatch) -> dict[str, Tensor]:
    """Return the parameters of an attention block outside its linears with a row per head."""
    parameters = dict(block.module.named_parameters())
    names = block.family.per_head_extra if block.is_attention else ()
    return {name: parameters[name] for name in names if name in parameters}


def check_layers(
    model: PreTrainedModel,
    families: tuple[Family, ...],
    blocks: list[BlockMatch],
    moe_blocks: Iterable[str],
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
    layers = {True: set[str](), False: {str(layer_of(path)) for path in moe_blocks}}
    paths = {block.path for block in blocks}
    for block in blocks:
        layers[block.is_attention].add(str(layer_of(block.path)))
    stacks = {layer.rpartition(".")[0] for group in layers.values() for layer in group}
    for stack in sorted(stacks):
        for name, layer in model.get_submodule(stack).named_children():
            path = f"{stack}.{name}"
            for is_attention in (True, False):
                if path not in layers[is_attention]:
                    candidates = [
                        BlockMatch(inner, module, family, is_attention)
                        for inner, module in layer.named_modules(prefix=path)
                        for family in families
                        if inner not in paths
                    ]
                    raise _missing_block_error(path, candidates, is_attention=is_attention)


def _missing_block_error(
    layer: str, candidates: list[BlockMatch], *, is_attention: bool
) -> ModelError:
    """Return the error that names the module which might be the missing block, if one might."""
    for block in candidates:
        output = block.output_projection
        if output and output not in block.missing_linears:
            return block.unsupported_error(
                f"it has {output} but no linear {block.input_projections[0]}"
            )
    kind = "attention" if is_attention else "feed-forward"
    return ModelError(f"{layer} can't be pruned: it has no {kind} block that lightpeft knows")
