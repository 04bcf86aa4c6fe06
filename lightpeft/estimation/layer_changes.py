"""How much each layer changes what goes through it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from lightpeft.core.shape import ModelShape
from lightpeft.estimation.token_sums import TokenSums
from lightpeft.modeling.families import find_attention_mask_name
from lightpeft.modeling.layer_removal import get_hidden_states


class LayerChanges(TokenSums):
    """Scores the layers of the stacks that have prunable ones; see `TokenSums`.

    The score of a layer is ``1 - cos(x, y)`` of what enters and what leaves it, a mean over real
    tokens: Block Influence of ShortGPT (arXiv:2403.03853). Light-PEFT prunes no layers.
    """

    def __init__(self, model: PreTrainedModel, shape: ModelShape) -> None:
        stacks = [stack.path for stack in shape.stacks if stack.prunable]
        self._layers = {
            f"{path}.{name}": layer
            for path in stacks
            for name, layer in model.get_submodule(path).named_children()
        }
        devices = [next(layer.parameters()).device for layer in self._layers.values()]
        super().__init__([*self._layers], [1] * len(devices), devices)
        self._stacks = stacks
        encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        for index, (path, layer) in enumerate(self._layers.items()):
            mask_name = find_attention_mask_name(path, encoder_decoder=encoder_decoder)
            hook = partial(self._accumulate, index, mask_name)
            self.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)

    def score_layers(self) -> dict[str, Tensor]:
        """Return path of a stack -> float32 scores, shape `(layers,)`, on the CPU."""
        means = self.compute_means()
        return {
            stack: torch.cat(
                [x.cpu() for path, x in means.items() if path.rpartition(".")[0] == stack]
            )
            for stack in self._stacks
        }

    @torch.no_grad()
    def _accumulate(
        self, index: int, mask_name: str, layer: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        if not self.is_counting:
            return
        before = get_hidden_states(args, kwargs).detach()
        after = (output if isinstance(output, Tensor) else output[0]).detach()
        changes = 1 - cosine_similarity(before.float(), after.float(), dim=-1)
        real = self.find_real(mask_name, before)
        tokens: Tensor | int = changes.numel()
        if real is not None:
            changes, tokens = changes * real, real.sum()  # indexing would wait for the device
        self.add(index, changes.sum(), tokens)
