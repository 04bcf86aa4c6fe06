"""What each phase of a model asks of a device: FLOPs, and in decoding bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from peft import PeftModel

from lightpeft.core.plan import PruningPlan
from lightpeft.planning.cost import CostTable, cost
from lightpeft.profiling.decoding import (
    DecodeTraffic,
    measure_decode_traffic,
    supports_logits_to_keep,
)
from lightpeft.profiling.random_batches import list_phases, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.pruning.prune import get_plan


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The work of one model.

    Attributes:
        plan: what it was pruned by.
        length: tokens a row.
        last_logits_only: whether prefill computes the logits of the last token alone.
        decode_traffic: batch size -> bytes a decode step reads; empty for a model that does not
            generate.
    """

    plan: PruningPlan
    length: int
    last_logits_only: bool
    decode_traffic: Mapping[int, DecodeTraffic]

    @classmethod
    def from_model(cls, model: PeftModel, settings: ProfilingSettings) -> Workload:
        """Read it off a model that `prune` or `load` made; runs decode steps."""
        found: dict[int, DecodeTraffic] = {}
        if "decode" in list_phases(model):
            for rows in settings.batch_sizes:
                found[rows] = measure_decode_traffic(
                    model, make_random_batch(model, rows=rows, length=settings.length)
                )
        return cls(
            plan=get_plan(model),
            length=settings.length,
            last_logits_only=supports_logits_to_keep(model),
            decode_traffic=found,
        )

    def flops(self, phase: str) -> int:
        """FLOPs a token of one phase.

        Prefill is inference, less the logits that it leaves out. Decoding counts the linears that
        run: of an encoder-decoder neither the encoder nor what reads its output. A sliding window
        is not taken off.
        """
        if phase == "training":
            return compute_plan_cost(self.plan, length=self.length).total.training_flops_per_token
        shape, length, counts = self.plan.shape, self.length, self.plan.counts
        if phase == "prefill" and self.last_logits_only:
            head = {"lm": shape.matmul_weights.get("lm", 0) // length}
            shape = replace(shape, matmul_weights=shape.matmul_weights | head)
        if phase == "decode":
            ran, length = next(iter(self.decode_traffic.values())).modules, length + 1
            shape = shape.with_linears(ran)
            ranks = {path: rank for path, rank in counts.ranks.items() if path in ran}
            counts = replace(counts, ranks=ranks)
        return cost(shape, counts, length=length).total.inference_flops_per_token

    def bounds(self, phase: str, baseline: Workload, rows: int) -> dict[str, float]:
        """The speed-up of a phase if time were FLOPs, and of decoding if it were bytes read."""
        found = {"flop_bound": baseline.flops(phase) / self.flops(phase)}
        if phase == "decode":
            before, mine = baseline.decode_traffic[rows], self.decode_traffic[rows]
            total = before.weights + before.cache
            found["byte_bound"] = total / (mine.weights + mine.cache)
        return found

    def cache_ratios(self, baseline: Workload) -> dict[str, Any]:
        """KV cache against the baseline's, by rows a batch; nothing without a cache."""
        found = {
            str(n): r.cache / baseline.decode_traffic[n].cache
            for n, r in self.decode_traffic.items()
        }
        return {"kv_cache": found} if found else {}

    def as_dict(self) -> dict[str, Any]:
        """Bytes that a decode step reads, for JSON; nothing where the model does not generate."""
        if not self.decode_traffic:
            return {}
        weights = next(iter(self.decode_traffic.values())).weights
        cache = {str(rows): read.cache for rows, read in self.decode_traffic.items()}
        return {"decode_weight_bytes": weights, "kv_cache_bytes": cache}


def compute_plan_cost(plan: PruningPlan, *, length: int) -> CostTable:
    """Cost of the model that a plan leaves."""
    return cost(plan.shape, plan.counts, length=length)
