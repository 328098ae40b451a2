"""Runs of some tasks of a spec: the same rows as with all of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.run import SPLITS, Run
from multitask.spec import Spec, load_spec


def _lines(run: Run, split: str, task: str) -> list[str]:
    lines = run.split(split).read_text().splitlines()
    return [line for line in lines if json.loads(line)["task"] == task]


@pytest.fixture
def spec(sample_spec: Spec) -> Spec:
    mixture = sample_spec.mixture.model_copy(update={"strategy": "equal"})
    return sample_spec.model_copy(update={"mixture": mixture})


@pytest.mark.parametrize("task", ["text_claims", "banking77", "commonsense_qa"])
def test_a_task_alone_has_the_rows_that_it_has_with_others(
    spec: Spec, tmp_path: Path, task: str
) -> None:
    every = prepare(spec, tmp_path / "every")
    alone = prepare(spec.model_copy(update={"only": (task,)}), tmp_path / "alone")
    for split in SPLITS:
        one, all_rows = _lines(alone, split, task), _lines(every, split, task)
        assert len(one) == len(read_rows(alone.split(split))) > 0
        # Training rows are shuffled among all; the others keep their order.
        assert sorted(one) == sorted(all_rows) if split == "train" else one == all_rows


def test_the_manifest_and_the_plan_say_what_it_was_divided_with(spec: Spec, tmp_path: Path) -> None:
    run = prepare(spec.model_copy(update={"only": ("banking77",)}), tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    assert list(manifest["tasks"]) == ["banking77"]
    assert manifest["divided_with"] == ["text_claims", "commonsense_qa"]
    assert "together with text_claims, commonsense_qa" in run.plan.read_text()


def test_rows_that_leak_into_another_task_are_missing_alone_too(tmp_path: Path) -> None:
    """Without the other task's test rows in sight, the single run would train on them."""
    texts = [f"{verb} the {thing}" for verb in ("open", "close", "paint") for thing in "abcdefgh"]
    for name, rows in (("one", texts), ("two", texts[:3] + [f"other {i}" for i in range(9)])):
        with (tmp_path / f"{name}.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([text, f"{name}-{i % 2}"] for i, text in enumerate(rows))
    sources = {"one": {"path": "one.csv"}, "two": {"train": "own.csv", "test": "two.csv"}}
    content = {
        "model": "owner/model",
        "tasks": [
            {"name": name, "kind": "classification", "source": source}
            for name, source in sources.items()
        ],
        "leakage": {"near_duplicates": False},
    }
    (tmp_path / "own.csv").write_text("text,label\nfirst,two-0\nsecond,two-1\nthird,two-0\n")
    (tmp_path / "spec.json").write_text(json.dumps(content))
    every = load_spec(tmp_path / "spec.json")
    alone = prepare(every.model_copy(update={"only": ("one",)}), tmp_path / "alone")
    trained = {row["text"] for row in read_rows(alone.split("train"))}
    assert trained
    assert trained.isdisjoint(texts[:3])


def test_a_task_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: owner/model\ntasks: [banking77]\nonly: [baking77]\n")
    with pytest.raises(InputError, match="did you mean 'banking77'"):
        load_spec(path)


def test_a_general_task_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: owner/model\ntasks: [banking77]\ngeneral: [banking77]\n")
    with pytest.raises(InputError, match="cannot show what is forgotten"):
        load_spec(path)
