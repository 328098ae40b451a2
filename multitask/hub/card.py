"""The model card: metadata for the Hub, and a page that says how to use the model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask import __version__
from multitask.errors import InputError, did_you_mean
from multitask.evaluation.baselines import TITLES
from multitask.evaluation.calibration import FILE_NAME as CALIBRATION
from multitask.evaluation.models import DEFAULT_NAME, model_key, same_model
from multitask.files import read_json, read_mapping, read_text
from multitask.formatting import cell, fenced, number
from multitask.hub.weights import Weights
from multitask.metrics.registry import adopt
from multitask.reports.verdicts import title, with_interval
from multitask.run import Run
from multitask.scrub import scrub
from multitask.tasks import Task, task_from_record
from multitask.tasks.task import task_record

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import EvalResult

_CONFIDENCE = 0.95
# The Hub's list: another is refused by it, after the weights were merged.
_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0
epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research
isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c
mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 open-mdw openmdw-1.0 openrail openrail++ osl-3.0
other pddl postgresql unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())
_TAG = re.compile(r"[^\w.-]+")
_VERSION = re.compile(r"(?m)^- (PEFT|Transformers|Pytorch|Datasets|Tokenizers) (\S+)$")
_AXOLOTL = re.compile(r"axolotl version: `([^`]+)`")


def check_license(name: str) -> None:
    """Raise InputError for a license identifier that the Hub does not know."""
    if name not in LICENSES:
        raise InputError(
            f"the Hub knows no license {name!r}",
            fix=f"{did_you_mean(name, LICENSES)}; `other` where none fits",
        )


def own_evaluations(run: Run, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The evaluations of a run's model as it is now.

    Those of other models, such as the base, and those made before the weights changed are left
    out: a card must not give them as this model's.

    Args:
        run: The run.
        folder: The model that is pushed.

    Returns:
        The content of each results.json with its ``name`` and ``path``, the default one first;
        and a sentence on each that is out of date.

    Raises:
        InputError: A results.json cannot be read.
    """
    found, notes = [], []
    key = hashlib.sha256(model_key(str(folder)).encode()).hexdigest()
    paths = run.evaluations.glob("*/results.json") if run.evaluations.is_dir() else ()
    for path in sorted(paths, key=lambda p: (p.parent.name != DEFAULT_NAME, p.parent.name)):
        results, name = read_json(path), path.parent.name
        if results.get("key", {}).get("model") == key:
            adopt(results)
            found.append(results | {"name": name, "path": path})
        elif same_model(str(results["model"]), folder) or (
            name == DEFAULT_NAME and folder == run.model
        ):
            notes.append(
                f"{name} was evaluated with other weights and is not in the card; "
                f"run `multitask evaluate {run.root} --name {name}` again"
            )
    return found, notes


def prompt_format(task: Task) -> dict[str, Any]:
    """A task's prompt, shown by an example that is in no dataset.

    Returns:
        ``task`` and ``kind``, the ``prompt`` in the first phrasing, the ``labels`` there are
        (none where the answer is free), and the assistant's ``responses`` to them.
    """
    template, example = task.templates[0], task.kind.specimen(task)
    # The texts of options differ from question to question, so they are no label set.
    labels = () if task.kind.own_responses(task) else task.candidates(example.choices)
    return {
        "task": task.name,
        "kind": str(task.kind).replace("_", " "),
        "prompt": task.prompt(example, template),
        "labels": labels,
        "responses": [task.response_for(x, template, choices=example.choices) for x in labels],
    }


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Attributes:
        run: The run.
        repo: ``owner/name``.
        weights: What is pushed.
        base_model: The base's repository; None where it has none.
        license: A license of the Hub's list; None: not known.
        evaluations: Those of this model, as `own_evaluations` gives them.
    """

    run: Run
    repo: str
    weights: Weights
    base_model: str | None
    license: str | None
    evaluations: Sequence[Mapping[str, Any]]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest's record of each task."""
        found: dict[str, Any] = read_json(self.run.manifest)["tasks"]
        return found

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks with their definitions."""
        return [task_from_record(name, record) for name, record in self.manifest.items()]

    @cached_property
    def formats(self) -> list[dict[str, Any]]:
        """The prompt format of every task."""
        return [prompt_format(task) for task in self.tasks]

    @cached_property
    def method(self) -> str:
        """How it was trained, such as lora."""
        return str(read_mapping(self.run.spec).get("method", "full"))

    @cached_property
    def calibration(self) -> dict[str, Any] | None:
        """The calibration beside the model, or else the evaluation of these weights."""
        places = [self.weights.folder, *(e["path"].parent for e in self.evaluations)]
        found = [p / CALIBRATION for p in places if (p / CALIBRATION).is_file()]
        return read_json(found[0]) if self.evaluations and found else None

    @property
    def versions(self) -> dict[str, str]:
        """What the training was made with, as Axolotl wrote it beside the model."""
        readme = self.run.model / "README.md"
        text = read_text(readme) if readme.is_file() else ""
        axolotl = _AXOLOTL.search(text)
        found = {"multitask": __version__} | ({"axolotl": axolotl[1]} if axolotl else {})
        return found | dict(_VERSION.findall(text))

    def text(self, path: Path) -> str:
        """A file of the run without secrets and paths of this machine; empty where it is not."""
        if not path.is_file():
            return ""
        return scrub(read_text(path), self.run.root, yaml=path.suffix == ".yaml")

    def definitions(self) -> dict[str, Any]:
        """The content of tasks.json: definitions, and label and response pairs of each task."""
        return {
            task.name: {
                **task_record(task),
                "responses": dict(zip(shown["labels"], shown["responses"], strict=True)),
            }
            for task, shown in zip(self.tasks, self.formats, strict=True)
        }

    def __str__(self) -> str:
        """The whole README.md."""
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
        environment.filters |= {"cell": cell, "fenced": fenced, "demoted": _demoted}
        environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
        page = environment.get_template("card.md.j2").render(
            card=self,
            title=title,
            with_interval=with_interval,
            baselines=TITLES,
            limits=list(_limits(self)),
        )
        return f"---\n{self.metadata().to_yaml()}\n---\n\n{page}"

    def metadata(self) -> ModelCardData:
        """The metadata at the card's top."""
        from huggingface_hub import ModelCardData

        tags = ["multitask", "axolotl", "multi-task", "fine-tuned", self.method]
        tags += [str(task.kind).replace("_", "-") for task in self.tasks]
        tags += [_TAG.sub("-", task.name) for task in self.tasks]
        sources = [record["source"] for record in self.manifest.values()]
        datasets = [source["location"] for source in sources if source["kind"] == "hub"]
        results = list(_eval_results(self))
        data = ModelCardData(
            base_model=self.base_model,
            datasets=list(dict.fromkeys(datasets)) or None,
            license=self.license or "unknown",
            library_name="peft" if self.weights.pushes_adapter else "transformers",
            pipeline_tag="text-generation",
            tags=tags,
            model_name=self.repo.split("/")[1] if results else None,
            eval_results=results or None,
        )
        if self.base_model is not None:
            relation = "adapter" if self.weights.pushes_adapter else "finetune"
            data["base_model_relation"] = relation
        return data


def _eval_results(card: Card) -> Iterator[EvalResult]:
    """One entry of the model index for every metric of every evaluation of this model.

    The interval is in the metric's arguments, since the index has no place of its own for it.
    """
    from huggingface_hub.repocard_data import EvalResult

    datasets = {task.name: _dataset(card, task) for task in card.tasks}
    places = [(task.kind, datasets[task.name]) for task in card.tasks]
    for task, place in zip(card.tasks, places, strict=True):
        common = {
            "task_type": task.kind.hub_task,
            "task_name": task.name,
            "dataset_type": datasets[task.name],
            "dataset_name": task.name,
            # Tasks that share kind and dataset would be mixed.
            "dataset_config": task.name if places.count(place) > 1 else None,
            "dataset_revision": card.manifest[task.name]["source"]["revision"],
        }
        for evaluation in card.evaluations:
            record = evaluation["tasks"].get(task.name)
            parts: list[tuple[str, str | None, Any, dict[str, str]]] = []
            if record is not None:
                parts.append(("", None, record, {}))
            if record is not None and "generated" in record:
                free = {"answers": "generated freely"}
                parts.append((" (free answers)", "generated", record["generated"], free))
            for words, config, part, about in parts:
                yield from (
                    EvalResult(
                        **common,
                        dataset_split=evaluation["split"],
                        metric_type=key,
                        metric_name=title(key) + words,
                        metric_value=estimate["value"],
                        metric_config=config,
                        metric_args={
                            "confidence_interval": [estimate["low"], estimate["high"]],
                            "confidence_level": _CONFIDENCE,
                            "evaluation": evaluation["name"],
                            "rows": part["n"],
                            **about,
                        },
                    )
                    for key, estimate in part["metrics"].items()
                    if estimate["value"] is not None
                )


def _dataset(card: Card, task: Task) -> str:
    source = card.manifest[task.name]["source"]
    return str(source["location"]) if source["kind"] == "hub" else _TAG.sub("-", task.name)


def _limits(card: Card) -> Iterator[str]:
    """What a user should know before relying on the model, from the run's own figures."""
    if not card.evaluations:
        yield "The model has not been evaluated; nothing is known of its quality."
    sources = {name: record["source"]["kind"] for name, record in card.manifest.items()}
    sample = [name for name, kind in sources.items() if kind == "sample"]
    if sample:
        yield (
            f"Trained on a small sample of {', '.join(sample)}: it shows that the pipeline works, "
            "and is not for use."
        )
    for evaluation in card.evaluations[:1]:
        for name, record in evaluation["tasks"].items():
            yield from (f"{name}: {sentence}" for sentence in _limits_of(record))
    if any(task.labels for task in card.tasks):
        yield (
            "Scores hold for the closed label sets: a text that belongs to no label gets one all "
            "the same."
        )
    yield (
        "Scores hold for texts like those of the evaluated split, in the prompt format above; "
        "other languages, domains and phrasings were not measured."
    )
    yield "Knowledge, biases and unsafe answers of the base model can remain."


def _limits_of(record: Mapping[str, Any]) -> Iterator[str]:
    own = record["metrics"].get("accuracy")
    rivals = {
        TITLES.get(name, name): metrics["accuracy"]
        for name, metrics in record.get("baselines", {}).items()
        if "accuracy" in metrics
    }
    if own and rivals:
        name = max(rivals, key=lambda key: rivals[key]["value"])
        if own["low"] <= rivals[name]["high"]:
            yield (
                f"not shown to be better than {name} ({number(own['value'])} against "
                f"{number(rivals[name]['value'])} accuracy)."
            )
    if record["n"] < 100:
        yield f"evaluated on {record['n']} rows only, so intervals are wide."
    if cut := record.get("truncated", {}).get("rows", 0):
        yield f"{cut} of {record['n']} prompts were longer than the context and were cut."
    rate = record.get("generated", {}).get("metrics", {}).get("off_list_rate")
    if rate and rate["value"] > 0:
        share = number(rate["value"])
        yield f"{share} of freely generated answers are no label; score labels."
    calibration = record.get("calibration")
    if calibration and calibration["threshold"] is None:
        yield (
            f"no threshold reaches {100 * calibration['target_precision']:.0f} % precision on "
            "validation, so every answer needs a person's check."
        )


def _demoted(markdown: str) -> str:
    """A page's body as a part of another: no title, headings two levels lower."""
    body = re.sub(r"\A\s*# .*\n", "", markdown)
    return re.sub(r"(?m)^(#+ )", r"##\1", body).strip()
