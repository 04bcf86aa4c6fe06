from functools import partial

import pytest
import torch
import transformers
from helpers.tiny_models import make_lora, make_pruned_model, make_tiny_config, make_tiny_model
from helpers.tiny_shapes import KINDS, find_length, make_tiny_method_model, make_tiny_shape
from peft import get_peft_model

from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.core.errors import ModelError
from lightpeft.modeling.inspection import inspect_model
from lightpeft.profiling.random_batches import (
    PHASES,
    find_model_kind,
    list_phases,
    make_random_batch,
)
from lightpeft.profiling.settings import TrainingSettings
from lightpeft.profiling.step_functions import make_inference_step, make_training_step
from lightpeft.profiling.timing import time_interleaved


def test_every_round_runs_every_step_and_rotates_the_order():
    executed = []
    steps = {name: partial(executed.append, name) for name in "abc"}

    seconds = time_interleaved(steps, warmup=1, rounds=5)

    rounds = ["".join(executed[start : start + 3]) for start in range(0, len(executed), 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca", "cab"]
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys("abc", 5)


def test_the_device_is_synchronized_before_and_after_every_step():
    events = []
    steps = {"a": partial(events.append, "step")}
    time_interleaved(steps, warmup=0, rounds=2, synchronize=partial(events.append, "synchronize"))

    assert events == ["synchronize", "step", "synchronize"] * 2


def test_a_training_step_changes_no_weight_and_leaves_no_gradient():
    model = make_pruned_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    step = make_training_step(model, make_random_batch(model, batch_size=2, length=8))
    step()
    step()

    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


def test_an_inference_step_is_in_evaluation_mode_without_gradients():
    model, seen = make_pruned_model(), []
    model.register_forward_hook(lambda *_: seen.append((model.training, torch.is_grad_enabled())))

    make_inference_step(model, make_random_batch(model, batch_size=2, length=8))()

    assert seen == [(False, False)]


def test_trainable_weights_are_cast_to_float32_and_frozen_ones_are_not():
    model = make_pruned_model().to(torch.bfloat16)

    make_training_step(model, make_random_batch(model, batch_size=2, length=8))()

    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_masters_in_bfloat16_train_without_autocast():
    model = make_pruned_model().to(torch.bfloat16)
    batch = make_random_batch(model, batch_size=2, length=8)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))

    make_training_step(model, batch, TrainingSettings(masters="bfloat16"))()

    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert seen == [False]


def test_gradient_checkpointing_runs_the_trained_layers_twice():
    model = make_pruned_model()
    batch = make_random_batch(model, batch_size=2, length=8)
    runs = []
    layers = model.get_base_model().bert.encoder.layer
    for layer in layers:
        layer.attention.register_forward_hook(lambda *_: runs.append(1))

    make_training_step(model, batch)()
    assert len(runs) == len(layers)
    make_training_step(model, batch, TrainingSettings(gradient_checkpointing=True))()
    assert len(runs) == 3 * len(layers)


def test_moments_are_kept_in_8_bits():
    optimizers = pytest.importorskip("bitsandbytes.optim")
    model = make_pruned_model()
    made = []

    class Recorded(optimizers.AdamW8bit):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizers, "AdamW8bit", Recorded)
        settings = TrainingSettings(optimizer="adamw_8bit")
        make_training_step(model, make_random_batch(model, batch_size=2, length=8), settings)()
    assert len(made) == 1
    assert made[0].state


@pytest.mark.parametrize(("family", "limit"), [("bert", 40), ("roberta", 38), ("distilbert", 40)])
def test_random_rows_fill_all_positions_and_hold_no_padding(family, limit):
    model = make_tiny_model(family)
    batch = make_random_batch(model, batch_size=5, length=limit)
    assert (batch["input_ids"] != model.config.pad_token_id).all()
    assert model(**batch).loss.isfinite()

    with pytest.raises(ModelError, match=rf"length must be at most {limit} .* got {limit + 1}"):
        make_random_batch(model, batch_size=5, length=limit + 1)


def test_random_rows_have_labels_for_a_regression_too():
    model = make_tiny_model(num_labels=1)

    assert model(**make_random_batch(model, batch_size=2, length=8)).loss.isfinite()


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra", "llama"])
@pytest.mark.parametrize("head", ["TokenClassification", "QuestionAnswering"])
def test_labels_follow_the_head(family, head):
    auto = getattr(transformers, f"AutoModelFor{head}")
    task = {"TokenClassification": "TOKEN_CLS", "QuestionAnswering": "QUESTION_ANS"}[head]
    model = auto.from_config(make_tiny_config(family))
    linears = list(inspect_model(model).linears)
    model = get_peft_model(model, make_lora(task_type=task, target_modules=linears))
    batch = make_random_batch(model, batch_size=3, length=8)

    assert model(**batch).loss.isfinite()
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    if head == "TokenClassification":
        assert shapes["labels"] == (3, 8)
    else:
        assert shapes["start_positions"] == shapes["end_positions"] == (3,)
        assert "labels" not in batch
    model.register_forward_pre_hook(lambda *seen: inputs.update(seen[-1]), with_kwargs=True)
    inputs: dict = {}
    make_inference_step(model, batch)()
    assert inputs.keys() == {"input_ids", "attention_mask"}
    make_training_step(model, batch)()


@pytest.mark.parametrize("name", KINDS)
def test_batches_and_phases_follow_the_kind_of_model(name, monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))
    model, length = make_tiny_method_model(name, "pruned"), find_length(name)
    batch = make_random_batch(model, batch_size=2, length=length)

    assert find_model_kind(model) == MODEL_SIZES[name].kind
    assert list_phases(model) == PHASES[MODEL_SIZES[name].kind]
    assert {len(tensor) for tensor in batch.values()} == {2}
    if "input_ids" in batch:
        assert batch["input_ids"].shape == (2, length)
        assert model.config.pad_token_id not in batch["input_ids"].unique().tolist()
        assert batch["input_ids"].max() < model.config.vocab_size
    if find_model_kind(model) == "decoder":
        assert torch.equal(batch["labels"], batch["input_ids"])
    assert model(**batch).loss.isfinite()


def test_training_a_generative_model_fills_no_cache(monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, "opt-1.3b", make_tiny_shape("opt-1.3b"))
    model, caches = make_tiny_method_model("opt-1.3b", "pruned"), []
    model.register_forward_hook(lambda *seen: caches.append(seen[-1].past_key_values))

    make_training_step(model, make_random_batch(model, batch_size=2, length=8))()

    assert caches == [None]


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("opt-1.3b", 40, "benchmark.length must be at most 39 for this model, got 40"),
        (
            "vit-base",
            64,
            "benchmark.length must be 5 for this model, because its images of 32 x 32",
        ),
    ],
)
def test_a_length_that_the_model_cannot_take_is_refused(name, length, message, monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))

    with pytest.raises(ModelError, match=message):
        make_random_batch(make_tiny_method_model(name, "vanilla"), batch_size=1, length=length)
