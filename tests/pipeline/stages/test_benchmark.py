import json

import pytest
from helpers.stage_workspace import base_model, workspace

import lightpeft
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.core.serialization import write_json
from pipeline.common.paths import Paths
from pipeline.stages import benchmark

METHODS = ("light", "vanilla")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A workspace in which both methods are fine-tuned, as far as the benchmark can tell."""
    folder, paths = workspace(tmp_path), Paths(tmp_path)
    scores = Scores.load(paths.scores)
    write_json(paths.estimate_timing, {"seconds": 3.0, "steps": 4})
    for method in METHODS:
        model, _ = base_model(folder)
        plan = PruningPlan.load(paths.plan(method))
        lightpeft.save(lightpeft.prune(model, plan, scores), paths.model(method))
        timing = {"seconds": 5.0 if method == "light" else 12.0, "steps": 20}
        write_json(paths.timing(method), timing)
    text = (folder / "params.yaml").read_text().replace("- random", "")
    (folder / "params.yaml").write_text(text)
    monkeypatch.chdir(folder)
    return folder


def test_all_methods_are_measured_and_the_estimation_is_priced(run, monkeypatch):
    commands = []

    def measured(command):
        commands.append(command)
        return {"rows": 32, "model_bytes": 5, "inference_bytes": 10, "training_bytes": 20}

    monkeypatch.setattr(benchmark, "run_in_subprocess", measured)
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    benchmark.main(paths=Paths())

    found = json.loads((run / "results" / "benchmark.json").read_text())
    assert list(found["methods"]) == list(found["ratios"]) == list(METHODS)
    assert [command[-1] for command in commands] == list(METHODS)
    assert list(found["methods"]["light"]["training"]) == ["1", "32"]
    assert found["ratios"]["light"]["training_speedup"]["32"]["flop_bound"] > 1.2
    assert found["ratios"]["light"]["training_memory"] == 1.0
    # 3 s + (n - 4) 0.25 s <= n 0.6 s from n = 5.7 on.
    assert found["estimate"] == {"seconds": 3.0, "share": 3 / 8, "break_even_steps": 6}


def test_the_memory_of_one_method_is_one_line_of_json(run, monkeypatch, capsys):
    asked = []

    def peak(build, settings, *, device):
        asked.append((lightpeft.get_plan(build()).is_identity, max(settings.batch_sizes)))
        return {"training_bytes": 20}

    monkeypatch.setattr(benchmark, "measure_peak_memory", peak)

    benchmark.main("light", paths=Paths())

    assert json.loads(capsys.readouterr().out) == {"training_bytes": 20}
    assert asked == [(False, 32)]
    assert not Paths(run).benchmark.exists()
