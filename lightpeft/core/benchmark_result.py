"""Result of a benchmark: what several models take in time and memory, stored as one JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lightpeft.core.errors import LightPeftError
from lightpeft.core.reading import read_json
from lightpeft.core.serialization import write_json

Phase = Literal["training", "inference", "prefill", "decode"]
CompileScope = Literal["off", "blocks", "whole"]
# How else than eagerly and with the adapter beside its base: a compiled training step; the adapter
# merged into its base, as models are deployed, eagerly and compiled.
Variant = Literal["compiled", "merged", "merged_compiled"]


class _Record(BaseModel):
    """Frozen; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StepTiming(_Record):
    """Seconds of one step on one batch, over all rounds.

    Attributes:
        median_s: median, in seconds.
        q1_s: lower quartile, in seconds.
        q3_s: upper quartile, in seconds.
        tokens_per_s: tokens of a batch divided by the median; a decode step has one a row.
    """

    median_s: float
    q1_s: float
    q3_s: float
    tokens_per_s: float


class Speedup(_Record):
    """How many times faster than vanilla, and what the saved work alone would give.

    Attributes:
        median: median over the rounds of vanilla's seconds divided by the method's.
        q1: lower quartile.
        q3: upper quartile.
        flop_bound: the speed-up if time were proportional to FLOPs; None where they can't be
            counted, of a model that was trained otherwise than by a plan.
        byte_bound: the speed-up of a decode step if time were proportional to the bytes it
            reads; None in other phases.
        fraction_of_flop_bound: `median / flop_bound`, None where there is no such bound.
        fraction_of_byte_bound: `median / byte_bound`, None where there is no such bound.
    """

    median: float
    q1: float
    q3: float
    flop_bound: float | None
    byte_bound: float | None = None
    fraction_of_flop_bound: float | None
    fraction_of_byte_bound: float | None = None


class CompileCost(_Record):
    """What compiling one model took.

    Attributes:
        graphs: how many were made.
        recompilations: graphs beyond one for each distinct layer.
        graph_breaks: reasons for which a graph was interrupted.
        seconds: of compiling.
    """

    graphs: int
    recompilations: int
    graph_breaks: list[str]
    seconds: float


class VariantResult(_Record):
    """Steps of one method in another form, and their ratios to vanilla's in the same form.

    Attributes:
        timings: phase -> batch size -> seconds.
        speedups: phase -> batch size -> speed-up over vanilla.
        compile: None where nothing is compiled.
    """

    timings: dict[Phase, dict[int, StepTiming]]
    speedups: dict[Phase, dict[int, Speedup]]
    compile: CompileCost | None = None


Measured = tuple[dict[int, StepTiming], dict[int, Speedup]]  # by batch size


class PeakMemory(_Record):
    """Peak memory of one model, in bytes over what was in use before the model was built.

    Attributes:
        model_bytes: of parameters and buffers.
        phase_bytes: phase -> peak during its steps, weights included.
        batch_size: rows of the measured batches.
        how: what was read.
    """

    model_bytes: int
    phase_bytes: dict[Phase, int]
    batch_size: int
    how: str


class MethodResult(_Record):
    """Measurements of one method's model, and their ratios to vanilla's.

    Attributes:
        base_parameters: without the adapter; of a model without a plan, those not trained.
        trainable_parameters: adapter and fresh head.
        total_parameters: all.
        timings: phase -> batch size -> seconds.
        speedups: phase -> batch size -> speed-up over vanilla.
        variants: the same steps compiled, or with the adapter merged; without a method's own where
            vanilla has none, or where peft can't merge the method.
        memory: None where it was not measured.
        memory_ratios: phase -> peak memory divided by vanilla's; None where one of them was not
            measured or is less than the weights alone.
        decode_weight_bytes: of the weights a decode step reads; None where nothing is generated.
        kv_cache_bytes: batch size -> bytes of the KV cache; empty where nothing is generated.
        kv_cache_ratios: batch size -> KV cache divided by vanilla's.
    """

    base_parameters: int
    trainable_parameters: int
    total_parameters: int
    timings: dict[Phase, dict[int, StepTiming]]
    speedups: dict[Phase, dict[int, Speedup]]
    variants: dict[Variant, VariantResult] = {}
    memory: PeakMemory | None = None
    memory_ratios: dict[Phase, float | None]
    decode_weight_bytes: int | None = None
    kv_cache_bytes: dict[int, int] = {}
    kv_cache_ratios: dict[int, float] = {}


class EstimationCost(_Record):
    """What the estimation phase cost.

    Attributes:
        seconds: wall time.
        training_fraction: of estimation and fine-tuning together, in (0, 1).
        break_even_steps: training steps in all from which pruning takes no longer than not
            pruning; None where the pruned model is no faster.
    """

    seconds: float
    training_fraction: float
    break_even_steps: int | None


class BenchmarkResult(_Record):
    """A comparison of models, `vanilla` among them.

    Attributes:
        command: the command line that measured; None in the pipeline, where dvc.yaml has it.
        device: name of the GPU, or of the processor with its number of threads.
        versions: of Python and the libraries.
        dtype: of the frozen weights.
        length: tokens a row.
        rounds: measured rounds.
        training: settings of the training steps; empty in a file of an earlier version.
        compile: what was compiled for the variants `compiled` and `merged_compiled`.
        methods: method -> its measurements; all have the same phases and batch sizes.
        estimation: None where no scores were estimated.
    """

    command: str | None = None
    device: str
    versions: dict[str, str]
    dtype: str
    length: int
    rounds: int
    training: dict[str, bool | str] = {}
    compile: CompileScope = "off"
    methods: dict[str, MethodResult]
    estimation: EstimationCost | None = None

    @property
    def phases(self) -> list[Phase]:
        """Measured phases: training, and inference or prefill and decode."""
        return list(next(iter(self.methods.values())).timings)

    @property
    def batch_sizes(self) -> list[int]:
        """Measured batch sizes, ascending."""
        return sorted(next(iter(self.methods.values())).timings["training"])

    def list_measured(self) -> Iterator[tuple[str, dict[str, Measured]]]:
        """Yield the name of each phase, also of variants (`decode, merged`), and its measurements.

        They are by method; a method whose adapter can't be merged is missing in the merged ones.
        """
        for phase in self.phases:
            yield phase, {n: (m.timings[phase], m.speedups[phase]) for n, m in self.methods.items()}
        for variant, first in self.methods["vanilla"].variants.items():
            for phase in first.timings:
                results = {n: m.variants.get(variant) for n, m in self.methods.items()}
                yield (
                    f"{phase}, {variant.replace('_', ', ')}",
                    {n: (r.timings[phase], r.speedups[phase]) for n, r in results.items() if r},
                )

    def save(self, path: Path) -> None:
        """Write indented JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            LightPeftError: the file is missing, not JSON, or of another layout.
        """
        try:
            return cls.model_validate(read_json(path, LightPeftError))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise LightPeftError(
                f"{path} is not a benchmark result: {key}: {first['msg']}; "
                "measure again with this version"
            ) from error
