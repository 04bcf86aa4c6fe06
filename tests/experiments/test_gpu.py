"""The GPU experiment on a tiny encoder and a tiny decoder, on the CPU."""

import json
import multiprocessing
import os
import time
from functools import partial

import pytest
import torch
from helpers.gpu_jobs import CASES, run_tiny_job
from helpers.tiny_shapes import make_tiny_shape

from experiments import gpu, gpu_measure
from experiments.gpu_groups import list_jobs
from experiments.gpu_models import PAPER, build_models, copy_with_shared_weights
from lightpeft.acceleration.compile import list_layers
from lightpeft.benchmark.model_sizes import MODEL_SIZES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    for name in CASES:
        monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))
    monkeypatch.setattr(gpu, "CASES", CASES)


def find_job(case, *phases):
    """The eager groups of these phases, with the paper's ratios."""
    groups = [group for job in list_jobs(CASES) for group in job]
    return tuple(
        group
        for group in groups
        if (group.case.shape, group.ratios, group.scope) == (case, "paper", "off")
        and group.phase in phases
    )


def measure(job):
    """Return the rows of a job by group and method."""
    rows = {}

    def send(key, sent):
        for row in sent:
            rows.setdefault(key, {}).setdefault(row["method"], {}).update(row)

    gpu_measure.measure_job(job, CPU, 3, send)
    return rows


def test_training_compares_stock_and_light_eager_and_accelerated():
    rows = measure(find_job("minilm", "training"))["minilm, paper, training, eager"]

    names = ["LoRA", "LoRA q, v", "light", "LoRA + accelerate", "light + accelerate"]
    assert [*rows] == names
    stock, query_value, light, accelerated, _ = rows.values()
    assert {row["baseline"] for row in rows.values()} == {"LoRA"}
    assert (stock["speedup"], stock["flop_bound"], accelerated["flop_bound"]) == (1, 1, 1)
    assert 1 < query_value["flop_bound"] < light["flop_bound"]
    assert light["kernels"] < stock["kernels"]
    assert all(row["ms"] > 0 and row["host_ms"] > 0 for row in rows.values())


def test_merged_inference_is_compared_with_merged_inference():
    rows = measure(find_job("llama-3-8b", "prefill", "decode"))

    for phase in ("prefill", "decode"):
        merged = rows[f"llama-3-8b, paper, {phase}, merged"]
        adapted = rows[f"llama-3-8b, paper, {phase}, eager"]
        assert [*merged] == [*adapted] == ["LoRA", "light"]
        assert merged["LoRA"]["kernels"] < adapted["LoRA"]["kernels"]
        assert merged["light"]["flop_bound"] > 1.2


def test_a_group_that_fails_leaves_a_row_and_the_others_go_on(monkeypatch):
    build = gpu_measure.make_step

    def fail(phase, model, **options):
        if phase == "training":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return build(phase, model, **options)

    monkeypatch.setattr(gpu_measure, "make_step", fail)
    rows = measure(find_job("minilm", "training", "inference"))

    failed = rows.pop("minilm, paper, training, eager")
    assert failed == {"-": {"method": "-", "error": "OutOfMemoryError: CUDA out of memory."}}
    assert [len(methods) for methods in rows.values()] == [2, 2]


def test_kernels_are_counted_when_all_is_timed(monkeypatch):
    order = []
    for name in ("time_steps", "count_kernels"):
        original = getattr(gpu_measure, name)

        def record(*args, original=original, name=name):
            order.append(name)
            return original(*args)

        monkeypatch.setattr(gpu_measure, name, record)
    measure(find_job("minilm", "inference"))
    assert order == ["time_steps"] * 2 + ["count_kernels"] * 4


# What torch.compile imports of torch warns of itself.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_groups_say_what_was_compiled(monkeypatch):
    compiling = partial(gpu_measure.compiling, backend="eager")
    monkeypatch.setattr(gpu_measure, "compiling", compiling)
    torch.compiler.reset()
    key = "minilm, paper, inference, merged, compiled"
    job = next(job for job in list_jobs(CASES) if job[0].key == key)

    rows = measure(job)[key]

    assert [*rows] == ["LoRA", "light"]
    for row in rows.values():
        assert row["compilation"].startswith("compiled the whole model in ")
        assert row["compilation"].endswith("1 graphs, 0 recompilations, no graph breaks")
        assert row["kernels"] > 0


@pytest.mark.parametrize("case", CASES)
def test_layers_are_pruned_alike_so_that_few_graphs_are_compiled(case):
    models = build_models(CASES[case], PAPER, CPU, with_query_value=False)
    shapes = {
        tuple((name, weight.shape) for name, weight in layer.named_parameters())
        for layer in list_layers(models["light"])
    }
    assert len(shapes) <= 2  # with and without PEFT modules


def test_each_group_is_in_one_job_and_compiled_ones_are_alone():
    jobs = [*list_jobs(CASES)]
    keys = [group.key for job in jobs for group in job]
    assert len(set(keys)) == len(keys) == 2 * (3 + 2) + 2 * (5 + 2) + 2
    assert all(len(job) == 1 for job in jobs if job[0].scope != "off")


def run_crashing_job(job, device, rounds, connection):
    """Send rows of each group; crash in compiled training, and wait in compiled inference."""
    connection.send(("device", "NVIDIA Test"))
    for group in job:
        if group.form == "compiled":
            os._exit(3)
        if group.scope != "off":
            time.sleep(600)
        numbers = {"ms": 1.0, "speedup": 2.0, "flop_bound": 2.5, "share_of_bound": 0.8}
        row = {"method": "light", "tflops": 3.0, "host_ms": 0.5} | numbers
        connection.send((group.key, [row]))
        connection.send((group.key, [{"method": "light", "kernels": 4000}]))
    connection.send(("end", None))


# Forked processes start at once, and run no torch here.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_run_outlives_its_processes_and_goes_on_where_it_was_cut_off(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(gpu, "get_context", lambda method: multiprocessing.get_context("fork"))
    monkeypatch.setattr(gpu, "run_job", run_crashing_job)
    monkeypatch.setattr(gpu, "SECONDS_PER_GROUP", 2)
    arguments = ["--cases", "minilm", "--folder", str(tmp_path)]
    gpu.main([*arguments, "--minutes", "0"])
    assert "10 groups are left; run it again" in capsys.readouterr().err

    gpu.main(arguments)
    table = capsys.readouterr().out
    path = tmp_path / "nvidia-test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 10
    assert rows[0]["command"].startswith("python -m experiments.gpu --cases minilm")
    line = "| minilm | 2 x 8 | default | training | light | 1.0 | 2.00x | 2.50x | 80 % | 3.0 |"
    assert f"{line} 4,000 | 0.5 |  |" in table
    assert "| training, compiled | - | the process ended with exit code 3 |" in table
    assert "| inference, merged, compiled | - | stopped after 2 s |" in table

    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows[1:]))
    gpu.main(arguments)
    after = [json.loads(line) for line in path.read_text().splitlines()]
    assert after[:9] == rows[1:]
    assert after[9]["group"] == rows[0]["group"]


def test_tiny_models_run_in_a_process_of_their_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "run_job", run_tiny_job)
    jobs = [find_job("minilm", "inference")]
    monkeypatch.setattr(gpu, "list_jobs", lambda cases: jobs)
    gpu.main(["--device", "cpu", "--cases", "minilm", "--rounds", "3", "--folder", str(tmp_path)])
    assert "| paper | inference, merged | light |" in capsys.readouterr().out


def test_copies_share_frozen_weights_and_train_their_own():
    models = build_models(CASES["minilm"], PAPER, CPU, with_query_value=True)
    copied = copy_with_shared_weights(models["light"])
    for old, new in zip(models["light"].parameters(), copied.parameters(), strict=True):
        assert (old is new) == (not old.requires_grad)
    embeddings = [
        models[name].get_base_model().bert.embeddings.word_embeddings.weight
        for name in ("LoRA", "LoRA q, v")
    ]
    assert embeddings[0] is embeddings[1]
