"""Measure the time of a model's blocks by their width, on blocks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightpeft.core.block_shape import Block
from lightpeft.core.shape import ModelShape
from lightpeft.planning.latency_table import BlockLatency, LatencyTable, describe_block
from lightpeft.profiling.devices import read_device_name
from lightpeft.profiling.timing import synchronize_fn, time_interleaved

_WIDTHS = (0.125, 0.25, 0.5, 0.75, 1.0)  # fractions of a block's units
_WARMUP, _ROUNDS = 2, 10


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What is measured.

    Attributes:
        rows: of a batch.
        length: tokens a row.
        rank: of the LoRA on every linear.
        dtype: of weights and inputs.
        device: where.
    """

    rows: int
    length: int
    rank: int
    dtype: torch.dtype
    device: torch.device


def measure_latency(shape: ModelShape, settings: LatencySettings) -> LatencyTable:
    """Time each kind of block of a model at five widths, and the head of a language model.

    Blocks are made from the model's shape: its linears with LoRA of the settings' dtype, scaled dot
    product attention, GELU or a gated SiLU, residual connection and layer norm. Position biases,
    rotary embeddings and masks are left out. It takes as long as about a hundred passes through one
    layer.

    Args:
        shape: of the unpruned model.
        settings: batch, rank, dtype and device.
    """
    kinds = {describe_block(block): block for block in shape.blocks}
    hidden = next(x.inputs for x in shape.linears.values() if x.pruned_dim == "out")
    vocabulary = shape.matmul_weights.get("lm", 0) // hidden
    head = (0.0, 0.0)
    if vocabulary:
        times = _time({1: nn.Linear(hidden, vocabulary, bias=False)}, hidden, settings)
        head = (times.forward[0], times.training[0])
    return LatencyTable(
        device=read_device_name(settings.device),
        dtype=str(settings.dtype).removeprefix("torch."),
        rows=settings.rows,
        length=settings.length,
        rank=settings.rank,
        blocks={name: _measure_block(block, settings) for name, block in kinds.items()},
        head=head,
    )


def _measure_block(block: Block, settings: LatencySettings) -> BlockLatency:
    step = block.heads_per_kv_group
    groups = block.units // step
    units = sorted({max(1, round(groups * width)) * step for width in _WIDTHS})
    hidden = next(x.inputs for x in block.linears.values() if x.pruned_dim == "out")
    return _time({n: _TimedBlock(block, n, settings) for n in units}, hidden, settings)


def _time(modules: dict[int, nn.Module], hidden: int, settings: LatencySettings) -> BlockLatency:
    """Time modules of several widths in turns: forward, and forward with backward."""
    inputs = torch.randn(settings.rows, settings.length, hidden)
    inputs = inputs.to(settings.device, settings.dtype)
    steps: dict[str, Callable[[], object]] = {}
    for units, module in modules.items():
        module.to(settings.device, settings.dtype).requires_grad_(False)
        for name, weight in module.named_parameters():
            weight.requires_grad_(name.startswith("adapters"))
        steps[f"forward {units}"] = _make_forward(module, inputs)
        steps[f"training {units}"] = _make_training(module, inputs)
    seconds = time_interleaved(
        steps, warmup=_WARMUP, rounds=_ROUNDS, synchronize=synchronize_fn(settings.device)
    )
    # The least disturbed round; and no width takes longer than a larger one.
    forward, training = (
        tuple(accumulate((min(seconds[f"{name} {units}"]) for units in modules), max))
        for name in ("forward", "training")
    )
    return BlockLatency(units=tuple(modules), forward=forward, training=training)


def _make_forward(module: nn.Module, inputs: Tensor) -> Callable[[], object]:
    def step() -> None:
        with torch.inference_mode():
            module(inputs)

    return step


def _make_training(module: nn.Module, inputs: Tensor) -> Callable[[], object]:
    leaf = inputs.clone().requires_grad_()

    def step() -> None:
        output = module(leaf)
        output.backward(torch.ones_like(output))

    return step


class _TimedBlock(nn.Module):
    """A block of so many units with random weights, LoRA on each linear, residual and norm."""

    def __init__(self, block: Block, units: int, settings: LatencySettings) -> None:
        super().__init__()
        self._is_attention, self._units = block.kind == "attention", units
        self._size, self._sharing = block.unit_size, block.heads_per_kv_group
        self.linears, self.adapters = nn.ModuleList(), nn.ModuleList()
        self._is_output = []
        for linear in block.linears.values():
            inputs, outputs = linear.compute_pruned_shape(units)
            self.linears.append(nn.Linear(inputs, outputs, bias=linear.bias))
            lora = [nn.Linear(inputs, settings.rank, bias=False)]
            lora += [nn.Linear(settings.rank, outputs, bias=False)]
            self.adapters.append(nn.Sequential(*lora))
            self._is_output.append(linear.pruned_dim == "in")
            hidden = outputs if linear.pruned_dim == "in" else inputs
        self.norm = nn.LayerNorm(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the block's output, of the shape of its input."""
        pairs = list(zip(self.linears, self.adapters, self._is_output, strict=True))
        reads = [a(hidden) + b(hidden) for a, b, output in pairs if not output]
        read = torch.cat(reads, dim=-1) if len(reads) > 1 else reads[0]
        inner = self._attend(read) if self._is_attention else self._activate(read)
        ((linear, adapter),) = [(a, b) for a, b, output in pairs if output]
        result: Tensor = self.norm(hidden + linear(inner) + adapter(inner))
        return result

    def _activate(self, read: Tensor) -> Tensor:
        if read.shape[-1] == self._units:
            return F.gelu(read)
        gate, up = read[..., : 2 * self._units].chunk(2, dim=-1)
        return F.silu(gate) * up

    def _attend(self, read: Tensor) -> Tensor:
        width, shared = self._units * self._size, self._units // self._sharing * self._size
        query, rest = read[..., :width], read[..., width:]
        if rest.shape[-1] < 2 * shared:  # a block that computes fewer projections of its input
            return query
        key, value = rest[..., :shared], rest[..., shared : 2 * shared]
        shape = (*read.shape[:2], -1, self._size)
        q, k, v = (x.reshape(shape).transpose(1, 2) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self._sharing > 1)
        return mixed.transpose(1, 2).flatten(2)
