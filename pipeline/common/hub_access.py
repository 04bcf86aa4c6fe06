"""Know at once, not after minutes of retries, that the hub can't be reached."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, constants

SECONDS = 5.0


@contextmanager
def offline_if_unreachable() -> Iterator[bool]:
    """Switch the hub's client to its cache if the hub can't be reached; yield if it can't."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def advice(what: str, *, local: str) -> str:
    """Return what to do if something is not in the cache and there is no network."""
    return (
        f"{what} is not in the hub's cache and the hub can't be reached; {local}, "
        f"or fill the cache on a connected machine and set HF_HOME to it"
    )


def describe_newer_commit(
    name: str, *, commit: str | None, revision: str | None, repo_type: str
) -> str | None:
    """Return a line if the hub has another commit now than the one that a run used.

    Args:
        name: id of the repository on the hub.
        commit: the one used; None: not known.
        revision: branch, tag or commit to look up; None: the main branch.
        repo_type: `model` or `dataset`.

    Returns:
        None if the hub has the same commit, or can't be asked.
    """
    if commit is None:
        return None
    with offline_if_unreachable() as offline:
        if offline:
            return None
        try:
            info = HfApi().repo_info(name, revision=revision, repo_type=repo_type, timeout=SECONDS)
        except Exception:  # a notice must not stop a run, whatever the client raises
            return None
    if info.sha in (None, commit):
        return None
    return (
        f"{repo_type} {name}: this run uses commit {commit[:12]}, the hub has {info.sha[:12]} now; "
        "to read it: dvc repro --force prepare"
    )


def _answers(url: str) -> bool:
    """Return whether a server answers, with an error or not; uses the environment's proxies."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True
