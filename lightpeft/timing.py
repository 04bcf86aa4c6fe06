"""Seconds of training and inference steps, of several models that take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from time import perf_counter

import torch
from peft import PeftModel
from torch import Tensor

from lightpeft.config import BenchmarkSection
from lightpeft.errors import ModelError

PHASES = ("training", "inference")


def random_batch(model: PeftModel, *, rows: int, length: int) -> dict[str, Tensor]:
    """Rows of `length` random tokens without padding, on the model's device, with labels.

    Raises:
        ModelError: the model takes no rows of this length.
    """
    config = model.config
    padding = config.pad_token_id or 0
    # RoBERTa counts positions from behind the padding token's number.
    limit = config.max_position_embeddings - (padding + 1 if "roberta" in config.model_type else 0)
    if length > limit:
        raise ModelError(f"benchmark.length must be at most {limit} for this model, got {length}")
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(padding + 1, config.vocab_size, (rows, length), generator=generator)
    kind = torch.float32 if config.num_labels == 1 else torch.int64
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.zeros(rows, dtype=kind),
    }
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def training_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW on what is trainable, as one call; sets training mode."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for weight in trained:
        # As in fine-tuning: what is trained keeps float32, whatever the frozen base has.
        weight.data = weight.data.float()
    # lr 0 leaves the weights as they are; it takes the same time as any other.
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
    model.train()

    def step() -> None:
        with _precision(model):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Callable[[], None]:
    """A forward pass without gradients and labels, as one call; sets evaluation mode."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    model.eval()

    def step() -> None:
        with torch.inference_mode(), _precision(model):
            model(**inputs)

    return step


STEPS = {"training": training_step, "inference": inference_step}


def take_turns(
    calls: Mapping[str, Callable[[], None]],
    *,
    warmup: int,
    rounds: int,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time calls round by round: in each round each has its turn, and the order rotates.

    What disturbs the machine for a while then disturbs all of them, and the ratio of two
    within a round stays fair.

    Args:
        calls: what is timed, by name.
        warmup: rounds that are not counted.
        rounds: rounds that are.
        wait: returns when the device has finished; called before and after every call.

    Returns:
        Name -> seconds, one for each counted round.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wait()
            start = perf_counter()
            calls[name]()
            wait()
            if turn >= warmup:
                seconds[name].append(perf_counter() - start)
    return seconds


def measure(
    models: Mapping[str, PeftModel],
    settings: BenchmarkSection,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[int, dict[str, list[float]]]]:
    """Time all models, all on one device.

    Returns:
        Phase (`training`, `inference`) -> rows a batch -> model -> seconds of each round.
    """
    device = next(iter(models.values())).device
    found: dict[str, dict[int, dict[str, list[float]]]] = {phase: {} for phase in PHASES}
    for phase in PHASES:
        for rows in settings.batch_sizes:
            progress(f"{phase}, batches of {rows}")
            calls = {
                name: STEPS[phase](model, random_batch(model, rows=rows, length=settings.length))
                for name, model in models.items()
            }
            found[phase][rows] = take_turns(
                calls, warmup=settings.warmup, rounds=settings.rounds, wait=_waiter(device)
            )
    return found


def _waiter(device: torch.device) -> Callable[[], None]:
    """What returns when the device has done all it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def _precision(model: PeftModel) -> contextlib.AbstractContextManager[object]:
    """Autocast for 16-bit weights, as in fine-tuning: peft keeps adapters in float32 there."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=dtype)
