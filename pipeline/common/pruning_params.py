"""Sections of estimation and pruning, and params.yaml as a whole.

The sections are lightpeft's own configs, so that a range is declared and checked in one place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, WrapValidator, model_validator

from lightpeft.core.config import (
    SEARCHED,
    Criterion,
    EstimationConfig,
    OptionalFraction,
    OptionalSpeedup,
    PruningConfig,
)
from pipeline.common.errors import ConfigError
from pipeline.common.files import read_yaml
from pipeline.common.methods import (
    DEFAULT_BASELINES,
    DEFAULT_METHODS,
    Baselines,
    Methods,
    has_plan,
)
from pipeline.common.params import (
    BatchSection,
    BenchmarkSection,
    DataSection,
    EvaluateSection,
    ExportSection,
    FinetuneSection,
    ModelSection,
    StageParams,
)
from pipeline.common.peft_params import PeftSection
from pipeline.common.section import (
    AUTO,
    NONE,
    AutoPositive,
    AutoRatio,
    Count,
    Flag,
    Section,
    parse_auto,
    parse_none,
)
from pipeline.common.validation import validate

AutoAlign = Annotated[
    Annotated[int, Field(ge=1)] | None,
    WrapValidator(parse_auto),
    Field(description="auto or an integer >= 1"),
]
AutoCriterion = Annotated[
    Criterion | None,
    WrapValidator(parse_auto),
    Field(description=f"one of auto, {', '.join(get_args(Criterion))}"),
]


class EstimateSection(EstimationConfig):
    """Phase 1; `mask_lr: auto` takes `lr`."""

    batch_size: Count = 16
    mask_lr: AutoPositive = None


# What `auto` stands for in section `prune`, by the kind of model. Chosen by measurement:
# docs/results.md (encoders; also taken for encoder-decoders and images), docs/results/decoders.md.
_ENCODER = {
    "layers": 0.0,
    "heads": 0.3333,
    "neurons": 0.3333,
    "modules": 0.25,
    "ranks": 0.25,
    "criterion": "taylor",
}
_DECODER = {
    "layers": 0.0,
    "heads": 0.0,
    "neurons": 0.1,
    "modules": 0.0,
    "ranks": 0.0,
    "criterion": "energy",
}


NoneOrSpeedup = Annotated[
    OptionalSpeedup, WrapValidator(parse_none), Field(description="none or a number > 1")
]
NoneOrFraction = Annotated[
    OptionalFraction, WrapValidator(parse_none), Field(description="none or in (0, 1)")
]


class TargetSection(Section):
    """What pruning is to reach, see `PruningTarget`; all None: prune the fractions that are set."""

    training_speedup: NoneOrSpeedup = None
    inference_speedup: NoneOrSpeedup = None
    parameters: NoneOrFraction = None
    memory: NoneOrFraction = None
    flops: NoneOrFraction = None

    @model_validator(mode="after")
    def _check_single(self) -> Self:
        if len(chosen := self.model_dump(exclude_none=True)) > 1:
            given = ", ".join(f"{key}: {value:g}" for key, value in chosen.items())
            raise ConfigError(f"prune.target must set one key at most, got {given}")
        return self


class PruneSection(PruningConfig):
    """Phase 2. The seed is that of params.yaml.

    Attributes:
        ratio: fraction of heads and of neurons to prune, where they are not set themselves; auto:
            each has its own.
        target: what to reach; what is `auto` of layers, heads, neurons and modules is searched.
        cost: what the speed of a target is predicted from: FLOPs, or a latency table.
        verify: compare the pruned model with the masked one on validation rows.
    """

    ratio: AutoRatio = None
    layers: AutoRatio = None  # type: ignore[assignment]
    heads: AutoRatio = None  # type: ignore[assignment]
    neurons: AutoRatio = None  # type: ignore[assignment]
    modules: AutoRatio = None  # type: ignore[assignment]
    ranks: AutoRatio = None  # type: ignore[assignment]
    align: AutoAlign = None  # type: ignore[assignment]
    criterion: AutoCriterion = None  # type: ignore[assignment]
    target: TargetSection = TargetSection()  # type: ignore[assignment]
    cost: Literal["flops", "measured"] = "flops"
    verify: Flag = True
    seed: ClassVar[int]  # type: ignore[misc]  # no key of the section

    def make_config(
        self, method: str, *, seed: int, decoder: bool, align: int = 8
    ) -> PruningConfig:
        """Return the pruning of one method, or of light, whose settings the others use.

        Args:
            method: of params.yaml.
            seed: of params.yaml.
            decoder: whether the model is one; what is `auto` goes by it.
            align: what `align: auto` stands for; see `choose_align`.
        """
        if method == "vanilla":  # no other setting may change a plan that prunes nothing
            return PruningConfig(layers=0, heads=0, neurons=0, modules=0, ranks=0, seed=seed)
        usual: dict[str, Any] = {**(_DECODER if decoder else _ENCODER), "align": align}
        target = self.target.model_dump(exclude_none=True) or None
        if target:  # searched, unless set
            usual = {key: value for key, value in usual.items() if key not in SEARCHED}
        if self.ratio is not None:
            usual |= {"heads": self.ratio, "neurons": self.ratio}
        excluded = {"ratio", "verify", "target", "cost"}
        settings = usual | self.model_dump(exclude=excluded, exclude_none=True)
        settings["target"] = target
        if method in ("random", "magnitude"):
            settings["criterion"] = method
        return PruningConfig(**settings, seed=seed)


class EstimateParams(StageParams):
    """Settings of the stage estimate."""

    model: ModelSection = ModelSection()
    peft: PeftSection = PeftSection()
    estimate: EstimateSection = EstimateSection()


class PruneParams(StageParams):
    """Settings of the stage prune; the benchmark's batches are those that a target is for."""

    model: ModelSection = ModelSection()
    prune: PruneSection = PruneSection()
    baselines: Baselines = Field(default_factory=lambda: dict(DEFAULT_BASELINES))
    benchmark: BatchSection = BatchSection()


class Params(StageParams):
    """params.yaml as a whole, which the stage report shows."""

    methods: Methods = Field(default_factory=lambda: list(DEFAULT_METHODS))
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    peft: PeftSection = PeftSection()
    estimate: EstimateSection = EstimateSection()
    prune: PruneSection = PruneSection()
    baselines: Baselines = Field(default_factory=lambda: dict(DEFAULT_BASELINES))
    finetune: FinetuneSection = FinetuneSection()
    evaluate: EvaluateSection = EvaluateSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    export: ExportSection = ExportSection()

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if "vanilla" not in self.methods:
            raise ConfigError(
                f"methods must include vanilla, which all ratios are against, got {self.methods}"
            )
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods must not repeat, got {self.methods}")
        if "freeze" in self.methods and self.prune.modules == 0:
            raise ConfigError(
                "prune.modules must be more than 0 with the method freeze, which prunes nothing "
                "else, got 0"
            )
        exported = self.export.method
        if self.export.format != "none" and not (exported in self.methods and has_plan(exported)):
            raise ConfigError(
                f"export.method must be one of methods that has a pruning plan, got {exported}"
            )
        if self.peft.method != "lora":
            self._check_only_lora()
        accumulation = self.finetune.gradient_accumulation
        if self.finetune.steps < self.estimate.steps + accumulation:
            raise ConfigError(
                f"finetune.steps counts the estimation's steps and must be at least "
                f"{self.estimate.steps + accumulation}, got {self.finetune.steps}"
            )
        return self

    def _check_only_lora(self) -> None:
        wrong = None
        if "qv" in self.methods:
            wrong = "methods must not include qv, which is LoRA on queries and values,"
        elif self.finetune.lora_plus_ratio != 1:
            wrong = f"finetune.lora_plus_ratio must be 1.0, got {self.finetune.lora_plus_ratio},"
        elif self.export.format not in ("none", "compact"):
            wrong = f"export.format must be none or compact, got {self.export.format},"
        if wrong is not None:
            raise ConfigError(f"{wrong} with peft.method: {self.peft.method}")


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml as a whole.

    Raises:
        ConfigError: one line that names the key, its value and what is allowed.
    """
    return check_params(read_yaml(path), path.name)


def check_params(raw: dict[str, Any], source: str) -> Params:
    """Check what params.yaml holds, or would hold; errors begin with the source.

    Raises:
        ConfigError: as `load_params`.
    """
    return validate(Params, raw, source)


def to_yaml_values(params: Params) -> dict[str, Any]:
    """Return all settings as params.yaml writes them: None as `auto`, in a target as `none`."""
    sections = params.model_dump()
    for section in sections.values():
        if isinstance(section, dict):
            _replace_none(section, AUTO)
    _replace_none(sections["prune"]["target"], NONE)
    return sections


def _replace_none(section: dict[str, Any], word: str) -> None:
    section |= {key: word for key, value in section.items() if value is None}
