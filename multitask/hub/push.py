"""``push``: a run's model to the Hub, with everything that others need to use it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask import __version__
from multitask.checkpoints.consolidate import loaded_files
from multitask.errors import InputError, MultitaskError
from multitask.evaluation.calibration import FILE_NAME as CALIBRATION
from multitask.evaluation.checkpoint import choose, consolidate
from multitask.evaluation.models import base_model
from multitask.files import read_json, read_mapping, read_text
from multitask.hub.access import Repository, check_login, inspect
from multitask.hub.calls import calling
from multitask.hub.card import CardInput, card_text
from multitask.hub.evaluations import Evaluation, own_evaluations
from multitask.hub.licenses import KNOWN, check_license
from multitask.hub.prompts import FILE_NAME as TASKS
from multitask.hub.prompts import tasks_record
from multitask.hub.upload import Content, Progress, create, is_same, upload
from multitask.hub.weights import Found, find, is_repo, portable_adapter_config
from multitask.hub.weights import prepare as prepare_weights
from multitask.run import Run, write_atomic
from multitask.scrub import hide_secrets, scrub
from multitask.tasks import task_from_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_VERSION = re.compile(r"(?m)^- (PEFT|Transformers|Pytorch|Datasets|Tokenizers) (\S+)$")
_AXOLOTL = re.compile(r"axolotl version: `([^`]+)`")


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
    progress: Progress = lambda *_: None,
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
        progress: Told what is sent, bytes done, bytes in total, and a note.
        report: Told what takes long.

    Raises:
        InputError: There is nothing to push, or the Hub refuses.
        MultitaskError: Merging or the upload failed.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import logging as hub_logging

    settings = settings or PushSettings()
    choice = choose(run, settings.checkpoint)
    found = find(
        run, _merging(run, lambda: consolidate(run, choice, report)), merged=settings.merged
    )
    base = _base_of(run, found, settings)
    if settings.license is not None:
        check_license(settings.license)
    api = api or HfApi()
    # Its warnings hold signed URLs; what goes wrong is said by `calling`.
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    repo = check_login(api, repo)
    work = run.root / "hub"
    unfinished = _Unfinished(work / "upload.json", str(api.endpoint or constants.ENDPOINT), repo)
    there = inspect(api, repo)
    _check_state(there, settings, goes_on=unfinished.is_there())
    evaluations, notes = own_evaluations(run, choice.folder)
    notes += [choice.note] if choice.note else []
    license_ = settings.license or _license_of(api, repo, run, base)
    if license_ is None:
        notes.append("the license is not known, and the card says so; give it with --license")
    if not evaluations:
        notes.append(f"not evaluated; for scores in the card: multitask evaluate {run.root}")
    if settings.public and there.exists and there.private:
        notes.append("the repository stays private as it is; change that in its settings")
    unfinished.begin()
    if not there.exists:
        # Before the work: the surest check of the right to write.
        there = create(api, repo, private=not settings.public)
    folder = _merging(run, lambda: prepare_weights(found, work, report))
    card = _card(run, found, repo, (base, license_), evaluations)
    files = _files(run, folder, card)
    if is_same(files, there):
        commit = str(there.head)
        notes.append("the repository has all of it already")
    else:
        _check_state(there, settings, goes_on=False)
        commit = upload(api, there, files, f"Push {run.root.name}", progress)
    shutil.rmtree(work / "model", ignore_errors=True)
    unfinished.end()
    endpoint = str(api.endpoint or constants.ENDPOINT)
    return Pushed(repo, f"{endpoint}/{repo}", commit, len(files), tuple(notes))


def _card(
    run: Run,
    found: Found,
    repo: str,
    of_base: tuple[str | None, str | None],
    evaluations: Sequence[Evaluation],
) -> CardInput:
    """What the card is made from; of the base, its repository and the license."""
    manifest = read_json(run.manifest)["tasks"]
    return CardInput(
        run=run,
        repo=repo,
        is_adapter=found.pushes_adapter,
        merged=found.merge,
        base_model=of_base[0],
        license=of_base[1],
        method=_method(run),
        tasks=[task_from_record(name, record) for name, record in manifest.items()],
        manifest=manifest,
        evaluations=evaluations,
        plan=_text(run.plan, run),
        axolotl=_text(run.axolotl, run),
        calibration=_calibration(found.folder, evaluations),
        versions=_versions(run),
    )


@dataclass(frozen=True)
class _Unfinished:
    """A file in the run while an upload to a repository has begun and not ended."""

    path: Path
    endpoint: str
    repo: str

    def is_there(self) -> bool:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return bool(content == self._content())

    def begin(self) -> None:
        write_atomic(self.path, json.dumps(self._content()) + "\n")

    def end(self) -> None:
        self.path.unlink(missing_ok=True)
        if not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def _content(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "repo": self.repo}


def _check_state(there: Repository, settings: PushSettings, *, goes_on: bool) -> None:
    """Refuse a repository that must not be written to as it is."""
    if not there.exists:
        return
    if not there.is_empty and not settings.force and not goes_on:
        raise InputError(
            f"the repository exists and holds {len(there.own_files)} files",
            where=there.name,
            fix="choose another name, or pass --force to replace them (its history keeps them)",
        )
    if not there.private and not settings.public:
        raise InputError(
            "the repository is public",
            where=there.name,
            fix="pass --public if everyone may have the model, or choose another name",
        )


def _base_of(run: Run, found: Found, settings: PushSettings) -> str | None:
    """The base's repository; None where a whole model was trained from a folder."""
    if settings.base_model is not None:
        if not is_repo(settings.base_model):
            raise InputError(
                f"--base-model {settings.base_model!r} is no name of a repository",
                fix="such as owner/name",
            )
        return settings.base_model
    for name in (found.base or "", base_model(run)):
        if is_repo(name):
            return name
    if found.pushes_adapter:
        raise InputError(
            f"the adapter's base model {found.base!r} is a folder, which others do not have",
            where=found.folder,
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
    return str(name) if name in KNOWN else "other"


def _merging(run: Run, merge: Callable[[], Path]) -> Path:
    try:
        return merge()
    except OSError as error:
        raise MultitaskError(
            f"the weights cannot be prepared: {error.strerror or error}",
            where=run.root / "hub",
            fix="check that the disk has room for a copy of the model",
        ) from None


def _files(run: Run, folder: Path, card: CardInput) -> dict[str, Content]:
    """Everything that is uploaded, by its path in the repository."""
    files: dict[str, Content] = {path.name: path for path in loaded_files(folder)}
    if card.is_adapter:
        files.pop("config.json", None)
        assert card.base_model is not None
        path = folder / "adapter_config.json"
        files[path.name] = portable_adapter_config(path, card.base_model)
    if card.calibration is not None:
        files[CALIBRATION] = _json(card.calibration)
    files[TASKS] = _json(tasks_record(card.tasks))
    for path in (run.spec, run.plan, run.axolotl):
        if path.is_file():
            files[path.name] = _text(path, run).encode()
    for evaluation in card.evaluations:
        name = f"evaluation/{evaluation.name}/results.json"
        files[name] = _text(evaluation.path, run).encode()
    files["README.md"] = hide_secrets(card_text(card)).encode()
    return files


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _text(path: Path, run: Run) -> str:
    if not path.is_file():
        return ""
    return scrub(read_text(path), run.root, yaml=path.suffix == ".yaml")


def _method(run: Run) -> str:
    return str(read_mapping(run.spec).get("method", "full"))


def _calibration(folder: Path, evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """The calibration beside the model, or else the evaluation of these weights."""
    if not evaluations:
        return None
    places = (folder, *(evaluation.path.parent for evaluation in evaluations))
    path = next((p / CALIBRATION for p in places if (p / CALIBRATION).is_file()), None)
    if path is None:
        return None
    return read_json(path)


def _versions(run: Run) -> dict[str, str]:
    """What the training was made with, as Axolotl wrote it beside the model."""
    found = {"multitask": __version__}
    readme = run.model / "README.md"
    if readme.is_file():
        text = read_text(readme)
        if axolotl := _AXOLOTL.search(text):
            found["axolotl"] = axolotl[1]
        found |= dict(_VERSION.findall(text))
    return found
