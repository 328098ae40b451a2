"""What is put to a model: every row once, in blocks that do not depend on who does them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.models import BORROWED
from multitask.evaluation.requests import (
    Purpose,
    Settings,
    TaskRequests,
    content_free,
    read_inputs,
    requests_for,
    spread,
)
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.tasks import KINDS, Task, Template


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
    blocks = TaskRequests(_task(), Purpose.SCORES, rows).blocks(size)
    places = [place for block in blocks for place in block]
    assert sorted(places) == list(range(len(rows)))
    assert all(len(block) == size for block in blocks[:-1])
    keys = [(rows[i]["template"], -len(rows[i]["messages"][0]["content"])) for i in places]
    assert keys == sorted(keys)


def test_spread_rows_come_from_everywhere() -> None:
    rows = [{"id": i} for i in range(100)]
    assert [row["id"] for row in spread(rows, 4)] == [0, 25, 50, 75]
    assert spread(rows, 1000) == rows


def test_each_kind_has_its_requests(trained: Run) -> None:
    inputs = read_inputs(
        trained, "test", None, Settings(permutations=True, calibration="contextual")
    )
    found = {
        task.name: {str(one.purpose): len(one.rows) for one in requests_for(inputs, task)}
        for task in inputs.tasks
    }
    assert found["banking77"] == {
        "scores": 30, "validation": 30, "content-free": 12, "generated": 30,
    }  # fmt: skip
    assert found["commonsense_qa"] == {
        "scores": 20, "validation": 14, "content-free": 12, "other way": 20, "rotations": 100,
        "generated": 20,
    }  # fmt: skip


def test_what_a_chosen_metric_needs_is_asked_for(trained_copy: Run) -> None:
    manifest = json.loads(trained_copy.manifest.read_text())
    manifest["tasks"]["commonsense_qa"]["metrics"] = ["consistency"]
    trained_copy.manifest.write_text(json.dumps(manifest))
    inputs = read_inputs(trained_copy, "test", None, Settings())
    assert inputs.settings == Settings(permutations=True)


def test_rows_that_define_no_chosen_metric_are_measured_as_their_kind_is(trained_copy: Run) -> None:
    manifest = json.loads(trained_copy.manifest.read_text())
    manifest["tasks"]["banking77"]["metrics"] = ["roc_auc"]  # of two labels, and there are more
    trained_copy.manifest.write_text(json.dumps(manifest))
    quick = Settings(calibration="none", generate=0, baselines=False, option_texts=False)
    results = evaluate(trained_copy, settings=quick).results
    assert next(iter(results["tasks"]["banking77"]["metrics"])) == "accuracy"
    assert results["notes"] == ["banking77: these rows do not define roc_auc"]
    page, _ = write_report(trained_copy)
    assert "these rows do not define roc_auc" in page.read_text()


def test_content_free_rows_say_nothing_of_the_label() -> None:
    rows = content_free(_task())
    assert [row["messages"][0]["content"] for row in rows] == ["N/A", "", "[MASK]"]


def test_a_task_without_rows_is_refused(trained: Run) -> None:
    inputs = read_inputs(trained, "test", None, Settings())
    inputs.rows["banking77"] = []
    with pytest.raises(InputError, match="no rows in this split"):
        list(requests_for(inputs, inputs.tasks[1]))


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
    for change in ({"block": 0}, {"max_residual": 1.0}, {"calibration": "isotonic"}):
        with pytest.raises(InputError):
            replace(Settings(), **change)  # type: ignore[arg-type]
