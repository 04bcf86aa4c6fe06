"""Show a benchmark result as a text table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from lightpeft.core.benchmark_result import BenchmarkResult, MethodResult

_COLUMNS = (
    "method", "phase", "batch", "ms", "tokens/s", "speed-up", "quartiles", "FLOP bound",
    "byte bound", "memory", "ratio",
)  # fmt: skip
_LEFT = 2  # columns of text; numbers are aligned on the right
_WIDTH = 140  # of a line: rich would fold it at 80 through a pipe


def format_table(result: BenchmarkResult) -> str:
    """Return a line for each method, phase and batch size, and one for each KV cache."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if index < _LEFT else "right", no_wrap=True)
    for method, measured in result.methods.items():
        for row in (*_phase_rows(method, measured), *_cache_rows(method, measured)):
            table.add_row(*row)
    console = Console(width=_WIDTH, no_color=True)
    with console.capture() as capture:
        console.print(
            f"{result.device}, {result.dtype}, {result.length} tokens a row", highlight=False
        )
        console.print(table, highlight=False)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _phase_rows(method: str, measured: MethodResult) -> Iterator[list[str]]:
    for phase, timings in measured.timings.items():
        for batch_size, timing in timings.items():
            speedup = measured.speedups[phase][batch_size]
            row = [
                method,
                phase,
                str(batch_size),
                f"{timing.median_s * 1e3:.2f}",
                f"{timing.tokens_per_s:,.0f}",
                f"{speedup.median:.2f}x",
                f"{speedup.q1:.2f}-{speedup.q3:.2f}",
                f"{speedup.flop_bound:.2f}x",
                "-" if speedup.byte_bound is None else f"{speedup.byte_bound:.2f}x",
            ]
            memory, ratio = measured.memory, measured.memory_ratios[phase]
            if memory and memory.batch_size == batch_size:
                row.append(f"{memory.phase_bytes[phase] / 2**20:.0f} MB")
                row.append("-" if ratio is None else f"{ratio:.2f}")
            yield row


def _cache_rows(method: str, measured: MethodResult) -> Iterator[list[str]]:
    for batch_size, size in measured.kv_cache_bytes.items():
        ratio = measured.kv_cache_ratios[batch_size]
        blank = [""] * (len(_COLUMNS) - 5)
        yield [
            method,
            "KV cache",
            str(batch_size),
            *blank,
            f"{size / 2**20:.2f} MB",
            f"{ratio:.2f}",
        ]
