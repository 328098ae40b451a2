"""Every shipped configuration and template is read by the code that uses it."""

from __future__ import annotations

import pytest

from multitask.cluster import derive_batch, load_cluster
from multitask.data.define import define_task
from multitask.errors import InputError
from multitask.resources import config_names, resource_dir
from multitask.spec import load_spec, shipped_task
from multitask.task_spec import TemplatesSpec
from multitask.tasks import KINDS, Task, Template, generic_templates, task_names
from multitask.tasks.task import Answers


def test_all_yaml_files_are_known_to_a_loader() -> None:
    found = sorted(resource_dir("configs").rglob("*.yaml"))
    groups = {path.parent.name for path in found}
    assert len(found) >= 10
    assert groups == {"clusters", "methods", "models", "examples"}


@pytest.mark.parametrize("name", config_names("clusters"))
def test_clusters_load_and_take_a_batch(name: str) -> None:
    cluster = load_cluster(name)
    batch = derive_batch(None, cluster)
    assert batch.micro * batch.accumulation * cluster.world_size == batch.global_size


@pytest.mark.parametrize("name", config_names("examples"))
def test_examples_are_valid_specs(name: str) -> None:
    assert load_spec(resource_dir("configs/examples") / f"{name}.yaml").task_names


_TEMPLATES = sorted(
    str(path.relative_to(resource_dir("templates")).with_suffix(""))
    for path in resource_dir("templates").rglob("*.yaml")
)


def _templates(name: str) -> tuple[Template, ...]:
    if "/" in name:
        return generic_templates(KINDS[name.removeprefix("generic/")])
    return define_task(shipped_task(name), ("a", "b"), TemplatesSpec()).templates


def test_template_files_are_found() -> None:
    assert len(_TEMPLATES) >= 6
    assert set(task_names()) < set(_TEMPLATES)


@pytest.mark.parametrize("name", _TEMPLATES)
@pytest.mark.parametrize("list_labels", [True, False])
@pytest.mark.parametrize("answers", ["letter", "text"])
def test_every_phrasing_shows_the_row_and_gives_the_answer(
    name: str, list_labels: bool, answers: Answers
) -> None:
    kind = KINDS[name.removeprefix("generic/")] if "/" in name else shipped_task(name).kind
    templates = _templates(name)
    task = Task(
        name,
        kind,
        ("no sir", "yes sir", "may be"),
        templates,
        list_labels=list_labels,
        answers=answers,
    )
    example = kind.specimen(task)
    label = example.label or "any text"
    assert len({template.name for template in templates}) == len(templates)
    for template in templates:
        prompt = task.prompt(example, template)
        assert all(shown in prompt for shown in (example.text, *example.choices))
        response = task.response_for(label, template, choices=example.choices)
        assert response == kind.answer(task, label, example.choices)
        if kind.classes:
            assert ("yes sir" in prompt) is list_labels
        assert "\n\n\n" not in prompt


@pytest.mark.parametrize("name", task_names())
def test_shipped_tasks_have_four_phrasings(name: str) -> None:
    assert len(_templates(name)) >= 4


def test_an_unknown_name_is_answered_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean '3x4-a100-80gb'"):
        load_cluster("3x4-a100-80g")
