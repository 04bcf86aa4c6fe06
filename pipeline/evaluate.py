"""Stage `evaluate`: a trained model and the test split -> metrics and predictions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from datasets import Dataset
from peft import PeftModel
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase

from lightpeft import checkpoint
from lightpeft.config import ModelSection, load_params
from lightpeft.surgery import peft_weights
from pipeline.batches import by_length, loader, token_counts
from pipeline.common import device, say, write_json
from pipeline.metrics import Values, confusion, decide, interval, score
from pipeline.models import load_model, load_tokenizer
from pipeline.prepared import read_card, read_rows


def main(prepared: str, trained: str, out: str) -> None:
    """Measure one method on the test split, and its adapter lifted to the unpruned base."""
    transformers.logging.set_verbosity_error()
    params, data, folder = load_params(), Path(prepared), Path(trained)
    card, size = read_card(data), params.evaluate.batch_size
    rows, tokenizer = read_rows(data, "test"), load_tokenizer(params.model)
    labels = np.asarray(rows["label"])
    base, _ = load_model(params.model, card, params.seed)
    model = checkpoint.load(base, folder)
    logits = predict(model, rows, tokenizer, batch_size=size)
    found = measure(card, labels, logits, resamples=params.evaluate.bootstrap, seed=params.seed)
    found |= sizes(model) | {"lifted": None}
    if params.evaluate.lifted:
        whole = lifted(params.model, card, folder, seed=params.seed)
        there = predict(whole, rows, tokenizer, batch_size=size)
        found["lifted"] = score(card, labels, decide(card, there))
    _write(Path(out), found, table(card, labels, logits))
    say(f"evaluate {Path(out).name}", f"test {card['metric']} {found[card['metric']]:.4f}")


def measure(
    card: dict[str, Any], labels: Values, logits: Values, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Every metric, the main one's interval, and for classes the confusion matrix."""
    predictions = decide(card, logits)
    classes = card["kind"] == "classification"
    return {
        "split": "test",
        "rows": len(labels),
        "metric": card["metric"],
        **score(card, labels, predictions),
        "interval": interval(card, labels, predictions, resamples=resamples, seed=seed),
        "labels": card["labels"],
        "confusion": confusion(card, labels, predictions) if classes else None,
    }


def predict(
    model: PeftModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, *, batch_size: int
) -> Values:
    """The model's outputs, float32, in the order of the rows."""
    place, dtype = device(), model.get_base_model().dtype
    model.to(place).eval()
    order = by_length(token_counts(rows), batch_size=batch_size)
    outputs = []
    with torch.inference_mode(), torch.autocast(place.type, dtype, dtype != torch.float32):
        for batch in loader(rows, tokenizer, order):
            inputs = {name: batch[name].to(place) for name in batch if name != "labels"}
            outputs.append(model(**inputs).logits.float())
    logits = torch.cat(outputs).cpu().numpy()
    restored = np.empty_like(logits)
    restored[np.concatenate(order)] = logits
    return restored


def lifted(section: ModelSection, card: dict[str, Any], folder: Path, *, seed: int) -> PeftModel:
    """The unpruned base with the adapter at full size, loaded as anybody's stock peft would."""
    base, _ = load_model(section, card, seed)
    with tempfile.TemporaryDirectory() as full:
        checkpoint.lift(folder, full)
        return PeftModel.from_pretrained(base, full)


def sizes(model: PeftModel) -> dict[str, int]:
    """Parameters that run: those fine-tuning trained (PEFT modules, task head), and the others."""
    trained = sum(weight.numel() for weight in peft_weights(model).values())
    # peft keeps the head as it was before training beside the trained one; it does not run.
    everything = sum(
        weight.numel() for name, weight in model.named_parameters() if "original_module" not in name
    )
    return {"base_parameters": everything - trained, "trainable_parameters": trained}


def table(card: dict[str, Any], labels: Values, logits: Values) -> pd.DataFrame:
    """One row per test row: label, prediction, and each class's probability."""
    predictions = decide(card, logits)
    if card["kind"] == "regression":
        return pd.DataFrame({"label": labels, "prediction": predictions})
    names = np.asarray(card["labels"])
    found = pd.DataFrame({"label": names[labels], "prediction": names[predictions]})
    chances = softmax(logits, axis=1)
    for column, name in enumerate(card["labels"]):
        found[f"score {name}"] = chances[:, column]
    return found


def _write(out: Path, found: dict[str, Any], predictions: pd.DataFrame) -> None:
    """Write both files when all is known: a failure leaves what was there."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".predictions.{os.getpid()}"
    predictions.to_csv(part, index_label="row", float_format="%.6g", lineterminator="\n")
    part.replace(out / "predictions.csv")
    write_json(out / "eval.json", found)
