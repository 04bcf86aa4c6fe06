"""A model and a data set of the hub: revisions, cache, and one line for whatever goes wrong."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from helpers.data_cards import make_data_card
from helpers.hub_server import HubServer, Repository, use_hub
from helpers.import_graph import ROOT
from helpers.run_stages import write_small_params
from helpers.stage_workspace import make_tokenizer
from helpers.tiny_models import make_tiny_model
from huggingface_hub import constants

from pipeline.common import hub_access
from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError, DataError, PipelineError
from pipeline.common.params import ModelSection
from pipeline.common.paths import Paths
from pipeline.data.hub import load_hub_id
from pipeline.tasks.model_files import describe_origin
from pipeline.tasks.model_loading import load_config, load_model, load_processor
from pipeline.tasks.registry import make_task

NAMES = {"model": "me/tiny", "dataset": "me/rows"}
SETTINGS = {"model": "model.name me/tiny", "dataset": "data.task me/rows"}
KINDS = pytest.mark.parametrize("kind", NAMES)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A pretrained body with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model(pad_token_id=0).base_model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(count: int) -> dict[str, bytes]:
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
        data = server.add("dataset", "me/rows", rows(40))
        for repository in (model, data):
            repository.refs["v1"] = repository.refs["main"]
        model.add_commit(model_files)
        data.add_commit(rows(60))
        yield server


def commits(server: HubServer, kind: str) -> tuple[str, str]:
    """The commits of `v1` and of `main`."""
    first, second = server.repositories[kind, NAMES[kind]].commits
    return first, second


def read(kind: str, revision: str | None = None, name: str = "") -> tuple[str | None, float]:
    """Read all of a model or a data set; return the commit, and what differs between commits."""
    name = name or NAMES[kind]
    if kind == "dataset":
        source = load_hub_id(name, label=None, revision=revision)
        assert source.hub_dataset is not None
        return source.hub_dataset.revision, len(list(source.rows["train"]()))
    section = ModelSection(name=name, dtype="float32", revision=revision or "auto")
    config = load_config(section)
    origin = describe_origin(section)
    task = make_task(make_data_card(model=origin.model_dump()))
    assert load_processor(section, task).pad_token == "[PAD]"
    assert load_model(section, task, 0)[0].config.hidden_dropout_prob == config.hidden_dropout_prob
    return origin.revision, config.hidden_dropout_prob


def refusal(kind: str, revision: str | None = None, name: str = "") -> str:
    """Return the one line in which reading ends."""
    with pytest.raises(PipelineError) as caught:
        read(kind, revision, name)
    assert type(caught.value) is (ConfigError if kind == "model" else DataError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CONTENT = {"model": (0.5, 0.1), "dataset": (40, 60)}  # of `v1` and of `main`


@KINDS
def test_a_revision_is_a_branch_a_tag_or_a_commit(kind, hub):
    first, second = commits(hub, kind)
    old, new = CONTENT[kind]

    assert read(kind) == (second, new)
    assert read(kind, "v1") == (first, old)
    assert read(kind, first) == (first, old)
    assert read(kind, "main") == (second, new)


def test_later_stages_read_the_commit_of_the_card(hub):
    first, _ = commits(hub, "model")
    prepared = make_task(make_data_card(model={"name": "me/tiny", "revision": first}))
    section = ModelSection(name="me/tiny", dtype="float32", revision="auto")

    assert load_model(section, prepared, 0)[0].config.hidden_dropout_prob == 0.5


@KINDS
@pytest.mark.parametrize("revision", ["v2", "a" * 40])
def test_an_unknown_revision_is_named(kind, revision, hub):
    key = "model" if kind == "model" else "data"

    assert refusal(kind, revision) == (
        f"{key}.revision {revision} is no branch, tag or commit of {NAMES[kind]}"
    )
    read(kind)
    assert f"{key}.revision {revision} is no branch, tag or commit" in refusal(kind, revision)


@KINDS
def test_the_cache_does_without_the_hub(kind, hub, capsys):
    first, second = commits(hub, kind)
    read(kind)
    hub.stop()

    assert read(kind) == read(kind, second) == (second, CONTENT[kind][1])
    line = f"[hub] {SETTINGS[kind]}: the hub can't be reached ([Errno 111] Connection refused)"
    assert f"{line}; reading its cache" in capsys.readouterr().out
    # Never another revision than the one that was asked for.
    for revision in ("v1", "v2", first):
        assert "the hub can't be reached" in refusal(kind, revision)
    assert constants.HF_HUB_OFFLINE is False


def test_the_newest_rows_of_the_cache_do_not_pass_for_others(hub):
    first, second = commits(hub, "dataset")
    read("dataset")
    read("dataset", "v1")
    hub.stop()

    assert read("dataset", "v1") == (first, 40)
    assert refusal("dataset").startswith("data.task me/rows: the hub can't be reached ")
    assert refusal("dataset").endswith(
        f"the newest commit in the hub's cache is {first}, not {second}; connect to the hub, or "
        "set data.revision to the commit in the cache"
    )


@KINDS
def test_without_network_and_cache_it_is_one_line_at_once(kind, hub):
    hub.stop()
    start = time.monotonic()

    assert refusal(kind, "v1").startswith(
        f"{SETTINGS[kind]} (revision v1) is not in the hub's cache, and the hub can't be reached "
        "([Errno 111] Connection refused); use "
    )
    assert refusal(kind).endswith("fill the cache on a connected machine and set HF_HOME to it")
    assert time.monotonic() - start < 5


@KINDS
def test_a_hub_that_stays_silent_is_given_up(kind, hub, monkeypatch):
    monkeypatch.setattr(hub_access, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")

        assert "the hub can't be reached (timed out)" in refusal(kind)


@KINDS
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_fails_is_asked_once(kind, status, hub):
    hub.errors = {"": status}
    line = refusal(kind)

    assert f"not in the hub's cache, and the hub fails (error {status}); use " in line
    assert len(hub.requests) == 1
    hub.errors = {}
    expected = read(kind)
    hub.errors = {"": status}
    assert read(kind) == expected


def test_what_is_no_hub_is_said(hub, monkeypatch):
    hub.errors = {"": 200}  # as a login page does

    assert f"{hub.url} doesn't answer as the hub does" in refusal("model")


@KINDS
def test_a_broken_download_goes_on_where_it_broke(kind, hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1)
    file = "model.safetensors" if kind == "model" else "data/train-00000.parquet"
    hub.breaks = {file: 2}
    size = len(hub.repositories[kind, NAMES[kind]].commits[commits(hub, kind)[1]][file])

    assert read(kind)[1] == CONTENT[kind][1]
    asked = [part for method, path, part in hub.requests if file in path and method == "GET"]
    first, second = size // 2, size // 2 + (size - size // 2) // 2
    assert asked == [None, f"bytes={first}-", f"bytes={second}-"]


@KINDS
def test_a_connection_that_keeps_breaking_is_one_line(kind, hub):
    hub.breaks = {"model.safetensors": 99, "data/train-00000.parquet": 99}
    line = refusal(kind)

    assert line.startswith(f"{SETTINGS[kind]} can't be downloaded: the hub can't be reached (peer ")
    assert line.endswith("; run it again")
    hub.breaks = {}
    assert read(kind)[1] == CONTENT[kind][1]


def test_no_file_of_a_model_is_left_out_because_the_hub_fails(hub):
    hub.errors = {"tokenizer_config.json": 500}

    assert refusal("model") == (
        "model.name me/tiny can't be downloaded: the hub fails (error 500); run it again"
    )


@KINDS
def test_an_unknown_name_gets_a_hint(kind, hub):
    name = f"{NAMES[kind]}x"
    expected = f"{SETTINGS[kind]}x is not on the hub (did you mean {NAMES[kind]}?), or "

    assert refusal(kind, name=name) == (
        f"{expected}is private: log in with `hf auth login` or set HF_TOKEN"
    )
    assert refusal(kind, name="nobody/knows").partition(" or ")[0].endswith("is not on the hub,")


@KINDS
def test_a_private_repository_needs_the_token_of_a_reader(kind, hub, monkeypatch):
    hub.repositories[kind, NAMES[kind]].private = True

    assert refusal(kind) == (
        f"{SETTINGS[kind]} is not on the hub, or is private: "
        "log in with `hf auth login` or set HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert refusal(kind) == f"{SETTINGS[kind]} is not on the hub, or your token may not read it"
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert read(kind)[1] == CONTENT[kind][1]


@KINDS
def test_a_wrong_token_is_said(kind, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    wrong = "the hub refuses your token; log in with `hf auth login` or set HF_TOKEN anew"

    assert refusal(kind) == f"{SETTINGS[kind]} can't be read: {wrong}"
    hub.errors = {"": 403}
    forbidden = f"{SETTINGS[kind]} can't be read (error 403): "
    assert refusal(kind) == f"{forbidden}your token lacks the permission to read it"
    monkeypatch.delenv("HF_TOKEN")
    assert refusal(kind) == f"{forbidden}log in with `hf auth login` or set HF_TOKEN"


@KINDS
def test_a_gated_repository_says_where_to_request_access(kind, hub, monkeypatch):
    hub.repositories[kind, NAMES[kind]].gated = True
    page = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{NAMES[kind]}"
    expected = (
        f"{SETTINGS[kind]} is gated: request access at {page}, and log in with `hf auth login` "
        "or set HF_TOKEN"
    )

    assert refusal(kind) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert refusal(kind) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert read(kind)[1] == CONTENT[kind][1]


@KINDS
def test_a_commit_in_the_cache_needs_no_access(kind, hub, monkeypatch):
    commit, _ = commits(hub, kind)
    expected = read(kind, commit)
    hub.repositories[kind, NAMES[kind]] = Repository()  # emptied by its owner
    assert read(kind, commit) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert read(kind, commit) == expected


def test_what_is_no_name_is_said(hub):
    assert refusal("model", name="a--b") == "model.name a--b is no name on the hub"
    assert refusal("dataset", name="me/a b") == "data.task me/a b is no name on the hub"


def test_newer_commits_are_told_if_the_hub_answers(hub):
    model, data = commits(hub, "model"), commits(hub, "dataset")
    card = make_data_card(
        model={"name": "me/tiny", "revision": model[0]},
        hub_dataset={"id": "me/rows", "requested_revision": "main", "revision": data[1]},
    )

    assert card.describe_newer_commits() == [
        f"model me/tiny: this run uses commit {model[0][:12]}, the hub has {model[1][:12]} now; "
        "to read it: dvc repro --force prepare"
    ]
    hub.errors = {"": 500}
    assert card.describe_newer_commits() == []
    hub.stop()
    assert card.describe_newer_commits() == []


def test_prepare_records_the_commits(hub, tmp_path):
    """In a process of its own, which finds the hub by its environment."""
    write_small_params(
        tmp_path, model={"name": "me/tiny"}, data={"task": "me/rows", "max_bad_rows": 0.0}
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "pipeline", "prepare"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    card = DataCard.read(Paths(tmp_path).prepared)
    assert card.model.revision == commits(hub, "model")[1]
    assert card.hub_dataset.revision == commits(hub, "dataset")[1]
