"""Know at once, not after minutes of retries, that the hub can't be reached."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

SECONDS = 5.0


@contextmanager
def offline_if_unreachable() -> Iterator[bool]:
    """Inside, the hub's client works from its cache alone if the hub doesn't answer; says which."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def advice(what: str, *, local: str) -> str:
    """What to do without a network."""
    return (
        f"{what} is not in the hub's cache and the hub can't be reached; {local}, "
        f"or fill the cache on a connected machine and set HF_HOME to it"
    )


def _answers(url: str) -> bool:
    """Whether a server is there, whatever it says; proxies of the environment are used."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True
