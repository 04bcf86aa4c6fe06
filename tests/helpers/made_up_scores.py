"""Scores of models that need not exist, for tests of what is made of scores."""

from __future__ import annotations

import dataclasses

import torch
from helpers.tiny_models import make_lora
from torch import Tensor

from lightpeft.core.block_shape import AttentionBlock, Block, FeedForwardBlock, LinearShape
from lightpeft.core.scores import CRITERIA, Scores
from lightpeft.core.shape import ModelShape


def make_scores(
    *,
    heads: int = 12,
    neurons: int = 96,
    layers: int = 4,
    r: int = 4,
    equal: bool = False,
    seed: int = 0,
) -> Scores:
    """Scores of a model that need not exist: random, or all equal."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.ones(size) if equal else torch.rand(size, generator=generator)

    size = {"outputs": heads * 2, "bias": True, "pruned_dim": "in"}
    out = LinearShape(inputs=heads * 2, unit_size=2, **size)
    down = LinearShape(inputs=neurons, unit_size=1, **size)
    blocks: list[Block] = []
    for n in range(layers):
        blocks += [
            AttentionBlock(path=f"{n}.a", units=heads, linears={f"{n}.out": out}),
            FeedForwardBlock(path=f"{n}.f", units=neurons, linears={f"{n}.down": down}),
        ]
    shape = ModelShape(model_type="bert", blocks=tuple(blocks), non_block_parameters={})
    return Scores(
        shape=shape,
        fingerprint="0" * 16,
        peft=make_lora(r=r),
        layers={},
        heads={c: {block: draw(heads) for block in shape.heads} for c in CRITERIA},
        neurons={c: {block: draw(neurons) for block in shape.neurons} for c in CRITERIA},
        modules={name: float(draw(1)) for name in shape.linears},
        ranks={name: draw(r) for name in shape.linears},
        adapter={},
        curve=[{"step": 1.0}],
        steps=2,
    )


def sharing_scores(*, sharing: int = 3, seed: int = 0) -> Scores:
    """Scores of a model of which `sharing` of 12 query heads share one key and value."""
    scores = make_scores(seed=seed)
    blocks = tuple(
        dataclasses.replace(
            block,
            linears={
                path: dataclasses.replace(linear, heads_per_kv_group=sharing)
                for path, linear in block.linears.items()
            },
        )
        if isinstance(block, AttentionBlock)
        else block
        for block in scores.shape.blocks
    )
    return dataclasses.replace(scores, shape=dataclasses.replace(scores.shape, blocks=blocks))
