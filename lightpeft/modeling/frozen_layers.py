"""Find the layers below the lowest one that is trained, and compute a model without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.block_shape import find_stack
from lightpeft.core.errors import ModelError
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.layer_removal import get_hidden_states


class FrozenLayers:
    """The lowest layers of a stack, none of which has a trained weight.

    What enters the first layer above them depends on the row alone: it is computed without a
    graph, and can be kept instead of being computed again.

    Attributes:
        frozen: the layers, in the order in which they run.
        trained: the first layer above them.
    """

    def __init__(self, frozen: Iterable[nn.Module], trained: nn.Module) -> None:
        self.frozen, self.trained = tuple(frozen), trained
        self._others: int | None = (
            None  # what the layers return besides hidden states; None: no tuple
        )

    @contextmanager
    def record(self) -> Iterator[list[Tensor]]:
        """Collect what enters the first trained layer; a context manager around one `forward`.

        Yields:
            A list, which gets one tensor of shape ``(rows, tokens, hidden)``.

        Raises:
            ModelError: it depends on a trained weight.
        """
        seen: list[Tensor] = []

        def read_input(layer: nn.Module, args: Any, kwargs: Any) -> None:
            hidden = get_hidden_states(args, kwargs)
            if hidden.requires_grad:
                raise ModelError("what enters the lowest trained layer depends on trained weights")
            seen.append(hidden.detach())

        def read_output(layer: nn.Module, args: Any, output: Any) -> None:
            self._others = None if isinstance(output, Tensor) else len(output) - 1

        hooks = (
            self.trained.register_forward_pre_hook(read_input, with_kwargs=True),
            self.frozen[-1].register_forward_hook(read_output),
        )
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def replace(self, make_states: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Run `forward` without the frozen layers; a context manager, after `record`.

        Embeddings, masks and positions are computed as always. The modules stay where they are, so
        weights can be saved meanwhile, and the backward pass may run afterwards, even if it
        computes trained layers again: they get the states as their argument. What the frozen layers
        return besides hidden states (attention weights) is None; a model that needs it can't be
        run so, which the caller has to try.

        Args:
            make_states: gets what would enter the first frozen layer, and returns what enters the
                first trained one.
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = get_hidden_states(args, kwargs)
            return self._make_output(hidden)

        def forward_last(*args: Any, **kwargs: Any) -> Any:
            return self._make_output(make_states(get_hidden_states(args, kwargs)))

        own = [vars(layer).get("forward") for layer in self.frozen]
        for layer in self.frozen:
            layer.forward = forward_last if layer is self.frozen[-1] else forward
        try:
            yield
        finally:
            for layer, old in zip(self.frozen, own, strict=True):
                if old is None:
                    del layer.forward
                else:
                    layer.forward = old

    def _make_output(self, hidden: Tensor) -> Any:
        return hidden if self._others is None else (hidden, *[None] * self._others)


def find_frozen_layers(model: PreTrainedModel, plan: PruningPlan) -> FrozenLayers | None:
    """Return the layers below the lowest one with a trained weight.

    Args:
        model: the base model of one that was pruned by the plan, with its PEFT modules.
        plan: names the stack of its layers.

    Returns:
        None if the first layer is trained, or no layer is.

    Raises:
        ModelError: there are frozen layers in one of several stacks (of an encoder-decoder).
    """
    stacks = dict.fromkeys(find_stack(block.path) for block in plan.shape.blocks)
    found = [x for x in (_split(model.get_submodule(path)) for path in stacks) if x]
    if found and len(stacks) > 1:
        raise ModelError(f"it has {len(stacks)} stacks of layers: {', '.join(stacks)}")
    return found[0] if found else None


def _split(stack: nn.Module) -> FrozenLayers | None:
    layers = list(stack.children())
    for index, layer in enumerate(layers):
        if any(weight.requires_grad for weight in layer.parameters()):
            return FrozenLayers(layers[:index], layer) if index else None
    return None
