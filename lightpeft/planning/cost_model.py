"""Predict how much of a model's cost a plan leaves."""

from __future__ import annotations

from dataclasses import dataclass

from lightpeft.core.config import PruningTarget
from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape, UnitCounts
from lightpeft.planning.cost import compute_cost
from lightpeft.planning.latency_table import LatencyTable
from lightpeft.planning.memory_cost import predict_training_memory


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Predicts what a target is set on, of a model that keeps so many units.

    Without a latency table, a step takes time in proportion to its matrix products. What a device
    reaches is less, and depends on widths and batch size.

    Attributes:
        rows: of a batch.
        length: tokens a row.
        width: bytes of a value of the base model.
        latency: of the machine, for such batches; None: speed is predicted by FLOPs.
    """

    rows: int = 32
    length: int = 64
    width: int = 4
    latency: LatencyTable | None = None

    def name_source(self, quantity: str) -> str:
        """Return what a quantity is predicted from, for a reader."""
        sources = {"parameters": "their number", "memory": "the bytes that a step keeps"}
        if self.latency and quantity.endswith("speedup"):
            return f"a latency table of {self.latency.device}"
        return sources.get(quantity, "FLOPs")

    def compute(self, quantity: str, shape: ModelShape, counts: UnitCounts) -> float:
        """Return what a model costs, in units that only a ratio of two costs makes sense of.

        Args:
            quantity: a field of `PruningTarget`.
            shape: of the model, without pruned layers.
            counts: units and ranks that it keeps.
        """
        if quantity == "memory":
            tokens = self.rows * self.length
            return predict_training_memory(shape, counts, tokens=tokens, width=self.width).peak
        if self.latency and quantity.endswith("speedup"):
            training = quantity == "training_speedup"
            return self.latency.predict(shape, counts, training=training)
        total = compute_cost(shape, counts, length=self.length).total
        if quantity == "parameters":
            return total.parameters
        if quantity == "inference_speedup":
            return total.inference_flops_per_token
        return total.training_flops_per_token

    def predict(self, target: PruningTarget, plan: PruningPlan) -> float:
        """Return what a plan reaches, in the terms of a target."""
        rest = plan.without_layers
        before = self.compute(target.quantity, plan.shape, plan.unpruned_counts)
        after = self.compute(target.quantity, rest.shape, rest.counts)
        return before / after if target.is_speedup else after / before
