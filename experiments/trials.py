"""Ways to lose less by pruning that were tried on decoders, for one variant each.

They are no part of lightpeft: experiments/results/decoders and docs/results/decoders.md say what
each of them gave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from lightpeft import PruningConfig, Scores, make_plan, prune
from lightpeft.core.config import EstimationConfig
from lightpeft.core.plan import PruningPlan
from lightpeft.estimation import estimate as estimation
from lightpeft.estimation.energy import InputSquares, score_energy
from lightpeft.modeling.masks import Masks
from lightpeft.modeling.units import find_kept_indices
from lightpeft.pruning import checkpoint
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.params import FinetuneParams
from pipeline.common.paths import Paths
from pipeline.stages import estimate as estimate_stage
from pipeline.stages import finetune
from pipeline.tasks.batching import build_dataloader, count_tokens, shuffle_batches
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.training import trainer

_RIDGE = 0.01  # of the mean square of the inputs


class Healing(StrEnum):
    """Where the correction of a pruned output projection goes."""

    WEIGHTS = "weights"
    BIAS = "bias"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Correction:
    """Of one output projection, which keeps some of its columns.

    Attributes:
        weight: [outputs, kept], that added to the kept columns stands in for the pruned ones.
        bias: [outputs], the mean of what the pruned columns added.
        moments: [kept, kept], second moments of the kept inputs, ridge included.
    """

    weight: Tensor
    bias: Tensor
    moments: Tensor


@contextmanager
def distill(share: float) -> Iterator[None]:
    """Pull the pruned model's predictions to those of the unpruned model after the estimation.

    Args:
        share: of the loss: Kullback-Leibler divergence over all real tokens, those of the prompt
            included.
    """
    teacher = _load_estimated_model()
    plain = trainer._BatchTrainer.compute_loss

    def compute_loss(self: Any, model: PeftModel, inputs: dict[str, Any], *a: Any, **k: Any) -> Any:
        output = model(**inputs)
        loss = self.data.task.compute_loss(output, inputs)
        with torch.no_grad():
            expected = teacher(**{k: x for k, x in inputs.items() if k != "labels"}).logits
        used = inputs["attention_mask"][:, 1:].bool()
        rows = [log_softmax(x[:, :-1][used].float(), dim=-1) for x in (output.logits, expected)]
        divergence = kl_div(*rows, log_target=True, reduction="batchmean")
        return (1 - share) * loss + share * divergence

    assert plain is not None
    with patch.object(trainer._BatchTrainer, "compute_loss", compute_loss):
        yield


@contextmanager
def heal(batches: int, form: Healing) -> Iterator[None]:
    """Let the kept columns of each output projection stand in for the pruned ones.

    By least squares: with second moments C of the projection's inputs in the unpruned model after
    the estimation, ``W_kept + W_gone C[gone, kept] (C[kept, kept] + ridge)^-1``. As a bias, only
    the mean ``W_gone E[x_gone]`` is added. In the adapter, its two factors become the nearest of
    their rank to this correction and what they had learned, by the error of the output.

    Args:
        batches: of training rows for the moments.
    """
    corrections: dict[str, Correction] = {}

    def prune_and_heal(
        model: Any, plan: PruningPlan, *arguments: Any, **settings: Any
    ) -> PeftModel:
        if not plan.keeps_base_intact:
            corrections.update(_compute_corrections(plan, batches))
        pruned = prune(model, plan, *arguments, **settings)
        _correct(pruned, corrections, form)
        return pruned

    def load(*arguments: Any, **settings: Any) -> PeftModel:
        loaded = plain_load(*arguments, **settings)
        if form is not Healing.ADAPTER:  # the artefact has its factors
            _correct(loaded, corrections, form)
        return loaded

    plain_load = checkpoint.load
    with ExitStack() as patches:
        patches.enter_context(patch.object(finetune, "prune", prune_and_heal))
        patches.enter_context(patch.object(checkpoint, "load", load))
        yield


@contextmanager
def estimate_in_rounds(rounds: int, config: PruningConfig) -> Iterator[None]:
    """Prune a part of the neurons after each round of the estimation, and score the rest again.

    The first of three rounds of 48 steps has 16 of them and prunes a third of what is asked for:
    the masks of those neurons stay at 0, as if they were pruned. The adapter trains on.

    Args:
        rounds: that the steps of the estimation are divided among.
        config: how many neurons to prune in all, and how to choose them.
    """
    plain_start, plain_adapt = Masks.__init__, estimation.get_peft_model_unmapped
    gone: dict[str, Tensor] = {}
    adapter: dict[str, Tensor] = {}

    def start(self: Masks, *arguments: Any, **settings: Any) -> None:
        plain_start(self, *arguments, **settings)
        for path, units in gone.items():
            self.neurons[path].data[units] = 0
            self.neurons[path].register_hook(lambda grad, units=units: grad.masked_fill(units, 0))

    def adapt(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
        adapted = plain_adapt(model, lora)
        if adapter:
            set_peft_model_state_dict(adapted, dict(adapter))
        return adapted

    def run(
        model: PreTrainedModel,
        lora: LoraConfig,
        batches: Any,
        section: EstimationConfig,
        **settings: Any,
    ) -> Scores:
        steps = section.steps // rounds
        source = cycle(batches)
        for index in range(1, rounds + 1):
            part = section.model_copy(update={"steps": steps})
            scores = estimation.estimate(model, lora, islice(source, steps), part, **settings)
            for rows in scores.neurons.values():
                for path, units in gone.items():
                    rows[path][units] = 0
            ratio = config.neurons * index / rounds
            plan = make_plan(scores, config.model_copy(update={"neurons": ratio}))
            for path, units in plan.neurons.items():
                gone[path] = torch.ones(units.total, dtype=torch.bool)
                gone[path][list(units.kept)] = False
            adapter.update(scores.adapter)
        return replace(scores, steps=steps * rounds)

    with ExitStack() as patches:
        patches.enter_context(patch.object(Masks, "__init__", start))
        patches.enter_context(patch.object(estimation, "get_peft_model_unmapped", adapt))
        patches.enter_context(patch.object(estimate_stage, "estimate", run))
        yield


def compute_correction(
    weight: Tensor, second: Tensor, means: Tensor, kept: Tensor, ridge: float = _RIDGE
) -> Correction:
    """Return what the kept columns of a weight add to stand in for the others.

    Args:
        weight: [outputs, inputs].
        second: [inputs, inputs], E[x x^T] of its inputs.
        means: [inputs], E[x].
        kept: indices of the columns that are kept, ascending.
        ridge: added to the diagonal, times the mean square of the inputs.
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    moments = second[kept][:, kept] + ridge * second.diagonal().mean() * torch.eye(len(kept))
    carried = weight[:, gone] @ second[gone][:, kept]
    correction = torch.linalg.solve(moments, carried.T).T
    return Correction(correction, weight[:, gone] @ means[gone], moments)


def calibrate(texts: Path, batches: int) -> None:
    """Measure energies again: on rows of the task, and on as many of another data set.

    Args:
        texts: JSON Lines with `instruction` and `output`.
        batches: of 8 rows, of each of the two; other rows are cut at 128 tokens.
    """
    paths = Paths()
    scores, base = Scores.load(paths.scores), _load_estimated_model().get_base_model()
    params = FinetuneParams.load(paths.params)
    processor = load_processor(params.model, make_task(DataCard.read(paths.prepared)))
    with texts.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in islice(file, 8 * batches)]
    rows = [f"{row['instruction']}\n{row['output']}" for row in lines]
    encode: Callable[..., Any] = processor
    other = (
        encode(rows[i : i + 8], truncation=True, max_length=128, padding=True, return_tensors="pt")
        for i in range(0, len(rows), 8)
    )
    with InputSquares(base, scores.shape) as squares, torch.no_grad():
        for step, batch in enumerate(chain(_read_batches(batches), other), start=1):
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            squares.start_step(inputs)
            base(**inputs)
            squares.finish_step(step)
    weights = estimation._square_weights(base, scores.shape)
    energy = score_energy(scores.shape, squares.compute_means(), weights)
    neurons = {path: energy[path] for path in scores.shape.neurons}
    replace(scores, neurons=scores.neurons | {"energy": neurons}).save(paths.scores)


def _load_estimated_model() -> PeftModel:
    """Return the unpruned model with the adapter that the estimation trained."""
    paths = Paths()
    params, scores = FinetuneParams.load(paths.params), Scores.load(paths.scores)
    task = make_task(DataCard.read(paths.prepared))
    model, _ = load_model(params.model, task, params.seed)
    nothing = PruningConfig(layers=0, heads=0, neurons=0, modules=0, ranks=0)
    adapted = prune(model, make_plan(scores, nothing), scores)
    adapted.requires_grad_(False)
    return adapted.eval()


def _compute_corrections(plan: PruningPlan, batches: int) -> dict[str, Correction]:
    """Return new path of an output projection -> its correction."""
    model = _load_estimated_model()
    base = model.get_base_model()
    new_paths = {old: new for new, old in plan.old_paths.items()}
    moments: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    mask: dict[str, Tensor] = {}
    tokens = 0
    with ExitStack() as hooks:
        for block in plan.shape.blocks:
            path = block.output_projection
            if path in new_paths and not plan.units[block.path].is_complete:
                size = block.linears[path].inputs
                moments[path], sums[path] = torch.zeros(size, size), torch.zeros(size)

                def add(module: Any, args: Any, path: str = path) -> None:
                    x = args[0].detach()[mask["real"]].float()
                    moments[path].addmm_(x.T, x)
                    sums[path] += x.sum(0)

                hooks.callback(base.get_submodule(path).register_forward_pre_hook(add).remove)
        for batch in _read_batches(batches):
            mask["real"] = batch["attention_mask"].bool()
            tokens += int(mask["real"].sum())
            with torch.no_grad():
                base(**batch)
    corrections = {}
    for path, total in moments.items():
        linear = plan.shape.linears[path]
        kept = find_kept_indices(linear, plan.list_remaining_units(plan.shape.block_of[path].path))
        weight = base.get_submodule(path).base_layer.weight.data
        means = sums[path] / tokens
        corrections[new_paths[path]] = compute_correction(weight, total / tokens, means, kept)
    return corrections


def _read_batches(count: int) -> Iterator[Mapping[str, Tensor]]:
    paths = Paths()
    params, data = FinetuneParams.load(paths.params), paths.prepared
    task, rows = make_task(DataCard.read(data)), read_rows(data, "train")
    order = shuffle_batches(count_tokens(rows), batch_size=8, seed=params.seed, grouped=False)
    processor = load_processor(params.model, task)
    yield from build_dataloader(rows, task, processor, list(islice(order, count)))


def _correct(model: PeftModel, corrections: Mapping[str, Correction], form: Healing) -> None:
    for path, correction in corrections.items():
        linear: Any = model.get_base_model().get_submodule(path)
        base = getattr(linear, "base_layer", linear)
        if form is Healing.WEIGHTS:
            base.weight.data += correction.weight
        elif form is Healing.BIAS:
            bias = correction.bias if base.bias is None else base.bias.data + correction.bias
            base.bias = nn.Parameter(bias, requires_grad=False)
        else:
            correct_adapter(linear, correction)


def correct_adapter(layer: Any, correction: Correction) -> None:
    """Set factors whose product is nearest to theirs plus the correction, by E |error x|^2."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scaling = layer.scaling["default"]
    root = torch.linalg.cholesky(correction.moments)
    wanted = (correction.weight + scaling * up.data @ down.data) @ root
    left, sizes, right = torch.linalg.svd(wanted, full_matrices=False)
    rank = len(down)
    outputs = left[:, :rank] * sizes[:rank] / scaling
    inputs = torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    balance = (inputs.norm(dim=1) / outputs.norm(dim=0)).sqrt()  # factors of the same size
    up.data.copy_(outputs * balance)
    down.data.copy_(inputs / balance[:, None])
