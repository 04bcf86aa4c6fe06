import ast
import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers.import_graph import ROOT, reached
from helpers.tiny_models import tiny_model, tiny_scores
from helpers.tiny_shapes import KINDS, length_of, tiny_shape

import lightpeft
from lightpeft.benchmark import run as benchmark
from lightpeft.benchmark.model_sizes import MODEL_SIZES, ModelSize
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import ConfigError, LightPeftError
from lightpeft.profiling import memory
from lightpeft.profiling.compare import compare
from lightpeft.profiling.random_batches import PHASES
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import (
    break_even_steps,
    compute_speedup,
    estimation_cost,
    quartiles,
)
from lightpeft.profiling.workload import compute_plan_cost

SETTINGS = ProfilingSettings(batch_sizes=[1, 3], length=8, warmup=1, rounds=3)
TINY = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}


def _pruned(ratio):
    model = tiny_model()
    scores = tiny_scores(model, steps=2)
    plan = lightpeft.make_plan(
        scores, PruningConfig(heads=ratio, neurons=ratio, modules=0.0, ranks=0.0)
    )
    return lightpeft.prune(model, plan, scores)


@pytest.fixture
def tiny_bert(monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, "tiny", ModelSize(kind="encoder", sizes=TINY))
    return ["--shape", "tiny", "--batch-sizes", "1", "3", "--length", "8", "--rounds", "3"]


def test_a_speedup_is_taken_round_by_round():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    # The second round was ten times slower for both.
    assert compute_speedup([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == {
        "median": 2.0,
        "q1": 2.0,
        "q3": 2.0,
    }


def test_after_break_even_pruning_takes_no_longer():
    steps, early, pruned, vanilla = 100, 1.5, 0.6, 1.0
    found = break_even_steps(estimate_step=early, steps=steps, pruned=pruned, vanilla=vanilla)

    def gain(total):
        return total * vanilla - (steps * early + (total - steps) * pruned)

    assert found == 225
    assert gain(found) >= 0 > gain(found - 1)


def test_break_even_is_never_without_a_speedup_and_not_before_estimation_ends():
    assert break_even_steps(estimate_step=1.0, steps=10, pruned=1.0, vanilla=1.0) is None
    assert break_even_steps(estimate_step=0.5, steps=10, pruned=0.5, vanilla=1.0) == 10


def test_share_of_the_estimation_is_of_lights_whole_training():
    runs = {
        "random": {"seconds": 1.0, "steps": 1},
        "vanilla": {"seconds": 400.0, "steps": 400},
        "light": {"seconds": 150.0, "steps": 300},
    }
    early = {"seconds": 100.0, "steps": 100}

    found = estimation_cost(early, runs)

    assert found == {"seconds": 100.0, "share": 0.4, "break_even_steps": 100}
    assert estimation_cost(early, {"vanilla": runs["vanilla"]})["break_even_steps"] is None


def test_models_are_compared_in_time_memory_and_flops():
    builds = {"vanilla": partial(_pruned, 0.0), "light": partial(_pruned, 0.5)}
    used, sizes = {"model_bytes": 200}, {"vanilla": 400, "light": 300}
    said = []

    found = compare(
        builds,
        SETTINGS,
        memory=lambda m: used | {"inference_bytes": sizes[m], "training_bytes": 2 * sizes[m]},
        progress=said.append,
    )

    json.dumps(found, allow_nan=False)
    plans = {name: lightpeft.get_plan(make()) for name, make in builds.items()}
    costs = {name: compute_plan_cost(plan, length=8).total for name, plan in plans.items()}
    light, ratio = found["methods"]["light"], found["ratios"]["light"]
    assert light["total_parameters"] == costs["light"].parameters
    assert light["base_parameters"] < found["methods"]["vanilla"]["base_parameters"]
    assert ratio["training_memory"] == ratio["inference_memory"] == 0.75
    for phase in ("training", "inference"):
        flops = [getattr(costs[name], f"{phase}_flops_per_token") for name in builds]
        assert list(light[phase]) == list(ratio[f"{phase}_speedup"]) == ["1", "3"]
        for rows, times in light[phase].items():
            gain = ratio[f"{phase}_speedup"][rows]
            assert times["q1_s"] <= times["median_s"] <= times["q3_s"]
            assert times["tokens_per_s"] == int(rows) * 8 / times["median_s"]
            assert gain["flop_bound"] == flops[0] / flops[1]
            assert gain["of_bound"] == gain["median"] / gain["flop_bound"]
            assert found["ratios"]["vanilla"][f"{phase}_speedup"][rows]["median"] == 1
    assert said[:2] == ["memory of vanilla", "memory of light"]


def test_memory_below_that_of_the_weights_is_no_measurement():
    used = {"model_bytes": 200, "inference_bytes": 190, "training_bytes": 400}
    found = compare({"vanilla": partial(_pruned, 0.0)}, SETTINGS, memory=lambda method: used)

    assert found["ratios"]["vanilla"]["inference_memory"] is None
    assert found["ratios"]["vanilla"]["training_memory"] == 1.0


def test_memory_may_be_left_out():
    found = compare({"vanilla": partial(_pruned, 0.0)}, SETTINGS, memory=None)

    assert found["methods"]["vanilla"]["memory"] is None
    assert found["ratios"]["vanilla"]["training_memory"] is None


@pytest.mark.skipif(not memory.can_measure_memory(torch.device("cpu")), reason="Linux only")
def test_peak_memory_of_a_fresh_process_holds_the_weights_and_training_holds_more():
    command = [sys.executable, "-W", "error", "-m", "lightpeft.benchmark", "--memory-of", "pruned"]
    command += ["--shape", "minilm", "--batch-sizes", "4", "--length", "16"]

    found = memory.run_in_subprocess(command)

    assert 0.95 * found["model_bytes"] < found["inference_bytes"] < 1.3 * found["model_bytes"]
    assert found["training_bytes"] > found["inference_bytes"]
    assert found["rows"] == 4


def test_a_failure_in_the_fresh_process_is_passed_on_as_one_line():
    command = [sys.executable, "-c", "import sys; sys.exit('warning\\nerror: no such model')"]
    with pytest.raises(LightPeftError, match=r"^no such model$"):
        memory.run_in_subprocess(command)
    with pytest.raises(LightPeftError, match=r"^measuring memory failed: ZeroDivisionError"):
        memory.run_in_subprocess([sys.executable, "-c", "1 / 0"])
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(LightPeftError, match=r"^measuring memory was killed, probably out of mem"):
        memory.run_in_subprocess([sys.executable, "-c", killed])


def test_the_command_compares_a_shape_and_writes_a_table_and_json(
    tiny_bert, tmp_path, monkeypatch, capsys
):
    sizes = {"model_bytes": 2**20, "inference_bytes": 2**21, "training_bytes": 2**22}
    monkeypatch.setattr(benchmark, "run_in_subprocess", lambda command: {"rows": 3} | sizes)
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: True)
    out = tmp_path / "found.json"

    benchmark.main([*tiny_bert, "--device", "cpu", "--ratio", "0.5", "--out", str(out)])

    found = json.loads(out.read_text())
    assert found["command"].startswith("python -m lightpeft.benchmark --shape tiny")
    assert set(found["versions"]) == {"python", "torch", "transformers", "peft"}
    assert list(found["methods"]) == list(found["ratios"]) == ["vanilla", "pruned"]
    assert found["ratios"]["pruned"]["training_speedup"]["3"]["flop_bound"] > 1.5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 8
    assert "4 MB" in next(line for line in lines if line.startswith("pruned   training       3"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_shape_is_measured_in_its_phases(name, dtype, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(MODEL_SIZES, name, tiny_shape(name))
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: False)
    arguments = ["--shape", name, "--batch-sizes", "1", "3", "--rounds", "3", "--warmup", "0"]
    arguments += ["--length", str(length_of(name)), "--ratio", "0.5", "--device", "cpu"]

    benchmark.main([*arguments, "--dtype", dtype, "--out", str(tmp_path / "found.json")])

    found = json.loads((tmp_path / "found.json").read_text())
    assert found["dtype"] == dtype
    pruned, ratio = found["methods"]["pruned"], found["ratios"]["pruned"]
    phases = PHASES[MODEL_SIZES[name].kind]
    for phase in phases:
        assert pruned[phase].keys() == ratio[f"{phase}_speedup"].keys() == {"1", "3"}
        tokens = 1 if phase == "decode" else length_of(name)
        for rows, times in pruned[phase].items():
            assert times["tokens_per_s"] == int(rows) * tokens / times["median_s"]
            assert ratio[f"{phase}_speedup"][rows]["flop_bound"] > 1.1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 2 * (len(phases) + ("decode" in phases))
    if "decode" in phases:
        assert ratio["kv_cache"] == {"1": 0.5, "3": 0.5}
        gain = ratio["decode_speedup"]["3"]
        assert gain["byte_bound"] > 1.1
        assert gain["of_byte_bound"] == gain["median"] / gain["byte_bound"]
        assert pruned["kv_cache_bytes"]["3"] == 3 * pruned["kv_cache_bytes"]["1"]
        assert pruned["decode_weight_bytes"] < found["methods"]["vanilla"]["decode_weight_bytes"]
        assert lines[-1].startswith("pruned   KV cache       3")


@pytest.mark.skipif(not memory.can_measure_memory(torch.device("cpu")), reason="Linux only")
def test_memory_of_a_decoder_is_that_of_its_phases(monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, "opt-1.3b", tiny_shape("opt-1.3b"))
    asked = benchmark.parser().parse_args(["--shape", "opt-1.3b"])
    build_model = partial(benchmark.build_method_model, asked, "pruned", torch.device("cpu"))

    found = memory.measure_peak_memory(build_model, SETTINGS, device=torch.device("cpu"))

    assert {"training_bytes", "prefill_bytes", "decode_bytes"} < found.keys()


def test_images_are_as_long_as_they_are_and_texts_128_tokens():
    assert {MODEL_SIZES[name].length for name in MODEL_SIZES if name != "vit-base"} == {128}
    assert MODEL_SIZES["vit-base"].length == 197


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_a_full_device_is_one_line(error, monkeypatch):
    monkeypatch.setattr(benchmark, "compare", lambda *a, **k: (_ for _ in ()).throw(error))
    with pytest.raises(LightPeftError, match=r"^out of memory: minilm in float32 on cpu, .* 32; u"):
        benchmark.main(["--shape", "minilm", "--device", "cpu"])


def test_another_failure_is_not_called_a_full_device(monkeypatch):
    error = RuntimeError("shapes cannot be multiplied")
    monkeypatch.setattr(benchmark, "compare", lambda *a, **k: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        benchmark.main(["--shape", "minilm", "--device", "cpu"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "huge"], r"no shape 'huge'; shapes: bert-base, .*, vit-base$"),
        (["--ratio", "1.2"], r"--ratio: must be in \[0, 1\), got 1\.2"),
        (["--ratio", "much"], r"--ratio: must be in \[0, 1\), got much"),
        (["--rank", "0"], r"--rank: must be a whole number from 1, got 0"),
        (["--rounds", "2"], r"--rounds must be an integer >= 3, got 2"),
        (["--batch-sizes", "0"], r"--batch-sizes: must be a whole number from 1, got 0"),
        (["--head-granularity", "heads"], r"--head-granularity: invalid choice: 'heads'"),
        (
            ["--shape", "vit-base", "--length", "64"],
            r"--length must be 197 for vit-base, .* got 64",
        ),
        (["--shape", "t5-base", "--length", "2"], r"--length must be an integer >= 4"),
        (["--length", "513"], r"--length must be at most 512 for roberta-large, got 513"),
        (
            ["--shape", "opt-1.3b", "--length", "2048"],
            r"--length must be at most 2047 for opt-1.3b",
        ),
        (["--dtype", "int8"], r"--dtype: invalid choice: 'int8'"),
        (["--ratoi", "0.3"], r"unrecognized arguments: --ratoi"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, message):
    with pytest.raises(LightPeftError, match=message) as raised:
        benchmark.main(arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(ConfigError, match="--device is cuda, but torch sees no CUDA"):
        benchmark.main(["--device", "cuda"])


def test_the_command_ends_with_one_line_and_code_1():
    command = [sys.executable, "-m", "lightpeft.benchmark", "--shape", "huge"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]  # torchao, where it is installed, logs before
    assert said.startswith("error: no shape 'huge'; shapes: bert-base, ")


def test_the_benchmark_needs_neither_dvc_nor_datasets():
    names = set()
    for path in reached("lightpeft/benchmark/run.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])

    needed = {"torch", "transformers", "peft", "safetensors", "pydantic", "ruamel", "lightpeft"}
    assert names - set(sys.stdlib_module_names) <= needed
