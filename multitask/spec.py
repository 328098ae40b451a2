"""The spec: the few lines of YAML a user writes, checked and filled in.

``load_spec`` reads a file into a :class:`Spec`; every default is then visible in ``RUN/spec.yaml``.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator

from multitask.errors import InputError, did_you_mean, naming, shown
from multitask.files import file_name, read_mapping
from multitask.resources import resource_dir
from multitask.task_spec import (
    LeakageSpec,
    MixtureSpec,
    StrictModel,
    TaskSpec,
    TemplatesSpec,
)
from multitask.training_spec import BalanceSpec, EvaluationSpec

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]

# registry:port/path/name:tag@digest
_IMAGE = r"^[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$"
# As the Hub takes it (huggingface_hub/utils/_validators.py).
_REPO = re.compile(r"(?!.*(--|\.\.))(\w[\w.-]*/)?\w([\w.-]*\w)?", re.ASCII)
_LONGEST_REPO = 96


def _repo(name: str) -> str:
    if len(name) > _LONGEST_REPO or not _REPO.fullmatch(name):
        raise ValueError("no repository of the Hub is called this; write owner/name")
    return name


class SplitSpec(StrictModel):
    """How a task's rows are divided.

    Attributes:
        train: Share of a task's training rows that is trained on. The rest goes to the splits
            that the source does not bring: to validation where it has a test set, to test where
            it has a validation set, else evenly to both. A source with all three is kept.
    """

    train: Fraction = 0.8


class CheckpointSpec(StrictModel):
    """When the trainer saves.

    Attributes:
        save_steps: Optimizer steps between saves; a fraction below 1 is a share of the run.
            Default: from the estimated step time and the mean time between failures.
        keep: How many checkpoints stay on disk; two are the least that survive a torn one.
        mtbf_hours: Mean time between failures of the whole cluster, in hours.
        max_minutes: Longest time between two saves, in minutes.
    """

    save_steps: Annotated[float, Field(gt=0, le=1e9)] | None = None
    keep: Annotated[int, Field(ge=2, le=1000)] = 3
    mtbf_hours: Annotated[float, Field(gt=0, le=1e6)] = 24.0
    max_minutes: Annotated[float, Field(gt=0, le=1e6)] = 30.0


class WandbSpec(StrictModel):
    """Weights & Biases: a project, and optionally whose it is and what the run is called."""

    project: str
    entity: str | None = None
    name: str | None = None


class MlflowSpec(StrictModel):
    """MLflow.

    Attributes:
        experiment: The experiment that the run belongs to; made where there is none.
        uri: The server or folder; default: ``MLFLOW_TRACKING_URI``, else ``RUN/logs/mlflow``.
        name: What the run is called; default: the spec's ``name``.
    """

    experiment: Annotated[str, Field(min_length=1)]
    uri: Annotated[str, Field(min_length=1)] | None = None
    name: str | None = None


class TrackioSpec(StrictModel):
    """Trackio.

    Attributes:
        project: The project that the run belongs to.
        space: A Space of the Hub, ``owner/name``, that shows it; default: kept in
            ``RUN/logs/trackio``.
        name: What the run is called; default: the spec's ``name``.
    """

    project: Annotated[str, Field(min_length=1)]
    space: Annotated[str, AfterValidator(_repo)] | None = None
    name: str | None = None


class TrackingSpec(StrictModel):
    """Where training metrics are sent besides the log; any number of these.

    Attributes:
        wandb: Weights & Biases.
        tensorboard: Whether ``RUN/logs/tensorboard`` is written.
        mlflow: MLflow.
        trackio: Trackio.
    """

    wandb: WandbSpec | None = None
    tensorboard: bool = False
    mlflow: MlflowSpec | None = None
    trackio: TrackioSpec | None = None


class HubSpec(StrictModel):
    """Where the trained model is pushed.

    Attributes:
        repo: ``owner/name`` on the Hugging Face Hub.
    """

    repo: Annotated[str, AfterValidator(_repo)]


class Spec(StrictModel):
    """One fine-tune: a model, the tasks it learns together, and where it is trained.

    Attributes:
        model: A Hub id (``owner/name``) or the path of a local model folder.
        tasks: The tasks, at least one, no name twice: a shipped one's name, or a mapping.
        only: Which of them are trained on and tested on; default: all. The others still take part
            in the split and the leakage gate, so that a task has the same rows as with all.
        general: Tasks that are never trained on, scored before and after the training to see what
            it made the model forget; named or mapped as in ``tasks``.
        name: What the run is called in reports and trackers.
        method: A file of ``configs/methods``: full, lora, qlora, ...
        cluster: A file of ``configs/clusters``, or the path of a YAML file like them.
        image: The container image that dstack and SkyPilot start, as ``docker/Dockerfile`` builds
            it and you pushed it.
        sharding: How the model's state is spread over GPUs: auto, none, ddp, fsdp, hsdp, zero1,
            zero2 or zero3.
        cpu_offload: Keep parameters and optimizer in main memory between uses.
        activation_checkpointing: Compute layers again in the backward pass instead of keeping
            their activations; default: where memory needs it.
        torch_compile: Compile the model; pays on long runs of one sequence length.
        trust_remote_code: Let the model's repository run its code here and on the cluster.
        epochs: Passes over the training mixture.
        split: How rows are divided into train, validation and test.
        templates: How tasks are put into words.
        mixture: How often each task's rows are seen.
        leakage: How rows of different splits and tasks are compared.
        seed: Seeds the split, the mixture, the templates and the trainer.
        sequence_len: Longest example in tokens; longer ones are dropped by Axolotl. Packed
            sequences are all this long. Default: from the data, so that the longest row fits and
            an optimizer step sees about 96 rows.
        learning_rate: Peak learning rate; default: the method's.
        global_batch_size: Sequences per optimizer step over all GPUs; where rows are packed, one
            sequence holds several. Default: what holds about 96 rows.
        data_dir: Folder with a sub-folder per task, looked at before the Hub.
        sample: Use the small sample that ships with multitask instead of real data.
        checkpoint: When the trainer saves.
        evaluation: How each task is evaluated while training, and what the best checkpoint is.
        balance: How tasks are weighed against each other while training.
        tracking: Where metrics are sent.
        hub: Where the model is pushed.
        axolotl: Keys handed to Axolotl as they are; they win over ours.
    """

    model: Annotated[str, Field(min_length=1)]
    tasks: Annotated[tuple[str | TaskSpec, ...], Field(min_length=1)]
    only: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    general: tuple[str | TaskSpec, ...] = ()
    name: Annotated[str, AfterValidator(file_name)] = "multitask"
    method: str = "lora"
    cluster: str = "3x4-a100-80gb"
    image: Annotated[str, Field(pattern=_IMAGE)] | None = None
    sharding: Literal["auto", "none", "ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3"] = "auto"
    cpu_offload: bool = False
    activation_checkpointing: bool | None = None
    torch_compile: bool = False
    trust_remote_code: bool = False
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 2
    split: SplitSpec = SplitSpec()
    templates: TemplatesSpec = TemplatesSpec()
    mixture: MixtureSpec = MixtureSpec()
    leakage: LeakageSpec = LeakageSpec()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    sequence_len: Annotated[int, Field(ge=16, le=2**24)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    global_batch_size: Annotated[int, Field(ge=1, le=10**6)] | None = None
    data_dir: str | None = None
    sample: bool = False
    checkpoint: CheckpointSpec = CheckpointSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    balance: BalanceSpec = BalanceSpec()
    tracking: TrackingSpec = TrackingSpec()
    hub: HubSpec | None = None
    axolotl: dict[str, Any] = Field(default_factory=dict)

    @field_validator("tasks", "general")
    @classmethod
    def _no_task_twice(cls, tasks: tuple[str | TaskSpec, ...]) -> tuple[str | TaskSpec, ...]:
        names = [name_of(task) for task in tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"task {twice[0]!r} is listed twice; remove or rename one")
        return tasks

    @property
    def engine_keys(self) -> dict[str, Any]:
        """The user's own keys for the training engine, which win over ours."""
        return self.axolotl

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(name_of(task) for task in self.tasks)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the tasks that are trained on and tested on, in order."""
        return tuple(name for name in self.task_names if self.only is None or name in self.only)

    def to_yaml(self) -> str:
        """Every key with its value, in the order of the class."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def name_of(task: str | TaskSpec) -> str:
    """The name of an entry of ``tasks``."""
    return task if isinstance(task, str) else task.name


def load_spec(path: str | Path) -> Spec:
    """Read and check a spec file.

    Local paths in it (``model``, ``data_dir``) are taken relative to the file and come back
    absolute; a path inside the file's own folder tree of a run directory stays relative.

    Args:
        path: A YAML file, or a run directory (its ``spec.yaml`` is read).

    Raises:
        InputError: The file cannot be read, is no YAML mapping, or a key or value is wrong.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "spec.yaml"
    if not path.exists() and not path.is_symlink():
        raise InputError("no such spec file", where=path, fix="write one with `multitask init`")
    content = read_mapping(path, what="a spec", fix="start with `model: ...` and `tasks: [...]`")
    _refuse_secrets(content, path)
    for key in ("tasks", "general"):
        if isinstance(content.get(key), list):
            content[key] = [_from_file(entry, path) for entry in content[key]]
    try:
        spec = Spec.model_validate(content)
    except ValidationError as error:
        raise _explain(error, path, content) from None
    _check_tasks(spec, path)
    with naming(path):
        return _resolve_paths(spec, path)


def _from_file(entry: Any, spec: Path) -> Any:
    """An entry of ``tasks``, or the task in the YAML file that it names."""
    if not isinstance(entry, str) or not entry.endswith((".yaml", ".yml")):
        return entry
    path = _local(entry, spec.resolve().parent, f"{spec}: key 'tasks'")
    if not path.is_file():
        raise InputError(
            f"no such file of a task: {entry!r}", where=f"{spec}: key 'tasks'", fix="correct it"
        )
    return task_from_file(path)


def task_from_file(path: Path) -> TaskSpec:
    """Read a YAML file that declares one task; without ``name``, it is called as its file is.

    Paths in it are taken relative to the file.

    Raises:
        InputError: The file cannot be read, or a key or value in it is wrong.
    """
    fix = "begin with `kind:`, `source:`, `columns:`"
    return declared_task({"name": path.stem} | read_mapping(path, what="a task", fix=fix), path)


def declared_task(content: dict[str, Any], path: Path) -> TaskSpec:
    """The task that a mapping in a YAML file declares; raises as :func:`task_from_file`."""
    _refuse_secrets({"tasks": content}, path)
    try:
        task = TaskSpec.model_validate(content)
    except ValidationError as error:
        raise _explain(error, path, content, root=TaskSpec) from None
    with naming(path):
        return resolve_task(task, path.resolve().parent)


@cache
def shipped_task(name: str) -> TaskSpec:
    """The task ``templates/<name>.yaml``."""
    return task_from_file(resource_dir("templates") / f"{name}.yaml")


def _refuse_secrets(content: dict[str, Any], path: Path) -> None:
    """A spec is copied into the run, to rented machines and to the Hub; logins are not."""
    from multitask.scrub import find_secret

    found = (
        # A task's own words (labels, columns) may be called as secrets are.
        find_secret(value, str(key), by_name=key not in ("tasks", "general", "templates"))
        for key, value in content.items()
    )
    if (key := next((one for one in found if one is not None), None)) is not None:
        raise InputError(
            "the value is a secret, and a spec is copied to machines and pages",
            where=f"{path}: key '{key}'",
            fix="remove it, and give it in the environment instead (HF_TOKEN, WANDB_API_KEY, "
            "COMET_API_KEY, ...)",
        )


def _explain(
    error: ValidationError,
    path: Path,
    content: dict[str, Any],
    *,
    root: type[BaseModel] | None = None,
) -> InputError:
    """Turn pydantic's first complaint into one message with file, key and remedy."""
    # An unknown key often is the misspelt form of a missing one: name it first.
    issues = sorted(error.errors(), key=lambda issue: issue["type"] != "extra_forbidden")
    # A task may be a name or a mapping; what it is not is no news.
    issues = [i for i in issues if not _other_branch(i["loc"], content)] or issues
    issue = issues[0]
    location = _place(issue["loc"], content)
    key = ".".join(str(part) for part in location)
    where = f"{path}: key '{key}'" if key else str(path)
    if issue["type"] == "extra_forbidden":
        return InputError(
            f"unknown key {str(location[-1])!r}",
            where=path if len(location) == 1 else f"{path}: in '{key.rsplit('.', 1)[0]}'",
            fix=did_you_mean(str(location[-1]), _keys_of(root or Spec, location[:-1])),
        )
    if issue["type"] == "missing":
        example = {"model": "meta-llama/Llama-3.1-8B-Instruct", "tasks": "[banking77]"}
        return InputError(
            f"the key '{key}' is missing", where=path, fix=f"add `{key}: {example.get(key, '...')}`"
        )
    message = issue["msg"].removeprefix("Value error, ")
    value = _value_at(content, location)
    is_plain = isinstance(value, (str, int, float, bool))
    found = f" (it is {shown(value)})" if is_plain else ""
    return InputError(f"{message[:1].lower()}{message[1:]}{found}", where=where)


def _place(location: tuple[int | str, ...], content: Any) -> tuple[int | str, ...]:
    """Where a complaint is in the file: without the names of the types that were tried there."""
    found: list[int | str] = []
    for place, part in enumerate(location):
        # A key that is missing is the last part, and no type has a name like a key.
        may_miss = place == len(location) - 1 and str(part).isidentifier()
        if isinstance(content, dict) and (part in content or may_miss):
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int):
            content = content[part] if part < len(content) else None
        else:
            continue
        found.append(part)
    return tuple(found)


def _other_branch(location: tuple[int | str, ...], content: dict[str, Any]) -> bool:
    """Whether a complaint is about a form of a value that the user did not choose."""
    if location and location[-1] == "str":
        value = _value_at(content, _place(location[:-1], content))
        return isinstance(value, (list, dict))
    if len(location) < 3 or location[0] not in ("tasks", "general"):
        return False
    is_mapping = isinstance(_value_at(content, location[:2]), dict)
    return is_mapping == (location[2] == "str")


def _keys_of(root: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the model at a location of the spec, or of a task's file, accepts."""
    model: Any = root
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        models = [] if field is None else _models_in(field.annotation)
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type annotation speaks of, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _value_at(content: Any, location: tuple[int | str, ...]) -> Any:
    for part in location:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def check_task(task: str | TaskSpec, where: str) -> None:
    """Refuse a task that is not shipped, or a mapping that has a shipped one's name.

    Raises:
        InputError: It is one of these.
    """
    from multitask.tasks import task_names

    if isinstance(task, TaskSpec):
        if task.name in task_names():
            raise InputError(
                f"{task.name!r} is the name of a shipped task",
                where=where,
                fix="choose another name",
            )
    elif task not in task_names():
        raise InputError(
            f"unknown task {task!r}", where=where, fix=did_you_mean(task, task_names())
        )


def _check_tasks(spec: Spec, path: Path) -> None:
    for key, tasks in (("tasks", spec.tasks), ("general", spec.general)):
        for task in tasks:
            check_task(task, f"{path}: key '{key}'")
    for name in map(name_of, spec.general):
        if name in spec.task_names:
            raise InputError(
                f"{name!r} is trained on, so it cannot show what is forgotten",
                where=f"{path}: key 'general'",
                fix="name a task that is not in `tasks`",
            )
    floors = spec.evaluation.floor if isinstance(spec.evaluation.floor, dict) else {}
    for key, named in (
        ("only", spec.only or ()),
        ("evaluation.floor", floors),
        ("balance.loss_weights", spec.balance.loss_weights),
    ):
        for name in named:
            if name not in spec.task_names:
                raise InputError(
                    f"{name!r} is no task of this spec",
                    where=f"{path}: key '{key}'",
                    fix=did_you_mean(name, spec.task_names),
                )
    if spec.sample and spec.data_dir:
        raise InputError(
            "`sample: true` and `data_dir` exclude each other",
            where=path,
            fix="keep the one you mean",
        )


def _resolve_paths(spec: Spec, path: Path) -> Spec:
    base = path.resolve().parent
    changes: dict[str, Any] = {}
    if spec.data_dir is not None:
        changes["data_dir"] = str(_local(spec.data_dir, base, "key 'data_dir'"))
    for key in ("tasks", "general"):
        tasks = getattr(spec, key)
        changes[key] = tuple(
            task if isinstance(task, str) else resolve_task(task, base) for task in tasks
        )
    if spec.cluster.endswith((".yaml", ".yml")):
        changes["cluster"] = str(_local(spec.cluster, base, "key 'cluster'"))
    model = _resolve_model(spec.model, base, path)
    if model != spec.model:
        changes["model"] = model
    return spec.model_copy(update=changes)


def _local(value: str, base: Path, where: str) -> Path:
    """A path of the spec's, absolute.

    Raises:
        InputError: No file system could have it.
    """
    try:
        expanded = Path(value).expanduser()
        local = expanded if expanded.is_absolute() else (base / expanded).resolve()
        local.is_dir()  # asks the file system, which refuses names that it cannot have
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{shown(value)} is no path ({reason})", where=where, fix="correct the path"
        ) from None
    return local


def resolve_task(task: TaskSpec, base: Path) -> TaskSpec:
    """A task with the files of its source and its metrics taken relative to a folder."""
    if task.metrics is not None:
        metrics = [_local_metric(name, base) for name in task.metrics]
        task = task.model_copy(update={"metrics": metrics})
    if task.source.hub is not None:  # whose files are names in a folder yet to be given
        return task
    keys = ("path", "train", "validation", "test", "labels")
    given = {key: getattr(task.source, key) for key in keys}
    local = {
        key: str(_local(value, base, f"task {task.name!r}: key 'source.{key}'"))
        for key, value in given.items()
        if value is not None
    }
    return task.model_copy(update={"source": task.source.model_copy(update=local)})


def _local_metric(name: str, base: Path) -> str:
    """``module:name``, where the module is a file in the folder, as ``/folder/module.py:name``."""
    module, _, attribute = name.rpartition(":")
    path = base / (module if module.endswith(".py") else f"{module.replace('.', '/')}.py")
    return f"{path}:{attribute}" if module and path.is_file() else name


def _resolve_model(model: str, base: Path, path: Path) -> str:
    local = _local(model, base, "key 'model'")
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise InputError(
                f"the model folder {local} has no config.json",
                where=f"{path}: key 'model'",
                fix="point to a folder saved with save_pretrained, or give a Hub id",
            )
        return str(local)
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_local or len(model) > _LONGEST_REPO or not _REPO.fullmatch(model):
        raise InputError(
            f"no model folder at {local}, and {shown(model)} is no Hub id (owner/name)",
            where=f"{path}: key 'model'",
            fix="correct the path or the id",
        )
    return model
