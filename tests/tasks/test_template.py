"""Templates: rendered in a sandbox, with errors that name template and row."""

from __future__ import annotations

import pytest

from multitask.errors import InputError
from multitask.tasks import Example, Kind, Task, Template


def test_a_prompt_is_rendered_with_the_row_s_fields() -> None:
    template = Template("t", "{{ text }}\n", "{{ label }}")
    assert template.render_prompt({"text": "hello {{ 1 }}"}, row="1") == "hello {{ 1 }}"


def test_an_unknown_variable_names_template_and_row() -> None:
    template = Template("shout", "{{ txt }}", "x")
    with pytest.raises(InputError, match="template 'shout', row 'r7'") as error:
        template.render_prompt({"text": "a"}, row="r7")
    assert "'txt' is undefined" in str(error.value)
    assert "use one of: text" in str(error.value)


def test_a_broken_template_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="the prompt is not valid Jinja"):
        Template("t", "{% if %}", "x")


def test_a_template_cannot_reach_the_interpreter() -> None:
    template = Template("t", "{{ text.__class__.__mro__ }}", "x")
    with pytest.raises(InputError, match="row '1'"):
        template.render_prompt({"text": "a"}, row="1")


def test_every_label_has_a_response() -> None:
    task = Task(
        "t", Kind.CLASSIFICATION, ("a", "b"), (Template("t", "{{ text }}", "={{ label }}"),)
    )
    assert task.responses(task.templates[0]) == ("=a", "=b")


def test_options_are_lettered_in_order() -> None:
    from multitask.tasks import load_task

    task = load_task("commonsense_qa", ("A", "B"))
    prompt = task.prompt(Example("1", "Why?", "A", ("for fun", "no idea")), task.templates[0])
    assert prompt.endswith("Why?\nA. for fun\nB. no idea")
