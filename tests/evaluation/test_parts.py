"""What is put to a model: every row once, in blocks that do not depend on who does them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.models import BORROWED
from multitask.evaluation.parts import Part, Purpose, content_free, parts_of, spread
from multitask.evaluation.settings import Settings
from multitask.evaluation.world import World
from multitask.run import Run
from multitask.tasks import KINDS, Task, Template, task_from_record


def _task() -> Task:
    template = Template("t", "{{ text }}", "{{ label }}")
    return Task("x", KINDS["classification"], ("a", "b"), (template,))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 20))
@settings(deadline=None)
def test_blocks_divide_the_rows_and_keep_phrasings_and_lengths_together(
    lengths: list[int], size: int
) -> None:
    rows = [
        {"template": f"t{length % 3}", "messages": [{"content": "x" * length}], "label": "a"}
        for length in lengths
    ]
    blocks = Part(_task(), Purpose.SCORES, rows).blocks(size)
    places = [place for block in blocks for place in block]
    assert sorted(places) == list(range(len(rows)))
    assert all(len(block) == size for block in blocks[:-1])
    keys = [(rows[i]["template"], -len(rows[i]["messages"][0]["content"])) for i in places]
    assert keys == sorted(keys)


def test_spread_rows_come_from_everywhere() -> None:
    rows = [{"id": i} for i in range(100)]
    assert [row["id"] for row in spread(rows, 4)] == [0, 25, 50, 75]
    assert spread(rows, 1000) == rows


def test_each_kind_has_its_parts(trained: Run) -> None:
    manifest = json.loads(trained.manifest.read_text())
    rows = read_rows(trained.split("test"))
    wanted = Settings(permutations=True, calibration="contextual")
    found = {}
    for name in ("banking77", "commonsense_qa"):
        task = task_from_record(name, manifest["tasks"][name])
        own = [row for row in rows if row["task"] == name]
        parts = list(parts_of(task, own, wanted, validation=own))
        found[name] = {str(part.purpose): len(part.rows) for part in parts}
    assert found["banking77"] == {
        "scores": 30, "validation": 30, "content-free": 12, "generated": 30, "baselines": 30,
    }  # fmt: skip
    assert found["commonsense_qa"] == {
        "scores": 20, "validation": 20, "content-free": 12, "other way": 20, "rotations": 100,
        "generated": 20, "baselines": 20,
    }  # fmt: skip


def test_content_free_rows_say_nothing_of_the_label() -> None:
    rows = content_free(_task())
    assert [row["messages"][0]["content"] for row in rows] == ["N/A", "", "[MASK]"]


def test_a_task_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="no rows in this split"):
        list(parts_of(_task(), [], Settings()))


def test_one_process_is_a_world_of_its_own() -> None:
    world = World()
    assert [world.count("turn", 1) for _ in range(3)] == [1, 2, 3]
    assert world.share("x", lambda: b"made") == b"made"
    world.meet("end")
    assert world.name("a") != world.name("a")


def test_a_base_without_a_chat_template_is_asked_with_that_of_training(
    trained_copy: Run, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(trained_copy.model, plain)
    (plain / "chat_template.jinja").unlink()
    quick = Settings(baselines=False, generate=0, calibration="none")
    with_own = evaluate(trained_copy, settings=quick).results
    borrowed = evaluate(trained_copy, model=str(plain), name="plain", settings=quick).results
    assert BORROWED in borrowed["notes"]
    assert BORROWED not in with_own["notes"]
    for name, task in borrowed["tasks"].items():
        assert task["metrics"] == with_own["tasks"][name]["metrics"]


def test_settings_that_make_no_sense_are_refused() -> None:
    for change in ({"block": 0}, {"unvisited": 1.0}, {"calibration": "isotonic"}):
        with pytest.raises(InputError):
            replace(Settings(), **change)  # type: ignore[arg-type]
