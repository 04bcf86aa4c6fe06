import json

import pytest

from lightpeft.core.benchmark_result import BenchmarkResult, EstimationCost
from lightpeft.core.errors import LightPeftError

TIMING = {"median_s": 0.5, "q1_s": 0.4, "q3_s": 0.6, "tokens_per_s": 64.0}
SPEEDUP = {"median": 1.5, "q1": 1.4, "q3": 1.6, "flop_bound": 2.0, "fraction_of_flop_bound": 0.75}
VANILLA = {
    "base_parameters": 10,
    "trainable_parameters": 2,
    "total_parameters": 12,
    "timings": {"training": {"32": TIMING, "4": TIMING}},
    "speedups": {"training": {"32": SPEEDUP, "4": SPEEDUP}},
    "memory_ratios": {"training": None},
}
RESULT = {
    "device": "a processor",
    "versions": {"torch": "2.13.0"},
    "dtype": "float32",
    "length": 8,
    "rounds": 3,
    "methods": {"vanilla": VANILLA},
}


def _write(path, **changes):
    path.write_text(json.dumps(RESULT | changes))
    return path


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = BenchmarkResult.load(_write(tmp_path / "a.json"))
    cost = EstimationCost(seconds=3.0, training_fraction=0.25, break_even_steps=None)
    result = result.model_copy(update={"estimation": cost})

    result.save(tmp_path / "b.json")

    assert BenchmarkResult.load(tmp_path / "b.json") == result
    assert result.phases == ["training"]
    assert result.batch_sizes == [4, 32]
    assert result.methods["vanilla"].timings["training"][4].median_s == 0.5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"length": "long"}, "length: Input should be a valid integer"),
        ({"ratios": {}}, "ratios: Extra inputs are not permitted"),
        ({"methods": {"vanilla": VANILLA | {"timings": {"sleep": {}}}}}, "methods.vanilla.timings"),
    ],
)
def test_another_layout_is_refused_in_one_line(changes, key, tmp_path):
    path = _write(tmp_path / "a.json", **changes)

    with pytest.raises(LightPeftError, match="a.json is not a benchmark result: " + key) as raised:
        BenchmarkResult.load(path)

    assert "\n" not in str(raised.value)


def test_a_missing_result_is_refused(tmp_path):
    with pytest.raises(LightPeftError, match=r"a.json does not exist"):
        BenchmarkResult.load(tmp_path / "a.json")
