"""Models, batches, scores and plans of the architectures in `architectures.py`."""

from __future__ import annotations

import copy
import random
import re
from functools import cache
from typing import Any

import torch
import transformers as hf
from helpers.architectures import ARCHITECTURES
from helpers.tiny_models import draw_random_scores, mask_units, plan_that_keeps
from helpers.unregistered_architectures import BY_STRUCTURE, REFUSED
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from lightpeft.core.block_shape import AttentionBlock
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.families import DEPTHS
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.slicing import slice_base

QUIET = {"attention_dropout", "hidden_dropout", "dropout", "activation_dropout", "dropout_rate"}


_MODELS = ARCHITECTURES | BY_STRUCTURE | REFUSED


def build(
    name: str, *, attention: str = "eager", seed: int = 0, layers: int = 2
) -> hf.PreTrainedModel:
    """A model whose weights and biases are all of order 1, without dropout."""
    architecture = _MODELS[name]
    config = _deepen(architecture.config(), layers)
    model = getattr(hf, architecture.model)._from_config(config, attn_implementation=attention)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for key in QUIET & set(vars(module)):
            if isinstance(getattr(module, key), float):
                setattr(module, key, 0.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            weight.copy_(_draw_weight(model, path, weight, generator))
    return model.eval()


def _deepen(config: Any, layers: int) -> Any:
    """Set the layers of all stacks, which are two; lists of layers repeat."""
    parts = [value for value in vars(config).values() if isinstance(value, hf.PreTrainedConfig)]
    for part in (config, *parts):
        for key, value in dict(vars(part)).items():
            if re.fullmatch(DEPTHS, key) and value == 2:
                setattr(part, key, layers)
            elif isinstance(value, list) and "layer" in key and len(value) == 2:
                setattr(part, key, (value * layers)[:layers])
    return config


def _draw_weight(model: nn.Module, path: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(weight.shape, generator=generator)
    owner = model.get_submodule(path.rpartition(".")[0])
    if weight.dim() < 2:
        is_scale = path.endswith("weight") and "Gemma" not in type(owner).__name__
        return drawn * 0.2 + (1.0 if is_scale else 0.0)
    if isinstance(owner, nn.Embedding):
        return drawn * (1.0 if "relative" in path else 0.5)
    fan = weight.shape[0] if type(owner).__name__ == "Conv1D" else weight[0].numel()
    if type(owner).__name__.endswith("Experts"):
        fan = weight.shape[-1]
    return drawn * fan**-0.5


def make_batch(name: str, *, seed: int = 0, labels: bool = False) -> dict[str, Any]:
    """Return inputs of the model, on demand with labels or what else gives a loss."""
    kind, generator = _MODELS[name].kind, torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if kind == "decoder":
        mask[1, :3] = 0
    elif kind != "image":
        mask[1, 7:] = 0
    images = torch.randn(2, 3, 8, 8, generator=generator)
    targets = torch.randint(3, 40, (2, 6), generator=generator)
    if kind == "image":
        batch = {"pixel_values": images}
    elif kind == "clip":
        ids[:, -1] = 2
        batch["pixel_values"] = images
    elif kind == "audio":
        batch = {"input_features": torch.randn(2, 6, 20, generator=generator)}
    if kind in ("seq2seq", "audio"):
        batch["decoder_input_ids"] = targets
    if name == "gemma3":
        ids[:, 1:5] = 49
        batch |= {"pixel_values": images, "token_type_ids": (ids == 49).long()}
        mask[:] = 1
    return batch | (_make_labels(name, batch) if labels else {})


def _make_labels(name: str, batch: dict[str, Any]) -> dict[str, Any]:
    model = _MODELS[name].model
    if "Classification" in model:
        return {"labels": torch.tensor([0, 1])}
    if model == "CLIPModel":
        return {"return_loss": True}
    return {"labels": batch.get("decoder_input_ids", batch.get("input_ids"))}


def compute_logits(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Return the logits, or embeddings where the model has no head."""
    result = model(**batch)
    if hasattr(result, "logits"):
        return result.logits
    if hasattr(result, "text_embeds"):
        return torch.cat([result.text_embeds, result.image_embeds])
    return result.last_hidden_state


def compute_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Return a scalar that depends on every output."""
    output = compute_logits(model, batch)
    generator = torch.Generator().manual_seed(1)
    return (output * torch.randn(output.shape, generator=generator)).mean()


def gradients(model: PeftModel, name: str) -> dict[str, Tensor]:
    """Return the gradients of what is trained, under the names of its weights in a file."""
    compute_loss(model, make_batch(name)).backward()
    return {
        path.replace(".default", ""): weight.grad
        for path, weight in model.named_parameters()
        if weight.requires_grad
    }


def draw_scores(model: hf.PreTrainedModel) -> Scores:
    """Scores without an estimation: random importance, LoRA of rank 3 on every block linear."""
    return draw_random_scores(model, config=LoraConfig(r=3, lora_alpha=6))


def draw_plan(
    scores: Scores, *, head_granularity: str = "kv_group", empty: bool = False, seed: int = 0
) -> PruningPlan:
    """Draw other heads, neurons and ranks for every block; on demand empty every second one."""
    draw, shape = random.Random(seed), scores.shape
    heads = {
        block.path: _draw_heads(draw, block, head_granularity, index)
        for index, block in enumerate(shape.attention_blocks)
    }
    neurons = {
        path: sorted(draw.sample(range(total), draw.randint(total // 4, total - 3)))
        for path, total in shape.neurons.items()
    }
    emptied = {*list(heads)[::2], *list(neurons)[::2]} if empty else set()
    ranks = {
        path: sorted(draw.sample(range(3), index % 4))
        for index, path in enumerate(shape.linears)
        if not (shape.block_of[path].path in emptied and shape.linears[path].pruned_dim == "in")
    }
    units = {path: [] if path in emptied else kept for path, kept in (heads | neurons).items()}
    return plan_that_keeps(scores, units, dict.fromkeys(scores.ranks, ()) | ranks)


def _draw_heads(
    draw: random.Random, block: AttentionBlock, head_granularity: str, index: int
) -> list[int]:
    sharing = block.heads_per_kv_group
    groups = block.units // sharing
    if groups > 1 and (head_granularity == "kv_group" or sharing == 1):
        kept = sorted(draw.sample(range(groups), 1 + index % (groups - 1)))
        return [g * sharing + head for g in kept for head in range(sharing)]
    count = max(1, sharing - 1 - index % 2)
    return [
        g * sharing + h for g in range(groups) for h in sorted(draw.sample(range(sharing), count))
    ]


@cache
def shares_heads(name: str) -> bool:
    """Return whether query heads of the model share keys and values, in more than one group."""
    shape = inspect_model(build(name))
    return any(1 < block.heads_per_kv_group < block.units for block in shape.attention_blocks)


@cache
def _build_parts(
    name: str, attention: str = "eager", layers: int = 2
) -> tuple[hf.PreTrainedModel, Scores]:
    """Return a model that no test changes, and scores of it."""
    model = build(name, attention=attention, layers=layers)
    return model, draw_scores(model)


def build_parts(
    name: str, attention: str = "eager", layers: int = 2
) -> tuple[hf.PreTrainedModel, Scores]:
    """Return a new copy of the model, and scores of it."""
    model, scores = _build_parts(name, attention, layers)
    return copy.deepcopy(model), scores


def draw_plans(name: str, scores: Scores) -> list[PruningPlan]:
    """Plans of whole groups and of single heads, with blocks emptied and without."""
    units = ("kv_group", "query_head") if shares_heads(name) else ("kv_group",)
    return [draw_plan(scores, head_granularity=u, empty=e) for u in units for e in (False, True)]


def mask_model(model: hf.PreTrainedModel, plan: PruningPlan) -> hf.PreTrainedModel:
    """Return a copy in which the units that the plan prunes are multiplied by 0."""
    copied = copy.deepcopy(model)
    mask_units(copied, plan)
    return copied


def slice_model(model: hf.PreTrainedModel, plan: PruningPlan) -> hf.PreTrainedModel:
    """Return a copy without the units that the plan prunes."""
    copied = copy.deepcopy(model)
    slice_base(copied, plan)
    return copied


def compute_outputs(model: nn.Module, name: str, *, seed: int = 0) -> Tensor:
    """Return a model's outputs for its architecture's batch, without gradients."""
    with torch.no_grad():
        return compute_logits(model, make_batch(name, seed=seed))


def generate_greedily(model: nn.Module, name: str, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Greedy decoding with the cache of keys and values: tokens and their logits."""
    batch = make_batch(name, seed=seed)
    batch.pop("decoder_input_ids", None)
    generated = model.generate(
        **batch,
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return generated.sequences, torch.stack(generated.logits)
