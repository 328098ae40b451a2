"""Calls to the Hugging Face Hub: repeated where that helps, with one clear message where not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from multitask.errors import InputError, MultitaskError
from multitask.formatting import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

_LONGEST_WAIT = 60.0
_AGAIN = "start the same command again; what is uploaded already is not sent again"
# What a new repository has without anyone's doing.
_OF_THE_HUB = frozenset({".gitattributes"})
_WRITERS = ("admin", "write", "contributor")
_TOKENS = "make one that may write at the Hub's settings under Access Tokens, then `hf auth login`"
_REFUSALS = {
    401: ("the Hub does not accept the login (401)", "run `hf auth login`, or renew HF_TOKEN"),
    403: (
        "the login may not write here (403)",
        "use a token with write access to this repository or its owner",
    ),
    404: (
        "the Hub has no such repository or owner, or does not show it to this login (404)",
        "check the name, and who you are with `hf auth whoami`",
    ),
    409: ("the repository exists already (409)", "choose another name, or pass --force"),
}


def retried(ask: Callable[[], T], passes: Callable[[Exception], bool], attempts: int = 4) -> T:
    """Call; after an error that passes, wait and call again, each time twice as long.

    Raises:
        Exception: The error that does not pass, or that came at each of the attempts.
    """
    for attempt in range(attempts):
        try:
            return ask()
        except Exception as error:
            if attempt == attempts - 1 or not passes(error):
                raise
            time.sleep(max(2.0**attempt, _until_reset(error)))
    raise AssertionError("the loop above returns or raises")


def _until_reset(error: Exception) -> float:
    """Seconds until a rate limit is reset, as the Hub's answer says; at most a minute."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    response = getattr(error, "response", None)
    limit = None if response is None else parse_ratelimit_headers(response.headers)
    return 0.0 if limit is None else min(float(limit.reset_in_seconds), _LONGEST_WAIT)


def status_of(error: BaseException) -> int:
    """The HTTP status that an error stands for; 0 where there was no answer."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def calling(repo: str, ask: Callable[[], T], *, known: tuple[int, ...] = ()) -> T:
    """Call the Hub; wait and repeat on what passes, explain what does not.

    Args:
        repo: The repository it is about, for messages.
        ask: The call; may be made several times.
        known: Statuses that the caller deals with; their errors are raised as they are.

    Raises:
        InputError: The Hub refuses: no login, no right, no such namespace, the name is taken.
        MultitaskError: The Hub fails or the connection breaks, again and again.
        HfHubHTTPError: One of the ``known`` statuses.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return retried(ask, _passes)
    except OfflineModeIsEnabled:
        raise InputError(
            "offline mode is on (HF_HUB_OFFLINE), so nothing can be uploaded",
            where=repo,
            fix="unset HF_HUB_OFFLINE",
        ) from None
    except (HfHubHTTPError, httpx.HTTPError, RuntimeError, json.JSONDecodeError) as error:
        found = _cause(error)
        raise (found if status_of(found) in known else explain(repo, found)) from None
    except ValueError as error:  # the Hub's own check of the card, or of a file
        raise MultitaskError(f"the Hub refuses the upload: {one_line(error)}", where=repo) from None


def _passes(error: Exception) -> bool:
    import httpx

    found = _cause(error)
    # A status behind a RuntimeError came again and again: huggingface_hub repeats those itself.
    busy = found is error and (status_of(found) == 429 or status_of(found) >= 500)
    return busy or isinstance(found, httpx.TransportError | json.JSONDecodeError)


def _cause(error: BaseException) -> BaseException:
    """What is behind the RuntimeError that huggingface_hub wraps a failed upload in."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def explain(repo: str, error: BaseException) -> MultitaskError:
    """The message for an error of the Hub; it holds no URL, since these can be signed."""
    status, name = status_of(error), type(error).__name__
    if status in _REFUSALS:
        what, fix = _REFUSALS[status]
        return InputError(what, where=repo, fix=fix)
    if status == 412:
        what = "someone else changed the repository meanwhile (412); it was left as it is"
        fix = "look at the change, then start the same command again"
    elif status == 429 or status >= 500:
        what, fix = f"the Hub answers {status} again and again", f"later, {_AGAIN}"
    elif status:
        words = str(getattr(error, "server_message", "") or "").strip().splitlines()
        said = f": {words[0]}" if words else ""
        return MultitaskError(f"the Hub refuses the upload ({status}){said}", where=repo)
    elif name in ("ConnectError", "ConnectTimeout"):
        what, fix = "the Hub cannot be reached", f"later, {_AGAIN}"
    else:
        what, fix = f"the connection to the Hub broke off ({name})", _AGAIN
    return MultitaskError(what, where=repo, fix=fix)


@dataclass(frozen=True)
class Repository:
    """A model repository as it is now.

    Attributes:
        name: ``owner/name``.
        exists: Whether it is there.
        private: Whether others cannot see it.
        head: Its newest commit; None where it does not exist.
        files: Every file that someone put there, with the SHA-256 of a large one, else the id of
            its blob.
    """

    name: str
    exists: bool = False
    private: bool = True
    head: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def inspect(api: HfApi, repo: str) -> Repository:
    """Look at a repository.

    Raises:
        InputError: It may not be seen.
        MultitaskError: The Hub cannot be asked.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    try:
        info = calling(repo, lambda: api.repo_info(repo, repo_type="model"), known=(404,))
    except HfHubHTTPError:
        return Repository(repo)
    tree = calling(repo, lambda: list(api.list_repo_tree(repo, recursive=True, revision=info.sha)))
    files = {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in tree
        if isinstance(entry, RepoFile) and entry.path not in _OF_THE_HUB
    }
    return Repository(repo, True, bool(info.private), info.sha, files)


def check_login(api: HfApi, repo: str) -> str:
    """Check that the login may write to a repository; nothing is written.

    Args:
        api: The Hub.
        repo: ``owner/name``, or a name alone for the user's own namespace.

    Returns:
        ``owner/name``.

    Raises:
        InputError: Nobody is logged in, or the login may not write there.
        MultitaskError: The Hub cannot be asked.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(
            f"{repo!r} is no name of a repository: {error}", fix="such as owner/name"
        ) from None
    if not (api.token or get_token()):
        raise InputError(
            "nobody is logged in to the Hub", where=repo, fix="run `hf auth login`, or set HF_TOKEN"
        )
    return check_rights(calling(repo, api.whoami), repo)


def check_rights(who: Mapping[str, Any], repo: str) -> str:
    """Check that a login may write to a repository; ``who`` is what the Hub's whoami answers.

    Raises:
        InputError: It may not write there.
    """
    name = str(who["name"])
    if "/" not in repo:
        repo = f"{name}/{repo}"
    owner, own = repo.split("/")
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise InputError("the token may only read", where=repo, fix=_TOKENS)
    if token.get("role") == "fineGrained" and "repo.write" not in _permissions(token, owner, repo):
        raise InputError(
            f"the fine-grained token may not write to repositories of {owner}",
            where=repo,
            fix=_TOKENS,
        )
    roles = {org.get("name"): org.get("roleInOrg") for org in who.get("orgs") or ()}
    if owner == name:
        return repo
    if owner not in roles:
        raise InputError(
            f"{name} is no member of {owner}, so cannot write there",
            where=repo,
            fix=f"use {name}/{own}, or ask to be added to the organisation",
        )
    if roles[owner] is not None and roles[owner] not in _WRITERS:
        raise InputError(
            f"{name} may only {roles[owner]} in {owner}",
            where=repo,
            fix="ask an administrator of the organisation for the write role",
        )
    return repo


def _permissions(token: Mapping[str, Any], owner: str, repo: str) -> set[str]:
    """What a fine-grained token may do in a repository."""
    details = token.get("fineGrained") or {}
    scopes = [scope for scope in details.get("scoped") or () if isinstance(scope, dict)]
    return set(details.get("global") or ()).union(
        *(
            scope.get("permissions") or ()
            for scope in scopes
            if (scope.get("entity") or {}).get("name") in (owner, repo)
        )
    )


def check_readable(api: HfApi, model: str) -> None:
    """Check that the login may download a model; asked once, since a user waits for it.

    Raises:
        InputError: It is gated or private, or there is none of that name.
        MultitaskError: The Hub fails.
        httpx.TransportError: The Hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    page = f"https://huggingface.co/{model}"
    try:
        api.auth_check(model)
    except GatedRepoError:
        raise InputError(
            f"{model} is gated, and this login has no access",
            where=page,
            fix="accept its conditions on that page, wait until they grant it, then `hf auth login`"
            " on every machine that trains",
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"the Hub has no model {model}, or does not show it to this login",
            where=page,
            fix="check the name, and who you are with `hf auth whoami`",
        ) from None
    except HfHubHTTPError as error:
        raise MultitaskError(f"the Hub answers {status_of(error)}", where=page) from None
