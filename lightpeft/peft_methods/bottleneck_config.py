"""Settings of bottleneck adapters, in peft's form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, get_args

from peft import PeftConfig

from lightpeft.core.bottleneck_choices import NonLinearity, Placement
from lightpeft.core.errors import ConfigError
from lightpeft.core.names import BOTTLENECK


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """Bottleneck adapters: ``h + scaling * (U f(D x + d) + u)``, with ``r`` rows in ``D``.

    What ``h`` and ``x`` are is the `placement`:

    - ``houlsby``: ``h = x`` is what the output projection of every attention block (also of
      cross-attention) and of every feed-forward block returns, before dropout, norm and residual
      connection (Houlsby et al., arXiv:1902.00751);
    - ``pfeiffer``: the same, of feed-forward blocks only (Pfeiffer et al., arXiv:2005.00247).
      Deviation: the norm that their adapter reads after is left where it is;
    - ``parallel``: ``x`` is what enters the feed-forward block, ``h`` what its output projection
      returns (He et al., arXiv:2110.04366).

    ``U`` and ``u`` start at zero, so that a new adapter changes nothing. Several active adapters
    read the same ``x``, and their terms are added. A non-linear module can't be merged into a
    linear.

    Attributes:
        r: rows of ``D``: the size of the bottleneck.
        placement: `houlsby`, `pfeiffer` or `parallel`.
        non_linearity: ``f``, by its name in transformers.
        scaling: factor of what the adapter adds.
        dropout: probability of dropping a unit of the bottleneck in training.
        target_modules: which output projections, of those of the placement: a regex of full names,
            a list of name endings, or None or `all-linear` for all.
        rank_pattern: regex of names of output projections -> their own `r`.
        modules_to_save: endings of the names of other modules to train and save, such as a head.
        init_weights: whether ``U`` starts at zero; otherwise it is drawn as a linear layer's.
        block_inputs: filled in when the adapter is attached: output projection -> the linear whose
            input a parallel adapter reads.

    Example:
        >>> from peft import get_peft_model
        >>> config = lightpeft.BottleneckConfig(r=4, placement="pfeiffer", task_type="SEQ_CLS")
        >>> adapted = get_peft_model(copy.deepcopy(base_model), config)
        >>> adapted.base_model.targeted_module_names
        ['bert.encoder.layer.0.output.dense', 'bert.encoder.layer.1.output.dense']
    """

    r: int = field(default=64)
    placement: str = field(default="houlsby")
    non_linearity: str = field(default="relu")
    scaling: float = field(default=1.0)
    dropout: float = field(default=0.0)
    target_modules: Any = field(default=None)
    rank_pattern: dict[str, int] = field(default_factory=dict)
    modules_to_save: list[str] | None = field(default=None)
    init_weights: bool = field(default=True)
    block_inputs: dict[str, str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ConfigError: names the setting, its value and what is allowed.
        """
        super().__post_init__()
        self.peft_type = BOTTLENECK
        if isinstance(self.target_modules, list | tuple | set):
            self.target_modules = sorted(self.target_modules)
        sizes = {"r": self.r} | {f"rank_pattern[{k!r}]": r for k, r in self.rank_pattern.items()}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise ConfigError(f"BottleneckConfig.{name} must be an integer >= 1, got {size!r}")
        for name, choices in (("placement", Placement), ("non_linearity", NonLinearity)):
            value, allowed = getattr(self, name), get_args(choices)
            if value not in allowed:
                raise ConfigError(
                    f"BottleneckConfig.{name} must be one of {', '.join(allowed)}, got {value!r}"
                )
        if not _is_number(self.scaling):
            raise ConfigError(f"BottleneckConfig.scaling must be a number, got {self.scaling!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"BottleneckConfig.dropout must be in [0, 1), got {self.dropout!r}")


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]
