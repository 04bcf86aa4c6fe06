"""What experiments.gpu measures, in the order of its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from experiments.gpu_models import (
    DECODER_DEFAULTS,
    ENCODER_DEFAULTS,
    PAPER,
    TWO_FIFTHS,
    Case,
    Ratios,
)
from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.core.benchmark_result import CompileScope, Phase
from lightpeft.profiling.random_batches import PHASES

RatiosName = Literal["paper", "default", "0.4"]
Form = Literal["eager", "compiled", "merged", "merged, compiled"]


@dataclass(frozen=True)
class Group:
    """Methods that take turns: those of one model, one set of ratios, one phase and one form.

    Attributes:
        ratios: `default`, of params.yaml, `paper`, or `0.4`, of heads and neurons, for decode only.
        form: `eager` (with adapters), `compiled` (accelerated and compiled), `merged`, or
            `merged, compiled`.
    """

    case: Case
    ratios: RatiosName
    phase: Phase
    form: Form

    @property
    def key(self) -> str:
        """Name of the group in the rows."""
        return f"{self.case.shape}, {self.ratios}, {self.phase}, {self.form}"

    @property
    def fractions(self) -> Ratios:
        """Fractions that light prunes."""
        defaults = DECODER_DEFAULTS if _is_decoder(self.case) else ENCODER_DEFAULTS
        return {"paper": PAPER, "default": defaults, "0.4": TWO_FIFTHS}[self.ratios]

    @property
    def is_training(self) -> bool:
        """Whether steps are those of training."""
        return self.phase == "training"

    @property
    def is_merged(self) -> bool:
        """Whether the adapters are merged."""
        return self.form.startswith("merged")

    @property
    def scope(self) -> CompileScope:
        """What is compiled: in training the layers, of a merged model the whole."""
        if "compiled" not in self.form:
            return "off"
        return "blocks" if self.is_training else "whole"


Job = tuple[Group, ...]  # groups that one process measures, with the same models


def list_jobs(cases: Mapping[str, Case]) -> Iterator[Job]:
    """Yield all groups, by job, in the order of their value.

    A compiled group is a job of its own. Those of a case come after its eager ones. After the first
    two cases all forms of both have been measured.
    """
    names = [*cases]
    for part in (names[:2], names[2:]):
        for ratios in ("paper", "default"):
            for name in part:
                yield tuple(_list_eager(cases[name], ratios))
        for ratios in ("paper", "default"):
            for name in reversed(part):
                last = _list_phases(cases[name])[-1]  # transformers compiles no prefill
                yield (Group(cases[name], ratios, last, "merged, compiled"),)
                yield (Group(cases[name], ratios, "training", "compiled"),)
        for name in part:
            if _is_decoder(cases[name]):
                yield (Group(cases[name], "0.4", "decode", "merged"),)
                yield (Group(cases[name], "0.4", "decode", "merged, compiled"),)


def _is_decoder(case: Case) -> bool:
    return MODEL_SIZES[case.shape].kind == "decoder"


def _list_eager(case: Case, ratios: RatiosName) -> Iterator[Group]:
    for phase in _list_phases(case):
        yield Group(case, ratios, phase, "eager")
    for phase in _list_phases(case)[1:]:
        yield Group(case, ratios, phase, "merged")


def _list_phases(case: Case) -> tuple[Phase, ...]:
    return PHASES[MODEL_SIZES[case.shape].kind]
