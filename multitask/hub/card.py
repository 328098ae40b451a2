"""The model card: metadata that the Hub validates, and a page that says how to use the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multitask.hub.evaluations import Evaluation
from multitask.hub.licenses import check_license
from multitask.hub.limits import limits
from multitask.hub.prompts import PromptFormat, prompt_formats
from multitask.metrics import METRICS
from multitask.run import Run
from multitask.tasks import Task

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import EvalResult

CONFIDENCE = 0.95

_TAG = re.compile(r"[^\w.-]+")
_ESCAPED = {ord(character): f"&#{ord(character)};" for character in "\\`*_{}[]<>#|~&"}


@dataclass(frozen=True)
class CardInput:
    """What a card is made from.

    Attributes:
        run: The run.
        repo: ``owner/name``.
        is_adapter: Whether an adapter is pushed, or a whole model.
        merged: Whether an adapter was merged into the model.
        base_model: The base's repository; None where it has none.
        license: A license of the Hub's list; None: not known.
        method: How it was trained, such as lora.
        tasks: The tasks with their definitions.
        manifest: The manifest's record of each task.
        evaluations: The evaluations of this model.
        plan: The content of plan.md.
        axolotl: The content of axolotl.yaml, without secrets.
        calibration: The content of calibration.json; None where there is none.
        versions: Versions of what trained it.
    """

    run: Run
    repo: str
    is_adapter: bool
    merged: bool
    base_model: str | None
    license: str | None
    method: str
    tasks: Sequence[Task]
    manifest: Mapping[str, Any]
    evaluations: Sequence[Evaluation]
    plan: str
    axolotl: str
    calibration: Mapping[str, Any] | None
    versions: Mapping[str, str] = field(default_factory=dict)


def card_text(given: CardInput) -> str:
    """The whole README.md.

    Raises:
        InputError: The license is not one that the Hub knows.
        ValueError: The metadata would not be valid; a defect of multitask.
    """
    data = card_data(given)
    text = f"---\n{data.to_yaml()}\n---\n\n{_page(given)}"
    validate(text)
    return text


def card_data(given: CardInput) -> ModelCardData:
    """The metadata at the card's top."""
    from huggingface_hub import ModelCardData

    license_ = check_license(given.license) if given.license else "unknown"
    tags = ["multitask", "axolotl", "multi-task", "fine-tuned", given.method]
    tags += [str(task.kind).replace("_", "-") for task in given.tasks]
    tags += [_TAG.sub("-", task.name) for task in given.tasks]
    datasets = [
        source["location"]
        for source in (given.manifest[task.name]["source"] for task in given.tasks)
        if source["kind"] == "hub"
    ]
    results = eval_results(given)
    data = ModelCardData(
        base_model=given.base_model,
        datasets=list(dict.fromkeys(datasets)) or None,
        license=license_,
        library_name="peft" if given.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
        model_name=given.repo.split("/")[1] if results else None,
        eval_results=results or None,
    )
    if given.base_model is not None:
        data["base_model_relation"] = "adapter" if given.is_adapter else "finetune"
    return data


def eval_results(given: CardInput) -> list[EvalResult]:
    """One entry of the model index for every metric of every evaluation of this model.

    The interval is in the metric's arguments, since the index has no place of its own for it.
    """
    tasks = {task.name: task for task in given.tasks}
    configs = _configs(given)
    found = []
    for evaluation in given.evaluations:
        for name, record in evaluation.tasks.items():
            common = {"evaluation": evaluation.name, "rows": record["n"]}
            parts = [("", "", record["metrics"], common)]
            if "generated" in record:
                free = record["generated"]
                about = common | {"rows": free["n"], "answers": "generated freely"}
                parts.append((" (free answers)", "generated", free["metrics"], about))
            found += [
                _result(given, tasks[name], evaluation.split, key, value, part, configs[name])
                for part in parts
                for key, value in part[2].items()
                if value["value"] is not None
            ]
    return found


def _configs(given: CardInput) -> dict[str, str | None]:
    """A configuration's name for tasks that share kind and dataset, else they would be mixed."""
    places = [(t.kind, _dataset(given, t)) for t in given.tasks]
    return {
        task.name: task.name if places.count(place) > 1 else None
        for task, place in zip(given.tasks, places, strict=True)
    }


def _dataset(given: CardInput, task: Task) -> str:
    source = given.manifest[task.name]["source"]
    return str(source["location"]) if source["kind"] == "hub" else _TAG.sub("-", task.name)


def _result(
    given: CardInput,
    task: Task,
    split: str,
    key: str,
    estimate: Mapping[str, float],
    part: tuple[str, str, Any, Mapping[str, Any]],
    config: str | None,
) -> EvalResult:
    from huggingface_hub.repocard_data import EvalResult

    words, metric_config, _, about = part
    interval = {
        "confidence_interval": [estimate["low"], estimate["high"]],
        "confidence_level": CONFIDENCE,
    }
    return EvalResult(
        task_type=task.kind.hub_task,
        task_name=task.name,
        dataset_type=_dataset(given, task),
        dataset_name=task.name,
        dataset_config=config,
        dataset_split=split,
        dataset_revision=given.manifest[task.name]["source"]["revision"],
        metric_type=key,
        metric_name=(METRICS[key].title if key in METRICS else key) + words,
        metric_value=estimate["value"],
        metric_config=metric_config or None,
        metric_args={**interval, **about},
    )


def validate(text: str) -> None:
    """Check a card as far as this is possible without the Hub.

    Raises:
        ValueError: A key that people filter by is missing or wrong, or the model index is not one.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.utils._validators import validate_repo_id

    card = ModelCard(text)
    data: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    check_license(data["license"])
    named = [data["base_model"]] if "base_model" in data else []
    for repo in (*named, *data.get("datasets", ())):
        validate_repo_id(repo)
    if data["library_name"] not in ("peft", "transformers") or not data["tags"]:
        raise ValueError("the card names no library or no tags")
    if not all(isinstance(tag, str) and tag for tag in data["tags"]):
        raise ValueError("a tag is no text")
    for result in card.data.get("eval_results") or ():
        if not isinstance(result.metric_value, int | float):
            raise ValueError(f"the value of {result.metric_type} is no number")


def _page(given: CardInput) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown, not HTML; what comes from data is escaped by `cell`, or fenced by `fenced`.
    environment = Environment(
        loader=PackageLoader("multitask", "hub"),
        autoescape=False,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell, "fenced": fenced, "demoted": demoted, "json": _literal}
    formats = prompt_formats(given.tasks)
    return environment.get_template("card.md.j2").render(
        card=given,
        formats=formats,
        titles={key: metric.title for key, metric in METRICS.items()},
        shown=_shown,
        limits=limits(given.tasks, given.manifest, given.evaluations),
        snippet=snippet(environment, given, formats),
    )


def snippet(environment: Any, given: CardInput, formats: Sequence[PromptFormat]) -> str:
    """The program of the card that answers one question of every task."""
    text: str = environment.get_template("snippet.py.j2").render(card=given, formats=formats)
    return text.strip()


def _literal(value: object) -> str:
    """A text as Python source; JSON's strings are Python's too."""
    return json.dumps(value, ensure_ascii=False)


def _shown(key: str, estimate: Mapping[str, float]) -> str:
    """A number with its interval: in percent where it is a share."""
    share = key not in METRICS or METRICS[key].is_share
    value, low, high = (estimate[end] for end in ("value", "low", "high"))
    if value is None:
        return "-"
    if share:
        return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def cell(value: object) -> str:
    """Text that cannot leave its place or start markup or HTML."""
    return " ".join(str(value).split()).translate(_ESCAPED)


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any that the text holds."""
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def demoted(markdown: str) -> str:
    """A page's body as a part of another: no title, headings two levels lower."""
    body = re.sub(r"\A\s*# .*\n", "", markdown)
    return re.sub(r"(?m)^(#+ )", r"##\1", body).strip()
