"""What tests read from the hub: a model and a data set, each of two commits."""

import pytest
from helpers.data_cards import make_data_card
from helpers.hub_server import HubServer

from pipeline.common.errors import ConfigError, DataError, PipelineError
from pipeline.common.params import ModelSection
from pipeline.data.hub import load_hub_id
from pipeline.tasks.model_files import describe_origin
from pipeline.tasks.model_loading import load_config, load_model, load_processor
from pipeline.tasks.registry import make_task

NAMES = {"model": "me/tiny", "dataset": "me/rows"}


SETTINGS = {"model": "model.name me/tiny", "dataset": "data.task me/rows"}


KINDS = pytest.mark.parametrize("kind", NAMES)


CONTENT = {"model": (0.5, 0.1), "dataset": (40, 60)}  # of `v1` and of `main`


def list_commits(server: HubServer, kind: str) -> tuple[str, str]:
    """The commits of `v1` and of `main`."""
    first, second = server.repositories[kind, NAMES[kind]].commits
    return first, second


def read_input(kind: str, revision: str | None = None, name: str = "") -> tuple[str | None, float]:
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


def read_refusal(kind: str, revision: str | None = None, name: str = "") -> str:
    """Return the one line in which reading ends."""
    with pytest.raises(PipelineError) as caught:
        read_input(kind, revision, name)
    assert type(caught.value) is (ConfigError if kind == "model" else DataError)
    assert "\n" not in str(caught.value)
    return str(caught.value)
