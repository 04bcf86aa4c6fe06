"""Tiny models trained from scratch for `experiments.kinds`, which runs offline."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from experiments.byte_pairs import END, train_tokenizer

FIRST, REST = range(5), range(5, 10)  # digits of pretraining and of fine-tuning
_SIDE = 8  # pixels of a digit
_VOCABULARY = 2000


def train(
    model: PreTrainedModel, draw: Callable[[], dict[str, Any]], *, steps: int, lr: float
) -> list[float]:
    """Train all weights with linear warm-up and decay; return the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    curve = []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 20 * (step + 1) / steps, 1 - step / steps)
        loss = model(**draw()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(loss.detach()))
    return curve


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits 5 to 9 as train/CLASS/NUMBER.png and test/CLASS/NUMBER.png.

    The last third, by other writers, is the test split.
    """
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label in REST:
            split = "train" if number < len(labels) * 2 // 3 else "test"
            class_folder = folder / split / str(label)
            class_folder.mkdir(parents=True, exist_ok=True)
            _to_image(image).save(class_folder / f"{number:04}.png")


def _to_image(image: Any) -> Image.Image:
    """Convert grey values of 0 to 16 into an image."""
    return Image.fromarray((image.reshape(_SIDE, _SIDE) * 255 / 16).astype(np.uint8))


def write_vit(folder: Path) -> None:
    """Train and save a small ViT that classifies the digits 0 to 4 and their rotation: 20 classes.

    It is not trained on digits by the writers of the test split.
    """
    images, labels = load_digits(return_X_y=True)
    train_numbers = [n for n in range(len(labels) * 2 // 3) if labels[n] in FIRST]
    processor = ViTImageProcessorPil(size={"height": _SIDE, "width": _SIDE})
    rgb_images = [_to_image(images[n]).convert("RGB") for n in train_numbers]
    pixels = processor(rgb_images, return_tensors="pt")["pixel_values"]
    pixels = torch.cat([pixels.rot90(turns, (2, 3)) for turns in range(4)])
    targets = torch.tensor(
        [len(FIRST) * turns + labels[n] for turns in range(4) for n in train_numbers]
    )
    torch.manual_seed(0)
    rng = random.Random(0)
    config = ViTConfig(
        image_size=_SIDE, patch_size=2, hidden_size=128, num_hidden_layers=4,
        num_attention_heads=8, intermediate_size=512, num_labels=4 * len(FIRST),
    )  # fmt: skip
    model = ViTForImageClassification(config)

    def draw() -> dict[str, Any]:
        chosen = rng.sample(range(len(targets)), 32)
        return {"pixel_values": pixels[chosen], "labels": targets[chosen]}

    train(model, draw, steps=800, lr=1e-3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_bart(folder: Path, texts: Sequence[str], *, steps: int = 1500) -> list[float]:
    """Train and save a small BART that copies its input; return the loss of each step."""
    tokenizer = train_tokenizer(texts, _VOCABULARY, around=f"$A {END}")
    rng = random.Random(0)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=128, max_position_embeddings=128, dropout=0.0,
        encoder_layers=2, encoder_attention_heads=8, encoder_ffn_dim=256,
        decoder_layers=2, decoder_attention_heads=8, decoder_ffn_dim=256,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)

    def draw() -> dict[str, Any]:
        ids = tokenizer(rng.sample(texts, 32), padding=True, return_tensors="pt")
        batch = {name: ids[name] for name in ("input_ids", "attention_mask")}
        labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
        return batch | {"labels": labels}

    curve = train(model, draw, steps=steps, lr=2e-3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return curve
