"""The JSON files that one stage writes for later ones, each as a typed model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from pipeline.common.errors import PipelineError
from pipeline.common.files import read_json, write_json


class _Artefact(BaseModel):
    """Frozen; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            PipelineError: it is missing, not JSON, or of another layout.
        """
        raw = read_json(path, PipelineError)
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise PipelineError(
                f"{path} is damaged ({key}: {first['msg']}); run its stage again"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file, which `read` reads."""
        write_json(path, self.model_dump(mode="json"))


class PartCost(_Artefact):
    """Size of one part of a model; FLOPs are per token, 2 for a multiply-add."""

    parameters: int
    trainable: int
    training_flops_per_token: int
    inference_flops_per_token: int


class PlanCost(_Artefact):
    """Size of a model by part, the last one `total`, before and after pruning.

    Attributes:
        length: tokens per row, which decide the cost of attention.
        before: of the unpruned model.
        after: of what the plan keeps.
    """

    length: int
    before: dict[str, PartCost]
    after: dict[str, PartCost]


class UnprunedMethod(_Artefact):
    """A method without a pruning plan: what it trains of the unpruned base.

    Attributes:
        peft_type: peft's name of the method; None: all weights are trained.
        settings: keyword arguments of the method's config class.
        lr: learning rate; None: that of the other methods.
    """

    peft_type: str | None
    settings: dict[str, Any]
    lr: float | None


class Timing(_Artefact):
    """Duration of a method's fine-tuning.

    Attributes:
        seconds: wall time, without validations.
        steps: batches trained.
        warm: whether training started from the weights of the estimation.
    """

    seconds: float
    steps: int
    warm: bool


class EstimationTiming(_Artefact):
    """Duration of the estimation.

    Attributes:
        seconds: wall time.
        steps: optimizer steps.
        steps_per_second: their ratio.
    """

    seconds: float
    steps: int
    steps_per_second: float


class _WithMetrics(_Artefact):
    """The entries of the field `metrics` stand beside the other keys of the file."""

    @model_validator(mode="before")
    @classmethod
    def _collect_metrics(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "metrics" in raw:
            return raw
        metrics = {key: value for key, value in raw.items() if key not in cls.model_fields}
        return {key: raw[key] for key in raw if key not in metrics} | {"metrics": metrics}

    @model_serializer(mode="wrap")
    def _spread_metrics(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        spread: dict[str, Any] = {}
        for key, value in serialize(self).items():
            spread |= value if key == "metrics" else {key: value}
        return spread


class Evaluation(_WithMetrics):
    """Quality of a method on the test split.

    Attributes:
        split: name of the split.
        rows: their number.
        metric: name of the main metric.
        metrics: every metric that was measured.
        interval: limits of the main metric's 95 % interval.
        labels: class names; empty where there are no classes.
        positive_class: the class that F1 is of; None: F1 is the mean over the classes.
        confusion: rows of each true class (outer list) by predicted class; None: no classes.
        base_parameters: without the trained ones.
        trainable_parameters: of PEFT modules and task head.
        lifted: metrics of the adapter at full size on the unpruned model; None: not measured.
    """

    split: str
    rows: int
    metric: str
    metrics: dict[str, float]
    interval: tuple[float, float]
    labels: tuple[str, ...]
    positive_class: str | None = None
    confusion: tuple[tuple[int, ...], ...] | None
    base_parameters: int
    trainable_parameters: int
    lifted: dict[str, float] | None


Rounded = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class MethodSummary(_WithMetrics):
    """A method's entry in metrics.json, in the order of the file; None: left out, not measured.

    Attributes:
        metrics: `test_NAME`, `lifted_test_NAME` and `validation_NAME`; the validation is that of
            the weights that were kept.
        base_parameters: without the trained ones.
        trainable_parameters: of PEFT modules and task head.
        train_speedup: against vanilla at the largest batch size; likewise for the other phases.
        train_memory_ratio: peak memory divided by vanilla's; likewise for the other phases.
        end_to_end_speedup: against vanilla, of the whole training, the estimation counted; of
            methods with a plan.
        estimate_fraction: time of the estimation as a fraction of the training time.
        target: what `prune.target` asked for; with what the plan was predicted to reach, and what
            the benchmark measured of it.
    """

    metrics: dict[str, Rounded]
    base_parameters: int
    trainable_parameters: int
    train_speedup: Rounded
    end_to_end_speedup: Rounded | None = None
    train_memory_ratio: Rounded | None = None
    inference_speedup: Rounded | None = None
    inference_memory_ratio: Rounded | None = None
    prefill_speedup: Rounded | None = None
    prefill_memory_ratio: Rounded | None = None
    decode_speedup: Rounded | None = None
    decode_memory_ratio: Rounded | None = None
    estimate_fraction: Rounded | None = None
    target: Rounded | None = None
    target_predicted: Rounded | None = None
    target_measured: Rounded | None = None


class RunSummary(_Artefact):
    """metrics.json: an entry per method, in the order of params.yaml.

    What was not measured is left out, because DVC can't compare a null.
    """

    methods: dict[str, MethodSummary]

    @model_validator(mode="before")
    @classmethod
    def _collect_methods(cls, raw: Any) -> Any:
        return raw if "methods" in raw else {"methods": raw}

    @model_serializer
    def _spread_methods(self) -> dict[str, Any]:
        return {name: entry.model_dump(exclude_none=True) for name, entry in self.methods.items()}
