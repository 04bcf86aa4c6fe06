from types import SimpleNamespace
from typing import Any

import pytest
from helpers.data_cards import make_data_card

from pipeline.training import callbacks
from pipeline.training.callbacks import StepBudget, TrainingMonitor


@pytest.mark.parametrize(
    ("optimizer_steps", "batches"), [(0, 0), (1, 8), (2, 16), (3, 20), (4, 20)]
)
def test_the_last_optimizer_step_takes_the_batches_that_are_left(optimizer_steps, batches):
    budget = StepBudget(estimation_steps=4, batches=20, accumulation=8)

    assert budget.to_batches(optimizer_steps) == batches


@pytest.mark.parametrize(("batches", "optimizer_steps"), [(1, 1), (8, 1), (13, 2), (20, 2)])
def test_intervals_are_rounded_to_at_least_one_optimizer_step(batches, optimizer_steps):
    budget = StepBudget(estimation_steps=4, batches=100, accumulation=8)

    assert budget.to_optimizer_steps(batches) == optimizer_steps


def test_the_clock_stands_still_during_a_validation(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(callbacks, "time", clock)
    budget = StepBudget(estimation_steps=0, batches=9, accumulation=1)
    card = make_data_card(metric="accuracy")
    monitor = TrainingMonitor("x", card, budget=budget, patience=0, seconds=100.0)
    state: Any = SimpleNamespace(global_step=1, max_steps=9, log_history=[])
    control: Any = SimpleNamespace(should_log=False, should_save=False, should_training_stop=False)
    settings: Any = SimpleNamespace()

    now = 5.0
    monitor.on_train_begin(settings, state, control)
    now = 8.0
    monitor.on_step_end(settings, state, control)
    now = 20.0
    monitor.on_evaluate(settings, state, control, {"eval_accuracy": 0.5})
    now = 21.0
    monitor.on_step_end(settings, state, control)
    monitor.on_train_end(settings, state, control)

    assert monitor.seconds == 100 + 3 + 1
