"""Names, tokens and gates: one line for whatever the hub refuses."""

from helpers.hub_inputs import (
    CONTENT,
    KINDS,
    NAMES,
    SETTINGS,
    list_commits,
    read_input,
    read_refusal,
)
from helpers.hub_server import Repository


@KINDS
def test_an_unknown_name_gets_a_hint(kind, hub):
    name = f"{NAMES[kind]}x"
    expected = f"{SETTINGS[kind]}x is not on the hub (did you mean {NAMES[kind]}?), or "

    assert read_refusal(kind, name=name) == (
        f"{expected}is private: log in with `hf auth login` or set HF_TOKEN"
    )
    assert (
        read_refusal(kind, name="nobody/knows").partition(" or ")[0].endswith("is not on the hub,")
    )


@KINDS
def test_a_private_repository_needs_the_token_of_a_reader(kind, hub, monkeypatch):
    hub.repositories[kind, NAMES[kind]].private = True

    assert read_refusal(kind) == (
        f"{SETTINGS[kind]} is not on the hub, or is private: "
        "log in with `hf auth login` or set HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert (
        read_refusal(kind) == f"{SETTINGS[kind]} is not on the hub, or your token may not read it"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert read_input(kind)[1] == CONTENT[kind][1]


@KINDS
def test_a_wrong_token_is_said(kind, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    wrong = "the hub refuses your token; log in with `hf auth login` or set HF_TOKEN anew"

    assert read_refusal(kind) == f"{SETTINGS[kind]} can't be read: {wrong}"
    hub.errors = {"": 403}
    forbidden = f"{SETTINGS[kind]} can't be read (error 403): "
    assert read_refusal(kind) == f"{forbidden}your token lacks the permission to read it"
    monkeypatch.delenv("HF_TOKEN")
    assert read_refusal(kind) == f"{forbidden}log in with `hf auth login` or set HF_TOKEN"


@KINDS
def test_a_gated_repository_says_where_to_request_access(kind, hub, monkeypatch):
    hub.repositories[kind, NAMES[kind]].gated = True
    page = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{NAMES[kind]}"
    expected = (
        f"{SETTINGS[kind]} is gated: request access at {page}, and log in with `hf auth login` "
        "or set HF_TOKEN"
    )

    assert read_refusal(kind) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert read_refusal(kind) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert read_input(kind)[1] == CONTENT[kind][1]


@KINDS
def test_a_commit_in_the_cache_needs_no_access(kind, hub, monkeypatch):
    commit, _ = list_commits(hub, kind)
    expected = read_input(kind, commit)
    hub.repositories[kind, NAMES[kind]] = Repository()  # emptied by its owner
    assert read_input(kind, commit) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert read_input(kind, commit) == expected


def test_what_is_no_name_is_said(hub):
    assert read_refusal("model", name="a--b") == "model.name a--b is no name on the hub"
    assert read_refusal("dataset", name="me/a b") == "data.task me/a b is no name on the hub"
