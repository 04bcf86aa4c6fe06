"""Tiny seeded models, batches and scores, shared by the tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel
from torch import Tensor
from transformers.pytorch_utils import Conv1D

import lightpeft
from lightpeft import EstimationConfig
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.names import BOTTLENECK, DORA
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import CRITERIA, Scores
from lightpeft.modeling.adapters import (
    get_adapter_state_dict,
    get_peft_model_unmapped,
    load_adapter_state_dict,
)
from lightpeft.modeling.fingerprint import compute_fingerprint
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks
from lightpeft.modeling.peft_targets import (
    find_block_targets,
    list_saved_modules,
)
from lightpeft.peft_methods.registry import resolve_config

VOCABULARY = 100
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
_DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 40,
}


def make_tiny_config(family: str, **changes: object) -> transformers.PreTrainedConfig:
    """A three-layer config of a supported architecture."""
    sizes = _DISTILBERT if family == "distilbert" else _SIZES
    if family == "electra":
        sizes = sizes | {"embedding_size": 16}
    return transformers.AutoConfig.for_model(family, **(sizes | changes))


def make_tiny_model(
    family: str = "bert", *, seed: int = 0, attention: str = "sdpa", **changes: object
) -> transformers.PreTrainedModel:
    """A classifier whose weights and biases are all of order 1, so that 1e-5 means something."""
    config = make_tiny_config(family, **changes)
    model = transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation=attention
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.dim() >= 2:
                weight.copy_(drawn * (0.5 if "embedding" in name else weight.shape[1] ** -0.5))
            else:
                weight.copy_(drawn * 0.2 + (1.0 if "LayerNorm.weight" in name else 0.0))
    return model.eval()


def make_tiny_batch(*, seed: int = 0, rows: int = 4, length: int = 11) -> dict[str, Tensor]:
    """A padded batch with two classes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    labels = torch.randint(0, 2, (rows,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def make_tiny_batches(count: int = 4) -> Iterator[dict[str, Tensor]]:
    """A few different batches."""
    return (make_tiny_batch(seed=seed) for seed in range(count))


def compute_tiny_logits(model: torch.nn.Module) -> Tensor:
    """The outputs for the usual batch, without gradients."""
    with torch.no_grad():
        return model(**make_tiny_batch()).logits


@contextmanager
def check_unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Check that a model has the same modules and weights afterwards."""
    before = copy.deepcopy(model)
    yield
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    weights, expected = model.state_dict(), before.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def make_lora(**changes: object) -> LoraConfig:
    """LoRA on every linear of the blocks, with a trained task head."""
    settings = {"r": 4, "lora_alpha": 8, "task_type": "SEQ_CLS", "target_modules": "all-linear"}
    return LoraConfig(**(settings | changes))


def estimate_tiny_scores(
    model: transformers.PreTrainedModel, *, steps: int = 6, **changes: object
) -> Scores:
    """Scores of a short estimation."""
    torch.manual_seed(0)
    return lightpeft.estimate(
        model, make_lora(**changes), list(make_tiny_batches()), EstimationConfig(steps=steps)
    )


def draw_random_scores(
    model: transformers.PreTrainedModel,
    *,
    seed: int = 0,
    config: PeftConfig | None = None,
    **changes: object,
) -> Scores:
    """Scores without an estimation: random importance, PEFT weights and a head far from zero.

    The PEFT method is `config`, or that of `lora` with changes.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = inspect_model(model)
    config = resolve_config(config or make_lora(**changes), model, shape)
    names = find_block_targets(shape, config.target_modules)
    adapter = get_adapter_state_dict(get_peft_model_unmapped(copy.deepcopy(model), config))

    def draw(blocks: dict[str, int]) -> dict[str, dict[str, Tensor]]:
        return {
            criterion: {n: torch.rand(size, generator=generator) for n, size in blocks.items()}
            for criterion in CRITERIA
        }

    return Scores(
        shape=shape,
        fingerprint=compute_fingerprint(model, shape, list_saved_modules(config)),
        peft=config,
        layers={
            stack.path: torch.rand(stack.layers, generator=torch.Generator().manual_seed(seed))
            for stack in shape.stacks
            if stack.prunable
        },
        heads=draw(shape.heads),
        neurons=draw(shape.neurons),
        modules={name: float(torch.rand(1, generator=generator)) for name in names},
        ranks={name: torch.rand(config.r, generator=generator) for name in names},
        adapter={
            name: torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5
            for name, weight in adapter.items()
        },
        curve=[{"step": 1.0, "task_loss": 0.5}],
        steps=2,
    )


def plan_that_keeps(
    scores: Scores, units: Mapping[str, Sequence[int]], ranks: Mapping[str, Sequence[int]]
) -> PruningPlan:
    """A plan that keeps these heads and neurons of each block, and these ranks of each module."""

    def cuts(totals: dict[str, int], kept: Mapping[str, Sequence[int]]) -> dict[str, KeptUnits]:
        return {
            name: KeptUnits(total=total, kept=tuple(kept[name]), reason="test")
            for name, total in totals.items()
        }

    return PruningPlan(
        shape=scores.shape,
        fingerprint=scores.fingerprint,
        scores=scores.digest,
        settings={},
        heads=cuts(scores.shape.heads, units),
        neurons=cuts(scores.shape.neurons, units),
        ranks=cuts(dict.fromkeys(scores.ranks, scores.peft.r), ranks),
        notes=(),
        peft_type=scores.peft_type,
    )


def make_uneven_plan(scores: Scores, *, seed: int = 0) -> PruningPlan:
    """A plan that drops different heads, neurons and ranks, and other numbers of them, everywhere.

    Every fifth PEFT module goes. No count is a multiple of anything.
    """
    generator = torch.Generator().manual_seed(seed)

    def keep(total: int, count: int) -> list[int]:
        return sorted(torch.randperm(total, generator=generator)[:count].tolist())

    units = {
        name: keep(total, 1 + index * step % (total - 1))
        for blocks, step in ((scores.shape.heads, 1), (scores.shape.neurons, 23))
        for index, (name, total) in enumerate(blocks.items())
    }
    r = scores.peft.r
    ranks = {name: keep(r, index % (r + 1)) for index, name in enumerate(scores.ranks)}
    return plan_that_keeps(scores, units, ranks)


def make_masked_model(
    model: transformers.PreTrainedModel, scores: Scores, plan: PruningPlan
) -> PeftModel:
    """An unpruned copy in which what the plan drops is multiplied by 0: what pruning must equal."""
    adapted = get_peft_model_unmapped(copy.deepcopy(model), scores.peft).eval()
    weights = {name: weight.clone() for name, weight in scores.adapter.items()}
    last = "bottleneck_up.weight" if plan.peft_type == BOTTLENECK else "lora_B.weight"
    for name, cut in plan.ranks.items():
        pruned = sorted(set(range(cut.total)) - set(cut.kept))
        weights[f"base_model.model.{name}.{last}"][:, pruned] = 0
        if not cut.kept and plan.peft_type == BOTTLENECK:
            weights[f"base_model.model.{name}.bottleneck_up.bias"][:] = 0
        if not cut.kept and plan.peft_type == DORA:
            linear = model.get_submodule(name)
            norms = linear.weight.detach().norm(dim=0 if isinstance(linear, Conv1D) else 1)
            weights[f"base_model.model.{name}.lora_magnitude_vector"] = norms
    load_adapter_state_dict(adapted, weights)
    mask_units(adapted.base_model.model, plan)
    return adapted


def mask_units(model: transformers.PreTrainedModel, plan: PruningPlan) -> None:
    """Multiply the heads and neurons that the plan drops by 0, from now on."""
    masks = Masks(model, plan.shape, l1=0.0)
    for cuts, rows in ((plan.heads, masks.heads), (plan.neurons, masks.neurons)):
        for block, cut in cuts.items():
            pruned = sorted(set(range(cut.total)) - set(cut.kept))
            rows[block].data[pruned] = 0


def make_pruned_model(family: str = "bert", *, seed: int = 0, **changes: object) -> PeftModel:
    """A model pruned by an uneven plan, with random PEFT weights."""
    model = make_tiny_model(family)
    scores = draw_random_scores(model, seed=seed, **changes)
    return lightpeft.prune(model, make_uneven_plan(scores, seed=seed), scores)
