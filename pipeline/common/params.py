"""The sections of params.yaml: frozen, typed, and checked before anything heavy is imported."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from pipeline.common.errors import ConfigError
from pipeline.common.files import read_yaml

AUTO = "auto"
_RENAMED = {
    "prune.head_unit": "prune.head_granularity: kv_group (was group) or query_head (was head)",
    "prune.module_order": "prune.module_criterion",
}
_UNKNOWN = ("extra_forbidden", "invalid_key")  # the second: a key that is no text


def _or_auto(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Read `auto` as None, and refuse the None of a blank."""
    if value is None:
        raise ValueError("blank")
    return None if value == AUTO else check(value)


Count = Annotated[int, Field(ge=1, description="a whole number from 1")]
NonNegative = Annotated[int, Field(ge=0, description="a whole number from 0")]
Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, description="in [0, 1)")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="in [0, 1]")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number from 0")]
Flag = Annotated[bool, Field(description="true or false")]
Name = Annotated[str, Field(min_length=1, description="a name")]
AutoRatio = Annotated[Ratio | None, WrapValidator(_or_auto), Field(description="auto or in [0, 1)")]
AutoPositive = Annotated[
    Positive | None, WrapValidator(_or_auto), Field(description="auto or a number above 0")
]
AutoCount = Annotated[
    NonNegative | None,
    WrapValidator(_or_auto),
    Field(description="auto or a whole number from 0"),
]
AutoName = Annotated[Name | None, WrapValidator(_or_auto), Field(description="auto or a name")]


class Section(BaseModel):
    """One section of params.yaml: every key is there, no other key, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(Section):
    """Which model, and the type of its weights."""

    name: Name
    dtype: Literal["auto", "float32", "bfloat16", "float16"]


class DataSection(Section):
    """Which task, and for local files where its rows are."""

    task: Name
    train: AutoName
    validation: AutoName
    test: AutoName
    text: Annotated[
        Name | list[Name] | None,
        WrapValidator(_or_auto),
        Field(description="auto, a column, or a list of two columns"),
    ]
    label: AutoName
    kind: Annotated[
        Literal["classify", "choice", "generate", "tokens", "answer", "image"] | None,
        WrapValidator(_or_auto),
        Field(description="auto or one of classify, choice, generate, tokens, answer, image"),
    ]
    metric: AutoName
    neutral_prompt: Annotated[
        Annotated[str, Field(pattern=r"\S")] | None,
        WrapValidator(_or_auto),
        Field(description="auto, none or a text"),
    ]
    max_length: Annotated[int, Field(ge=8, description="a whole number from 8")]
    packing: Flag
    max_bad_rows: Share
    max_truncated: Share

    @model_validator(mode="after")
    def _fits(self) -> DataSection:
        if isinstance(self.text, list) and not 1 <= len(self.text) == len({*self.text}) <= 2:
            raise ConfigError(f"data.text must be one column or two, got {self.text}")
        if self.task == "files" and self.train is None:
            raise ConfigError("data.train must be a file's path when data.task is files, got auto")
        for key in ("train", "validation", "test"):
            path = getattr(self, key)
            if path is not None and self.task.startswith("docstrings") and ":" not in self.task:
                raise ConfigError(
                    f"data.{key} is not for data.task: {self.task}, which is built in, got {path!r}"
                )
            if path is not None and self.train is None:
                raise ConfigError(f"data.{key} needs data.train, got {path!r} with auto")
        return self


class PeftSection(Section):
    """The PEFT method, before anything is pruned."""

    method: Literal["lora"]
    r: Count
    alpha: Positive
    dropout: Ratio
    rslora: Flag
    targets: Annotated[
        Name | Annotated[list[Name], Field(min_length=1)],
        Field(description="all-linear, a regex of whole names, or a list of name endings"),
    ]


class EstimateSection(Section):
    """The early phase."""

    steps: Annotated[int, Field(ge=2, description="a whole number from 2")]
    batch_size: Count
    lr: Positive
    mask_lr: AutoPositive
    l1: Weight
    reduction: Literal["sum", "mean"]


class PruneSection(Section):
    """How much goes, and by which criterion."""

    ratio: Ratio
    heads: AutoRatio
    neurons: AutoRatio
    modules: Ratio
    ranks: Ratio
    head_granularity: Literal["kv_group", "query_head"]
    neuron_scope: Literal["global", "layer"]
    module_criterion: Literal["importance", "depth"]
    align: Count
    criterion: Literal["mask", "taylor", "magnitude", "random"]
    verify: Flag


class FinetuneSection(Section):
    """Training of what is left."""

    steps: Count
    batch_size: Count
    gradient_accumulation: Count
    lr: Positive
    schedule: Literal["linear", "cosine"]
    warmup: Ratio
    weight_decay: Weight
    max_grad_norm: Positive
    warm_start: Flag
    group_by_length: Flag
    gradient_checkpointing: Flag
    evaluate_every: Count
    save_every: Count
    best_checkpoint: Flag
    early_stopping: NonNegative

    @model_validator(mode="after")
    def _fits(self) -> FinetuneSection:
        if self.early_stopping and not self.best_checkpoint:
            raise ConfigError(
                f"finetune.early_stopping needs finetune.best_checkpoint: true, "
                f"got {self.early_stopping} with false"
            )
        return self


class EvaluateSection(Section):
    """Measurement of quality on the test split."""

    batch_size: Count
    bootstrap: Annotated[int, Field(ge=10, description="a whole number from 10")]
    lifted: Flag
    max_new_tokens: AutoCount


class BenchmarkSection(Section):
    """Measurement of speed and memory."""

    batch_sizes: Annotated[
        list[Count], Field(min_length=1, description="a list of whole numbers from 1")
    ]
    length: Annotated[int, Field(ge=4, description="a whole number from 4")]
    warmup: NonNegative
    rounds: Annotated[int, Field(ge=3, description="a whole number from 3")]


Method = Literal["light", "vanilla", "random"]


class Params(Section):
    """params.yaml as a whole."""

    seed: Annotated[int, Field(ge=0, lt=2**31, description="a whole number from 0 to 2147483647")]
    methods: Annotated[
        list[Method],
        Field(min_length=1, description="a list of light, vanilla, random"),
    ]
    model: ModelSection
    data: DataSection
    peft: PeftSection
    estimate: EstimateSection
    prune: PruneSection
    finetune: FinetuneSection
    evaluate: EvaluateSection
    benchmark: BenchmarkSection

    @model_validator(mode="after")
    def _fits(self) -> Params:
        if "vanilla" not in self.methods:
            raise ConfigError(
                f"methods must include vanilla, which all ratios are against, got {self.methods}"
            )
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods must not repeat, got {self.methods}")
        accumulation = self.finetune.gradient_accumulation
        if self.finetune.steps < self.estimate.steps + accumulation:
            raise ConfigError(
                f"finetune.steps counts the estimation's steps and must be at least "
                f"{self.estimate.steps + accumulation}, got {self.finetune.steps}"
            )
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ConfigError: one line that names the key, its value and what is allowed.
    """
    return check_params(read_yaml(path), path.name)


def check_params(raw: dict[str, Any], source: str) -> Params:
    """Check what params.yaml holds, or would hold; errors begin with the source.

    Raises:
        ConfigError: as `load_params`.
    """
    try:
        return Params.model_validate(raw)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except ValidationError as error:
        # Unknown keys first: a misspelt key is also a missing one.
        found = sorted(error.errors(), key=lambda e: e["type"] not in _UNKNOWN)[0]
        raise ConfigError(f"{source}: {_explain(found)}") from None


def _explain(error: Any) -> str:
    """Turn pydantic's first error into one line."""
    location = [str(part) for part in error["loc"] if isinstance(part, int | str)]
    section, field = _declared(location)
    key = ".".join(location[: len(section) + 1])
    if error["type"] in _UNKNOWN and key in _RENAMED:
        return f"{key} is now {_RENAMED[key]}"
    if error["type"] in _UNKNOWN:
        allowed = list(field.model_fields)
        close = difflib.get_close_matches(location[-1], allowed, n=1, cutoff=0.5)
        nearest = ".".join([*section, close[0]]) if close else ""
        hint = f"did you mean {nearest}?" if close else f"known: {', '.join(allowed)}"
        return f"unknown key {key}; {hint}"
    if error["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(field, location[-1])}"
    if field is None:
        return f"{key}: {error['msg']}"
    return f"{key} must be {_allowed(field, location[len(section)])}, got {error['input']!r}"


def _declared(location: list[str]) -> tuple[list[str], Any]:
    """The section a location lies in, as names and as a class."""
    section = Params.model_fields.get(location[0])
    kind = section.annotation if section else None
    if len(location) > 1 and isinstance(kind, type) and issubclass(kind, Section):
        return location[:1], kind
    return [], Params


def _allowed(section: Any, name: str) -> str:
    """What a key may hold, in words."""
    field = section.model_fields[name]
    if field.description:
        return str(field.description)
    choices = getattr(field.annotation, "__args__", ())
    if choices:
        return "one of " + ", ".join(str(choice) for choice in choices)
    return f"a section with the keys {', '.join(field.annotation.model_fields)}"
