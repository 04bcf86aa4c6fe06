import pytest

from pipeline.training.callbacks import StepBudget


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
