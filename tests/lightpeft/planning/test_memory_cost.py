"""The predicted memory of training is that of the tensors of the real model."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_shapes import make_tiny_shape

from lightpeft.benchmark.fake_models import make_benchmark_plan, track_fake_training
from lightpeft.benchmark.model_sizes import MODEL_SIZES, ModelSize
from lightpeft.benchmark.run import BenchmarkConfig
from lightpeft.core.config import PruningConfig
from lightpeft.planning.cost_model import CostModel
from lightpeft.planning.memory_cost import TrainingMemory, predict_training_memory
from lightpeft.profiling.live_bytes import LiveBytes

ROWS, LENGTH = 8, 16
SHAPES = ("bert-base", "roberta-large", "opt-1.3b", "llama-2-7b", "qwen3-8b")


def make_config(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str = "float32", **changes: float
) -> BenchmarkConfig:
    """A tiny model, but large enough that what isn't counted (norms' statistics) is little."""
    tiny = make_tiny_shape(name)
    sizes = tiny.sizes | {"hidden_size": 64, "word_embed_proj_dim": 64, "num_hidden_layers": 6}
    inner = {key: 256 for key in ("intermediate_size", "ffn_dim") if key in sizes}
    monkeypatch.setitem(MODEL_SIZES, name, ModelSize(tiny.kind, sizes | inner))
    return BenchmarkConfig(
        shape=name,
        batch_sizes=(ROWS,),
        length=LENGTH,
        dtype=dtype,
        accelerate=True,
        rank=2,
        **changes,
    )


def predict(config: BenchmarkConfig, method: str) -> TrainingMemory:
    rest = make_benchmark_plan(config, method).without_layers
    width = config.torch_dtype.itemsize
    return predict_training_memory(rest.shape, rest.counts, tokens=ROWS * LENGTH, width=width)


@pytest.mark.parametrize(
    ("name", "method", "dtype"),
    [
        ("bert-base", "pruned", "float32"),
        ("opt-1.3b", "vanilla", "bfloat16"),
        ("qwen3-8b", "pruned", "bfloat16"),
        *(
            pytest.param(name, method, dtype, marks=pytest.mark.long)
            for name in SHAPES
            for method in ("vanilla", "pruned")
            for dtype in ("float32", "bfloat16")
        ),
    ],
)
def test_the_prediction_is_within_a_tenth(
    monkeypatch: pytest.MonkeyPatch, name: str, method: str, dtype: str
):
    config = make_config(monkeypatch, name, dtype, ratio=0.333, modules=0.5, ranks=0.5)
    tracked = track_fake_training(config, make_benchmark_plan(config, method))

    assert predict(config, method).peak == pytest.approx(tracked, rel=0.1)


def test_a_memory_target_is_a_ratio_of_tracked_bytes(monkeypatch: pytest.MonkeyPatch):
    config = make_config(monkeypatch, "llama-2-7b", ratio=0.5)
    plans = [make_benchmark_plan(config, method) for method in ("vanilla", "pruned")]
    tracked = [track_fake_training(config, plan) for plan in plans]
    target = PruningConfig(target={"memory": 0.6}).target
    assert target is not None

    predicted = CostModel(rows=ROWS, length=LENGTH).predict(target, plans[1])

    assert predicted == pytest.approx(tracked[1] / tracked[0], rel=0.03)


def test_a_part_that_is_left_out_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    memory = predict(make_config(monkeypatch, "llama-2-7b", "bfloat16"), "vanilla")

    assert all(x > 0.05 * memory.peak for x in (memory.weights, memory.trained))
    assert memory.activations > memory.peak / 3
    assert memory.transient > 0.02 * memory.peak


def test_live_bytes_count_a_storage_once_and_until_it_is_gone():
    held = torch.zeros(10)
    with LiveBytes([held, held[:5]]) as live:
        assert live.peak == 40
        first = torch.zeros(100)
        second = first.view(10, 10)
        assert live.peak == 440
        del first, second
        third = torch.zeros(50) + 1  # two tensors, of which one goes

    assert live.peak == 440
    assert third.sum() == 50
