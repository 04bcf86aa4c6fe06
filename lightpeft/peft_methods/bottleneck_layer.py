"""The layer that adds bottleneck adapters to an output projection."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from lightpeft.core.errors import ModelError
from lightpeft.peft_methods.bottleneck_config import BottleneckConfig

NO_MERGE = (
    "bottleneck adapters can't be merged: they are not linear; save them, or remove them with "
    "unload()"
)


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """An output projection with bottleneck adapters, by name; see `BottleneckConfig`.

    Args:
        base_layer: the projection, a Linear or Conv1D, quantized or not.
        block_input: the linear whose input parallel adapters read; None: there are none.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("r", "scaling", "placement", "bottleneck_activation", "bottleneck_dropout")

    def __init__(self, base_layer: nn.Module, block_input: nn.Module | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.placement: dict[str, str] = {}
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.bottleneck_activation, self.bottleneck_dropout = nn.ModuleDict(), nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._hook: RemovableHandle | None = None
        self._block_input: Tensor | None = None
        if block_input is not None:
            self.read_block_input(block_input)

    def read_block_input(self, linear: nn.Module) -> None:
        """Keep what enters a linear of the block until this projection runs."""
        if self._hook is None:
            self._hook = linear.register_forward_pre_hook(self._keep_block_input)

    def remove_hook(self) -> None:
        """Leave the linear that `read_block_input` was called with as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def update_layer(self, adapter_name: str, r: int, config: BottleneckConfig) -> None:
        """Add an adapter of a size."""
        tuner: Any = self  # peft has no types
        base = tuner.get_base_layer()
        width = base.nf if isinstance(base, Conv1D) else base.out_features
        self.r[adapter_name], self.scaling[adapter_name] = r, config.scaling
        self.placement[adapter_name] = config.placement
        self.bottleneck_activation[adapter_name] = ACT2FN[config.non_linearity]
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self.bottleneck_down[adapter_name] = nn.Linear(width, r)
        self.bottleneck_up[adapter_name] = up = nn.Linear(r, width)
        if config.init_weights:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        tuner._move_adapter_to_device_of_base_layer(adapter_name)
        tuner.set_adapter(tuner.active_adapters, inference_mode=config.inference_mode)

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the projection returns, plus what the active adapters add."""
        output: Tensor = self.base_layer(inputs, *args, **kwargs)
        block_input, self._block_input = self._block_input, None
        result = output
        for name in self._list_running():
            x = block_input if self.placement[name] == "parallel" else output
            if x is None:
                raise ModelError(
                    "a parallel adapter has no input: the linear whose input it reads did not run"
                )
            result = result + self._compute_delta(name, x).to(result.dtype)
        return result

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to merge.

        Raises:
            ModelError: always.
        """
        raise ModelError(NO_MERGE)

    def unmerge(self) -> None:
        """Refuse to unmerge.

        Raises:
            ModelError: always.
        """
        raise ModelError(NO_MERGE)

    def _list_running(self) -> list[str]:
        active: Any = () if self.disable_adapters else self.active_adapters
        return [name for name in active if name in self.bottleneck_down]

    def _keep_block_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if any(self.placement[name] == "parallel" for name in self._list_running()):
            self._block_input = args[0]

    def _compute_delta(self, name: str, x: Tensor) -> Tensor:
        down: Any = self.bottleneck_down[name]
        units = self.bottleneck_activation[name](down(x.to(down.weight.dtype)))
        delta: Tensor = self.bottleneck_up[name](self.bottleneck_dropout[name](units))
        return delta * self.scaling[name]
