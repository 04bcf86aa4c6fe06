"""Sections of estimation and pruning, and params.yaml as a whole.

The sections are lightpeft's own configs, so that a range is declared and checked in one place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from lightpeft.core.config import EstimationConfig
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
from pipeline.common.prune_section import PruneSection
from pipeline.common.section import (
    AUTO,
    NONE,
    AutoPositive,
    Count,
)
from pipeline.common.validation import validate


class EstimateSection(EstimationConfig):
    """Phase 1; `mask_lr: auto` takes `lr`."""

    batch_size: Count = 16
    mask_lr: AutoPositive = None


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
        if "freeze" in self.methods:
            self.prune.check_freeze()
        exported = self.export.method
        if self.export.format != "none" and not (exported in self.methods and has_plan(exported)):
            raise ConfigError(
                f"export.method must be one of methods but not full or peft:NAME, which have no "
                f"pruning plan, got {exported}"
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
