"""Shipped tasks: real and sample files to examples, and broken ones refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from multitask.data.mapping import TaskData, read_mapped
from multitask.data.readers import Rejects, read_rows
from multitask.data.sources import SAMPLE_DIR, read_task
from multitask.errors import InputError
from multitask.spec import load_spec, shipped_task
from multitask.task_spec import SourceSpec, TaskSpec
from multitask.tasks import task_names

ROOT = Path(__file__).parents[2]


def _read(task: str, folder: Path | None = None) -> TaskData:
    return read_task(shipped_task(task), data_dir=folder, sample=folder is None)[1]


@pytest.mark.parametrize("task", sorted(p.name for p in SAMPLE_DIR.iterdir() if p.is_dir()))
def test_the_sample_is_read_whole(task: str) -> None:
    _, data, rejects = read_task(shipped_task(task), data_dir=None, sample=True)
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    assert (
        sizes
        == {
            "text_claims": {"train": 150},
            "banking77": {"train": 150, "test": 30},
            "commonsense_qa": {"train": 70, "test": 20},
        }[task]
    )
    gold = {example.label for rows in data.splits.values() for example in rows}
    assert gold == set(data.labels)
    assert (rejects.count, rejects.notes) == (0, [])


def test_real_banking77(real_data: Path) -> None:
    data = _read("banking77", real_data)
    assert len(data.splits["train"]) == 10_003
    assert len(data.splits["test"]) == 3_080
    assert len(data.labels) == 77
    assert set(Counter(e.label for e in data.splits["test"]).values()) == {40}
    # The Hub's label ids follow an order that ignores case.
    assert data.labels == tuple(sorted(data.labels, key=str.lower))
    assert "Refund_not_showing_up" in data.labels


def test_real_banking77_label_file_equals_the_shipped_list(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "banking77"
    folder.mkdir()
    for name in ("train.csv", "test.csv"):
        (folder / name).symlink_to(real_data / "banking77" / name)
    assert _read("banking77", tmp_path).labels == _read("banking77", real_data).labels


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            '["pin_blocked", "card_arival"]',
            "'card_arival' is none of .* did you mean 'card_arrival",
        ),
        ('{"a": 1}', "not a JSON list of labels"),
        ("pin_blocked", "not a JSON list of labels"),
    ],
)
def test_a_label_file_that_is_wrong(tmp_path: Path, names: str, expected: str) -> None:
    folder = tmp_path / "banking77"
    folder.mkdir()
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text("text,category\nx,pin_blocked\n")
    (folder / "categories.json").write_text(names)
    with pytest.raises(InputError, match=re.compile(expected, re.DOTALL)):
        _read("banking77", tmp_path)


def test_real_commonsense_qa_tests_on_its_labelled_validation_split(real_data: Path) -> None:
    data = _read("commonsense_qa", real_data)
    assert len(data.splits["train"]) == 9_741
    assert len(data.splits["test"]) == 1_221
    assert all(len(e.choices) == 5 for e in data.splits["test"])


def test_no_sample_row_is_a_real_one(real_data: Path) -> None:
    def texts(folder: Path | None) -> set[str]:
        return {
            example.text.casefold()
            for task in ("banking77", "commonsense_qa")
            for rows in _read(task, folder).splits.values()
            for example in rows
        }

    assert texts(None) & texts(real_data) == set()


def test_banking77_torn_in_the_last_label(tmp_path: Path) -> None:
    source = SAMPLE_DIR / "banking77"
    folder = tmp_path / "banking77"
    folder.mkdir()
    for name in ("test.csv", "categories.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "train.csv").write_bytes((source / "train.csv").read_bytes()[:-6])
    with pytest.raises(
        InputError, match=r"train\.csv: row 150: the label is none of the declared ones"
    ):
        _read("banking77", tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answerKey": ""}, "the answer is no option"),
        ({"answerKey": "F"}, "the answer is no option"),
        ({"choices": ["a", "b"]}, "2 options, not 5"),
        ({"choices": {"label": ["A", "B"], "text": ["x", "y"]}}, "2 options, not 5"),
        ({"choices": {"label": ["A"], "text": list("abcde")}}, "`label` and `text` are not of one"),
        ({"choices": {"label": list("ABCDE")}}, "the options are no list"),
        ({"question": "  "}, "no question"),
        ({"id": None}, "no id"),
    ],
)
def test_commonsense_qa_rows_that_are_wrong(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    row = {
        "id": "1",
        "question": "q?",
        "choices": {"label": list("ABCDE"), "text": list("abcde")},
        "answerKey": "A",
    }
    folder = tmp_path / "commonsense_qa"
    folder.mkdir()
    for name in ("train.jsonl", "validation.jsonl"):
        (folder / name).write_text(json.dumps(row | change) + "\n")
    with pytest.raises(InputError, match=expected) as error:
        _read("commonsense_qa", tmp_path)
    assert "train.jsonl: row 1" in str(error.value)


def test_a_data_folder_with_a_file_missing(tmp_path: Path) -> None:
    (tmp_path / "banking77").mkdir()
    (tmp_path / "banking77" / "train.csv").write_text("text,category\n")
    with pytest.raises(InputError, match=r"needs test\.csv here"):
        _read("banking77", tmp_path)


def test_a_data_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data folder"):
        _read("banking77", tmp_path / "nowhere")


def test_duplicate_ids_are_bad_rows(tmp_path: Path) -> None:
    line = (SAMPLE_DIR / "commonsense_qa" / "train.jsonl").read_text().splitlines()[0]
    path = tmp_path / "train.jsonl"
    path.write_text(f"{line}\n{line}\n")
    rejects = Rejects(limit=None)
    read_mapped(shipped_task("commonsense_qa"), {"train": (path,), "validation": (path,)}, rejects)
    assert rejects.reasons == {"duplicate id": 2}


def test_ids_of_banking77_go_on_in_the_next_file(tmp_path: Path) -> None:
    """The Hub may cut a split into several files, each with rows numbered from 1."""
    for name in ("a", "b", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,category\n{name},card_arrival\n")
    files = {split: (tmp_path / f"{split}.csv",) for split in ("test",)}
    files["train"] = (tmp_path / "a.csv", tmp_path / "b.csv")
    data = read_mapped(shipped_task("banking77"), files, Rejects())
    assert [example.id for example in data.splits["train"]] == ["train-1", "train-1-1"]


def test_a_file_in_templates_is_all_that_a_new_task_takes(tmp_path: Path) -> None:
    """In a tree of links to this one, with one file more among the templates."""
    for name in ("multitask", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "templates", tmp_path / "templates")
    (tmp_path / "templates" / "queues.yaml").write_text("""\
kind: multiple_choice
source:
  hub: [{repo: owner/queues, revision: abc}]
  splits: {train: train, test: validation}
columns: {question: q, choices: o, answer: {any_of: [key, a]}}
options: 2
template: {prompt: "{{ question }} {{ choices | join(', ') }}", response: "{{ answer }}"}
""")
    data = tmp_path / "data" / "queues"
    data.mkdir(parents=True)
    row = '{"q": "Who, %d?", "o": {"label": ["1", "2"], "text": ["x", "y"]}, "a": "2"}\n'
    (data / "train.jsonl").write_text("".join(row % i for i in range(30)))
    (data / "dev.jsonl").write_text(row % 99)
    (tmp_path / "spec.yaml").write_text("model: owner/model\ntasks: [queues]\n")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "multitask",
            "prepare",
            "spec.yaml",
            "--data-dir",
            "data",
            "--out",
            "run",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )
    (row,) = read_rows(tmp_path / "run" / "data" / "test.jsonl")
    assert [m["content"] for m in row["messages"]] == ["Who, 99? x, y", "B"]


@pytest.mark.parametrize("name", task_names())
def test_a_copy_of_a_shipped_task_is_a_task_of_ones_own(name: str, tmp_path: Path) -> None:
    """The same rows, though it has another name and lies beside the spec."""
    shutil.copy(ROOT / "templates" / f"{name}.yaml", tmp_path / "mine.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").symlink_to(SAMPLE_DIR / name)
    (tmp_path / "spec.yaml").write_text("model: owner/model\ntasks: [mine.yaml]\n")
    (task,) = load_spec(tmp_path / "spec.yaml").tasks
    assert isinstance(task, TaskSpec)
    assert task.name == "mine"
    _, own, _ = read_task(task, data_dir=tmp_path / "data", sample=False)
    assert own == _read(name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("kind: classification\nsorce: {}\n", r"mine.yaml.*sorce.*did you mean 'source'"),
        ("kind: classification\n", r"mine.yaml: the key 'source' is missing"),
        ("kind: classification\nsource: {hub: a/b, file: {}}\n", r"'file'.*did you mean 'files'"),
        (
            "kind: classification\nsource: {hub: [{repo: a/b, revision: 1}]}\n",
            "mine.yaml: key 'source.hub.0.revision': input should be a valid string",
        ),
        ("[1]", "a task is a mapping"),
        (None, "no such file of a task: 'mine.yaml'"),
    ],
)
def test_a_file_of_a_task_that_is_wrong(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    (tmp_path / "spec.yaml").write_text("model: owner/model\ntasks: [mine.yaml]\n")
    with pytest.raises(InputError) as error:
        load_spec(tmp_path / "spec.yaml")
    assert re.search(expected, str(error.value), re.DOTALL), error.value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"path": "x.csv", "rows": {"train": 1}}, "belong to `hub`"),
        ({"hub": "a/b", "splits": {"test": "validation"}}, "which split is `train`"),
        ({"hub": "a/b", "files": {"test": "t.csv"}}, "no file of the split 'train'"),
        ({"hub": "a/b", "labels": "train.json"}, "called as a split is"),
        ({"hub": [{"repo": "a/b"}], "revision": "x"}, "its own `config` and `revision`"),
    ],
)
def test_a_source_that_contradicts_itself(source: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        SourceSpec.model_validate(source)
