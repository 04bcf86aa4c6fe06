"""Train a small Llama from nothing: tokenizer, model, batches, the loop, a stock checkpoint."""

from __future__ import annotations

import hashlib
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from experiments.byte_pairs import BEGIN, train_tokenizer
from experiments.progress import load_progress, save_progress
from pipeline.common.files import write_json

_IGNORED = -100  # as a label: no loss there
_SORTED = 50  # batches whose rows are sorted by length together, so that little is padding
_SAID = 50  # steps between two lines
_SAVED = 4  # lines between two checkpoints of the training


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Shape of the model and of its training; the defaults take minutes on two CPU cores."""

    seed: int = 0
    steps: int = 1200
    shallow_steps: int = 600  # of these, with `shallow` layers only
    batch_size: int = 64
    lr: float = 2e-3  # of embeddings and norms
    muon_lr: float = 2e-2  # of the matrices of the layers
    warmup: float = 0.02
    weight_decay: float = 0.1
    max_length: int = 96
    vocabulary: int = 4096
    hidden: int = 320
    layers: int = 6
    shallow: int = 2
    neurons: int = 1120
    heads: int = 10
    key_value_heads: int = 5


@dataclass(frozen=True)
class Row:
    """Token ids, and how many of them are the prompt."""

    ids: list[int]
    prompt: int


def encode(
    rows: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Row]:
    """Ids of each text with its end; long texts are cut, and those with no description dropped."""
    prompts = tokenizer([prompt for prompt, _ in rows])["input_ids"]
    rest = tokenizer([text for _, text in rows], add_special_tokens=False)["input_ids"]
    return [
        Row([*prompt, *text, tokenizer.eos_token_id][:max_length], len(prompt))
        for prompt, text in zip(prompts, rest, strict=True)
        if len(prompt) < max_length
    ]


def build_model(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, *, layers: int
) -> LlamaForCausalLM:
    """Llama with groups of query heads and tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        num_hidden_layers=layers,
        intermediate_size=settings.neurons,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def deepen(shallow: LlamaForCausalLM, model: LlamaForCausalLM) -> None:
    """Fill a deeper model with a shallow one's weights, its layers over and over.

    Gong et al. 2019 (Efficient training of BERT by progressively stacking): a step of two layers
    takes half the time of one of six, and most of what can be learnt early is learnt by two.
    """
    count = len(shallow.model.layers)
    weights = shallow.state_dict()
    for i in range(len(model.model.layers)):
        prefix = f"model.layers.{i}."
        of = shallow.model.layers[i % count].state_dict()
        weights |= {prefix + name: value for name, value in of.items()}
    model.load_state_dict(weights)


def batches(rows: Sequence[Row], size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Batches of rows of about one length, in random order, epoch after epoch."""
    order = list(rows)
    while True:
        rng.shuffle(order)
        ready = []
        for start in range(0, len(order), size * _SORTED):
            near = sorted(order[start : start + size * _SORTED], key=lambda row: len(row.ids))
            ready += [near[i : i + size] for i in range(0, len(near), size)]
        rng.shuffle(ready)
        yield from ready


def loss_of(model: LlamaForCausalLM, rows: Sequence[Row]) -> tuple[Tensor, int]:
    """Summed loss of what follows the prompts, and how many tokens that is."""
    device = model.device
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), model.config.pad_token_id)
    labels = torch.full_like(ids, _IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        labels[i, row.prompt : len(row.ids)] = torch.tensor(row.ids[row.prompt :])
    ids, labels = ids.to(device), labels.to(device)
    # Padding stands behind the text, where a causal model does not look: no mask is needed.
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    asked = labels[:, 1:] != _IGNORED
    found = functional.cross_entropy(
        logits[:, :-1][asked].float(), labels[:, 1:][asked], reduction="sum"
    )
    return found, int(asked.sum())


def rate(step: int, settings: Settings) -> float:
    """Share of the learning rate: a linear rise, then half a cosine down to a twentieth."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, settings.steps - warm)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def train(
    model: LlamaForCausalLM,
    rows: Sequence[Row],
    settings: Settings,
    *,
    steps: range,
    progress: Path,
) -> list[float]:
    """Make these steps of the training and say how it goes; the mean loss of each 50 steps.

    What `progress` holds of a training that was killed is gone on from, with the same result.
    """
    optimizers = _optimizers(model, settings)
    source = batches(rows, settings.batch_size, random.Random(settings.seed))
    made_from = {"settings": asdict(settings), "rows": digest(rows)}
    curve = load_progress(progress, model, optimizers, made_from)
    start = min(steps.start + len(curve) * _SAID, steps.stop)
    for _ in range(start):
        next(source)
    total, tokens, began = 0.0, 0, time.monotonic()
    model.train()
    for step in range(start, steps.stop):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate(step, settings)
        found, count = loss_of(model, next(source))
        (found / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total, tokens, done = total + float(found.detach()), tokens + count, step + 1
        if (done - steps.start) % _SAID == 0 or done == steps.stop:
            curve.append(round(total / tokens, 4))
            left = (time.monotonic() - began) / (done - start) * (steps.stop - done)
            print(f"step {done:5d}  loss {curve[-1]:.3f}  {left:4.0f} s left", flush=True)
            total, tokens = 0.0, 0
        if (done - steps.start) % (_SAID * _SAVED) == 0 or done == steps.stop:
            save_progress(progress, model, optimizers, made_from=made_from, curve=curve)
    return curve


def digest(rows: Sequence[Row]) -> str:
    """What tells these rows from those of other texts or another tokenizer."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms.

    In short trials it learnt more of as many tokens than AdamW alone; text is what is short here.
    """
    layers = {id(p) for p in model.model.layers.parameters() if p.dim() == 2}
    matrices = [p for p in model.parameters() if id(p) in layers]
    others = [p for p in model.parameters() if id(p) not in layers]
    decay = settings.weight_decay
    muon = torch.optim.Muon(
        matrices, lr=settings.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
    )
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in others if p.dim() == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), fused=True)
    for group in muon.param_groups + adamw.param_groups:
        group["initial_lr"] = group["lr"]
    return [muon, adamw]


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, rows: Sequence[Row]) -> float:
    """Of the descriptions, for each token, given the prompts."""
    model.eval()
    total, tokens = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), 64):
        found, count = loss_of(model, ordered[start : start + 64])
        total, tokens = total + float(found), tokens + count
    return math.exp(total / tokens)


def pretrain(
    train_texts: Sequence[tuple[str, str]],
    validation_texts: Sequence[tuple[str, str]],
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Tokenizer and model from nothing into a folder, with a record of how they were made.

    The seconds of the record are those of this run, not of one before that was killed.
    """
    began = time.monotonic()
    torch.manual_seed(settings.seed)
    texts = [prompt + text for prompt, text in train_texts]
    tokenizer = train_tokenizer(texts, settings.vocabulary, around=f"{BEGIN} $A", lowercase=True)
    rows = encode(train_texts, tokenizer, settings.max_length)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shallow = build_model(settings, tokenizer, layers=settings.shallow).to(device)
    model = build_model(settings, tokenizer, layers=settings.layers).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(rows):,} texts on {device}", flush=True)
    first = range(min(settings.shallow_steps, settings.steps))
    print(f"{settings.shallow} layers", flush=True)
    curve = train(shallow, rows, settings, steps=first, progress=out / "progress" / "shallow")
    deepen(shallow, model)
    rest = range(first.stop, settings.steps)
    print(f"{settings.layers} layers", flush=True)
    curve += train(model, rows, settings, steps=rest, progress=out / "progress" / "deep")
    held = encode(validation_texts, tokenizer, settings.max_length)
    record = {
        "settings": asdict(settings),
        "parameters": parameters,
        "texts": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "epochs": round(settings.steps * settings.batch_size / len(rows), 2),
        "loss": curve,
        "validation_perplexity": round(perplexity(model, held), 2),
        "device": device,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began),
    }
    model.to("cpu").save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json(out / "pretraining.json", record)
    shutil.rmtree(out / "progress", ignore_errors=True)
    return record
