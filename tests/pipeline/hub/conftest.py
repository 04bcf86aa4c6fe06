"""A hub with a model and a data set."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from helpers.hub_server import HubServer, use_hub
from helpers.stage_workspace import make_tokenizer
from helpers.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A pretrained body with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model(pad_token_id=0).base_model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_rows(count: int) -> dict[str, bytes]:
    """A data set of so many rows."""
    written = io.BytesIO()
    table = {"text": [f"w1 w{i}" for i in range(count)], "label": ["yes", "no"] * (count // 2)}
    pd.DataFrame(table).to_parquet(written)
    return {"README.md": b"---\n{}\n---\n", "data/train-00000.parquet": written.getvalue()}


@pytest.fixture
def hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_files: dict[str, bytes]
) -> Iterator[HubServer]:
    """A hub with two commits of a model and of a data set; `v1` is the first, `main` the second."""
    old = json.loads(model_files["config.json"]) | {"hidden_dropout_prob": 0.5}
    with HubServer() as server:
        use_hub(monkeypatch, server.url, tmp_path / "cache")
        model = server.add(
            "model", "me/tiny", model_files | {"config.json": json.dumps(old).encode()}
        )
        data = server.add("dataset", "me/rows", write_rows(40))
        for repository in (model, data):
            repository.refs["v1"] = repository.refs["main"]
        model.add_commit(model_files)
        data.add_commit(write_rows(60))
        yield server
