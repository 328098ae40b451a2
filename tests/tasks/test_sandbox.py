"""Templates end, in bounded time and memory, whatever they say."""

from __future__ import annotations

import jinja2
import pytest

from multitask.errors import InputError
from multitask.tasks.template import Template

_FIELDS = {"text": "some text", "labels": ("a", "b"), "choices": ("x", "y"), "n": 3}
_DOUBLE = "{% set n = namespace(x=text) %}{% for i in range(60) %}%s{% endfor %}{{ n.x }}"

ENDLESS = [
    "{{ text * 999999999 }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ text.ljust(999999999) }}",
    "{{ text | center(999999999) }}",
    "{{ lipsum(n=999999) }}",
    "{{ 2 ** 99999999 }}",
    "{{ text | batch(999999999, 'x') | list }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    _DOUBLE.replace("%s", "{% set n.x = n.x ~ n.x %}"),
    _DOUBLE.replace("%s", "{% set n.x = n.x + n.x %}"),
    _DOUBLE.replace("%s", "{% set n.x = n.x | replace('', n.x) %}"),
    _DOUBLE.replace("%s", "{% set n.x = [n.x, n.x] | join(n.x) %}"),
    _DOUBLE.replace("%s", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
]


@pytest.mark.parametrize("source", ENDLESS)
def test_what_would_never_end_or_fill_the_memory_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="template 'own'"):
        Template("own", source, "{{ label }}").render_prompt(_FIELDS, row="1")


@pytest.mark.parametrize(
    "source",
    [
        "{{ text + 1 }}",
        "{{ 1 / 0 }}",
        "{{ text.missing }}",
        "{{ text() }}",
        "{% include 'x' %}",
        "{{ 9999999999 | letter }}",
        "{{ '\\ud800' }}",
        "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
        "{{ 1" + " + 1" * 5000 + " }}",
        "x" * 200_000,
        "{{ [1, 'a'] | sort }}",
    ],
)
def test_every_exception_of_a_template_is_an_error_of_the_template(source: str) -> None:
    with pytest.raises(InputError, match="template 'own'"):
        Template("own", source, "{{ label }}").render_prompt(_FIELDS, row="1")


@pytest.mark.parametrize(
    "source",
    [
        "{{ text | upper }}: {{ text[:4] ~ '!' }}",
        "{% for c in choices %}{{ loop.index }}/{{ loop.length }} {{ c }};{% endfor %}",
        "{% for c in choices %}{{ c }}{{ ',' if not loop.last }}{% else %}none{% endfor %}",
        "{{ labels | join(', ') }} of {{ labels | length }}",
        "{{ text.split()[0].replace('s', 'S') }}",
        "{{ n * 2 + n % 2 - 1 }} {{ '-' * 5 }} {{ 2 ** 10 }} {{ 7 // 2 }}",
        "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(text) }}",
        "{{ text | replace('some', 'any') | trim | title }}",
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
        "{{ range(3) | list }} {{ text | truncate(6, true, '') }} {{ none }} {{ true }}",
        "{{ text | tojson }} {{ text | indent(2) }} {{ text | center(20) }}",
        "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
        "{% set n = namespace(a=1) %}{% for c in 'ab' %}{% set n.a = 2 %}{% endfor %}{{ n.a }}",
    ],
)  # fmt: skip
def test_ordinary_templates_render_as_jinja_renders_them(source: str) -> None:
    jinja = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    ours = Template("own", source, "{{ label }}").render_prompt(_FIELDS, row="1")
    assert ours == jinja.from_string(source).render(_FIELDS).strip()
