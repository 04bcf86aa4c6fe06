"""Find a model's attention and feed-forward blocks by the names of their children."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.errors import ModelError
from lightpeft.modeling.families import HEAD_SIZES, Family, families_of


@dataclass(frozen=True)
class Block:
    """One attention or feed-forward block, found by its children's names."""

    path: str
    module: nn.Module
    family: Family
    attention: bool

    @property
    def ins(self) -> tuple[str, ...]:
        """Linears whose rows are units."""
        family = self.family
        return family.qkv_proj if self.attention else family.ffn_in_proj

    @property
    def out(self) -> str:
        """The linear that reads them."""
        return self.family.attn_out_proj if self.attention else self.family.ffn_out_proj

    def refuse(self, why: str) -> ModelError:
        """The error that names the block."""
        return ModelError(f"{self.path} can't be cut: {why}")


def find_blocks(model: PreTrainedModel) -> Iterator[Block]:
    """Blocks in numbered layers, in the order of the model's modules, outer ones first."""
    known = families_of(model)
    for path, module in model.named_modules():
        if layer_of(path) is None:
            continue
        kinds = 0
        for attention in (True, False):
            found = [
                Block(path, module, family, attention)
                for family in known
                if attention or family.ffn_in_proj
            ]
            whole = [b for b in found if not _missing(b)]
            if whole:
                kinds += 1
                if kinds == 2:
                    raise whole[0].refuse("it is an attention and a feed-forward block in one")
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


def _missing(block: Block) -> list[str]:
    return [name for name in (*block.ins, block.out) if get_linear(block.module, name) is None]


def get_linear(module: nn.Module, name: str) -> nn.Module | None:
    """The Linear or Conv1D of that name, if there is one."""
    try:
        found = module.get_submodule(name)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Linear | Conv1D) else None


def family_at(model: PreTrainedModel, path: str) -> Family:
    """The family of an attention block that `inspect_model` found.

    Raises:
        ModelError: it is none.
    """
    module = model.get_submodule(path)
    for family in families_of(model):
        if not _missing(Block(path, module, family, attention=True)):
            return family
    raise ModelError(f"{path} is no attention block of a {model.config.model_type} model")


def child(module: nn.Module, name: str) -> nn.Module:
    """A submodule by its path; the module itself by an empty one."""
    return module.get_submodule(name) if name else module


def head_size(core: nn.Module) -> int:
    """Rows of one head, as an attention block says."""
    return int(next((getattr(core, name) for name in HEAD_SIZES if hasattr(core, name)), 0))


def per_head_parameters(block: Block) -> dict[str, Tensor]:
    """Parameters of an attention block, outside its linears, with a row per head."""
    names = dict(block.module.named_parameters())
    return {name: names[name] for name in block.family.per_head_extra if name in names}


def check_layers(model: PreTrainedModel, blocks: list[Block], experts: Iterable[str]) -> None:
    """Refuse a layer without one of its two kinds of blocks: it has it under other names.

    Args:
        model: as it is.
        blocks: those found in it.
        experts: paths of feed-forward blocks that stay whole.

    Raises:
        ModelError: names the layer.
    """
    known = {True: set[str](), False: {str(layer_of(path)) for path in experts}}
    paths = {block.path for block in blocks}
    for block in blocks:
        known[block.attention].add(str(layer_of(block.path)))
    stacks = {layer.rpartition(".")[0] for layers in known.values() for layer in layers}
    for stack in sorted(stacks):
        for name, _ in model.get_submodule(stack).named_children():
            for attention in (True, False):
                if f"{stack}.{name}" not in known[attention]:
                    raise _lacking(model, f"{stack}.{name}", paths, attention=attention)


def _lacking(model: PreTrainedModel, layer: str, known: Set[str], *, attention: bool) -> ModelError:
    """What to say of a layer without a kind of block: which module it might be, if one might."""
    for path, module in model.get_submodule(layer).named_modules(prefix=layer):
        for family in families_of(model):
            block = Block(path, module, family, attention)
            if path not in known and block.out and block.out not in _missing(block):
                return block.refuse(f"it has {block.out} but no linear {block.ins[0]}")
    kind = "attention" if attention else "feed-forward"
    return ModelError(f"{layer} can't be cut: it has no {kind} block that lightpeft knows")
