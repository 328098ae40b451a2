"""The parts of a spec that describe tasks, their words and their mixture."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from multitask.errors import did_you_mean
from multitask.files import file_name
from multitask.tasks import KINDS, Kind, kind_named

KindName = Annotated[Kind, PlainValidator(kind_named), PlainSerializer(str)]
Positive = Annotated[float, Field(gt=0, le=1e9)]

Split = Literal["train", "validation", "test"]

MOST_ROWS = 10**9
"""Rows that no key may ask for more of: beyond what one machine prepares."""

Level = Literal[
    "exact", "normalised", "without punctuation", "letters only", "near", "different marks"
]
LEVELS: tuple[Level, ...] = get_args(Level)


class StrictModel(BaseModel):
    """A model that refuses keys it does not know and cannot be changed."""

    # Infinity and not-a-number are in YAML, and no meaning of a key.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HubPlace(StrictModel):
    """A dataset repository on the Hub.

    Attributes:
        repo: ``owner/name``, with CSV, JSON-lines or Parquet files.
        revision: Commit, tag or branch; the manifest records the commit that was read.
        config: Folder or configuration within the repository.
    """

    repo: str
    revision: str = "main"
    config: str | None = None

    @property
    def page(self) -> str:
        """The page a person visits to read about it and to accept its conditions."""
        return f"https://huggingface.co/datasets/{self.repo}"


class SourceSpec(StrictModel):
    """Where a task comes from: one file, a file per split, or the Hub.

    Attributes:
        path: One file; it is divided into the three splits.
        train: File of the training rows; rows for a split without a file are taken from it.
        validation: File of the validation rows.
        test: File of the test rows; they stay test.
        hub: A dataset repository ``owner/name``, or several, the preferred one first: the next
            is taken where one is gone or has other row counts than ``rows``.
        config: Folder or configuration within the repository.
        revision: Commit, tag or branch; default ``main``, and the manifest records its commit.
        files: Of a dataset on the Hub: each split's file in ``DIR/<task>/`` of ``--data-dir DIR``.
            These splits must then be there, on the Hub as well. Default: found by the splits'
            names, of which ``train`` must be there.
        splits: Which of the dataset's splits is this task's train, validation and test; others
            are left out. Default: those of the same names.
        rows: Rows that each of the task's splits must have on the Hub, to tell versions apart.
        labels: A JSON list of label names beside the task's files. Where it is there, these are
            the labels, in the order of the task's ``labels`` if that has them.
    """

    path: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    hub: str | Annotated[list[HubPlace], Field(min_length=1)] | None = None
    config: str | None = None
    revision: str | None = None
    files: dict[Split, str] = {}
    splits: dict[Split, Split] = {}
    rows: dict[Split, Annotated[int, Field(ge=1, le=MOST_ROWS)]] = {}
    labels: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SourceSpec:
        ways = [self.path is not None, self.train is not None, self.hub is not None]
        if sum(ways) != 1:
            raise ValueError("give one of `path`, `train` (with `validation`, `test`) or `hub`")
        if self.hub is None and (self.config or self.revision):
            raise ValueError("`config` and `revision` belong to `hub`")
        if isinstance(self.hub, list) and (self.config or self.revision):
            raise ValueError("give each of several repositories its own `config` and `revision`")
        if self.hub is None and (self.files or self.splits or self.rows):
            raise ValueError("`files`, `splits` and `rows` belong to `hub`")
        if self.train is None and (self.validation or self.test):
            raise ValueError("`validation` and `test` need `train` beside them")
        return self

    @model_validator(mode="after")
    def _train_is_there(self) -> SourceSpec:
        if self.splits and "train" not in self.splits:
            raise ValueError("`splits` does not say which split is `train`")
        needed: set[Split] = set(self.splits.values()) or {"train"}
        if self.files and not needed <= self.files.keys():
            missing = sorted(needed - self.files.keys())
            raise ValueError(f"`files` names no file of the split {missing[0]!r}")
        if self.labels_key in get_args(Split):
            raise ValueError(f"`labels` is called as a split is: {self.labels!r}")
        return self

    @property
    def labels_key(self) -> str:
        """What the file of labels is called in the manifest; empty where there is none."""
        return Path(self.labels).stem if self.labels else ""

    @property
    def places(self) -> tuple[HubPlace, ...]:
        """The repositories on the Hub, the preferred one first."""
        if isinstance(self.hub, str):
            place = HubPlace(repo=self.hub, revision=self.revision or "main", config=self.config)
            return (place,)
        return tuple(self.hub or ())

    @property
    def required(self) -> tuple[Split, ...]:
        """The dataset's splits that must be there."""
        return tuple(self.splits.values()) or tuple(self.files) or ("train",)

    @property
    def optional(self) -> tuple[Split, ...]:
        """The dataset's splits that are read where they are there."""
        return () if self.splits or self.files else ("validation", "test")


class AnyOf(StrictModel):
    """A column that files of a task have under one name or another; the first found is read."""

    any_of: Annotated[list[str], Field(min_length=1)]


class TemplateSpec(StrictModel):
    """A user's own phrasing.

    Attributes:
        prompt: Jinja source of the user's message.
        response: Jinja source of the assistant's message.
        name: Recorded with every row.
    """

    prompt: str
    response: str
    name: str = "own"


class TaskSpec(StrictModel):
    """A task with no Python: a user's own, or one that ships with multitask.

    Attributes:
        name: The task's name: letters, digits, ``_``, ``-`` and ``.``; it begins with none of the
            last two, and is not ``macro`` or ``worst``, which stand for all tasks.
        kind: One of :data:`multitask.tasks.KINDS`, which may have keys of its own.
        source: Where its rows are.
        columns: Column of each part; default: columns that have the part's own name.
            classification: text, label. multiple_choice: question, choices, answer (choices may
            be a list of columns, and its cells lists of texts or lists called label and text).
            generation: prompt, response, or instruction, input, output. multi_label: text, labels.
            rating: text, rating. ``{any_of: [a, b]}`` is
            the first of these that a file has.
        reader: A reader in Python for files that no mapping can describe; it knows its columns.
        labels: The label set in the order of the label ids; default: the labels found in train.
        positive_label: Of a classification with two labels, the one that ROC-AUC and PR-AUC look
            for; default: the rarer one of the rows that are evaluated.
        template: Name of a shipped task whose phrasings are used, own phrasing(s), or none for
            the generic ones.
        options: Of a multiple choice, how many options every row has; default: any number.
        metrics: What evaluations measure, the headline first: names of metrics, and
            ``module:name`` of own ones, of a module beside the spec or on Python's path; default:
            those of the kind.
        max_bad_rows: How many unusable rows are left out before the task is refused, or ``any``.
    """

    model_config = ConfigDict(extra="allow")  # the kinds' own keys; others are refused below

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$"), AfterValidator(file_name)]
    kind: KindName
    source: SourceSpec
    columns: dict[str, str | list[str] | AnyOf] = {}
    reader: Literal["text_claims"] | None = None
    labels: Annotated[list[str], Field(min_length=2)] | None = None
    positive_label: str | None = None
    template: str | TemplateSpec | list[TemplateSpec] | None = None
    options: Annotated[int, Field(ge=2, le=26)] | None = None
    metrics: Annotated[list[str], Field(min_length=1)] | None = None
    max_bad_rows: Annotated[int, Field(ge=0, le=MOST_ROWS)] | Literal["any"] = 0

    @model_validator(mode="before")
    @classmethod
    def _knows_all_keys(cls, given: Any) -> Any:
        own = {key for kind in KINDS.values() for key in kind.own_keys}
        for key in given if isinstance(given, dict) else ():
            if key not in cls.model_fields and key not in own:
                known = [*cls.model_fields, *own]
                raise ValueError(f"unknown key {key!r}; {did_you_mean(str(key), known)}")
        return given

    @model_validator(mode="after")
    def _own_keys_are_right(self) -> TaskSpec:
        extra = self.__pydantic_extra__ or {}
        for key, value in extra.items():
            if key not in self.kind.own_keys:
                theirs = next(kind for kind in KINDS.values() if key in kind.own_keys)
                raise ValueError(f"`{key}` belongs to a {theirs}, not to {self.kind}")
            extra[key] = self.kind.own_keys[key](value)
        self.kind.declared_labels(self)
        return self

    def own(self, key: str) -> Any:
        """The value of a key of the kind's own; None where it is not given."""
        return (self.__pydantic_extra__ or {}).get(key)

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in ("macro", "worst"):
            raise ValueError(f"the name {name!r} stands for all tasks together; take another")
        return name

    @field_validator("labels", "options")
    @classmethod
    def _belongs_to_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind, key = info.data.get("kind"), str(info.field_name)
        if value is not None and kind is not None and key not in kind.keys:
            theirs = [f"a {other}" for other in KINDS.values() if key in other.keys]
            raise ValueError(f"`{key}` belongs to {' or '.join(theirs)}, not to {kind}")
        return value

    @field_validator("labels")
    @classmethod
    def _are_classes(cls, labels: list[str] | None) -> list[str] | None:
        seen: dict[str, str] = {}
        for label in labels or ():
            if not label or label != label.strip():
                raise ValueError(f"the label {label!r} is empty or has spaces around it")
            other = seen.get(looks_like(label))
            seen[looks_like(label)] = label
            if other is not None:
                same = "is there twice" if other == label else f"looks the same as {other!a}"
                raise ValueError(f"the label {label!a} {same}; leave one out")
        return labels


def looks_like(label: str) -> str:
    """A label as a reader sees it: in one Unicode form and without invisible characters."""
    seen = (c for c in unicodedata.normalize("NFC", label) if unicodedata.category(c) != "Cf")
    return "".join(seen).strip()


class TemplatesSpec(StrictModel):
    """How tasks are put into words.

    Attributes:
        phrasings: How many of a task's phrasings are used, the first ones; default: all.
        list_labels: Whether a classification's prompt names the labels; default: where there
            are at most 10.
        answers: Multiple choice is answered by the option's letter or by its text.
        shuffle_options: Move the options of a multiple choice so that the gold answer is evenly
            spread over the positions; official test rows keep their order.
        special_tokens: What happens where a cell holds a special token of the model, such as
            ``<|im_end|>``, which would become a control token: ``refuse`` ends with an error,
            ``escape`` puts a space into it, ``keep`` leaves it.
        format: ``chat`` uses the model's own chat template; ``alpaca`` the Alpaca instruction
            template, for base models, and rows get ``instruction``, ``input`` and ``output`` too.
    """

    phrasings: Annotated[int, Field(ge=1, le=1000)] | None = None
    list_labels: bool | None = None
    answers: Literal["letter", "text"] = "letter"
    shuffle_options: bool = False
    special_tokens: Literal["refuse", "escape", "keep"] = "refuse"
    format: Literal["auto", "chat", "alpaca"] = "auto"


class MixtureSpec(StrictModel):
    """How often each task's training rows are seen in one pass over the mixture.

    Attributes:
        strategy: ``proportional`` takes every row once; ``equal`` gives every task the same
            number; ``temperature`` a share proportional to rows^(1/temperature); ``weights``
            explicit shares.
        temperature: 1 is proportional; the larger, the closer to equal.
        weights: Share of each task, in any unit; all tasks, for ``weights`` only.
        caps: Most distinct rows of a task that are used, before weighting.
        epochs: Passes over a task's rows per pass over the mixture; overrides its share.
        size: Rows in one pass over the mixture; default: as many as there are after caps.
    """

    strategy: Literal["proportional", "equal", "temperature", "weights"] = "proportional"
    temperature: Annotated[float, Field(ge=1, le=1e6)] = 2.0
    weights: dict[str, Positive] = {}
    caps: dict[str, Annotated[int, Field(ge=1, le=MOST_ROWS)]] = {}
    epochs: dict[str, Annotated[float, Field(gt=0, le=1000)]] = {}
    size: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None

    @model_validator(mode="after")
    def _weights_belong_to_their_strategy(self) -> MixtureSpec:
        if bool(self.weights) != (self.strategy == "weights"):
            raise ValueError("`weights` and `strategy: weights` belong together")
        return self


class LeakageSpec(StrictModel):
    """What happens to a row that says what a row of a split that must stay says as well.

    How alike two rows are, from the strictest: ``exact``; ``normalised``, but for case, white
    space and Unicode form; ``without punctuation``; ``letters only``, but for punctuation and
    spaces; ``near``. The last three have the same numbers, operators, symbols and emoticons;
    where those differ, as in ``12 + 3`` and ``1 + 23``, it is ``different marks``.

    Attributes:
        remove: The levels on which a training or validation row is removed.
        report: The levels on which it stays, and is counted in the plan and the manifest. A level
            that is in neither is not looked at.
        near_duplicates: Also search texts that are nearly the same (slow on millions of rows).
        threshold: Jaccard similarity from which texts are nearly the same, of the character
            5-grams of their own letters: text that most rows of the task share does not count.
    """

    remove: tuple[Level, ...] = LEVELS[:-1]
    report: tuple[Level, ...] = LEVELS[-1:]
    near_duplicates: bool = True
    threshold: Annotated[float, Field(gt=0.5, le=1.0)] = 0.8

    @model_validator(mode="before")
    @classmethod
    def _removed_is_not_reported(cls, given: Any) -> Any:
        # What `remove` names need not be taken out of the default of `report`, nor the reverse.
        if not isinstance(given, dict):
            return given
        for one, other, default in (
            ("remove", "report", LEVELS[-1:]),
            ("report", "remove", LEVELS[:-1]),
        ):
            if isinstance(given.get(one), (list, tuple)) and other not in given:
                rest = [level for level in default if level not in given[one]]
                given = {**given, other: rest}
        return given

    @model_validator(mode="after")
    def _one_thing_each(self) -> LeakageSpec:
        both = [level for level in self.remove if level in self.report]
        if both:
            raise ValueError(f"{both[0]!r} is in `remove` and in `report`; keep the one you mean")
        return self
