"""Small updates: the largest changes that LoRA makes, as signs with a scale for each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightpeft.core.adapter_layout import AdapterKey, parse_adapter_key
from lightpeft.core.errors import ConfigError, ModelError, PlanError
from lightpeft.core.names import COMPRESSED_PREFIX, LORA
from lightpeft.core.packing import (
    pack_integers,
    pack_positions,
    unpack_integers,
    unpack_positions,
)
from lightpeft.core.plan import PruningPlan

_DTYPES = {f"{COMPRESSED_PREFIX}{x}": torch.uint8 for x in ("high", "low", "signs", "levels")}
_DTYPES[f"{COMPRESSED_PREFIX}scales"] = torch.float32
_BITS = 4  # of a value of A: an integer from -_TOP to _TOP, times the scale of its row
_TOP = 2 ** (_BITS - 1) - 1
# A small file can stand for any number of zeros. An adapter has fewer values than the linears that
# it changes, unless they are tiny, and takes 8 GB at most where no model says how large they are.
_FEW_VALUES, _MAX_VALUES = 2**24, 2**31


@dataclass(frozen=True, kw_only=True)
class _Module:
    """The LoRA matrices of one linear of the pruned model."""

    path: str
    rank: int
    inputs: int
    outputs: int

    @property
    def a(self) -> str:
        return str(AdapterKey(self.path, "lora_A.weight"))

    @property
    def b(self) -> str:
        return str(AdapterKey(self.path, "lora_B.weight"))


def check_fraction(fraction: float) -> None:
    """Refuse a fraction of changes that is not in (0, 1].

    Raises:
        ConfigError: names the value.
    """
    if isinstance(fraction, bool | str) or not 0 < fraction <= 1:
        raise ConfigError(f"compress must be in (0, 1], got {fraction!r}")


def compress_adapter(
    weights: Mapping[str, Tensor], plan: PruningPlan, fraction: float
) -> dict[str, Tensor]:
    """Compress the change that LoRA makes to the base model, ``B @ A`` of each module.

    ComPEFT (arXiv:2311.13171) keeps the signs of the largest changes of the weights, and one scale
    for each tensor. Deviations: B starts at 0, but A at random values that no result holds, so
    what is compressed is their product, which is the whole change of the base model. ``B @ A`` is
    rotated to ``U @ V``, V with orthonormal rows, by its singular vectors. The largest values of
    all U become signs S; a rank without any is left out. A is the least-squares solution of
    ``S @ A = U @ V``, in 4 bits with a scale for each rank. The task head, which starts from the
    base model or at random, is kept as it is.

    Args:
        weights: of the pruned adapter, under peft's names.
        plan: that it was pruned by.
        fraction: of the values of all U, in (0, 1]; at least one is kept.

    Returns:
        Packed tensors, as `decompress_adapter` takes them, and the task head.

    Raises:
        ConfigError: `fraction` is not allowed.
        ModelError: the adapter is not LoRA.
    """
    check_fraction(fraction)
    if plan.peft_type != LORA:
        raise ModelError(f"only LoRA can be compressed, not peft_type {plan.peft_type}")
    modules = _list_modules(plan)
    pairs = [[weights[name].cpu().double() for name in (x.b, x.a)] for x in modules]
    positions, signs = _find_largest([_rotate(b, a) for b, a in pairs], fraction)
    matrices = _make_sign_matrices(positions, signs, modules)
    rows = [
        (torch.linalg.pinv(s.double()) @ b @ a)[s.any(dim=0)]
        for s, (b, a) in zip(matrices, pairs, strict=True)
    ]
    scales = [(x.abs().amax(dim=1, keepdim=True) / _TOP).float() for x in rows]
    levels = [
        (x / scale.clamp(min=1e-30)).round().clamp(-_TOP, _TOP).long() + _TOP
        for x, scale in zip(rows, scales, strict=True)
    ]
    high, low = pack_positions(positions, sum(x.outputs * x.rank for x in modules))
    packed = {
        "high": high,
        "low": low,
        "signs": pack_integers((signs > 0).long(), 1),
        "levels": pack_integers(_concatenate(levels, torch.int64), _BITS),
        "scales": _concatenate(scales, torch.float32),
    }
    head = {name: x for name, x in weights.items() if parse_adapter_key(name) is None}
    return {f"{COMPRESSED_PREFIX}{name}": x for name, x in packed.items()} | head


def decompress_adapter(stored: Mapping[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Return the weights that packed tensors stand for: B of -1, 0 and 1, and A, in float32.

    Args:
        stored: from `compress_adapter`, or from a file of any origin. ``high``, ``low`` and
            ``signs`` hold all B, in the order of the modules' names; ``levels`` and ``scales`` the
            rows of A of each rank that has a sign in B.
        plan: that the adapter was pruned by.

    Raises:
        PlanError: they are not packed so, or not of this plan.
    """
    packed = {name: x for name, x in stored.items() if name.startswith(COMPRESSED_PREFIX)}
    if {name: x.dtype for name, x in packed.items() if x.dim() == 1} != _DTYPES:
        raise PlanError(f"compressed tensors must be {', '.join(_DTYPES)}, each of one dimension")
    if plan.peft_type != LORA:
        raise PlanError(f"a compressed adapter must be LoRA, got peft_type {plan.peft_type}")
    modules = _list_modules(plan)
    total = sum(x.rank * (x.inputs + x.outputs) for x in modules)
    size = sum(x.inputs * x.outputs for x in plan.shape.linears.values())
    limit = min(max(size, _FEW_VALUES), _MAX_VALUES)
    if total > limit:
        raise PlanError(f"the plan's PEFT modules have {total:,} values, more than {limit:,}")
    try:
        _check_lengths(packed, modules)
        weights = _unpack(packed, modules)
    except ValueError as error:
        raise PlanError(f"the compressed adapter is not that of the plan: {error}") from error
    return weights | {name: x for name, x in stored.items() if name not in packed}


def _check_lengths(packed: Mapping[str, Tensor], modules: Sequence[_Module]) -> None:
    """Refuse longer tensors than any signs of these modules need: unpacking takes 64 times as much.

    Raises:
        ValueError: names the tensor.
    """
    size = sum(x.outputs * x.rank for x in modules)
    inputs, ranks = sum(x.inputs * x.rank for x in modules), sum(x.rank for x in modules)
    limits = (size // 4 + 1, size // 8 + 1, size // 8 + 1, inputs // 2 + 1, ranks)
    for name, limit in zip(_DTYPES, limits, strict=True):
        if len(packed[name]) > limit:
            raise ValueError(f"{name} has {len(packed[name]):,} values, more than {limit:,}")


def _unpack(packed: Mapping[str, Tensor], modules: Sequence[_Module]) -> dict[str, Tensor]:
    """Return A and B of each module.

    Raises:
        ValueError: a tensor is of another length than the modules need.
    """
    high, low, signs, levels, scales = (packed[name] for name in _DTYPES)
    positions = unpack_positions(high, low, sum(x.outputs * x.rank for x in modules))
    values = unpack_integers(signs, 1, len(positions)).float() * 2 - 1
    matrices = _make_sign_matrices(positions, values, modules)
    used = [s.any(dim=0) for s in matrices]
    ranks = [int(x.sum()) for x in used]
    lengths = [n * x.inputs for n, x in zip(ranks, modules, strict=True)]
    integers = unpack_integers(levels, _BITS, sum(lengths)) - _TOP
    if len(scales) != sum(ranks):
        raise ValueError(f"{sum(ranks):,} ranks have {len(scales):,} scales")
    weights: dict[str, Tensor] = {}
    parts = zip(
        modules,
        matrices,
        used,
        torch.split(integers, lengths),
        torch.split(scales, ranks),
        strict=True,
    )
    for module, s, rows, part, scale in parts:
        a = torch.zeros(module.rank, module.inputs)
        a[rows] = part.view(-1, module.inputs).float() * scale[:, None]
        weights |= {module.a: a, module.b: s}
    return weights


def _list_modules(plan: PruningPlan) -> list[_Module]:
    """Return the PEFT modules of the pruned model, in the order of their names."""
    rest = plan.without_layers
    shapes = {path: rest.compute_pruned_shape(path) for path, x in rest.ranks.items() if x.kept}
    return [
        _Module(path=path, rank=len(rest.ranks[path].kept), inputs=inputs, outputs=outputs)
        for path, (inputs, outputs) in sorted(shapes.items())
    ]


def _rotate(b: Tensor, a: Tensor) -> Tensor:
    """Return U of ``U @ V = b @ a``, of the shape of `b`: left singular vectors times values."""
    left, b_square = torch.linalg.qr(b)
    a_square = torch.linalg.qr(a.T).R.T
    vectors, values, _ = torch.linalg.svd(b_square @ a_square, full_matrices=False)
    rotated = left @ (vectors * values)
    return torch.nn.functional.pad(rotated, (0, b.shape[1] - rotated.shape[1]))


def _find_largest(matrices: Sequence[Tensor], fraction: float) -> tuple[Tensor, Tensor]:
    """Return the positions of the largest values of all matrices, ascending, and their signs."""
    values = _concatenate(matrices, torch.float64)
    count = min(len(values), max(1, round(fraction * len(values))))
    positions = values.abs().topk(count).indices.sort().values
    return positions, torch.where(values[positions] < 0, -1.0, 1.0)


def _make_sign_matrices(
    positions: Tensor, signs: Tensor, modules: Sequence[_Module]
) -> list[Tensor]:
    """Return B of each module: 0 but for the signs at their positions."""
    sizes = [x.outputs * x.rank for x in modules]
    flat = torch.zeros(sum(sizes))
    flat[positions] = signs
    parts = zip(modules, torch.split(flat, sizes), strict=True)
    return [part.view(x.outputs, x.rank) for x, part in parts]


def _concatenate(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return all values in one dimension; none if there are no parts."""
    return torch.cat([torch.zeros(0, dtype=dtype), *(x.flatten().to(dtype) for x in parts)])
