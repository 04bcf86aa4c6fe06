"""python -m lightpeft.support says what can be pruned, or in one line why nothing can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from helpers.architecture_matrix import build
from helpers.import_graph import ROOT

from lightpeft import support
from lightpeft.core.errors import ModelError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightpeft.support", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def saved(name: str, folder: Path) -> str:
    model = build(name)
    config = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    return str(folder)


def test_command_describes_a_folder_without_weights(tmp_path: Path):
    done = run(saved("qwen3_next", tmp_path))

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "model          Qwen3NextForCausalLM (model type qwen3_next)",
        "known by       structure; a small model proved that pruned equals masked",
        "attention      1 x model.layers.*.linear_attn: all heads are kept, "
        "since they can't be pruned exactly",
        "feed-forward   2 x model.layers.*.mlp.shared_expert: 40 neurons",
        "attention      1 x model.layers.*.self_attn: 8 heads of 8 in 4 KV groups",
        "experts        in 2 layers; they keep all neurons",
        "layers         model.layers: none of 2 can be pruned whole, "
        "since no two of its layers have weights of the same shapes",
    ]


def test_registered_type_is_described_with_its_rule():
    text = support.describe_support(build("t5"))

    assert "known by       registered names" in text
    assert "2 x decoder.block.*.layer.*.SelfAttention: 4 heads of 6 in 4 KV groups" in text
    assert "rule bias_table" in text


def test_vision_tower_is_said_to_be_left_as_it_is():
    text = support.describe_support(support.build_empty_model("qwen3_vl"))

    assert "left as it is  model.visual.blocks" in text
    assert "32 x model.language_model.layers.*.mlp: 22,016 neurons" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "model type 'resnet' can't be pruned: ResNetForImageClassification has no"),
        ("no-such-model", "no-such-model can't be built: "),
        ("qwen3_nxt", "qwen3_nxt can't be built: did you mean the model type qwen3_next? "),
        ("", "'' can't be built: "),
        ("./no-such-folder", "./no-such-folder can't be built: there is no such folder"),
        ("informer", "informer can't be built: model type informer is no text, image or audio"),
    ],
)
def test_what_cannot_be_pruned_is_one_line(name: str, message: str):
    with pytest.raises(ModelError) as caught:
        support.describe_support(support.build_empty_model(name))

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_command_ends_with_one_line_and_without_a_traceback(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")

    done = run(str(tmp_path))

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--colour"]])
def test_wrong_arguments_are_one_line(arguments: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transformers.logging, "set_verbosity_error", lambda: None)
    with pytest.raises(ModelError, match=r"^[^\n]+$"):
        support.main(arguments)


def test_settings_replace_those_of_the_default_config():
    model = support.build_empty_model("olmo2", num_hidden_layers=1)

    assert isinstance(model, transformers.Olmo2ForCausalLM)
    assert len(model.model.layers) == 1
