"""Stopping the estimation when the units that would be pruned stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_models import make_lora, make_tiny_batch, make_tiny_model
from torch import Tensor

import lightpeft
from lightpeft import EstimationConfig, LightPeftError, Scores, StopConfig
from lightpeft.core.scores import OVERLAP_COLUMNS
from lightpeft.estimation.block_sums import BlockSums
from lightpeft.estimation.stability import StabilityCheck, mark_lowest

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def run(config: EstimationConfig, *, batches: int = 4) -> Scores:
    torch.manual_seed(0)
    rows = [make_tiny_batch(seed=seed) for seed in range(batches)]
    return lightpeft.estimate(make_tiny_model(**QUIET), make_lora(), rows, config)


def check_equal_scores(one: Scores, other: Scores) -> None:
    for key, tensor in one._collect_tensors().items():
        torch.testing.assert_close(tensor, other._collect_tensors()[key], msg=key)


def test_a_third_is_marked_and_of_equal_scores_the_later_ones():
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0, 9.0])

    assert mark_lowest(scores).nonzero().flatten().tolist() == [3, 4]
    assert not mark_lowest(torch.ones(1)).any()


def test_checks_are_stable_after_as_many_equal_ones_in_a_row_as_patience_says():
    check = StabilityCheck(StopConfig(stable=0.9, patience=2))
    usual = [torch.arange(6.0)], [torch.arange(9.0), torch.arange(9.0)]
    other = [torch.arange(6.0)], [torch.arange(9.0), torch.arange(9.0).flip(0)]

    def observe(scores: tuple[list[Tensor], list[Tensor]]) -> tuple[list[float], bool]:
        return list(check.check(*scores).values()), check.is_stable

    assert observe(usual) == ([], False)
    assert observe(usual) == ([1.0, 1.0], False)
    overlaps, is_stable = observe(other)
    assert overlaps == [1.0, 0.5]
    assert not is_stable
    assert observe(other) == ([1.0, 1.0], False)
    assert observe(other) == ([1.0, 1.0], True)


def test_a_model_without_neurons_to_prune_is_compared_by_its_heads():
    check = StabilityCheck(StopConfig(patience=1))
    check.check([torch.arange(6.0)], [])

    assert check.check([torch.arange(6.0).flip(0)], []) == dict(
        zip(OVERLAP_COLUMNS, (0.0, 1.0), strict=True)
    )


def test_dropped_blocks_leave_the_sums_of_the_others():
    sums = BlockSums([torch.zeros(2), torch.zeros(())])
    for step in range(1, 8):
        sums.add([torch.tensor([step, 0.0]), torch.tensor(float(step))])
        if step in (2, 4):
            sums.start_block()
    assert (sums.steps, float(sums.compute_totals()[1])) == (7, 28.0)

    for block, (steps, total) in {1: (5, 25.0), 2: (3, 18.0), 9: (3, 18.0)}.items():
        sums.drop_before(block)
        assert sums.steps == steps
        assert sums.compute_totals()[0].tolist() == [total, 0.0]


def test_a_stopped_estimation_scores_as_one_of_as_many_steps():
    # No learning, so that steps differ by their batch alone; 1 batch, so that every check agrees.
    config = EstimationConfig(steps=60, lr=1e-30, stop=StopConfig(patience=1))

    stopped = run(config, batches=1)

    assert stopped.steps == 20
    check_equal_scores(stopped, run(EstimationConfig(steps=20, lr=1e-30), batches=1))


def test_an_estimation_that_never_stops_trains_and_scores_as_without_a_check():
    config = EstimationConfig(steps=20, lr=1e-2)

    watched = run(config.model_copy(update={"stop": StopConfig(patience=9)}))

    plain = run(config)
    assert watched.steps == 20
    check_equal_scores(watched, plain)
    assert all(torch.equal(watched.adapter[key], plain.adapter[key]) for key in plain.adapter)
    assert not any(set(row) & set(OVERLAP_COLUMNS) for row in plain.curve)


def test_stopping_is_reproducible_and_its_curve_is_saved(tmp_path: Path):
    config = EstimationConfig(steps=40, lr=1e-2, stop=StopConfig(stable=0.3, patience=1))

    for name in ("one", "two"):
        run(config).save(tmp_path / name)

    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    scores = Scores.load(tmp_path / "one")
    assert scores.steps < 40
    checks = [row for row in scores.curve if row["heads_overlap"] == row["heads_overlap"]]
    assert [row["step"] for row in checks] == list(range(20, scores.steps + 1, 10))
    assert min(checks[-1][column] for column in OVERLAP_COLUMNS) >= 0.3


def test_too_few_batches_are_still_an_error():
    config = EstimationConfig(steps=30, stop=StopConfig(patience=2))
    batches = iter([make_tiny_batch()] * 12)

    with pytest.raises(LightPeftError, match="the batches ran out after 12 of 30 steps"):
        lightpeft.estimate(make_tiny_model(), make_lora(), batches, config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stable": 0.0}, r"^stable must be in \(0, 1\], got 0.0"),
        ({"patience": -1}, "^patience must be an integer >= 0, got -1"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, float], message: str):
    with pytest.raises(LightPeftError, match=message):
        StopConfig(**settings)
