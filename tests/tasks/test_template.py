"""Templates: rendered in a sandbox, with errors that name template and row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.errors import InputError
from multitask.tasks import (
    KINDS,
    Example,
    Task,
    Template,
    task_from_record,
    task_record,
)


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


def _task(prompt: str, response: str = "{{ label }}") -> Task:
    return Task("t", KINDS["classification"], ("a", "b"), (Template("one", prompt, response),))


def test_the_response_gives_the_label() -> None:
    task = _task("{{ text }}", "={{ label }}")
    assert task.response(Example("1", "x", "b"), task.templates[0]) == "=b"


def test_a_task_is_the_same_after_its_record() -> None:
    task = _task("{{ text }}")
    assert task_from_record("t", task_record(task)) == task


def test_a_row_has_as_many_candidates_as_options() -> None:
    task = Task("t", KINDS["multiple_choice"], tuple("ABCDE"), ())
    assert task.candidates(("x", "y")) == ("A", "B")
    assert _task("{{ text }}").candidates() == ("a", "b")


FAST = [
    "Classify.\n{% if list_labels %}Labels: {{ labels | join(', ') }}{% endif %}\n\n{{ text }}",
    "{{ text }}",
    "a {{ text }} b {{ question }} c",
    "no text at all",
]
SLOW = [
    "{{ text | upper }}",
    "{% if text %}x{% endif %}",
    "{% for c in choices %}{{ c }}{% endfor %}{{ text }}",
    "{{ text }}{{ input }}",
    "{% if list_labels %}{{ text }}{% endif %}",
    "{{ text ~ '!' }}",
    "{% set text = 'x' %}{{ text }}",
]


def _around(task: Task) -> list[str] | None:
    names = ("text", "question", "prompt", "instruction")
    fields = tuple(task.kind.variables(Example("", "", "")))
    return task.templates[0].around_text(task.constants(), names, fields)


@pytest.mark.parametrize("prompt", FAST)
@given(text=st.text(max_size=30))
def test_the_words_around_a_text_make_what_jinja_gives(prompt: str, text: str) -> None:
    task = _task(prompt)
    pieces = _around(task)
    assert pieces is not None
    fast = text.join(pieces).strip()
    assert fast == task.prompt(Example("1", text, "a"), task.templates[0])


@pytest.mark.parametrize("prompt", SLOW)
def test_what_only_jinja_can_render_is_left_to_it(prompt: str) -> None:
    assert _around(_task(prompt)) is None


def test_an_unknown_variable_is_left_to_the_way_that_names_the_row() -> None:
    assert _around(_task("{{ txet }} {{ text }}")) is None
