"""Ask the hub once before its clients do: what can be read, or at once and in one line why not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the version it uses

from pipeline.common.errors import ConfigError, DataError, PipelineError
from pipeline.common.text import join_lines

SECONDS = 5.0
# What the clients raise where the hub, the cache or a file in it is the reason.
CLIENT_ERRORS = (OSError, ValueError, RuntimeError, httpx.HTTPError)
# What the hub answers while it is down or busy, rather than about a repository.
_HUB_FAILURES = (408, 429, *range(500, 600))
_NOT_CACHED = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)
_COMMIT = re.compile("[0-9a-f]{40}")
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model or a data set of the hub, as params.yaml names it.

    Attributes:
        repo_type: `model` or `dataset`.
        name: its id on the hub.
        revision: branch, tag or commit; None: the main branch.
        setting: key and value in params.yaml.
    """

    repo_type: str
    name: str
    revision: str | None
    setting: str

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def revision_setting(self) -> str:
        """The key and value of the revision in params.yaml."""
        return f"{'model' if self.repo_type == 'model' else 'data'}.revision {self.revision}"

    def make_error(self, text: str) -> PipelineError:
        """Return the error of the setting that names the repository."""
        return ConfigError(text) if self.repo_type == "model" else DataError(text)

    def explain(self, error: BaseException) -> str | None:
        """Return why the hub refuses the repository, if that caused an error; else None."""
        return next(filter(None, map(self._explain, _list_causes(error))), None)

    def _explain(self, error: BaseException) -> str | None:
        match error:
            case GatedRepoError():
                return self._describe_gate()
            case DatasetNotFoundError() if "gated" in str(error):  # it hides its cause
                return self._describe_gate()
            case RevisionNotFoundError():
                return f"{self.revision_setting} is no branch, tag or commit of {self.name}"
            case RepositoryNotFoundError():
                access = "your token may not read it" if get_token() else f"is private: {_LOGIN}"
                return f"{self.setting} is not on the hub{self._suggest_names()}, or {access}"
            case HfHubHTTPError() if error.response.status_code == 401:
                return f"{self.setting} can't be read: the hub refuses your token; {_LOGIN} anew"
            case HfHubHTTPError() if error.response.status_code == 403:
                what = "your token lacks the permission to read it" if get_token() else _LOGIN
                return f"{self.setting} can't be read (error 403): {what}"
        return None

    def _describe_gate(self) -> str:
        folder = "datasets/" if self.repo_type == "dataset" else ""
        url = f"{constants.ENDPOINT}/{folder}{self.name}"
        return f"{self.setting} is gated: request access at {url}, and {_LOGIN}"

    def _suggest_names(self) -> str:
        """Return the most similar name among the owner's repositories, as a question."""
        owner, _, name = self.name.rpartition("/")
        api = HfApi()
        search = api.list_models if self.repo_type == "model" else api.list_datasets
        try:
            found = search(author=owner) if owner else search(search=name)
            close = difflib.get_close_matches(self.name, [repo.id for repo in found], n=1)
        except CLIENT_ERRORS:  # a hint must not hide the error
            return ""
        return f" (did you mean {close[0]}?)" if close else ""


@dataclass(frozen=True, kw_only=True)
class Access:
    """What of a repository can be read.

    Attributes:
        commit: what the revision stands for, on the hub or in the cache; None: not known.
        failure: why only the cache can be read; None: the hub answers.
        is_refused: whether the hub answers, but with a refusal.
    """

    commit: str | None
    failure: str | None = None
    is_refused: bool = False


@contextmanager
def open_repository(repository: Repository, *, local: str) -> Iterator[Access]:
    """Ask the hub for a repository; where that fails, let the clients read their cache only.

    A commit is the same in the cache and on the hub, so its cache is read even if the hub refuses
    access. The cache of a branch or tag may be old: it is read only while the hub can't be reached,
    and that is logged. Errors of the clients in the context that the hub causes become one line.

    Args:
        repository: what is going to be read.
        local: what to do without a hub, for the error.

    Raises:
        ConfigError: the model is not there or may not be read.
        DataError: the same, of a data set.
    """
    before = constants.HF_HUB_OFFLINE
    access = _ask(repository)
    if access.failure and not (before or repository.is_pinned):
        from pipeline.common.console import log  # imports torch, and `table` has no need of it

        log("hub", f"{repository.setting}: {access.failure}; reading its cache")
    constants.HF_HUB_OFFLINE = access.failure is not None
    try:
        yield access
    except (PipelineError, *CLIENT_ERRORS) as error:
        text, failure = repository.explain(error), _describe_failure(error)
        if access.failure and any(isinstance(cause, _NOT_CACHED) for cause in _list_causes(error)):
            text = access.failure
            if not access.is_refused:
                revision = f" (revision {repository.revision})" if repository.revision else ""
                text = (
                    f"{repository.setting}{revision} is not in the hub's cache, and {text}; "
                    f"{local}, or fill the cache on a connected machine and set HF_HOME to it"
                )
        elif text is None and failure:
            text = f"{repository.setting} can't be downloaded: {failure}; run it again"
        if text is None:
            raise
        raise repository.make_error(join_lines(text)) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def find_cached_commit(repo_type: str, name: str, revision: str | None) -> str | None:
    """Return the commit that a revision stood for when it was last downloaded, if it was."""
    where = {"repo_type": repo_type, "revision": revision}
    try:
        return HfApi().resolve_revision(name, **where, local_files_only=True).resolved
    except RevisionResolutionError:
        return None


def _ask(repository: Repository) -> Access:
    """Return the commit on the hub, or the one in the cache and why the hub has none."""
    name, revision, repo_type = repository.name, repository.revision, repository.repo_type
    failure, refusal = "HF_HUB_OFFLINE is set", None
    if not constants.HF_HUB_OFFLINE:
        try:
            info = HfApi().repo_info(name, revision=revision, repo_type=repo_type, timeout=SECONDS)
            return Access(commit=info.sha)
        except HFValidationError as error:
            raise repository.make_error(f"{repository.setting} is no name on the hub") from error
        except (KeyError, *CLIENT_ERRORS) as error:
            refusal = repository.explain(error)
            if refusal and not repository.is_pinned:
                raise repository.make_error(refusal) from error
            failure = (
                refusal
                or _describe_failure(error)
                or (f"{constants.ENDPOINT} doesn't answer as the hub does ({join_lines(error)})")
            )
    commit = find_cached_commit(repo_type, name, revision)
    return Access(commit=commit, failure=failure, is_refused=refusal is not None)


def _describe_failure(error: BaseException) -> str | None:
    """Return how the hub or the connection to it failed, if that caused an error; else None."""
    for cause in _list_causes(error):
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _HUB_FAILURES:
            return f"the hub fails (error {cause.response.status_code})"
        if isinstance(cause, httpx.TransportError):
            return f"the hub can't be reached ({join_lines(cause) or type(cause).__name__})"
    return None


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
    if commit is None or constants.HF_HUB_OFFLINE:
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


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
