"""Hostile and broken templates."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.specs import encoded, world

_BAD = [
    "{{ text + 1 }}", "{{ 1 / 0 }}", "{{ 2 ** 99999999 }}", "{{ 9 ** 9 ** 9 }}", "{{ text * 999999999 }}",
    "{{ [text] * 999999999 }}", "{{ '%999999999d' % 1 }}", "{{ '%*d' % (999999999, 1) }}", "{{ text.ljust(999999999) }}",
    "{{ '{:>999999999}'.format(1) }}", "{{ text | center(999999999) }}", "{{ text | indent(999999999) }}",
    "{{ '%999999999s' | format(text) }}", "{{ lipsum(n=999999) }}", "{{ lipsum(n=3, min=9999999) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for a in range(999999999) %}x{% endfor %}", "{{ range(10**12) | list }}", "{{ range(99999) | list | string * 999 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set n.x = n.x | replace('', n.x) %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set n.x = n.x.replace('', n.x) %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] | join(n.x) %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=text) %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}{{ n.x }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{% for i in [1,1] recursive %}{{ loop([1,1]) }}{% endfor %}",
    "{{ text | batch(999999999, 'x') | list }}", "{{ text | slice(999999999) | list }}", "{{ text | wordwrap(0) }}",
    "{{ text | wordwrap(-5) }}", "{{ text | truncate(-1) }}", "{{ text | tojson(indent=999999999) }}", "{{ text | round(2) }}",
    "{{ text.nothing }}", "{{ text.nothing.more }}", "{{ nothing }}", "{{ text['x'] }}", "{{ text[99999] }}", "{{ text[0:2:0] }}",
    "{{ text.__class__ }}", "{{ text.__class__.__mro__ }}", "{{ self.__init__.__globals__ }}", "{{ cycler.__init__ }}",
    "{{ text() }}", "{{ 1() }}", "{{ text.format_map(1) }}", "{{ text | nofilter }}", "{{ text is notest }}", "{{ text | attr(1) }}",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block a %}{{ self.a() }}{% endblock %}",
    "{% block a %}{{ super() }}{% endblock %}", "{% if text %}", "{% endfor %}", "{{", "}}", "{% raw %}", "{# x", "{{ '", "{{ }}",
    "{{ (" * 40, "{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "{% if 1 %}" * 60 + "{% endif %}" * 60, "{{ 1" + " + 1" * 5000 + " }}",
    "{{ [" * 200 + "]" * 200 + " }}", "{{ text " + "| upper " * 3000 + "}}", "{{ " + "not " * 3000 + "1 }}",
    "{{ caller() }}", "{% call text() %}{% endcall %}", "{{ loop.index }}", "{{ dict(1) }}", "{{ namespace(1) }}", "{{ joiner(1,2,3) }}",
    "{{ text | int(base=99) }}", "{{ '1' * 9000 | int }}", "{{ ('1' * 9000) | int }}", "{{ 10 ** 5000 }}", "{{ (10 ** 4000) | string }}", "{{ 1e308 * 10 }}", "{{ (1e308 * 10) | int }}",
    "{{ text | sort(attribute='a') }}", "{{ text | groupby('a') }}", "{{ text | map('x') | list }}", "{{ text | map(attribute=1) | list }}",
    "{{ [1,'a'] | sort }}", "{{ [1,'a'] | sum }}", "{{ [] | first }}", "{{ [] | min + 1 }}", "{{ text | dictsort }}", "{{ text | items | list }}",
    "{{ text | xmlattr }}", "{{ text | urlize }}", "{{ text | filesizeformat }}", "{{ text | random }}", "{{ choices[99] }}", "{{ labels[5] }}",
    "{{ 5 | letter }}", "{{ 99999999 | letter }}", "{{ -99 | letter }}", "{{ 'x' | letter }}", "{{ text ~ '\ud800' }}", "{{ '\\ud800' }}",
    "", " ", "constant", "{{ '' }}", "{% if false %}{{ text }}{% endif %}", "{{ text }}" * 200, "x" * 200_000, "\x00{{ text }}", "{{ text\x00 }}",
    "{% set text = 1 %}{{ text }}", "{% do text %}", "{% debug %}", "{% break %}", "{% trans %}x{% endtrans %}", "{% autoescape true %}{{ text }}{% endautoescape %}",
    "{% filter upper %}{{ text }}{% endfilter %}", "{% with a = text %}{{ a }}{% endwith %}", "{% for a, b in text %}{{ a }}{% endfor %}",
    "{% for i in 5 %}{% endfor %}", "{{ text if }}", "{{ text, }}", "{{ {} }}", "{{ {[]: 1} }}", "{{ {1: 2}[3] }}", "{{ true }}", "{{ none.x }}",
    "{{ 1 < 'a' }}", "{{ -'a' }}", "{{ 'a' in 5 }}", "{{ text.split(1) }}", "{{ text.encode('x') }}", "{{ text.encode() }}", "{{ text.join(5) }}", "{{ text.zfill(999999999) }}", "{{ text.expandtabs(999999999) }}",
]  # fmt: skip
_PARTS = [
    "{{ text }}", "{{ label }}", "words ", "\n", "{{ text | upper }}", "{% for x in labels %}{{ x }} {% endfor %}", "{{ text[:5] }}",
    "{{ labels | join(', ') }}", "{% if list_labels %}{{ labels | length }}{% endif %}", "{{ text.strip() }}", "{{ loop }}", "{{ text | trim | lower }}",
    "{% set x = 3 %}", "{{ x }}", "{%- if text -%}", "{% endif %}", "{% for i in range(3) %}", "{% endfor %}", "{{ text ~ text }}", "{{ text | length * 2 }}",
]  # fmt: skip


def make_template(random: Random, folder: Path) -> list[str]:
    """A task whose template is probably wrong."""
    world(folder)
    bad = random.choice(_BAD) if random.random() < 0.6 else mixed(random)
    template: dict[str, Any] = {"prompt": "{{ text }}", "response": "{{ label }}"}
    template[random.choice(["prompt", "prompt", "prompt", "response"])] = bad
    task: dict[str, Any] = {
        "name": "mine",
        "kind": "classification",
        "source": {"path": "data.csv"},
    }
    kind = random.random()
    if kind < 0.2:
        task |= {"kind": "generation", "columns": {"prompt": "text", "response": "label"}}
    task["template"] = template
    spec = {"model": "owner/model", "cluster": "cpu", "method": "full", "tasks": [task]}
    spec["leakage"] = {"near_duplicates": False}
    (folder / "spec.yaml").write_bytes(encoded(spec))
    return ["prepare", "spec.yaml", "--out", "run"]


def mixed(random: Random) -> str:
    parts = [
        random.choice(_PARTS if random.random() < 0.9 else _BAD)
        for _ in range(random.randrange(1, 8))
    ]
    text = "".join(parts)
    if random.random() < 0.2:
        at = random.randrange(len(text))
        text = text[:at] + random.choice("{}%#|()[]'\"") + text[at + 1 :]
    return text
