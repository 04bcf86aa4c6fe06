"""Count the kernels of a training step of stock peft and of `lightpeft.accelerate`.

    python -m experiments.kernels

The models have the depth of published ones and narrow layers, because the number of kernels does
not depend on widths. Time on the CPU with such layers is nearly that of the host alone: what a GPU
would wait for, less the launches. Dropout is off: on a CPU, attention with dropout takes a dozen
kernels that a GPU has in one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import lightpeft
from lightpeft.core.library_warnings import ignore_peft_deprecation
from lightpeft.core.text_table import align_columns
from lightpeft.profiling.kernels import count_kernels
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.step_functions import make_training_step
from lightpeft.profiling.timing import time_interleaved

_NARROW = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
}
_MODELS = {
    "minilm": {"model_type": "bert", "num_hidden_layers": 6},
    "roberta-large": {"model_type": "roberta", "num_hidden_layers": 24},
    "llama-2-7b": {"model_type": "llama", "num_hidden_layers": 32},
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_COLUMNS = ("model", "dtype", "stock", "accelerated", "ratio", "host ms", "accelerated", "ratio")
_ROUNDS = 5


def build(name: str, dtype: torch.dtype) -> PeftModel:
    """Build a narrow model with a LoRA adapter on every linear of its blocks."""
    torch.manual_seed(0)
    sizes = _MODELS[name]
    is_decoder = sizes["model_type"] == "llama"
    config = AutoConfig.for_model(**sizes | _NARROW | ({} if is_decoder else _NO_DROPOUT))
    model_class = AutoModelForCausalLM if is_decoder else AutoModelForSequenceClassification
    base = model_class.from_config(config, dtype=dtype)
    task = "CAUSAL_LM" if is_decoder else "SEQ_CLS"
    targets = r".*\.layers?\.\d+\..*(query|key|value|dense|_proj)"
    return get_peft_model(base, LoraConfig(r=8, task_type=task, target_modules=targets))


def measure() -> Iterator[list[str]]:
    """Yield a row of the table for each model and dtype."""
    for name in _MODELS:
        for dtype in (torch.bfloat16, torch.float32):
            stock, accelerated = build(name, dtype), build(name, dtype)
            lightpeft.accelerate(accelerated)
            models = {"stock": stock, "accelerated": accelerated}
            batch = make_random_batch(stock, batch_size=1, length=8)
            steps = {key: make_training_step(model, batch) for key, model in models.items()}
            seconds = time_interleaved(steps, warmup=2, rounds=_ROUNDS)
            counts = [count_kernels(step).total() for step in steps.values()]
            times = [statistics.median(values) * 1e3 for values in seconds.values()]
            row = [name, str(dtype).removeprefix("torch.")]
            row += [*map(str, counts), f"{counts[1] / counts[0]:.2f}"]
            yield [*row, *(f"{time:.1f}" for time in times), f"{times[1] / times[0]:.2f}"]


if __name__ == "__main__":
    ignore_peft_deprecation()
    torch.set_num_threads(1)
    print("\n".join(align_columns([list(_COLUMNS), *measure()], left=2)))
