"""Train a small Llama from scratch: tokenizer, model, batches, training loop, checkpoint."""

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
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from experiments.byte_pairs import BEGIN, train_tokenizer
from experiments.progress import load_progress, save_progress
from pipeline.common.files import write_json

_IGNORED = -100  # label of a token without loss
_SORTED_BATCHES = 50  # rows of so many batches are sorted by length together, against padding
_LOG_EVERY = 50  # steps
_SAVE_EVERY = 4  # log lines


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the model and of its training; the defaults take 41 minutes on a CPU core."""

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
    """Token ids, and how many of them belong to the prompt."""

    ids: list[int]
    prompt: int


def encode(
    rows: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Row]:
    """Return the token ids of each text; long texts are truncated, or dropped if only prompt."""
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
    """Build a Llama with grouped-query attention and tied embeddings."""
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
    """Initialize a deeper model by repeating a shallow model's layers.

    Gong et al. 2019 (Efficient training of BERT by progressively stacking): a step with two layers
    takes half the time of one with six, and two layers suffice early in training.
    """
    count = len(shallow.model.layers)
    weights = shallow.state_dict()
    for i in range(len(model.model.layers)):
        prefix = f"model.layers.{i}."
        of = shallow.model.layers[i % count].state_dict()
        weights |= {prefix + name: value for name, value in of.items()}
    model.load_state_dict(weights)


def draw_batches(rows: Sequence[Row], size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Yield batches of rows of similar length in random order, epoch after epoch."""
    order = list(rows)
    while True:
        rng.shuffle(order)
        ready = []
        for start in range(0, len(order), size * _SORTED_BATCHES):
            near = sorted(
                order[start : start + size * _SORTED_BATCHES], key=lambda row: len(row.ids)
            )
            ready += [near[i : i + size] for i in range(0, len(near), size)]
        rng.shuffle(ready)
        yield from ready


def compute_loss(model: LlamaForCausalLM, rows: Sequence[Row]) -> tuple[Tensor, int]:
    """Return the summed loss over the tokens after the prompts, and the number of these tokens."""
    device, padding = model.device, model.config.pad_token_id
    ids = pad_sequence([torch.tensor(row.ids) for row in rows], True, padding).to(device)
    learned = [torch.tensor([_IGNORED] * row.prompt + row.ids[row.prompt :]) for row in rows]
    labels = pad_sequence(learned, True, _IGNORED).to(device)
    # Padding follows the text, and a causal model does not attend to it: no mask is needed.
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    has_loss = labels[:, 1:] != _IGNORED
    loss = functional.cross_entropy(
        logits[:, :-1][has_loss].float(), labels[:, 1:][has_loss], reduction="sum"
    )
    return loss, int(has_loss.sum())


def compute_lr_factor(step: int, settings: Settings) -> float:
    """Return the learning-rate factor: linear warm-up, then cosine decay to a twentieth."""
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
    """Run these training steps; return the mean loss of each 50 steps.

    A killed training resumes from the checkpoint in `progress`, with the same result.
    """
    optimizers = _make_optimizers(model, settings)
    source = draw_batches(rows, settings.batch_size, random.Random(settings.seed))
    inputs = {"settings": asdict(settings), "rows": hash_rows(rows)}
    curve = load_progress(progress, model, optimizers, inputs)
    start = min(steps.start + len(curve) * _LOG_EVERY, steps.stop)
    for _ in range(start):
        next(source)
    total, tokens, began = 0.0, 0, time.monotonic()
    model.train()
    for step in range(start, steps.stop):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * compute_lr_factor(step, settings)
        loss, count = compute_loss(model, next(source))
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total, tokens, done = total + float(loss.detach()), tokens + count, step + 1
        if (done - steps.start) % _LOG_EVERY == 0 or done == steps.stop:
            curve.append(round(total / tokens, 4))
            left = (time.monotonic() - began) / (done - start) * (steps.stop - done)
            print(f"step {done:5d}  loss {curve[-1]:.3f}  {left:4.0f} s left", flush=True)
            total, tokens = 0.0, 0
        if (done - steps.start) % (_LOG_EVERY * _SAVE_EVERY) == 0 or done == steps.stop:
            save_progress(progress, model, optimizers, inputs=inputs, curve=curve)
    return curve


def hash_rows(rows: Sequence[Row]) -> str:
    """Return a digest of the encoded rows."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _make_optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers, and AdamW for embeddings and norms.

    In short trials this reached a lower loss per token than AdamW alone; text is scarce here.
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
def compute_perplexity(model: LlamaForCausalLM, rows: Sequence[Row]) -> float:
    """Return the perplexity per token of the descriptions, given the prompts."""
    model.eval()
    total, tokens = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), 64):
        loss, count = compute_loss(model, ordered[start : start + 64])
        total, tokens = total + float(loss), tokens + count
    return math.exp(total / tokens)


def pretrain(
    train_texts: Sequence[tuple[str, str]],
    validation_texts: Sequence[tuple[str, str]],
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Train tokenizer and model from scratch, save both, and return a record of the training.

    The seconds of the record are those of this process, without earlier killed ones.
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
    held_out = encode(validation_texts, tokenizer, settings.max_length)
    record = {
        "settings": asdict(settings),
        "parameters": parameters,
        "texts": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "epochs": round(settings.steps * settings.batch_size / len(rows), 2),
        "loss": curve,
        "validation_perplexity": round(compute_perplexity(model, held_out), 2),
        "device": device,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began),
    }
    model.to("cpu").save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json(out / "pretraining.json", record)
    shutil.rmtree(out / "progress", ignore_errors=True)
    return record
