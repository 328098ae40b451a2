"""Logins, and what they may read and write: the Hugging Face Hub, Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from multitask.checks import Check, Severity, judged, ok, problem, refused, warning
from multitask.data.define import task_of
from multitask.data.sources import HubUnreachableError, local_source
from multitask.doctor.bounded import NoAnswerError, Pending
from multitask.doctor.subject import Subject
from multitask.errors import InputError, MultitaskError
from multitask.task_spec import HubPlace, TaskSpec

GROUP = "logins and access"
_LOGIN = "Hugging Face login"
# From the start, imports included; the Hub's own client would wait for ever.
HUB_SECONDS = 2.5


class HubQuestions:
    """Questions to the Hub, asked at once and together when this is made.

    Attributes:
        offline: Whether ``HF_HUB_OFFLINE`` keeps every process from asking.
    """

    def __init__(self, subject: Subject, seconds: float = HUB_SECONDS) -> None:
        """Ask what the subject needs to know, and wait for each answer as long as given."""
        from huggingface_hub import HfApi, constants, get_token

        self._subject, self._api = subject, HfApi()
        self.offline = constants.is_offline_mode()
        self._has_token = bool(get_token())
        self._who: Pending[dict[str, Any]] | None = None
        self._readable: Pending[None] | None = None
        if self._has_token and not self.offline:
            self._who = Pending(self._api.whoami, seconds)
        self._model = _hub_model(subject)
        if self._model and not self.offline:
            from multitask.hub.client import check_readable

            self._readable = Pending(partial(check_readable, self._api, self._model), seconds)
        self._datasets = [_Dataset(task, seconds) for task in _tasks(subject)]

    def model_is_here(self) -> bool:
        """Whether the base model's weights are on this machine."""
        return self._model is None or weights_are_cached(self._model)

    def checks(self, *, trains_here: bool) -> list[Check]:
        """What was answered.

        Args:
            trains_here: Whether this machine must be able to load the model.
        """
        login, who = self._login()
        checks = [login]
        if self._model is not None:
            checks.append(self._access(self._model, trains_here=trains_here))
        checks += self._data()
        spec = self._subject.spec
        if spec is not None and spec.hub is not None:
            checks.append(_push(spec.hub.repo, who, has_token=self._has_token))
        return checks

    def _login(self) -> tuple[Check, dict[str, Any] | None]:
        if not self._has_token:
            gated = self._subject.setup is not None and self._subject.setup.model.gated
            if gated and not self.model_is_here():
                fix = f"accept the conditions at {gated}, then `hf auth login`"
                return problem(GROUP, _LOGIN, "no token, and the model is gated", fix), None
            return ok(GROUP, _LOGIN, "no token; only gated or private repositories need one"), None
        if self._who is None:
            return ok(GROUP, _LOGIN, "a token is there; not checked (HF_HUB_OFFLINE is set)"), None
        try:
            who = _answer(self._who)
        except NoAnswerError as error:
            return warning(GROUP, _LOGIN, f"a token is there; not checked ({error})"), None
        except MultitaskError as error:
            return refused(GROUP, _LOGIN, error), None
        token = (who.get("auth") or {}).get("accessToken") or {}
        role = f", {token['role']} token" if token.get("role") else ""
        return ok(GROUP, _LOGIN, f"as {who['name']}{role}"), who

    def _access(self, model: str, *, trains_here: bool) -> Check:
        here = self.model_is_here()
        note = "; its weights are in this machine's cache" if here else ""
        if self._readable is None:
            if here:
                return ok(GROUP, "model", f"{model}{note}; access not checked (HF_HUB_OFFLINE)")
            state: Severity = "problem" if trains_here else "warning"
            text = f"{model} is not in this machine's cache, and HF_HUB_OFFLINE is set"
            fix = f"unset HF_HUB_OFFLINE, or run `hf download {model}` where there is a network"
            return judged(GROUP, "model", state, f"{text}: access not checked", fix)
        try:
            _answer(self._readable)
        except NoAnswerError as error:
            state = "ok" if here else "warning"
            return judged(GROUP, "model", state, f"{model}{note}; access not checked ({error})")
        except MultitaskError as error:
            return refused(GROUP, "model", error, "warning" if here else "problem")
        return ok(GROUP, "model", f"{model}: may be downloaded{note}")

    def _data(self) -> list[Check]:
        spec = self._subject.spec
        if spec is None or self._subject.run is not None:
            return []
        folder = None if spec.data_dir is None else Path(spec.data_dir)
        return [dataset.check(folder, sample=spec.sample) for dataset in self._datasets]


@dataclass
class _Dataset:
    """The places of a task's dataset, each being asked."""

    task: TaskSpec
    seconds: float
    places: list[tuple[HubPlace, Pending[None]]] = field(init=False)

    def __post_init__(self) -> None:
        from multitask.data.sources import check_readable

        self.places = [
            (place, Pending(partial(check_readable, place), self.seconds))
            for place in self.task.source.places
        ]

    def check(self, folder: Path | None, *, sample: bool) -> Check:
        name = f"data of {self.task.name}"
        try:
            local = local_source(self.task, data_dir=folder, sample=sample)
        except InputError as error:
            return refused(GROUP, name, error)
        if local is not None:
            return ok(GROUP, name, f"on this machine ({local.location})")
        errors: list[MultitaskError] = []
        for place, asked in self.places:
            try:
                asked.get()
            except MultitaskError as error:
                errors.append(error)
                continue
            return ok(GROUP, name, f"{place.repo}: may be downloaded, or is in the cache")
        silent = [e for e in errors if isinstance(e, NoAnswerError | HubUnreachableError)]
        if silent:
            found = str(silent[0]).partition("\n")[0]
            fix = "connect, or put its files into DIR/<task>/ and pass --data-dir DIR"
            return warning(GROUP, name, f"not checked: {found}", fix)
        return refused(GROUP, name, errors[0])


def _hub_model(subject: Subject) -> str | None:
    """The Hub id of the subject's model; None where it is a folder, or there is no spec."""
    if subject.spec is None:
        return None
    model = subject.spec.model
    return None if (subject.folder / model / "config.json").is_file() else model


def _tasks(subject: Subject) -> list[TaskSpec]:
    """The tasks whose data is yet to be read."""
    spec = subject.spec
    if spec is None or subject.run is not None:
        return []
    return [task_of(entry) for entry in spec.tasks]


def weights_are_cached(model: str) -> bool:
    """Whether a model's config and every weight file of it are in the Hub's cache."""
    import json

    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def cached(name: str) -> Path | None:
        try:
            found = try_to_load_from_cache(model, name)
        except HFValidationError:
            return None
        return Path(found) if isinstance(found, str) else None

    if cached("config.json") is None:
        return False
    if cached("model.safetensors") or cached("pytorch_model.bin"):
        return True
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        index = cached(name)
        if index is not None:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return all(cached(shard) for shard in shards)
    return False


def _answer(asked: Pending[Any]) -> Any:
    """A question's answer.

    Raises:
        NoAnswerError: The Hub cannot be reached, or not in time.
        MultitaskError: It refuses.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    from multitask.hub.client import explain, status_of

    try:
        return asked.get()
    except httpx.TransportError as error:
        raise NoAnswerError(f"the Hub cannot be reached: {type(error).__name__}") from None
    except HfHubHTTPError as error:
        if status_of(error) == 429 or status_of(error) >= 500:
            raise NoAnswerError(f"the Hub answers {status_of(error)}") from None
        raise explain("whoami", error) from None


def _push(repo: str, who: Mapping[str, Any] | None, *, has_token: bool) -> Check:
    from multitask.hub.client import check_rights

    name = "push"
    if who is None:
        found = "not checked" if has_token else "no login, so nothing can be pushed"
        return warning(GROUP, name, f"{repo}: {found}", "" if has_token else "run `hf auth login`")
    try:
        return ok(GROUP, name, f"this login may write to {check_rights(who, repo)}")
    except InputError as error:
        return refused(GROUP, name, error, "warning")


def wandb_check(subject: Subject, environment: Mapping[str, str]) -> Check:
    """Whether Weights & Biases has a login; it is not started.

    Args:
        subject: What is to be trained; its ``tracking`` says whether it matters.
        environment: This process's variables.
    """
    from multitask.callbacks.login import logged_in
    from multitask.doctor.packages import installed

    name = "Weights & Biases"
    wanted = subject.spec is not None and subject.spec.tracking.wandb is not None
    found = "a login is there; not checked" if logged_in(environment) else "no login"
    mode = environment.get("WANDB_MODE", "")
    if mode:
        found += f", WANDB_MODE={mode}"
    if not wanted:
        return ok(GROUP, name, f"{found}; only `tracking: {{wandb: ...}}` needs one")
    if installed("wandb") is None:
        return problem(GROUP, name, "not installed", "pip install 'multitask[train]'")
    if not logged_in(environment) and not mode:
        text = f"{found}: metrics are kept in RUN/logs, and sent later with `wandb sync`"
        return warning(GROUP, name, text, "run `wandb login`, or set WANDB_API_KEY")
    return ok(GROUP, name, found)
