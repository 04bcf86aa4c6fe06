"""Ways to lose less by pruning that were tried on decoders, for one variant each.

Another is experiments.healing. They are no part of lightpeft: experiments/results/decoders and
docs/results/decoders.md say what each of them gave.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from lightpeft import PruningConfig, Scores, make_plan, prune
from lightpeft.core.config import EstimationConfig
from lightpeft.estimation import estimate as estimation
from lightpeft.estimation.energy import InputSquares, score_energy
from lightpeft.modeling.masks import Masks
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.params import FinetuneParams
from pipeline.common.paths import Paths
from pipeline.stages import estimate as estimate_stage
from pipeline.tasks.batching import build_dataloader, count_tokens, shuffle_batches
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.training import trainer


@contextmanager
def distill(share: float) -> Iterator[None]:
    """Pull the pruned model's predictions to those of the unpruned model after the estimation.

    Args:
        share: of the loss: Kullback-Leibler divergence over all real tokens, those of the prompt
            included.
    """
    teacher = load_estimated_model()
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


def calibrate(texts: Path, batches: int) -> None:
    """Measure energies again: on rows of the task, and on as many of another data set.

    Args:
        texts: JSON Lines with `instruction` and `output`.
        batches: of 8 rows, of each of the two; other rows are cut at 128 tokens.
    """
    paths = Paths()
    scores, base = Scores.load(paths.scores), load_estimated_model().get_base_model()
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
        for step, batch in enumerate(chain(read_batches(batches), other), start=1):
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            squares.start_step(inputs)
            base(**inputs)
            squares.finish_step(step)
    weights = estimation._square_weights(base, scores.shape)
    energy = score_energy(scores.shape, squares.compute_means(), weights)
    neurons = {path: energy[path] for path in scores.shape.neurons}
    replace(scores, neurons=scores.neurons | {"energy": neurons}).save(paths.scores)


def load_estimated_model() -> PeftModel:
    """Return the unpruned model with the adapter that the estimation trained."""
    paths = Paths()
    params, scores = FinetuneParams.load(paths.params), Scores.load(paths.scores)
    task = make_task(DataCard.read(paths.prepared))
    model, _ = load_model(params.model, task, params.seed)
    nothing = PruningConfig(layers=0, heads=0, neurons=0, modules=0, ranks=0)
    adapted = prune(model, make_plan(scores, nothing), scores)
    adapted.requires_grad_(False)
    return adapted.eval()


def read_batches(count: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield so many batches of 8 training rows, shuffled."""
    paths = Paths()
    params, data = FinetuneParams.load(paths.params), paths.prepared
    task, rows = make_task(DataCard.read(data)), read_rows(data, "train")
    order = shuffle_batches(count_tokens(rows), batch_size=8, seed=params.seed, grouped=False)
    processor = load_processor(params.model, task)
    yield from build_dataloader(rows, task, processor, list(islice(order, count)))
