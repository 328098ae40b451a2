"""Sends files in one commit; large ones before, each at most once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.errors import InputError
from multitask.hub.access import Repository, inspect
from multitask.hub.calls import calling

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Content = Path | bytes
Progress = Callable[[str, int, int | None, str], None]

_LARGE = 1 << 20


def create(api: HfApi, repo: str, *, private: bool) -> Repository:
    """Make a repository that is not there yet.

    Raises:
        InputError: It may not be made, or someone else made it meanwhile and filled it.
        MultitaskError: The Hub fails.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        calling(repo, lambda: api.create_repo(repo, private=private), known=(409,))
    except HfHubHTTPError:
        # Perhaps our own: made, but the answer was lost and the call repeated.
        made = inspect(api, repo)
        if not made.exists or not made.is_empty:
            raise InputError(
                "the repository exists already (409)",
                where=repo,
                fix="choose another name, or pass --force",
            ) from None
        return made
    return inspect(api, repo)


def is_same(files: Mapping[str, Content], there: Repository) -> bool:
    """Whether a repository holds exactly these files."""
    if set(files) - {".gitattributes"} != there.own_files:
        return False
    return all(there.files[name] in _digests(content) for name, content in files.items())


def _digests(content: Content) -> tuple[str, str]:
    """A file's digest as a large one (SHA-256) and as a blob of git (SHA-1)."""
    if isinstance(content, bytes):
        size, large = len(content), hashlib.sha256(content).hexdigest()
    else:
        size = content.stat().st_size
        with content.open("rb") as file:
            large = hashlib.file_digest(file, "sha256").hexdigest()
    if size > _LARGE * 16:
        return large, ""
    data = content if isinstance(content, bytes) else content.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False).hexdigest()
    return large, blob


def upload(
    api: HfApi, there: Repository, files: Mapping[str, Content], title: str, progress: Progress
) -> str:
    """Replace a repository's files by these in one commit.

    Large files go first, one after the other; the Hub says which it has already, and these are
    not sent again. So until the end the repository is as it was, and a cut costs one file.

    Args:
        api: The Hub.
        there: The repository as it was looked at; a change since then is not overwritten.
        files: Content by path in the repository.
        title: The commit's.
        progress: Told what is sent, bytes done, bytes in total, and a note.

    Returns:
        The commit.

    Raises:
        InputError: The Hub refuses.
        MultitaskError: The Hub fails, or the connection breaks again and again.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def additions() -> list[Any]:
        return [
            CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
            for path, content in files.items()
        ]

    adds = additions()
    total, done = sum(add.upload_info.size for add in adds), 0
    for add in sorted(adds, key=lambda add: add.upload_info.size):
        if add.upload_info.size >= _LARGE or add.path_in_repo.endswith(".safetensors"):
            progress("upload", done, total, add.path_in_repo)
            _send(api, there.name, add)
        done += add.upload_info.size
    deletions = [CommitOperationDelete(path) for path in sorted(there.own_files - set(files))]

    def commit() -> str:
        now = inspect(api, there.name)
        if now.head != there.head and is_same(files, now):
            # The commit before this attempt arrived, its answer did not.
            return str(now.head)
        made = api.create_commit(
            there.name,
            [*adds, *deletions],
            commit_message=title,
            parent_commit=there.head,
            num_threads=1,
        )
        return str(made.oid)

    head = calling(there.name, commit)
    progress("upload", total, total, "")
    return head


def _send(api: HfApi, repo: str, add: Any) -> None:
    calling(
        repo,
        lambda: api.preupload_lfs_files(repo, [add], num_threads=1, free_memory=False),
        statuses=False,
    )
