"""Section `prune` of params.yaml: what light prunes, and the other methods by it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, WrapValidator, field_validator, model_validator

from lightpeft.core.config import SEARCHED, Criterion, PruningConfig, PruningTarget
from pipeline.common.errors import ConfigError
from pipeline.common.section import AutoRatio, Flag, parse_auto, parse_none

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


class TargetSection(PruningTarget):
    """What pruning is to reach; all `none`: prune the fractions that are set."""

    _parse = field_validator("*", mode="wrap")(parse_none)

    @model_validator(mode="after")
    def _check_single(self) -> Self:
        if len(chosen := self.model_dump(exclude_none=True)) > 1:
            given = ", ".join(f"{key}: {value:g}" for key, value in chosen.items())
            raise ConfigError(f"prune.target must set one key at most, got {given}")
        return self

    @property
    def is_set(self) -> bool:
        """Whether there is a target."""
        return bool(self.model_dump(exclude_none=True))

    @property
    def is_speedup(self) -> bool:
        """Whether there is a target, and it is a speed-up."""
        return self.is_set and super().is_speedup


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
    target: TargetSection = TargetSection()
    cost: Literal["flops", "measured"] = "flops"
    verify: Flag = True
    seed: ClassVar[int]  # type: ignore[misc]  # no key of the section

    @model_validator(mode="after")
    def _check_cost(self) -> Self:
        if self.cost == "measured" and not self.target.is_speedup:
            raise ConfigError(
                "prune.cost must be flops where prune.target sets no speed-up, which alone goes by "
                "a latency table, got measured"
            )
        return self

    def check_freeze(self) -> None:
        """Check that it is said how many PEFT modules the method freeze prunes.

        A target does not say it: the search may leave all of them.

        Raises:
            ConfigError: it is none, or unknown.
        """
        if self.modules == 0:
            raise ConfigError(
                "prune.modules must be more than 0 with the method freeze, which prunes nothing "
                "else, got 0"
            )
        if self.modules is None and self.target.is_set:
            raise ConfigError(
                "prune.modules must be a number with the method freeze and a prune.target, whose "
                "search may leave all PEFT modules, got auto"
            )

    def make_config(
        self, method: str, *, seed: int, decoder: bool, align: int = 8
    ) -> PruningConfig:
        """Return the pruning of one method, or of light, whose settings the others use.

        Args:
            method: of params.yaml.
            seed: of params.yaml.
            decoder: whether the model is one; what is `auto` goes by it.
            align: what `align: auto` stands for; see `choose_align`.

        Raises:
            ConfigError: as `check_freeze`.
        """
        if method == "freeze":
            self.check_freeze()
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
