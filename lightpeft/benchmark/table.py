"""A comparison as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightpeft.profiling.random_batches import PHASES


def table(found: Mapping[str, Any]) -> str:
    """What `compare` found: a line per method, phase and batch size; then KV caches."""
    lines = [
        f"{found['device']}, {found['dtype']}, {found['length']} tokens a row",
        f"{'method':9}{'phase':11}{'rows':>5}{'ms':>10}{'tokens/s':>11}{'speed-up':>10}"
        f"{'quartiles':>15}{'FLOP bound':>12}{'byte bound':>12}{'memory':>11}{'ratio':>7}",
    ]
    for method in found["methods"]:
        lines += _phases(found, method)
    for method in found["methods"]:
        lines += _caches(found, method)
    return "\n".join(lines) + "\n"


def _phases(found: Mapping[str, Any], method: str) -> Iterator[str]:
    measured, ratios = found["methods"][method], found["ratios"][method]
    used = measured["memory"]
    known = dict.fromkeys(phase for phases in PHASES.values() for phase in phases)
    for phase in (phase for phase in known if phase in measured):
        for rows, times in measured[phase].items():
            gain = ratios[f"{phase}_speedup"][rows]
            quartiles = f"{gain['q1']:.2f}-{gain['q3']:.2f}"
            bytes_ = f"{gain['byte_bound']:.2f}x" if "byte_bound" in gain else "-"
            line = (
                f"{method:9}{phase:11}{rows:>5}{times['median_s'] * 1e3:>10.2f}"
                f"{times['tokens_per_s']:>11,.0f}{gain['median']:>9.2f}x{quartiles:>15}"
                f"{gain['flop_bound']:>11.2f}x{bytes_:>12}"
            )
            if used and int(rows) == used["rows"]:
                line += (
                    f"{used[f'{phase}_bytes'] / 2**20:>8.0f} MB{ratios[f'{phase}_memory']:>7.2f}"
                )
            yield line


def _caches(found: Mapping[str, Any], method: str) -> Iterator[str]:
    for rows, size in found["methods"][method].get("kv_cache_bytes", {}).items():
        share = found["ratios"][method]["kv_cache"][rows]
        yield f"{method:9}{'KV cache':11}{rows:>5}{size / 2**20:>10.2f} MB{share:>18.2f} of vanilla"
