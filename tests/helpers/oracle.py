"""What a pruned model must compute, found without lightpeft's masks, slices and adapter code.

The reference is a plain transformers model: LoRA is added to its weights, and forward hooks
multiply by 0 what the plan drops. Gradients of LoRA follow from those of the weights.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from helpers.tiny_models import plan_that_keeps
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores

# Children of an attention and of a feed-forward block that read its heads or neurons.
_READS_HEADS = ("o_proj", "out_proj", "output.dense", "dense", "out_lin", "c_proj", "Wo", "o")
_READS_NEURONS = ("down_proj", "fc2", "output.dense", "dense_4h_to_h", "lin2", "c_proj", "Wo")
_READS_NEURONS += ("wo", "ffn_output")
_ZERO = 1e-6  # of the largest gradient of the model


def draw_plan(scores: Scores, seed: int) -> PruningPlan:
    """Draw what every block and PEFT module keeps: each number is possible, also none."""
    draw, shape = random.Random(seed), scores.shape
    heads = {
        block.path: _draw_heads(draw, block.units, block.heads_per_kv_group)
        for block in shape.attention_blocks
    }
    neurons = {
        path: [] if draw.random() < 0.2 else _draw_some(draw, total)
        for path, total in shape.neurons.items()
    }
    kept, rank = heads | neurons, scores.peft.r
    readers = {block.output_projection for block in shape.blocks if not kept[block.path]}
    ranks = {
        path: [] if path in readers else sorted(draw.sample(range(rank), draw.randint(0, rank)))
        for path in scores.ranks
    }
    if not any(ranks.values()):
        ranks[next(path for path in ranks if path not in readers)] = [0]
    return plan_that_keeps(scores, kept, ranks)


def _draw_some(draw: random.Random, total: int) -> list[int]:
    return sorted(draw.sample(range(total), draw.randint(1, total)))


def _draw_heads(draw: random.Random, heads: int, sharing: int) -> list[int]:
    """Draw KV groups, and of each equally many query heads; in a fifth of the cases none."""
    if heads == 1:  # they can't be pruned
        return [0]
    if draw.random() < 0.2:
        return []
    groups, count = _draw_some(draw, heads // sharing), draw.randint(1, sharing)
    return [g * sharing + h for g in groups for h in sorted(draw.sample(range(sharing), count))]


def hide_units(model: nn.Module, plan: PruningPlan) -> None:
    """Multiply the heads and neurons that a plan drops by 0, from now on."""
    for names, cuts in ((_READS_HEADS, plan.heads), (_READS_NEURONS, plan.neurons)):
        for path, units in cuts.items():
            block = model.get_submodule(path)
            reader = next(
                found for name in names if (found := _find_child(block, name)) is not None
            )
            factors = torch.zeros(units.total)
            factors[list(units.kept)] = 1.0
            reader.register_forward_pre_hook(_multiply(factors))


def _find_child(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _multiply(factors: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        by_unit = args[0].unflatten(-1, (len(factors), -1))
        return ((by_unit * factors[:, None]).flatten(-2), *args[1:])

    return hook


class Reference:
    """The unpruned model with what the plan keeps of LoRA in its weights, and its units hidden."""

    def __init__(self, model: PreTrainedModel, scores: Scores, plan: PruningPlan) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._scale = scores.peft.lora_alpha / scores.peft.r
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        for path, units in plan.ranks.items():
            if units.kept:
                key, ranks = f"base_model.model.{path}.lora_", list(units.kept)
                a, b = (scores.adapter[f"{key}{factor}.weight"] for factor in "AB")
                self._factors[path] = a[ranks], b[:, ranks]
        for path, (a, b) in self._factors.items():
            weight = self.model.get_parameter(f"{path}.weight").requires_grad_()
            weight.data += self._transpose(path, self._scale * b @ a)
        hide_units(self.model, plan)

    def _transpose(self, path: str, weight: Tensor) -> Tensor:
        """GPT-2 stores its weights as (in, out)."""
        return weight.T if isinstance(self.model.get_submodule(path), Conv1D) else weight

    def compute_lora_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of LoRA's factors, by the chain rule from those of the weights."""
        found = {}
        for path, (a, b) in self._factors.items():
            grad = self.model.get_parameter(f"{path}.weight").grad
            assert grad is not None, path
            grad = self._scale * self._transpose(path, grad)
            found[f"{path}.lora_A"], found[f"{path}.lora_B"] = b.T @ grad, grad @ a.T
        return found


def list_lora_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of LoRA's factors in a model of peft."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): weight.grad
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is not None
    }


def drop_zeros(gradient: Tensor, scale: float) -> Tensor:
    """Return the rows and columns that are not zero: those of hidden units are, others seldom."""
    used = gradient.abs() > _ZERO * scale
    return gradient[used.any(dim=1)][:, used.any(dim=0)]
