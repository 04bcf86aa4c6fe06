"""The library and the hub: what is read from it, and one line where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.hub_server import HubServer, use_hub
from helpers.tiny_models import compute_tiny_logits, make_pruned_model, make_tiny_model
from huggingface_hub import snapshot_download
from peft import PeftModel

import lightpeft
from lightpeft import support
from lightpeft.core.errors import CheckpointError, ModelError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with a model; the clients have an empty cache."""
    with HubServer() as server:
        use_hub(monkeypatch, server.url, tmp_path / "cache")
        make_tiny_model().base_model.save_pretrained(tmp_path / "base")
        server.add("model", "me/tiny", files(tmp_path / "base"))
        yield server


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_of_the_hub_is_described_without_its_weights(hub: HubServer):
    text = support.describe_support(support.build_empty_model("me/tiny"))

    assert "3 x encoder.layer.*.attention: 4 heads of 8 in 4 KV groups" in text
    assert {Path(path).name for _, path, _ in hub.requests if "resolve" in path} == {"config.json"}


def refusal(name: str) -> str:
    """Return the line in which describing a model ends."""
    with pytest.raises(ModelError) as caught:
        support.build_empty_model(name)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) <= 300
    return line


def test_what_the_hub_refuses_is_one_line_with_its_answer(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
):
    hub.add("model", "me/gated", {"config.json": b"{}"}).gated = True

    assert "401 Unauthorized" in refusal("me/absent")
    assert "gated repo" in refusal("me/gated")
    for status, answer in ((401, "401 Unauthorized"), (404, "404 Not Found")):
        hub.errors["config.json"] = status
        assert answer in refusal("me/tiny")
    hub.errors.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "401 Unauthorized" in refusal("me/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "404 Not Found" in refusal("me/absent")


def test_a_download_that_breaks_is_resumed_or_one_line(hub: HubServer):
    hub.breaks["config.json"] = 99
    assert "peer closed connection" in refusal("me/tiny")
    hub.breaks["config.json"] = 1

    assert support.build_empty_model("me/tiny").config.hidden_size == 32


def test_a_hub_that_can_not_be_reached_is_one_line(hub: HubServer):
    hub.stop()

    assert "Connection refused" in refusal("me/tiny")


def test_saved_adapters_load_from_what_the_hub_has_of_them(hub: HubServer, tmp_path: Path):
    pruned = make_pruned_model()
    lightpeft.save(pruned, tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full")
    hub.add("model", "me/pruned", files(tmp_path / "out") | {"README.md": b"# Card"})
    hub.add("model", "me/full", files(tmp_path / "full"))
    count = len(hub.requests)
    with pytest.raises(CheckpointError, match=r"^me/pruned is not a folder .*snapshot_download"):
        lightpeft.load(make_tiny_model(), "me/pruned")
    assert len(hub.requests) == count

    loaded = lightpeft.load(make_tiny_model(), snapshot_download("me/pruned"))
    stock = PeftModel.from_pretrained(make_tiny_model(), "me/full")
    local = PeftModel.from_pretrained(make_tiny_model(), tmp_path / "full")

    assert torch.equal(compute_tiny_logits(loaded), compute_tiny_logits(pruned.eval()))
    assert torch.equal(compute_tiny_logits(stock), compute_tiny_logits(local))


def test_a_misspelt_model_type_is_told_without_asking_the_hub(hub: HubServer):
    assert refusal("qwen3_nxt") == (
        "qwen3_nxt can't be built: did you mean the model type qwen3_next? "
        "A model of the Hub has an owner: OWNER/qwen3_nxt"
    )
    assert not hub.requests
    assert "404 Not Found" in refusal("xlm-roberta-base")
