"""A model and a data set of the hub: revisions, cache, and one line for whatever goes wrong."""

import os
import socket
import subprocess
import sys
import time

import pytest
from helpers.data_cards import make_data_card
from helpers.hub_inputs import (
    CONTENT,
    KINDS,
    NAMES,
    SETTINGS,
    list_commits,
    read_input,
    read_refusal,
)
from helpers.import_graph import ROOT
from helpers.run_stages import write_small_params
from huggingface_hub import constants

from pipeline.common import hub_access
from pipeline.common.data_card import DataCard
from pipeline.common.params import ModelSection
from pipeline.common.paths import Paths
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import make_task


@KINDS
def test_a_revision_is_a_branch_a_tag_or_a_commit(kind, hub):
    first, second = list_commits(hub, kind)
    old, new = CONTENT[kind]

    assert read_input(kind) == (second, new)
    assert read_input(kind, "v1") == (first, old)
    assert read_input(kind, first) == (first, old)
    assert read_input(kind, "main") == (second, new)


def test_later_stages_read_the_commit_of_the_card(hub):
    first, _ = list_commits(hub, "model")
    prepared = make_task(make_data_card(model={"name": "me/tiny", "revision": first}))
    section = ModelSection(name="me/tiny", dtype="float32", revision="auto")

    assert load_model(section, prepared, 0)[0].config.hidden_dropout_prob == 0.5


@KINDS
@pytest.mark.parametrize("revision", ["v2", "a" * 40])
def test_an_unknown_revision_is_named(kind, revision, hub):
    key = "model" if kind == "model" else "data"

    assert read_refusal(kind, revision) == (
        f"{key}.revision {revision} is no branch, tag or commit of {NAMES[kind]}"
    )
    read_input(kind)
    assert f"{key}.revision {revision} is no branch, tag or commit" in read_refusal(kind, revision)


@KINDS
def test_the_cache_does_without_the_hub(kind, hub, capsys):
    first, second = list_commits(hub, kind)
    read_input(kind)
    hub.stop()

    assert read_input(kind) == read_input(kind, second) == (second, CONTENT[kind][1])
    line = f"[hub] {SETTINGS[kind]}: the hub can't be reached ([Errno 111] Connection refused)"
    assert f"{line}; reading its cache" in capsys.readouterr().out
    # Never another revision than the one that was asked for.
    for revision in ("v1", "v2", first):
        assert "the hub can't be reached" in read_refusal(kind, revision)
    assert constants.HF_HUB_OFFLINE is False


def test_the_newest_rows_of_the_cache_do_not_pass_for_others(hub):
    first, second = list_commits(hub, "dataset")
    read_input("dataset")
    read_input("dataset", "v1")
    hub.stop()

    assert read_input("dataset", "v1") == (first, 40)
    assert read_refusal("dataset").startswith("data.task me/rows: the hub can't be reached ")
    assert read_refusal("dataset").endswith(
        f"the newest commit in the hub's cache is {first}, not {second}; connect to the hub, or "
        "set data.revision to the commit in the cache"
    )


@KINDS
def test_without_network_and_cache_it_is_one_line_at_once(kind, hub):
    hub.stop()
    start = time.monotonic()

    assert read_refusal(kind, "v1").startswith(
        f"{SETTINGS[kind]} (revision v1) is not in the hub's cache, and the hub can't be reached "
        "([Errno 111] Connection refused); use "
    )
    assert read_refusal(kind).endswith(
        "fill the cache on a connected machine and set HF_HOME to it"
    )
    assert time.monotonic() - start < 5


@KINDS
def test_a_hub_that_stays_silent_is_given_up(kind, hub, monkeypatch):
    monkeypatch.setattr(hub_access, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")

        assert "the hub can't be reached (timed out)" in read_refusal(kind)


@KINDS
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_fails_is_asked_once(kind, status, hub):
    hub.errors = {"": status}
    line = read_refusal(kind)

    assert f"not in the hub's cache, and the hub fails (error {status}); use " in line
    assert len(hub.requests) == 1
    hub.errors = {}
    expected = read_input(kind)
    hub.errors = {"": status}
    assert read_input(kind) == expected


def test_what_is_no_hub_is_said(hub, monkeypatch):
    hub.errors = {"": 200}  # as a login page does

    assert f"{hub.url} doesn't answer as the hub does" in read_refusal("model")


@KINDS
def test_a_broken_download_goes_on_where_it_broke(kind, hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1)
    file = "model.safetensors" if kind == "model" else "data/train-00000.parquet"
    hub.breaks = {file: 2}
    size = len(hub.repositories[kind, NAMES[kind]].commits[list_commits(hub, kind)[1]][file])

    assert read_input(kind)[1] == CONTENT[kind][1]
    asked = [part for method, path, part in hub.requests if file in path and method == "GET"]
    first, second = size // 2, size // 2 + (size - size // 2) // 2
    assert asked == [None, f"bytes={first}-", f"bytes={second}-"]


@KINDS
def test_a_connection_that_keeps_breaking_is_one_line(kind, hub):
    hub.breaks = {"model.safetensors": 99, "data/train-00000.parquet": 99}
    line = read_refusal(kind)

    assert line.startswith(f"{SETTINGS[kind]} can't be downloaded: the hub can't be reached (peer ")
    assert line.endswith("; run it again")
    hub.breaks = {}
    assert read_input(kind)[1] == CONTENT[kind][1]


def test_no_file_of_a_model_is_left_out_because_the_hub_fails(hub):
    hub.errors = {"tokenizer_config.json": 500}

    assert read_refusal("model") == (
        "model.name me/tiny can't be downloaded: the hub fails (error 500); run it again"
    )


def test_newer_commits_are_told_if_the_hub_answers(hub):
    model, data = list_commits(hub, "model"), list_commits(hub, "dataset")
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
    assert card.model.revision == list_commits(hub, "model")[1]
    assert card.hub_dataset.revision == list_commits(hub, "dataset")[1]
