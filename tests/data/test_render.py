import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.render import Renderer
from multitask.data.rows import Rows
from multitask.tasks import KINDS, Example, Task, Template

PROMPTS = [
    "Class of:\n{{ text }}",
    "{{ text }} is?",
    "{{ text }} or {{ text }}",
    "nothing",
    '"{{ text }}\\',
    "{% if text %}{{ text }}{% endif %}",
    "{% for label in labels %}{{ label }} {% endfor %}{{ text }}",
]
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def _task() -> Task:
    templates = tuple(
        Template(f"t{i} \"ä'", prompt, "{{ label }}!") for i, prompt in enumerate(PROMPTS)
    )
    return Task('na"me', KINDS["classification"], ("a", "b\n"), templates)


@pytest.mark.parametrize("alpaca", [False, True])
@settings(deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["a", "b\n"])), max_size=6))
def test_lines_are_the_rows_in_json(alpaca: bool, rows: list[tuple[str, str, str]]) -> None:
    examples = [Example(*row) for row in rows] * len(PROMPTS)
    templates = [i // len(rows) for i in range(len(examples))]
    places = list(range(len(examples)))
    made = Renderer(_task(), alpaca=alpaca).rows(examples, templates, places)
    lines = Renderer(_task(), alpaca=alpaca).lines(Rows.of(examples), np.array(templates, int))
    assert lines.to_pylist() == [orjson.dumps(row).decode() + "\n" for row in made]
