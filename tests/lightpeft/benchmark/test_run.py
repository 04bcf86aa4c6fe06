import ast
import subprocess
import sys

import pytest
import torch
from helpers.import_graph import ROOT, find_reached
from helpers.tiny_shapes import KINDS, find_length, make_tiny_shape

from lightpeft.benchmark import run
from lightpeft.benchmark.__main__ import main
from lightpeft.benchmark.model_sizes import MODEL_SIZES, ModelSize
from lightpeft.core.benchmark_result import BenchmarkResult, PeakMemory
from lightpeft.core.errors import ConfigError, LightPeftError
from lightpeft.profiling import settings
from lightpeft.profiling.random_batches import PHASES

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


@pytest.fixture
def tiny_bert(monkeypatch):
    monkeypatch.setitem(MODEL_SIZES, "tiny", ModelSize(kind="encoder", sizes=TINY))
    return ["--shape", "tiny", "--batch-sizes", "1,3", "--length", "8", "--rounds", "3"]


def _peak(inference):
    phases = {"training": 2**22, "inference": inference}
    return PeakMemory(model_bytes=2**20, phase_bytes=phases, batch_size=3, how="test")


def test_the_command_compares_two_models_and_writes_a_table_and_json(
    tiny_bert, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run, "run_in_subprocess", lambda function: _peak(2**21))
    monkeypatch.setattr(run, "can_measure_memory", lambda device: True)
    out = tmp_path / "result.json"

    main([*tiny_bert, "--device", "cpu", "--ratio", "0.5", "--out", str(out)])

    result = BenchmarkResult.load(out)
    assert result.command.startswith("python -m lightpeft.benchmark --shape tiny")
    assert set(result.versions) == {"python", "torch", "transformers", "peft"}
    assert list(result.methods) == ["vanilla", "pruned"]
    assert result.methods["pruned"].speedups["training"][3].flop_bound > 1.5
    written = capsys.readouterr()
    lines = [line.split() for line in written.out.splitlines()]
    assert len(lines) == 2 + 12
    (line,) = [words for words in lines if words[:3] == ["pruned", "training", "3"]]
    assert line[-3:] == ["4", "MB", "1.00"]
    assert "training, batches of 3" in written.err


def test_a_result_that_cannot_be_written_is_shown_all_the_same(
    tiny_bert, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(run, "run_in_subprocess", lambda function: _peak(2**21))
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match=r"file/result\.json"):
        main([*tiny_bert, "--device", "cpu", "--out", str(tmp_path / "file" / "result.json")])
    assert "training" in capsys.readouterr().out


def test_memory_without_a_ratio_is_shown(tiny_bert, monkeypatch, capsys):
    monkeypatch.setattr(run, "run_in_subprocess", lambda function: _peak(2**19))
    monkeypatch.setattr(run, "can_measure_memory", lambda device: True)

    main([*tiny_bert, "--device", "cpu"])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (line,) = [words for words in lines if words[:3] == ["pruned", "inference", "3"]]
    assert line[-2:] == ["MB", "-"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_measured_in_its_phases(name, dtype, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(MODEL_SIZES, name, make_tiny_shape(name))
    monkeypatch.setattr(run, "can_measure_memory", lambda device: False)
    argv = ["--shape", name, "--batch-sizes", "1,3", "--rounds", "3", "--warmup", "0"]
    argv += ["--length", str(find_length(name)), "--ratio", "0.5", "--device", "cpu"]

    main([*argv, "--dtype", dtype, "--out", str(tmp_path / "result.json")])

    result = BenchmarkResult.load(tmp_path / "result.json")
    pruned, phases = result.methods["pruned"], PHASES[MODEL_SIZES[name].kind]
    assert result.dtype == dtype
    assert result.phases == list(phases)
    for phase in phases:
        assert pruned.timings[phase].keys() == pruned.speedups[phase].keys() == {1, 3}
        tokens = 1 if phase == "decode" else find_length(name)
        for batch_size, timing in pruned.timings[phase].items():
            assert timing.tokens_per_s == batch_size * tokens / timing.median_s
            assert pruned.speedups[phase][batch_size].flop_bound > 1.1
    lines = capsys.readouterr().out.splitlines()
    merged = pruned.variants["merged"]
    assert list(merged.timings) == [*phases[1:]]
    assert len(lines) == 2 + 2 * 2 * (len(phases) + len(merged.timings) + ("decode" in phases))
    if "decode" in phases:
        assert pruned.kv_cache_ratios == {1: 0.5, 3: 0.5}
        speedup = pruned.speedups["decode"][3]
        assert speedup.byte_bound > 1.1
        assert speedup.fraction_of_byte_bound == speedup.median / speedup.byte_bound
        assert pruned.kv_cache_bytes[3] == 3 * pruned.kv_cache_bytes[1]
        assert pruned.decode_weight_bytes < result.methods["vanilla"].decode_weight_bytes
        assert lines[-1].split()[:4] == ["pruned", "KV", "cache", "3"]


def test_what_saves_memory_in_training_is_measured_and_named(
    tiny_bert, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run, "can_measure_memory", lambda device: False)
    argv = ["--device", "cpu", "--dtype", "bfloat16", "--masters", "bfloat16"]

    main([*tiny_bert, *argv, "--gradient-checkpointing", "--out", str(tmp_path / "result.json")])

    training = BenchmarkResult.load(tmp_path / "result.json").training
    assert training == {
        "gradient_checkpointing": True,
        "optimizer": "adamw",
        "masters": "bfloat16",
    }
    title = capsys.readouterr().out.splitlines()[0]
    assert title.endswith("a row; training with gradient_checkpointing, masters bfloat16")


def test_default_length_is_128_tokens_or_that_of_the_images():
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
def test_out_of_memory_is_one_line(error, monkeypatch):
    monkeypatch.setattr(run, "compare", lambda *a, **k: (_ for _ in ()).throw(error))
    with pytest.raises(LightPeftError, match=r"^out of memory: minilm in float32 on cpu, .* 32; u"):
        main(["--shape", "minilm", "--device", "cpu"])


def test_another_failure_is_not_called_out_of_memory(monkeypatch):
    error = RuntimeError("shapes cannot be multiplied")
    monkeypatch.setattr(run, "compare", lambda *a, **k: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["--shape", "minilm", "--device", "cpu"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--shape", "huge"], r"no shape 'huge'; shapes: bert-base, .*, vit-base$"),
        (["--ratio", "1.2"], r"--ratio must be in \[0, 1\), got 1\.2"),
        (["--ratio", "much"], r"'--ratio': must be a number, got much"),
        (["--rank", "0"], r"--rank must be an integer >= 1, got 0"),
        (["--rank", "some"], r"'--rank': must be an integer, got some"),
        (["--rounds", "2"], r"--rounds must be an integer >= 3, got 2"),
        (["--batch-sizes", "0"], r"--batch-sizes must be integers >= 1, got 0"),
        (
            ["--batch-sizes", "1,"],
            r"--batch-sizes must be integers >= 1 separated .*, got 1,",
        ),
        (["--batch-sizes", "1", "32"], r"unexpected extra argument.*32.*--batch-sizes 1,32"),
        (
            ["--head-granularity", "heads"],
            r"'--head-granularity': .*'heads' is not one of 'kv_group', 'query_head'",
        ),
        (
            ["--head-unit", "head"],
            r"^--head-unit is now --head-granularity, kv_group or query_head$",
        ),
        (
            ["--shape", "vit-base", "--length", "64"],
            r"--length must be 197 for vit-base, .* got 64",
        ),
        (["--shape", "t5-base", "--length", "2"], r"--length must be an integer >= 4, got 2"),
        (["--length", "513"], r"--length must be at most 512 for roberta-large, got 513"),
        (
            ["--shape", "opt-1.3b", "--length", "2048"],
            r"--length must be at most 2047 for opt-1.3b",
        ),
        (
            ["--dtype", "int8"],
            r"'--dtype': .*'int8' is not one of 'float32', 'bfloat16', 'float16'",
        ),
        (
            ["--masters", "bfloat16"],
            r"^--masters must be float32 with dtype float32, got bfloat16$",
        ),
        (["--ratoi", "0.3"], r"No such option: --ratoi .*--ratio"),
    ],
)
def test_a_wrong_argument_is_one_line(argv, message):
    with pytest.raises(LightPeftError, match=message) as raised:
        main(argv)
    assert "\n" not in str(raised.value)


def test_an_optimizer_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^--optimizer adamw_8bit needs bitsandbytes, which is"):
        main(["--shape", "minilm", "--optimizer", "adamw_8bit"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(ConfigError, match="--device is cuda, but torch sees no CUDA"):
        main(["--device", "cuda"])


def _run(*argv):
    command = [sys.executable, "-m", "lightpeft.benchmark", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_ends_with_one_line_and_code_1():
    done = _run("--shape", "huge")

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]  # torchao logs before, where it is installed
    assert last.startswith("error: no shape 'huge'; shapes: bert-base, ")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback():
    done = _run("--shape", "huge", "--debug")

    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_shows_the_options(capsys):
    main(["--help"])

    assert "--batch-sizes INTEGER,..." in capsys.readouterr().out


def test_the_benchmark_needs_neither_dvc_nor_datasets():
    names = set()
    for path in find_reached("lightpeft/benchmark/__main__.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])

    needed = {"torch", "transformers", "peft", "accelerate", "safetensors", "pydantic"}
    needed |= {"psutil", "typer", "lightpeft"}
    assert names - set(sys.stdlib_module_names) <= needed
