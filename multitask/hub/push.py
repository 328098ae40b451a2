"""``push``: a run's model to the Hub, with everything that others need to use it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.checkpoints.consolidate import loaded_files
from multitask.digests import sha256
from multitask.errors import InputError, MultitaskError
from multitask.evaluation.calibration import FILE_NAME as CALIBRATION
from multitask.evaluation.models import base_model, choose, consolidate
from multitask.formatting import byte_size, plural
from multitask.hub.card import LICENSES, Card, check_license, own_evaluations
from multitask.hub.client import Repository, calling, check_login, explain, inspect
from multitask.hub.weights import Weights, find, is_repo, portable_adapter_config, prepare
from multitask.run import Run, write_atomic
from multitask.scrub import hide_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Content = Path | bytes


@dataclass(frozen=True)
class PushSettings:
    """What is pushed, and how.

    Attributes:
        merged: Merge an adapter into its base and push the whole model.
        force: Replace what is in the repository.
        public: Make a new repository public; else it is private.
        license: The model's license; default: the base model's.
        base_model: The base's repository, where the run has it as a folder.
        checkpoint: ``best``, ``last`` or a step; default: the spec's ``evaluation: {use: ...}``.
    """

    merged: bool = False
    force: bool = False
    public: bool = False
    license: str | None = None
    base_model: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Pushed:
    """A finished push.

    Attributes:
        repo: ``owner/name``.
        url: Its page.
        commit: The commit that holds the files.
        files: How many there are.
        notes: What the user should know.
    """

    repo: str
    url: str
    commit: str
    files: int
    notes: tuple[str, ...]


def push(
    run: Run,
    repo: str,
    settings: PushSettings | None = None,
    *,
    api: HfApi | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Upload a run's model with its card, in one commit.

    The login, the right to write and the repository's state are checked before anything is
    merged. When the upload is cut, the repository is as it was, merged weights stay in the run,
    and the same call goes on from there.

    Args:
        run: The run.
        repo: ``owner/name``, or a name alone for the user's own.
        settings: What is pushed, and how.
        api: The Hub; default: the one of ``HF_ENDPOINT``, with the login of this machine.
        report: Told what takes long.

    Raises:
        InputError: There is nothing to push, or the Hub refuses.
        MultitaskError: Merging or the upload failed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging as hub_logging

    settings = settings or PushSettings()
    choice = choose(run, settings.checkpoint)
    folder = _merging(run, lambda: consolidate(run, choice, report))
    weights = find(run, folder, merged=settings.merged)
    base = _base_of(run, weights, settings)
    if settings.license is not None:
        check_license(settings.license)
    api = api or HfApi()
    # Its warnings hold signed URLs; what goes wrong is said by `calling`.
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    repo = check_login(api, repo)
    work = run.root / "hub"
    unfinished = work / "upload.json"
    mark = json.dumps({"endpoint": api.endpoint, "repo": repo}) + "\n"
    there = inspect(api, repo)
    goes_on = unfinished.is_file() and unfinished.read_text("utf-8", "replace") == mark
    _check_state(there, settings, goes_on=goes_on)
    evaluations, notes = own_evaluations(run, choice.folder)
    notes += [choice.note] if choice.note else []
    license_ = settings.license or _license_of(api, repo, run, base)
    if license_ is None:
        notes.append("the license is not known, and the card says so; give it with --license")
    if not evaluations:
        notes.append(f"not evaluated; for scores in the card: multitask evaluate {run.root}")
    if settings.public and there.exists and there.private:
        notes.append("the repository stays private as it is; change that in its settings")
    write_atomic(unfinished, mark)
    if not there.exists:
        # Before the work: the surest check of the right to write.
        there = _create(api, repo, private=not settings.public)
    folder = _merging(run, lambda: prepare(weights, work, report))
    files = _files(folder, Card(run, repo, weights, base, license_, evaluations))
    if _is_same(files, there):
        commit = str(there.head)
        notes.append("the repository has all of it already")
    else:
        _check_state(there, settings, goes_on=False)
        commit = _upload(api, there, files, f"Push {run.root.name}", report)
    shutil.rmtree(work / "model", ignore_errors=True)
    unfinished.unlink(missing_ok=True)
    if not any(work.iterdir()):
        work.rmdir()
    return Pushed(repo, f"{api.endpoint}/{repo}", commit, len(files), tuple(notes))


def _check_state(there: Repository, settings: PushSettings, *, goes_on: bool) -> None:
    """Refuse a repository that must not be written to as it is."""
    if there.files and not settings.force and not goes_on:
        raise InputError(
            f"the repository exists and holds {len(there.files)} files",
            where=there.name,
            fix="choose another name, or pass --force to replace them (its history keeps them)",
        )
    if there.exists and not there.private and not settings.public:
        raise InputError(
            "the repository is public",
            where=there.name,
            fix="pass --public if everyone may have the model, or choose another name",
        )


def _base_of(run: Run, weights: Weights, settings: PushSettings) -> str | None:
    """The base's repository; None where a whole model was trained from a folder."""
    if settings.base_model is not None:
        if not is_repo(settings.base_model):
            raise InputError(
                f"--base-model {settings.base_model!r} is no name of a repository",
                fix="such as owner/name",
            )
        return settings.base_model
    for name in (weights.base or "", base_model(run)):
        if is_repo(name):
            return name
    if weights.pushes_adapter:
        raise InputError(
            f"the adapter's base model {weights.base!r} is a folder, which others do not have",
            where=weights.folder,
            fix="name its repository with --base-model OWNER/NAME, or pass --merged",
        )
    return None


def _license_of(api: HfApi, repo: str, run: Run, base: str | None) -> str | None:
    """The base model's license, as its card has it; None where it cannot be told."""
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HfHubHTTPError

    local = Path(base_model(run)) / "README.md"
    name: Any = None
    try:
        if local.is_file():
            name = ModelCard.load(local, ignore_metadata_errors=True).data.get("license")
        elif base is not None:
            info = calling(repo, lambda: api.model_info(base), known=(401, 403, 404))
            name = info.card_data.get("license") if info.card_data else None
    except HfHubHTTPError:
        return None
    except ValueError as error:
        raise InputError(f"its metadata cannot be read: {error}", where=local) from None
    if isinstance(name, list):
        name = name[0] if len(name) == 1 else None
    if name is None:
        return None
    return str(name) if name in LICENSES else "other"


def _merging(run: Run, merge: Callable[[], Path]) -> Path:
    try:
        return merge()
    except OSError as error:
        raise MultitaskError(
            f"the weights cannot be prepared: {error.strerror or error}",
            where=run.root / "hub",
            fix="check that the disk has room for a copy of the model",
        ) from None


def _files(folder: Path, card: Card) -> dict[str, Content]:
    """Everything that is uploaded, by its path in the repository."""
    files: dict[str, Content] = {path.name: path for path in loaded_files(folder)}
    if card.weights.pushes_adapter:
        files.pop("config.json", None)
        assert card.base_model is not None
        path = folder / "adapter_config.json"
        files[path.name] = portable_adapter_config(path, card.base_model)
    if card.calibration is not None:
        files[CALIBRATION] = _json(card.calibration)
    files["tasks.json"] = _json(card.definitions())
    for path in (card.run.spec, card.run.plan, card.run.engine_file):
        if path.is_file():
            files[path.name] = card.text(path).encode()
    for evaluation in card.evaluations:
        name = f"evaluation/{evaluation['name']}/results.json"
        files[name] = card.text(evaluation["path"]).encode()
    files["README.md"] = hide_secrets(str(card)).encode()
    return files


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _create(api: HfApi, repo: str, *, private: bool) -> Repository:
    """Make a repository that is not there yet."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        calling(repo, lambda: api.create_repo(repo, private=private), known=(409,))
    except HfHubHTTPError as error:
        # Perhaps our own: made, but the answer was lost and the call repeated.
        made = inspect(api, repo)
        if not made.exists or made.files:
            raise explain(repo, error) from None
        return made
    return inspect(api, repo)


def _is_same(files: Mapping[str, Content], there: Repository) -> bool:
    """Whether a repository holds exactly these files."""
    return files.keys() == there.files.keys() and all(
        _digest(content, there.files[name]) == there.files[name] for name, content in files.items()
    )


def _digest(content: Content, like: str) -> str:
    """SHA-256 of a file where that is what the Hub gives of it, else its blob's id."""
    from huggingface_hub.utils.sha import git_hash

    if isinstance(content, Path) and len(like) == 64:
        return sha256(content)
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha256(data).hexdigest() if len(like) == 64 else git_hash(data)


def _upload(
    api: HfApi,
    there: Repository,
    files: Mapping[str, Content],
    title: str,
    report: Callable[[str], None],
) -> str:
    """Replace a repository's files by these in one commit, and return the commit.

    huggingface_hub sends the large files first, one after the other, and none that the Hub has
    already. So until the end the repository is as it was, and a cut costs one file.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    adds = [
        CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
        for name, content in files.items()
    ]
    deletions = [CommitOperationDelete(path) for path in sorted(there.files.keys() - files.keys())]
    total = sum(add.upload_info.size for add in adds)
    report(f"uploading {plural(len(adds), 'file')}, {byte_size(total)}, to {there.name}")

    def commit() -> str:
        now = inspect(api, there.name)
        if now.head != there.head and _is_same(files, now):
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

    return calling(there.name, commit)
