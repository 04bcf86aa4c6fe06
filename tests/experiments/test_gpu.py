"""The GPU experiment on a tiny encoder and a tiny decoder, on the CPU."""

import json

import pytest
import torch
from helpers.tiny_shapes import make_tiny_shape

from experiments import gpu
from experiments.gpu_models import Case, build_models, copy_with_shared_weights
from lightpeft.benchmark.model_sizes import MODEL_SIZES

CPU = torch.device("cpu")
CASES = {name: Case(name, 2, 8) for name in ("minilm", "llama-3-8b")}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    for name in CASES:
        monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))
    monkeypatch.setattr(gpu, "CASES", CASES)
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)


def find_group(case: str, phase: str, form: str) -> gpu.Group:
    """The group with the paper's ratios."""
    groups = {group.key: group for group in gpu.list_groups(CASES)}
    return groups[f"{case}, paper, {phase}, {form}"]


def test_training_compares_stock_and_light_eager_and_accelerated():
    rows = gpu.measure_group(find_group("minilm", "training", "eager"), CPU, 3)

    names = ["LoRA", "LoRA q, v", "light", "LoRA + accelerate", "light + accelerate"]
    assert [row["method"] for row in rows] == names
    stock, query_value, light, accelerated, _ = rows
    assert {row["baseline"] for row in rows} == {"LoRA"}
    assert (stock["speedup"], stock["flop_bound"], accelerated["flop_bound"]) == (1, 1, 1)
    assert 1 < query_value["flop_bound"] < light["flop_bound"]
    assert light["kernels"] < stock["kernels"]
    assert all(row["ms"] > 0 and row["host_ms"] > 0 for row in rows)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_merged_inference_is_compared_with_merged_inference(phase):
    merged, light = gpu.measure_group(find_group("llama-3-8b", phase, "merged"), CPU, 3)
    adapted, _ = gpu.measure_group(find_group("llama-3-8b", phase, "eager"), CPU, 3)

    assert (merged["method"], light["method"]) == ("LoRA", "light")
    assert merged["kernels"] < adapted["kernels"]
    assert light["flop_bound"] > 1.2


def test_a_run_writes_each_group_and_goes_on_where_it_was_cut_off(monkeypatch, capsys):
    measured = []

    def measure(group, device, rounds):
        measured.append(group.key)
        if group.form == "compiled":
            raise gpu.LightPeftError("torch.compile failed: no compiler")
        row = {"ms": 1.0, "speedup": 2.0, "flop_bound": 2.5, "share_of_bound": 0.8}
        return [{"method": "light", "tflops": 3.0, "kernels": 4000, "host_ms": 0.5, **row}]

    monkeypatch.setattr(gpu, "measure_group", measure)
    gpu.main(["--device", "cpu", "--cases", "minilm", "--minutes", "0"])
    assert measured == []
    assert "10 groups are left" in capsys.readouterr().err

    gpu.main(["--device", "cpu", "--cases", "minilm"])
    table = capsys.readouterr().out
    path = gpu.locate_rows(CPU)
    lines = path.read_text().splitlines()
    assert len(measured) == len(lines) == 10
    assert "| minilm | 2 x 8 | default | training | light | 1.0 | 2.00x | 2.50x | 80 % |" in table
    assert "| training, compiled | - | torch.compile failed: no compiler |" in table
    assert json.loads(lines[0])["command"].startswith("python -m experiments.gpu --device cpu")

    path.write_text("\n".join([*lines[:9], lines[9][:20]]))  # killed while it wrote
    gpu.main(["--device", "cpu", "--cases", "minilm"])
    assert measured[10:] == measured[9:10]
    assert gpu.read_rows(path) == [json.loads(line) for line in lines]


def test_copies_share_frozen_weights_and_train_their_own():
    models = build_models(CASES["minilm"], gpu.PAPER, CPU, with_query_value=True)
    copied = copy_with_shared_weights(models["light"])
    for old, new in zip(models["light"].parameters(), copied.parameters(), strict=True):
        assert (old is new) == (not old.requires_grad)
    embeddings = [
        models[name].get_base_model().bert.embeddings.word_embeddings.weight
        for name in ("LoRA", "LoRA q, v")
    ]
    assert embeddings[0] is embeddings[1]
