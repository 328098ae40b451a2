"""Who is logged in, what they may write, and what is in a repository: asked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multitask.errors import InputError, MultitaskError
from multitask.hub.calls import calling, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What a new repository has without anyone's doing.
_OF_THE_HUB = frozenset({".gitattributes"})
_WRITERS = ("admin", "write", "contributor")
_TOKENS = "make one that may write at the Hub's settings under Access Tokens, then `hf auth login`"


@dataclass(frozen=True)
class Repository:
    """A model repository as it is now.

    Attributes:
        name: ``owner/name``.
        exists: Whether it is there.
        private: Whether others cannot see it.
        head: Its newest commit; None where it does not exist.
        files: Every file with its content's digest: SHA-256 of large files, else the blob's id.
    """

    name: str
    exists: bool = False
    private: bool = True
    head: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nobody put anything into it yet."""
        return not set(self.files) - _OF_THE_HUB

    @property
    def own_files(self) -> set[str]:
        """The files that someone put there."""
        return set(self.files) - _OF_THE_HUB


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
    from huggingface_hub.utils._validators import validate_repo_id

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
    who: dict[str, Any] = calling(repo, api.whoami)
    return check_rights(who, repo)


def check_rights(who: Mapping[str, Any], repo: str) -> str:
    """Check that a login may write to a repository.

    Args:
        who: What the Hub's whoami answers.
        repo: ``owner/name``, or a name alone for the user's own namespace.

    Returns:
        ``owner/name``.

    Raises:
        InputError: It may not write there.
    """
    if "/" not in repo:
        repo = f"{who['name']}/{repo}"
    _check_token(who, repo)
    _check_owner(who, repo)
    return repo


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


def _check_token(who: Mapping[str, Any], repo: str) -> None:
    token = (who.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        raise InputError("the token may only read", where=repo, fix=_TOKENS)
    if role != "fineGrained":
        return
    owner = repo.split("/")[0]
    details = token.get("fineGrained") or {}
    scopes = [s for s in details.get("scoped") or () if isinstance(s, dict)]
    may = set(details.get("global") or ()) | {
        permission
        for scope in scopes
        if (scope.get("entity") or {}).get("name") in (owner, repo)
        for permission in scope.get("permissions") or ()
    }
    if "repo.write" not in may:
        raise InputError(
            f"the fine-grained token may not write to repositories of {owner}",
            where=repo,
            fix=_TOKENS,
        )


def _check_owner(who: Mapping[str, Any], repo: str) -> None:
    owner, name = repo.split("/")[0], str(who["name"])
    if owner == name:
        return
    roles = {org.get("name"): org.get("roleInOrg") for org in who.get("orgs") or ()}
    if owner not in roles:
        raise InputError(
            f"{name} is no member of {owner}, so cannot write there",
            where=repo,
            fix=f"use {name}/{repo.split('/')[1]}, or ask to be added to the organisation",
        )
    role = roles[owner]
    if role is not None and role not in _WRITERS:
        raise InputError(
            f"{name} may only {role} in {owner}",
            where=repo,
            fix="ask an administrator of the organisation for the write role",
        )


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
        if isinstance(entry, RepoFile)
    }
    return Repository(repo, True, bool(info.private), info.sha, files)
