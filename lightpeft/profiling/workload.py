"""Count the work of each phase of a model: FLOPs, and bytes that a decode step reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from peft import PeftModel

from lightpeft.core.benchmark_result import Phase
from lightpeft.core.plan import PruningPlan
from lightpeft.planning.cost import CostTable, compute_cost
from lightpeft.profiling.decoding import (
    DecodeTraffic,
    measure_decode_traffic,
    supports_logits_to_keep,
)
from lightpeft.profiling.random_batches import list_phases, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings


@dataclass(frozen=True, kw_only=True)
class Workload:
    """FLOPs and memory traffic of one model.

    Attributes:
        plan: what it was pruned by; None: the model did not come from `prune` or `load`.
        length: tokens a row.
        last_logits_only: whether prefill computes the logits of the last token alone.
        decode_traffic: batch size -> what a decode step reads; empty where the model does not
            generate.
        merged: whether the adapter takes no FLOPs of its own.
    """

    plan: PruningPlan | None
    length: int
    last_logits_only: bool
    decode_traffic: Mapping[int, DecodeTraffic]
    merged: bool = False

    @classmethod
    def from_model(
        cls,
        model: PeftModel,
        settings: ProfilingSettings,
        *,
        merged: PruningPlan | None = None,
    ) -> Workload:
        """Inspect a model that `prune` or `load` made; runs decode steps.

        With `merged` it is a model whose adapter is merged, which was pruned by that plan.
        """
        traffic: dict[int, DecodeTraffic] = {}
        if "decode" in list_phases(model):
            for batch_size in settings.batch_sizes:
                batch = make_random_batch(model, batch_size=batch_size, length=settings.length)
                traffic[batch_size] = measure_decode_traffic(model, batch)
        return cls(
            plan=merged or getattr(model, "lightpeft_plan", None),
            length=settings.length,
            last_logits_only=supports_logits_to_keep(model),
            decode_traffic=traffic,
            merged=merged is not None,
        )

    def count_flops(self, phase: Phase) -> int | None:
        """Return the FLOPs of one phase, per token; None without a plan.

        Prefill is inference, less the logits that it leaves out. Decoding counts the linears that
        run: of an encoder-decoder neither the encoder nor what reads its output. A sliding window
        is not subtracted.
        """
        if self.plan is None:
            return None
        if phase == "training":
            return compute_plan_cost(self.plan, length=self.length).total.training_flops_per_token
        plan = self.plan.without_layers
        shape, length, counts = plan.shape, self.length, plan.counts
        if self.merged:
            counts = replace(counts, ranks={})
        if phase == "prefill" and self.last_logits_only:
            head = {"lm": shape.matmul_weights.get("lm", 0) // length}
            shape = replace(shape, matmul_weights=shape.matmul_weights | head)
        if phase == "decode":
            executed, length = next(iter(self.decode_traffic.values())).modules, length + 1
            shape = shape.select_linears(executed)
            ranks = {path: rank for path, rank in counts.ranks.items() if path in executed}
            counts = replace(counts, ranks=ranks)
        return compute_cost(shape, counts, length=length).total.inference_flops_per_token

    def compute_flop_bound(self, phase: Phase, baseline: Workload) -> float | None:
        """Return the speed-up of a phase if time were proportional to FLOPs; None without plans."""
        before, after = baseline.count_flops(phase), self.count_flops(phase)
        return None if before is None or after is None else before / after

    def compute_byte_bound(self, batch_size: int, baseline: Workload) -> float:
        """Return the speed-up of a decode step if time were proportional to the bytes it reads."""
        before, after = (w.decode_traffic[batch_size] for w in (baseline, self))
        return (before.weights + before.cache) / (after.weights + after.cache)

    @property
    def decode_weight_bytes(self) -> int | None:
        """Bytes of the weights that a decode step reads, None where the model does not generate."""
        traffic = next(iter(self.decode_traffic.values()), None)
        return None if traffic is None else traffic.weights

    @property
    def kv_cache_bytes(self) -> dict[int, int]:
        """Batch size -> bytes of the KV cache; empty where the model does not generate."""
        return {batch_size: traffic.cache for batch_size, traffic in self.decode_traffic.items()}

    def compute_kv_cache_ratios(self, baseline: Workload) -> dict[int, float]:
        """Return batch size -> KV cache divided by the baseline's; empty without a cache."""
        before = baseline.kv_cache_bytes
        return {size: cache / before[size] for size, cache in self.kv_cache_bytes.items()}


def compute_plan_cost(plan: PruningPlan, *, length: int) -> CostTable:
    """Return the cost of the model that a plan leaves, with `length` tokens a row."""
    rest = plan.without_layers
    return compute_cost(rest.shape, rest.counts, length=length)
