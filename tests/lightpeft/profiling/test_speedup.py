from types import SimpleNamespace

from lightpeft.core.benchmark_result import EstimationCost
from lightpeft.profiling.speedup import (
    break_even_steps,
    compute_estimation_cost,
    compute_quartiles,
    compute_speedup,
)


def test_a_speedup_is_taken_round_by_round():
    assert compute_quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    # The second round was ten times slower for both.
    assert compute_speedup([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 2.0)


def test_after_break_even_pruning_takes_no_longer():
    steps, early, pruned, vanilla = 100, 1.5, 0.6, 1.0
    total = break_even_steps(estimate_step=early, steps=steps, pruned=pruned, vanilla=vanilla)

    def gain(total):
        return total * vanilla - (steps * early + (total - steps) * pruned)

    assert total == 225
    assert gain(total) >= 0 > gain(total - 1)


def test_break_even_is_never_without_a_speedup_and_not_before_estimation_ends():
    assert break_even_steps(estimate_step=1.0, steps=10, pruned=1.0, vanilla=1.0) is None
    assert break_even_steps(estimate_step=0.5, steps=10, pruned=0.5, vanilla=1.0) == 10


def test_fraction_of_the_estimation_is_of_lights_training_time():
    light = SimpleNamespace(seconds=150.0, steps=300)
    random = SimpleNamespace(seconds=1.0, steps=1)
    vanilla = SimpleNamespace(seconds=400.0, steps=400)
    early = SimpleNamespace(seconds=100.0, steps=100)

    cost = compute_estimation_cost(early, {"random": random, "vanilla": vanilla, "light": light})

    expected = EstimationCost(seconds=100.0, training_fraction=0.4, break_even_steps=100)
    assert cost == expected
    assert compute_estimation_cost(early, {"vanilla": vanilla}).break_even_steps is None


def test_without_light_the_first_other_pruned_method_stands_for_it():
    early = SimpleNamespace(seconds=100.0, steps=100)
    runs = {
        "vanilla": SimpleNamespace(seconds=400.0, steps=400),
        "random": SimpleNamespace(seconds=300.0, steps=400),
        "other": SimpleNamespace(seconds=1.0, steps=1),
    }

    assert compute_estimation_cost(early, runs).training_fraction == 0.25
