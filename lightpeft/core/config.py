"""Settings of estimation and pruning, checked once, for the library and for params.yaml."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lightpeft.core.errors import ConfigError

# A description says which values are allowed, as an error message does: "lr must be a number > 0".
Count = Annotated[int, Field(ge=1, description="an integer >= 1")]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="an integer >= 0")]
Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, description="in [0, 1)")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number > 0")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number >= 0")]
OptionalSpeedup = Annotated[
    Annotated[float, Field(gt=1, allow_inf_nan=False)] | None,
    Field(description="None or a number > 1"),
]
OptionalFraction = Annotated[
    Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None,
    Field(description="None or in (0, 1)"),
]
Criterion = Literal["mask", "taylor", "magnitude", "energy", "random"]

SEARCHED = ("layers", "heads", "neurons", "modules")  # fractions that a target can decide

# Former names, which are refused with the new one named.
RENAMED = {"head_unit": "head_granularity", "module_order": "module_criterion"}


class Config(BaseModel):
    """A frozen set of settings, in which no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def __init__(self, **values: Any) -> None:
        """Check all values.

        Raises:
            ConfigError: names the argument, its value and what is allowed, in one line.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(self._explain(error)) from error

    # Where a config is a field of another model, pydantic reports all errors with their path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        # Unknown names first: a misspelt argument may also be a missing one.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")[0]
        name = str(details["loc"][0])
        if name in RENAMED:
            return f"{name} is now {RENAMED[name]}"
        if name not in cls.model_fields:
            close = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(cls.model_fields)}"
            return f"unknown argument {name}; {hint}"
        field = cls.model_fields[name]
        choices = getattr(field.annotation, "__args__", ())
        allowed = field.description or f"one of {', '.join(map(str, choices))}"
        if details["type"] == "missing":
            return f"{name} is missing; it must be {allowed}"
        return f"{name} must be {allowed}, got {details['input']!r}"


class StopConfig(Config):
    """When the estimation stops before its last step.

    Every 10 steps it compares the units that would be pruned, a third of the heads of each layer
    and of all neurons by Taylor scores, with those of the check before.

    Attributes:
        stable: fraction of these heads, and of these neurons, that must be the same.
        patience: number of checks in a row that must find them so; 0: never stop early.

    Example:
        >>> lightpeft.StopConfig(patience=3)
        StopConfig(stable=0.98, patience=3)
    """

    stable: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, description="in (0, 1]")] = 0.98
    patience: Annotated[int, Field(ge=0, description="an integer >= 0")] = 0


class EstimationConfig(Config):
    """Settings of `lightpeft.estimate`; the defaults are those of the pipeline's params.yaml.

    Attributes:
        steps: optimizer steps, one batch each; with `stop`, at most.
        lr: peak learning rate of the PEFT modules and the task head (AdamW, 6 % of `steps` warmup,
            then constant).
        mask_lr: learning rate of the masks; None for `lr`.
        l1: weight of the masks' L1 term in the loss.
        reduction: of rank scores over the weights of a rank: `sum`, or `mean` (the authors').
        stop: when to stop before `steps`.

    Example:
        >>> lightpeft.EstimationConfig(steps=200, lr=1e-3).steps
        200
        >>> lightpeft.EstimationConfig(steps=1)
        Traceback (most recent call last):
        lightpeft.core.errors.ConfigError: steps must be an integer >= 2, got 1
    """

    steps: Annotated[int, Field(ge=2, description="an integer >= 2")] = 130
    lr: Positive = 5e-4
    mask_lr: Annotated[Positive | None, Field(description="None or a number > 0")] = None
    l1: NonNegative = 1e-4
    reduction: Literal["sum", "mean"] = "sum"
    stop: Annotated[StopConfig, Field(description="a StopConfig")] = StopConfig()


class PruningTarget(Config):
    """What pruning is to reach, instead of fractions; exactly one is set.

    Attributes:
        training_speedup: seconds of a training step, unpruned divided by pruned; > 1. Unpruned is
            the model with all PEFT modules, here and below.
        inference_speedup: the same of a forward pass; of a decoder, of reading a prompt.
        parameters: fraction of all parameters that is left, PEFT modules and task head included.
        memory: fraction that is left of the peak memory of a training step.
        flops: fraction that is left of the FLOPs of a training step.

    Example:
        >>> lightpeft.PruningConfig(target={"training_speedup": 2.0}).target.quantity
        'training_speedup'
        >>> lightpeft.PruningConfig(target={"parameters": 1.5})
        Traceback (most recent call last):
        lightpeft.core.errors.ConfigError: target: parameters must be None or in (0, 1), got 1.5
    """

    training_speedup: OptionalSpeedup = None
    inference_speedup: OptionalSpeedup = None
    parameters: OptionalFraction = None
    memory: OptionalFraction = None
    flops: OptionalFraction = None

    @model_validator(mode="after")
    def _check_single(self) -> Self:
        chosen = self.model_dump(exclude_none=True)
        if len(chosen) != 1:
            names = ", ".join(type(self).model_fields)
            raise ConfigError(f"one of {names} must be set, got {chosen or None}")
        return self

    @property
    def quantity(self) -> str:
        """Name of what is set."""
        return next(iter(self.model_dump(exclude_none=True)))

    @property
    def value(self) -> float:
        """What it is set to."""
        return float(getattr(self, self.quantity))

    @property
    def is_speedup(self) -> bool:
        """Whether the value is a speed-up, not a fraction that is left."""
        return self.quantity.endswith("speedup")


def _parse_target(value: object) -> object:
    """Make a target of a dict, whose error names the key."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return value
    try:
        return PruningTarget(**value)
    except ConfigError as error:
        raise ConfigError(f"target: {error}") from error


class PruningConfig(Config):
    """Settings of `lightpeft.make_plan`; the defaults are those of the pipeline for encoders.

    For decoders the pipeline takes ``heads=0, neurons=0.1, modules=0, ranks=0, criterion="energy"``
    (measured: docs/results/decoders.md).

    Attributes:
        layers: fraction of the layers to prune whole, of each stack; the other fractions are of
            what is left. The layers with the lowest scores go: see `score_layers`.
        heads: fraction of the attention heads to prune; see `head_scope`, `head_granularity`.
        neurons: fraction of the feed-forward neurons to prune; see `neuron_scope`, `align`.
        modules: fraction of the PEFT modules to prune, over the whole model.
        ranks: fraction of the ranks of all remaining PEFT modules to prune.
        align: the number of neurons that a layer keeps is a multiple of this, which matrix
            kernels run fast with.
        criterion: of heads and neurons: `taylor`, `mask` (the paper's), `magnitude`, or `energy`
            (the mean square of what a unit adds to its block's output); `random` is also the
            criterion of ranks and, if `module_criterion` is `importance`, of modules.
        head_granularity: where query heads share keys and values: `kv_group` (a KV group with all
            its query heads; its score is the sum of theirs) or `query_head` (equally many query
            heads of every group; keys and values are kept). If there is only one group, query
            heads are pruned in either case.
        head_scope: `layer` prunes the fraction in each layer (the paper's); `global` ranks heads
            over all layers, of which each keeps at least one.
        neuron_scope: `global` ranks neurons over all layers, `layer` within each layer. Energies of
            different layers can't be compared: where the scope is `global`, Taylor scores say how
            many heads or neurons each layer keeps, and energy says which.
        uniform: take the scope `layer` for both, so that all layers keep equally many heads and
            equally many neurons, which the config of many architectures can say: see `export`,
            format stock.
        module_criterion: which PEFT modules are pruned first: those of the lowest `importance`
            (the paper's), or by `depth` those nearest to the embeddings, so that the backward
            pass stops above them.
        seed: of the criterion `random`.
        target: what pruning is to reach; see `PruningTarget`. Then those of layers, heads, neurons
            and modules are searched that are not given; see `make_plan`.

    Example:
        >>> lightpeft.PruningConfig(heads=1 / 3, neurons=1 / 3).criterion
        'taylor'
        >>> lightpeft.PruningConfig(heads=1.2)
        Traceback (most recent call last):
        lightpeft.core.errors.ConfigError: heads must be in [0, 1), got 1.2
    """

    layers: Ratio = 0.0
    heads: Ratio = 0.3333
    neurons: Ratio = 0.3333
    modules: Ratio = 0.25
    ranks: Ratio = 0.25
    align: Count = 8
    criterion: Criterion = "taylor"
    head_granularity: Literal["kv_group", "query_head"] = "kv_group"
    head_scope: Literal["layer", "global"] = "layer"
    neuron_scope: Literal["global", "layer"] = "global"
    uniform: Annotated[bool, Field(description="true or false")] = False
    module_criterion: Literal["importance", "depth"] = "depth"
    seed: Seed = 0
    target: Annotated[
        PruningTarget | None,
        BeforeValidator(_parse_target),
        Field(description="None, a PruningTarget or its arguments as a dict"),
    ] = None
