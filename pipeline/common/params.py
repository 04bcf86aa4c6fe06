"""Sections of params.yaml that every stage may use: frozen, typed, with defaults.

The sections of estimation and pruning, and the check of the file as a whole, are in
pruning_params.py, which imports lightpeft; preparing data does not depend on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WrapValidator, model_validator

from pipeline.common.errors import ConfigError
from pipeline.common.files import read_yaml
from pipeline.common.methods import DEFAULT_METHODS, Methods
from pipeline.common.section import (
    AutoClass,
    AutoCount,
    AutoName,
    CompileScope,
    Count,
    Flag,
    Fraction,
    Name,
    NonNegative,
    NonNegativeInt,
    Positive,
    Ratio,
    Section,
    Seed,
    parse_auto,
)
from pipeline.common.task_kinds import TASK_KINDS, check_task_kind
from pipeline.common.validation import select_keys, validate


class ModelSource(Section):
    """Which model.

    Attributes:
        name: `minilm` or `smollm2` (built in), a Hub id, or a folder.
        revision: branch, tag or commit of a Hub id; None for what the Hub has now.
    """

    name: Name = "minilm"
    revision: AutoName = None


class ModelSection(ModelSource):
    """Which model, and the type of its weights (`auto`: bfloat16 where a GPU computes with it)."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class DataSection(Section):
    """Which task, and for local files where its rows are.

    Attributes:
        task: a built-in or named task, a Hub id, `FILE.py:NAME`, or `files`.
        revision: branch, tag or commit of a Hub data set; None for what the Hub has now.
        train, validation, test: paths of local files.
        text, label: columns; None for the task's own.
        template: of a text with columns in braces, instead of `text`; None: no template.
        kind: task type of local files; None to choose by the column names.
        metric: main metric; None for the task's own.
        positive_class: the class that f1 is of; None for the task's own.
        class_weights: of the loss; here, not in `finetune`, because the estimation has it too.
        neutral_prompt: of decoders that score choices; None for the task's own.
        max_length: tokens of a row.
        packing: put several rows of train into one of `max_length` tokens.
        max_bad_rows, max_truncated: fraction of a split's rows above which the stage stops.
        max_unknown: fraction of a split's tokens above which it stops.
    """

    task: Name = "docstrings"
    revision: AutoName = None
    train: AutoName = None
    validation: AutoName = None
    test: AutoName = None
    text: Annotated[
        Name | list[Name] | None,
        WrapValidator(parse_auto),
        Field(description="auto, a column, or a list of two columns"),
    ] = None
    template: AutoName = None
    label: AutoName = None
    kind: Annotated[
        Annotated[Name, AfterValidator(check_task_kind)] | None,
        WrapValidator(parse_auto),
        Field(description=f"auto or one of {', '.join(TASK_KINDS)}"),
    ] = None
    metric: AutoName = None
    positive_class: AutoClass = None
    class_weights: Literal["none", "balanced"] = "none"
    neutral_prompt: Annotated[
        Annotated[str, Field(pattern=r"\S")] | None,
        WrapValidator(parse_auto),
        Field(description="auto, none or a text"),
    ] = None
    max_length: Annotated[int, Field(ge=8, description="an integer >= 8")] = 64
    packing: Flag = False
    max_bad_rows: Fraction = 0.01
    max_truncated: Fraction = 0.1
    max_unknown: Fraction = 0.2

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if isinstance(self.text, list) and not 1 <= len(self.text) == len({*self.text}) <= 2:
            raise ConfigError(f"data.text must be one column or two, got {self.text}")
        if self.template is not None and self.text is not None:
            raise ConfigError(
                f"data.text must be auto with data.template {self.template!r}, got {self.text!r}"
            )
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


class StepSection(Section):
    """How a training step is computed.

    Attributes:
        accelerate: run LoRA layers with fewer kernels; see `lightpeft.accelerate`.
    """

    accelerate: Flag = True


class FinetuneSection(StepSection):
    """Training of the pruned model.

    Attributes:
        steps: batches that every method is trained on, the estimation's included.
        gradient_accumulation: batches per optimizer step.
        lora_plus_ratio: learning rate of LoRA B divided by that of LoRA A.
        warmup: fraction of the steps.
        warm_start: start from the estimation's weights.
        evaluate_every, save_every: steps between validations, and between checkpoints.
        best_checkpoint: keep the weights of the best validation.
        early_stopping: validations without improvement after which training stops; 0 for never.
        compile: what torch.compile compiles of the model for its training steps.
    """

    steps: Count = 520
    batch_size: Count = 16
    gradient_accumulation: Count = 1
    lr: Positive = 5e-4
    lora_plus_ratio: Positive = 1.0
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    schedule: Literal["linear", "cosine"] = "linear"
    warmup: Ratio = 0.06
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    warm_start: Flag = True
    group_by_length: Flag = True
    gradient_checkpointing: Flag = False
    cache_frozen: Flag = False
    evaluate_every: Count = 130
    save_every: Count = 130
    best_checkpoint: Flag = False
    early_stopping: NonNegativeInt = 0
    compile: CompileScope = "off"

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.early_stopping and not self.best_checkpoint:
            raise ConfigError(
                f"finetune.early_stopping needs finetune.best_checkpoint: true, "
                f"got {self.early_stopping} with false"
            )
        if self.cache_frozen and self.compile != "off":
            raise ConfigError(
                f"finetune.cache_frozen: true needs finetune.compile: off, got {self.compile}"
            )
        return self


class GenerationSection(Section):
    """Number of tokens to generate for a row; None for as many as train's longest completion."""

    max_new_tokens: AutoCount = None


class EvaluateSection(GenerationSection):
    """Quality on the test split; `lifted` also measures the adapter on the unpruned base model."""

    batch_size: Count = 64
    bootstrap: Annotated[int, Field(ge=10, description="an integer >= 10")] = 1000
    lifted: Flag = True


class RowLengthSection(Section):
    """Tokens of a row of the benchmark."""

    length: Annotated[int, Field(ge=4, description="an integer >= 4")] = 32


class BatchSection(RowLengthSection):
    """Sizes of the benchmark's batches."""

    batch_sizes: Annotated[
        list[Count], Field(min_length=1, description="a list of integers >= 1")
    ] = Field(default_factory=lambda: [1, 32])


class BenchmarkSection(BatchSection):
    """Speed and memory, by batch size, over rounds in which every method takes a turn.

    `compile` says what torch.compile compiles for a second measurement beside the eager one.
    """

    warmup: NonNegativeInt = 3
    rounds: Annotated[int, Field(ge=3, description="an integer >= 3")] = 15
    compile: CompileScope = "off"


class ExportSection(Section):
    """In which form one method is written for others to load; none: in no other form.

    Attributes:
        format: see `lightpeft.export`.
        method: one of `methods`.
    """

    format: Literal["none", "compact", "lifted", "merged", "stock", "padded", "onnx", "deci"] = (
        "none"
    )
    method: Name = "light"


class StageParams(Section):
    """The settings that a stage depends on: those that dvc.yaml lists under `params`."""

    seed: Seed = 0

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read this stage's keys of params.yaml; the others are ignored.

        Raises:
            ConfigError: one line that names the key, its value and what is allowed.
        """
        return validate(cls, select_keys(read_yaml(path), cls), path.name)


class PrepareParams(StageParams):
    """`benchmark.length` decides nothing here, but too long rows would stop the run at its end."""

    model: ModelSource = ModelSource()
    data: DataSection = DataSection()
    evaluate: GenerationSection = GenerationSection()
    benchmark: RowLengthSection = RowLengthSection()


class FinetuneParams(StageParams):
    """Settings of the stage finetune."""

    model: ModelSection = ModelSection()
    finetune: FinetuneSection = FinetuneSection()


class EvaluateParams(StageParams):
    """Settings of the stage evaluate."""

    model: ModelSection = ModelSection()
    evaluate: EvaluateSection = EvaluateSection()


class BenchmarkParams(StageParams):
    """Settings of the stage benchmark."""

    methods: Methods = Field(default_factory=lambda: list(DEFAULT_METHODS))
    model: ModelSection = ModelSection()
    finetune: StepSection = StepSection()
    benchmark: BenchmarkSection = BenchmarkSection()


class ExportParams(StageParams):
    """Settings of the stage export."""

    model: ModelSection = ModelSection()
    export: ExportSection = ExportSection()
