"""Latency tables: they cover all blocks of a model, and predict what they were made to say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import build
from helpers.tiny_models import draw_random_scores, make_tiny_model

import lightpeft
from lightpeft import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.core.shape import ModelShape
from lightpeft.planning.cost_model import CostModel
from lightpeft.planning.latency_table import BlockLatency, LatencyTable, describe_block
from lightpeft.profiling.latency import LatencySettings, measure_latency

SETTINGS = LatencySettings(
    rows=2, length=6, rank=2, dtype=torch.float32, device=torch.device("cpu")
)


@pytest.mark.parametrize(
    "name", ["bert", "llama, shared keys and values", "gpt2", "falcon, new", "qwen3_next"]
)
def test_every_block_of_a_model_is_in_its_table(name: str):
    shape = lightpeft.inspect_model(build(name))

    table = measure_latency(shape, SETTINGS)

    assert {*table.blocks} == {describe_block(block) for block in shape.blocks}
    assert bool(table.head[0]) == (shape.matmul_weights["lm"] > 0)
    for times in table.blocks.values():
        assert min(times.forward) > 0 < min(times.training)
    counts = shape.count_unpruned({})
    expected = sum(table.blocks[describe_block(block)].forward[-1] for block in shape.blocks)
    assert table.predict(shape, counts, training=True) == pytest.approx(expected + table.head[1])


def make_table(shape: ModelShape) -> LatencyTable:
    """A forward pass takes a second a block; backward two for all neurons, nothing for heads."""
    times = {
        "attention": BlockLatency(units=(1, 4), forward=(1.0, 1.0), training=(1.0, 1.0)),
        "feed_forward": BlockLatency(units=(8, 64), forward=(1.0, 1.0), training=(1.0, 3.0)),
    }
    return LatencyTable(
        device="a slow machine",
        dtype="float32",
        rows=2,
        length=6,
        rank=2,
        blocks={describe_block(block): times[block.kind] for block in shape.blocks},
        head=(0.0, 0.0),
    )


def test_a_target_goes_by_the_table_and_only_where_time_is_saved():
    scores = draw_random_scores(make_tiny_model())
    table = make_table(scores.shape)
    model = CostModel(latency=table)
    config = PruningConfig(target={"training_speedup": 1.2}, layers=0, modules=0)

    plan = lightpeft.make_plan(scores, config, cost_model=model)

    assert plan.settings["heads"] == 0, "they cost no time"
    assert plan.settings["target"]["source"] == "a latency table of a slow machine"
    # Of 12 seconds 10 may be left: 36 of each 64 neurons, or less.
    assert sum(len(x.kept) for x in plan.neurons.values()) in range(96, 137)
    config = PruningConfig(target={"training_speedup": 3.0}, layers=0, modules=0)
    with pytest.raises(PlanError, match=r"at most 2, the best that pruning reaches"):
        lightpeft.make_plan(scores, config, cost_model=model)


def test_below_the_lowest_module_only_forward_is_counted():
    shape = lightpeft.inspect_model(make_tiny_model())
    table = make_table(shape)
    top = {path: 4 for path in shape.linears if ".2." in path}

    seconds = table.predict(shape, shape.count_unpruned(top), training=True)

    assert seconds == 2 + 2 + 4


def test_a_table_is_read_as_it_was_written(tmp_path: Path):
    table = make_table(lightpeft.inspect_model(make_tiny_model()))
    path = tmp_path / "latency.json"
    table.save(path)
    assert LatencyTable.load(path) == table

    path.write_text("{}")
    with pytest.raises(PlanError, match=r"latency\.json is no latency table; remove it"):
        LatencyTable.load(path)
