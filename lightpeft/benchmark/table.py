"""Show a benchmark result as a text table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightpeft.core.benchmark_result import (
    BenchmarkResult,
    MethodResult,
    Speedup,
    StepTiming,
    Variant,
    VariantResult,
)
from lightpeft.core.text_table import align_columns
from lightpeft.profiling.settings import TrainingSettings

_COLUMNS = (
    "method", "phase", "batch", "ms", "tokens/s", "speed-up", "quartiles", "FLOP bound",
    "byte bound", "memory", "ratio",
)  # fmt: skip
_LEFT = 2  # columns of text; numbers are aligned on the right


def format_table(result: BenchmarkResult) -> str:
    """Return a line for each method, phase and batch size, and one for each KV cache."""
    rows = [list(_COLUMNS)]
    for method, measured in result.methods.items():
        rows += _list_phase_rows(method, measured)
        for variant, steps in measured.variants.items():
            rows += _list_variant_rows(method, variant, steps)
        rows += _list_cache_rows(method, measured)
    title = f"{result.device}, {result.dtype}, {result.length} tokens a row"
    if changed := _describe_training(result.training):
        title += f"; training with {changed}"
    return "\n".join([title, *align_columns(rows, left=_LEFT), ""])


def _describe_training(settings: Mapping[str, bool | str]) -> str:
    """Name the settings of the training steps that differ from the defaults."""
    defaults = TrainingSettings().model_dump()
    changed = {name: value for name, value in settings.items() if value != defaults.get(name)}
    return ", ".join(
        name if value is True else f"{name} {value}" for name, value in changed.items()
    )


def _list_phase_rows(method: str, measured: MethodResult) -> Iterator[list[str]]:
    for phase, timings in measured.timings.items():
        for batch_size, timing in timings.items():
            row = _make_row(method, phase, batch_size, timing, measured.speedups[phase][batch_size])
            memory, ratio = measured.memory, measured.memory_ratios[phase]
            if memory and memory.batch_size == batch_size:
                row.append(f"{memory.phase_bytes[phase] / 2**20:.0f} MB")
                row.append("-" if ratio is None else f"{ratio:.2f}")
            yield row


def _list_variant_rows(method: str, variant: Variant, result: VariantResult) -> Iterator[list[str]]:
    for phase, timings in result.timings.items():
        name = f"{phase}, {variant.replace('_', ', ')}"
        for batch_size, timing in timings.items():
            yield _make_row(method, name, batch_size, timing, result.speedups[phase][batch_size])


def _make_row(
    method: str, name: str, batch_size: int, timing: StepTiming, speedup: Speedup
) -> list[str]:
    bounds = (speedup.flop_bound, speedup.byte_bound)
    return [
        method,
        name,
        str(batch_size),
        f"{timing.median_s * 1e3:.2f}",
        f"{timing.tokens_per_s:,.0f}",
        f"{speedup.median:.2f}x",
        f"{speedup.q1:.2f}-{speedup.q3:.2f}",
        *("-" if bound is None else f"{bound:.2f}x" for bound in bounds),
    ]


def _list_cache_rows(method: str, measured: MethodResult) -> Iterator[list[str]]:
    for batch_size, size in measured.kv_cache_bytes.items():
        row = [method, "KV cache", str(batch_size), *[""] * (len(_COLUMNS) - 5)]
        yield [*row, f"{size / 2**20:.2f} MB", f"{measured.kv_cache_ratios[batch_size]:.2f}"]
