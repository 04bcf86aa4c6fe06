"""Training of the stage `finetune` on a tiny model, without the stage around it."""

import math
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.stage_training import get_trained_weights, train_in_space
from helpers.stage_workspace import (
    load_base_model,
    set_params,
)
from peft import PeftModel
from safetensors.torch import load_file

import lightpeft
from lightpeft.acceleration.compile import CompileCounts
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.modeling.adapters import get_adapter_state_dict
from pipeline.common.errors import ConfigError
from pipeline.common.paths import Paths
from pipeline.training import trainer as training

WEIGHTS = "adapter_model.safetensors"


def train(
    space: Path, folder: Path, *, dtype=torch.float32, dropout: float = 0.1, **settings
) -> tuple[training.TrainingResult, PeftModel]:
    """Train as the stage does, but keep the checkpoints; return the result and the model."""
    set_params(space, finetune=settings)
    model, _ = load_base_model(space)
    torch.manual_seed(0)
    paths = Paths(space)
    scores, plan = Scores.load(paths.scores), PruningPlan.load(paths.locate_plan("light"))
    model = lightpeft.prune(model, plan, scores).to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return train_in_space(space, model, folder), model


@pytest.mark.parametrize("damage", ["cut", "unfinished", "none"])
def test_a_training_resumes_from_its_newest_complete_checkpoint(space, tmp_path, damage):
    _, uninterrupted = train(space, tmp_path)
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    if damage == "cut":
        os.truncate(last / "optimizer.pt", 100)
    elif damage == "unfinished":
        (last / "complete.json").unlink()
    trained, model = train(space, tmp_path)

    for name, weight in get_trained_weights(model).items():
        assert torch.equal(weight, get_trained_weights(uninterrupted)[name])
    assert trained.curve[0]["step"] < trained.curve[-1]["step"] == 24


def test_accumulated_batches_equal_larger_ones(space, tmp_path):
    common = {"group_by_length": False, "dropout": 0.0, "save_every": 100}
    accumulating = {"batch_size": 4, "gradient_accumulation": 2, "steps": 18}
    small, one = train(space, tmp_path / "a", **accumulating, **common)
    large, other = train(space, tmp_path / "b", batch_size=8, steps=11, **common)

    assert small.steps == 2 * large.steps == 14
    # A row has the mean loss since the last one: of 5 and 2 optimizer steps, and of all 7.
    mean = (5 * small.curve[0]["loss"] + 2 * small.curve[1]["loss"]) / 7
    assert mean == pytest.approx(large.curve[-1]["loss"], abs=1e-4)
    for name, weight in get_trained_weights(one).items():
        torch.testing.assert_close(weight, get_trained_weights(other)[name], atol=1e-4, rtol=1e-3)


def test_batches_left_over_by_accumulation_are_trained_on(space, tmp_path):
    trained, _ = train(space, tmp_path, gradient_accumulation=8, steps=24)

    assert trained.steps == 20
    assert [row["step"] for row in trained.curve] == [12, 20, 24]


def test_gradient_checkpointing_changes_memory_not_weights(space, tmp_path):
    _, plain = train(space, tmp_path / "a")
    _, saving = train(space, tmp_path / "b", gradient_checkpointing=True)

    for name, weight in get_trained_weights(saving).items():
        torch.testing.assert_close(weight, get_trained_weights(plain)[name])


def test_the_best_validation_is_kept_and_training_stops_without_gain(space, tmp_path):
    settings = {"best_checkpoint": True, "early_stopping": 3, "lr": 0.01, "evaluate_every": 2}
    trained, model = train(space, tmp_path, steps=200, save_every=2, **settings)
    measured = [row for row in trained.curve if "validation_metric" in row]
    best = max(measured, key=lambda row: row["validation_metric"])
    kept = load_file(tmp_path / f"checkpoint-{best['step'] - 4}" / WEIGHTS)

    assert trained.steps < 196
    assert measured.index(best) == len(measured) - 1 - 3
    for name, weight in get_adapter_state_dict(model).items():
        assert torch.equal(weight, kept[name])
    # Killed between its end and the writing of its result, it ends the same again.
    again, other = train(space, tmp_path, steps=200, save_every=2, **settings)
    assert again.curve == trained.curve
    for name, weight in get_adapter_state_dict(other).items():
        assert torch.equal(weight, kept[name])


def test_bfloat16_trains_float32_adapters(space, tmp_path):
    trained, model = train(space, tmp_path, dtype=torch.bfloat16)

    assert model.get_base_model().bert.embeddings.word_embeddings.weight.dtype == torch.bfloat16
    assert {weight.dtype for weight in get_trained_weights(model).values()} == {torch.float32}
    exact, _ = train(space, tmp_path / "exact")
    losses = [result.curve[-1]["validation_loss"] for result in (trained, exact)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_float16_is_refused_without_a_gpu(space, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.dtype: float16 needs a GPU"):
        train(space, tmp_path, dtype=torch.float16)


def test_adamw_in_8_bits_trains_nearly_the_same(space, tmp_path):
    pytest.importorskip("bitsandbytes")
    plain, _ = train(space, tmp_path / "a", dropout=0.0)
    packed, _ = train(space, tmp_path / "b", dropout=0.0, optimizer="adamw_8bit")
    losses = [result.curve[-1]["validation_loss"] for result in (plain, packed)]

    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    assert plain.curve != packed.curve


def test_the_rate_decays_along_the_chosen_curve_after_warmup(space, tmp_path):
    settings = {"steps": 84, "warmup": 0.25, "lr": 0.01, "save_every": 100}
    linear, cosine = (
        train(space, tmp_path / schedule, schedule=schedule, **settings)[0].curve
        for schedule in ("linear", "cosine")
    )
    rates = {
        row["step"] - 4: (row["lr"], other["lr"]) for row, other in zip(linear, cosine, strict=True)
    }

    for step, (straight, curved) in rates.items():
        done = (step - 20) / 60
        along = (
            (step / 20, step / 20) if done < 0 else (1 - done, (1 + math.cos(math.pi * done)) / 2)
        )
        assert (straight / 0.01, curved / 0.01) == pytest.approx(along, abs=0.06)
    assert rates[40][0] < rates[40][1]


def test_lora_b_learns_at_its_own_rate(space, tmp_path):
    first_step = {"steps": 5, "batch_size": 4, "warmup": 0.0, "lr": 1e-3}
    _, start = train(space, tmp_path / "start", **first_step | {"lr": 1e-12})
    moved = {}
    for ratio in (1.0, 8.0):
        _, model = train(space, tmp_path / str(ratio), **first_step, lora_plus_ratio=ratio)
        before = get_trained_weights(start)
        moved[ratio] = {
            name: (weight - before[name]).abs().max().item()
            for name, weight in get_trained_weights(model).items()
        }

    # The first step of AdamW moves every weight by the learning rate.
    for name, distance in moved[8.0].items():
        fast = "lora_B" in name or name.endswith("bias")
        assert distance == pytest.approx(8e-3 if fast else 1e-3, rel=1e-2), name
    assert all(distance == pytest.approx(1e-3, rel=1e-2) for distance in moved[1.0].values())


def test_a_training_ends_with_a_validation(space, tmp_path):
    trained, _ = train(space, tmp_path, steps=20, evaluate_every=1000, best_checkpoint=True)

    assert [row["step"] for row in trained.curve if "validation_metric" in row] == [20]
    assert (tmp_path / "checkpoint-16" / "complete.json").is_file()


def test_a_compiled_training_pads_to_few_lengths_and_logs_what_was_compiled(
    space, tmp_path, monkeypatch, capsys
):
    settings = {"steps": 10, "dropout": 0.0, "evaluate_every": 3}
    _, plain = train(space, tmp_path / "a", **settings)
    asked, lengths = {}, set()

    @contextmanager
    def compile_nothing(model, scope, **options):
        asked[scope] = options
        hook = model.get_base_model().bert.encoder.register_forward_pre_hook(
            lambda module, args: lengths.add(args[0].shape[1])
        )
        yield CompileCounts(scope=scope, modules=3, distinct=2, graphs=4, seconds=5.0)
        hook.remove()

    monkeypatch.setattr(training, "compiled", compile_nothing)
    monkeypatch.setattr(training._BatchTrainer, "evaluate", lambda self, *_, **__: {})
    _, other = train(space, tmp_path / "b", **settings, compile="blocks")

    assert asked == {"blocks": {"dynamic": True}}
    assert lengths == {8, 13}  # 13 tokens is the longest row
    line = "compiled 3 blocks of 2 distinct shapes in 5 s: 4 graphs, 0 recompilations, no graph"
    assert line in capsys.readouterr().out
    for name, weight in get_trained_weights(other).items():
        torch.testing.assert_close(weight, get_trained_weights(plain)[name], atol=1e-5, rtol=1e-4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own use
@pytest.mark.parametrize("scope", ["blocks", "whole"])
def test_a_training_compiled_by_inductor_learns_the_same_weights(space, tmp_path, capsys, scope):
    settings = {"steps": 10, "dropout": 0.0, "evaluate_every": 3}
    _, plain = train(space, tmp_path / "a", **settings)
    _, other = train(space, tmp_path / "b", **settings, compile=scope)

    assert re.search(r"compiled .* graphs, \d recompilations, no graph br", capsys.readouterr().out)
    for name, weight in get_trained_weights(other).items():
        torch.testing.assert_close(weight, get_trained_weights(plain)[name], atol=1e-4, rtol=1e-3)
