"""A user's own task: from a few lines of YAML to rows, and every mistake named."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.data.mapping import read_mapped
from multitask.data.prepare import prepare
from multitask.data.readers import Rejects, read_rows
from multitask.data.sources import read_task
from multitask.errors import InputError
from multitask.spec import load_spec
from multitask.task_spec import TaskSpec
from multitask.tasks.kinds.multiple_choice import option_letter

WriteSpec = Callable[..., Path]


def _csv(path: Path, *rows: list[object]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def _jsonl(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _examples(**task: Any) -> list[Any]:
    declared = TaskSpec.model_validate({"name": "t"} | task)
    return list(read_task(declared, data_dir=None, sample=False)[1].splits["train"])


def test_classification_with_other_column_names(tmp_path: Path) -> None:
    path = _csv(tmp_path / "x.csv", ["body", "queue"], ["hello", "a"], ["bye", " b "])
    rows = _examples(
        kind="classification",
        source={"path": str(path)},
        columns={"text": "body", "label": "queue"},
    )
    assert [(r.id, r.text, r.label) for r in rows] == [
        ("train-1", "hello", "a"),
        ("train-2", "bye", "b"),
    ]


def test_numbers_as_labels_become_text(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "x.jsonl", {"text": "a", "label": 0}, {"text": "b", "label": 1})
    rows = _examples(kind="classification", source={"path": str(path)})
    assert [r.label for r in rows] == ["0", "1"]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({}, {"question": "q?", "choices": ["x", "y", "z"], "answer": "B"}),
        ({}, {"question": "q?", "choices": ["x", "y", "z"], "answer": 1}),
        ({}, {"question": "q?", "choices": ["x", "y", "z"], "answer": "y"}),
        (
            {"answer": "answerKey"},
            {
                "question": "q?",
                "choices": {"label": list("ABC"), "text": list("xyz")},
                "answerKey": "B",
            },
        ),
        (  # ARC numbers some of its options, from 1
            {"answer": {"any_of": ["answerKey", "key"]}},
            {
                "question": "q?",
                "choices": {"label": list("123"), "text": list("xyz")},
                "key": "2",
            },
        ),
        (
            {"choices": ["one", "two", "three"]},
            {"question": "q?", "one": "x", "two": "y", "three": "z", "answer": "b"},
        ),
    ],
)
def test_multiple_choice_in_its_many_forms(
    tmp_path: Path, columns: dict[str, object], row: dict[str, object]
) -> None:
    path = _jsonl(tmp_path / "x.jsonl", row)
    (example,) = _examples(kind="multiple_choice", source={"path": str(path)}, columns=columns)
    assert (example.text, example.choices, example.label) == ("q?", ("x", "y", "z"), "B")


@pytest.mark.parametrize(
    ("answer", "choices", "expected"),
    [
        ("C", "abc", "C"),
        ("b", ["x", "y"], "B"),
        (2, "abc", "C"),
        ("2", "abc", "C"),
        ("2", ["1", "2", "3"], "B"),  # an option's own text wins
        ("b", ["c", "b", "a"], "B"),
        ("same", ["same", "same"], None),  # two options have it, so it says nothing
        (True, "abc", None),
        ("D", "abc", None),
        (3, "abc", None),
        (-1, "abc", None),
        (None, "abc", None),
    ],
)
def test_the_right_option(answer: object, choices: list[str], expected: str | None) -> None:
    assert option_letter(answer, list(choices)) == expected


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        (["prompt", "response"], ["say hi", "hi"], ("say hi", "", "hi")),
        (["instruction", "input", "output"], ["add", "1 2", "3"], ("add", "1 2", "3")),
        (["instruction", "output"], ["say hi", "hi"], ("say hi", "", "hi")),
        (["id", "instruction", "input", "output"], [7, "add", "", "3"], ("add", "", "3")),
    ],
)
def test_generation_forms_are_built_in(
    tmp_path: Path, header: list[str], row: list[object], expected: tuple[str, str, str]
) -> None:
    path = _csv(tmp_path / "x.csv", list(header), row)
    (example,) = _examples(kind="generation", source={"path": str(path)})
    assert (example.text, example.context, example.label) == expected


def test_an_input_stands_below_its_instruction(tmp_path: Path, write_spec: WriteSpec) -> None:
    _csv(
        tmp_path / "x.csv",
        ["instruction", "input", "output"],
        *[[f"translate number {i}", f"in {i}" if i % 2 else "", f"out {i}"] for i in range(20)],
    )
    task = {"name": "g", "kind": "generation", "source": {"path": "x.csv"}}
    run = prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")
    rows = {row["text"]: row for s in ("train", "test") for row in read_rows(run.split(s))}
    for text, row in rows.items():
        number = text.rsplit(" ", 1)[1]
        expected = f"{text}\n\nin {number}" if int(number) % 2 else text
        assert [m["content"] for m in row["messages"]] == [expected, f"out {number}"]
        assert row["answer"] == f"out {number}"


def test_eight_lines_of_yaml_declare_a_task(tmp_path: Path) -> None:
    _csv(tmp_path / "x.csv", ["text", "category"], *[[f"text {i}", "ab"[i % 2]] for i in range(30)])
    text = """\
model: owner/model
tasks:
  - name: b77
    kind: classification
    source: {path: x.csv}
    columns: {text: text, label: category}
    labels: [a, b]
    template: {prompt: "Classify the query.\\n{{ text }}", response: "{{ label }}"}
"""
    (tmp_path / "spec.yaml").write_text(text)
    spec = load_spec(tmp_path / "spec.yaml")
    run = prepare(spec, tmp_path / "run")
    row = read_rows(run.split("train"))[0]
    assert row["messages"][0]["content"].startswith("Classify the query.\ntext ")
    assert load_spec(run.spec) == spec


def test_files_of_every_split_are_kept(tmp_path: Path, write_spec: WriteSpec) -> None:
    for split, n in (("a", 20), ("v", 6), ("b", 4)):
        rows = [[f"{split} text {i} of {i * 3}", "xy"[i % 2]] for i in range(n)]
        _csv(tmp_path / f"{split}.csv", ["text", "label"], *rows)
    source = {"train": "a.csv", "validation": "v.csv", "test": "b.csv"}
    task = {"name": "t", "kind": "classification", "source": source}
    spec = load_spec(write_spec(tasks=[task], sample=None, leakage={"near_duplicates": False}))
    run = prepare(spec, tmp_path / "run")
    assert [len(read_rows(run.split(s))) for s in ("train", "validation", "test")] == [20, 6, 4]


_FAULTS = {
    "null text": ([None, "a"], "no text"),
    "blank text": (["  ", "a"], "no text"),
    "empty label": (["x", ""], "no label"),
    "null label": (["x", None], "no label"),
    "label outside the set": (["x", "c"], "the label is none of the declared ones"),
    "list as label": (["x", ["a"]], "no label"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_bad_row_is_refused_by_name_and_counted_when_allowed(
    tmp_path: Path, write_spec: WriteSpec, fault: str
) -> None:
    (text, label), reason = _FAULTS[fault]
    good = [{"text": f"good text {i} x{i * 5}", "label": "ab"[i % 2]} for i in range(20)]
    _jsonl(tmp_path / "x.jsonl", *good[:3], {"text": text, "label": label}, *good[3:])
    task = {
        "name": "t",
        "kind": "classification",
        "source": {"path": "x.jsonl"},
        "labels": ["a", "b"],
    }
    with pytest.raises(InputError, match=r"x\.jsonl: row 4: ") as error:
        prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")
    assert reason in str(error.value)
    assert not (tmp_path / "run").exists()

    allowed = write_spec(tasks=[task | {"max_bad_rows": 1}], sample=None)
    run = prepare(load_spec(allowed), tmp_path / "run")
    dropped = json.loads(run.manifest.read_text())["tasks"]["t"]["dropped"]
    assert dropped["count"] == 1
    assert dropped["reasons"] == {reason: 1}
    assert dropped["rows"][0]["row"] == 4
    assert "1 rows could not be used" in run.plan.read_text()


def test_duplicate_ids_are_bad_rows(tmp_path: Path) -> None:
    path = _csv(
        tmp_path / "x.csv", ["key", "text", "label"], [1, "x", "a"], [1, "y", "b"], [2, "z", "b"]
    )
    with pytest.raises(InputError, match="row 2: duplicate id '1'"):
        _examples(kind="classification", source={"path": str(path)}, columns={"id": "key"})


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"columns": {"txt": "a"}}, ["has no part 'txt'", "did you mean 'text'"]),
        ({"columns": {"text": "boddy"}}, ["no column 'boddy' for the text", "'body'"]),
        ({"columns": {"text": ["body", "queue"]}}, ["only `choices`"]),
        ({"template": "banking"}, ["unknown template 'banking'", "did you mean 'banking77'"]),
        ({"template": "commonsense_qa"}, ["is for multiple_choice, not classification"]),
        (
            {"template": {"prompt": "{{ txet }}", "response": "{{ label }}"}},
            ["'txet' is undefined", "template 'own'", "row 'train-"],
        ),
        ({"template": {"prompt": "{{ text }}", "response": "yes"}}, ["give the same response"]),
        ({"source": {"path": "nowhere.csv"}}, ["no such file", "nowhere.csv"]),
        ({"source": {}}, ["give one of `path`"]),
        ({"source": {"path": "x.csv", "revision": "y"}}, ["belong to `hub`"]),
        ({"kind": "classify"}, ["tasks.0.kind", "did you mean 'classification'?", "'classify'"]),
        ({"nmae": "x"}, ["unknown key 'nmae'", "did you mean 'name'"]),
        ({"name": "banking77"}, ["is the name of a shipped task"]),
        ({"name": "a b"}, ["tasks.0.name"]),
        ({"name": ".."}, ["tasks.0.name"]),
        ({"name": "-rf"}, ["tasks.0.name"]),
        ({"name": "x" * 101}, ["tasks.0.name"]),
        ({"name": "macro"}, ["stands for all tasks"]),
        ({"name": "worst"}, ["stands for all tasks"]),
        ({"labels": ["late", "lost", "late"]}, ["the label 'late' is there twice"]),
        ({"labels": ["late", "late\u200b"]}, ["looks the same as 'late'"]),
        ({"labels": ["caf\u00e9", "cafe\u0301"]}, ["looks the same as 'caf\\xe9'"]),
        ({"labels": ["late ", "lost"]}, ["has spaces around it"]),
        ({"kind": "generation", "labels": ["a", "b"]}, ["`labels` belongs to a classification"]),
        (
            {"template": {"prompt": "Classify: { text }", "response": "{{ label }}"}},
            ["the prompt is the same for every row", "template 'own'"],
        ),
        (
            {
                "template": [
                    {"prompt": "{{ text }}", "response": "{{ label }}"},
                    {"prompt": "{% if text %}Classify{% endif %}", "response": "{{ label }}"},
                ]
            },
            ["the prompt is the same for every row", "template 'own-2'"],
        ),
    ],
)
def test_a_mistake_in_a_task_is_one_clear_message(
    tmp_path: Path, write_spec: WriteSpec, task: dict[str, object], expected: list[str]
) -> None:
    rows = [[f"text {i}", "ab"[i % 2]] for i in range(10)]
    _csv(tmp_path / "x.csv", ["body", "queue"], *rows)
    whole: dict[str, object] = {
        "name": "t",
        "kind": "classification",
        "source": {"path": "x.csv"},
        "columns": {"text": "body", "label": "queue"},
    }
    with pytest.raises(InputError) as error:
        prepare(load_spec(write_spec(tasks=[whole | task], sample=None)), tmp_path / "run")
    assert all(part in str(error.value) for part in expected), str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_split_of_the_hub_without_labels_is_left_out(tmp_path: Path) -> None:
    """As GLUE's test splits: every row has the class -1."""
    train = _jsonl(tmp_path / "train.jsonl", *({"text": x, "label": x} for x in "ab"))
    test = _jsonl(tmp_path / "test.jsonl", *({"text": x, "label": None} for x in "ab"))
    content = {"name": "t", "kind": "classification", "source": {"hub": "owner/name"}}
    rejects = Rejects()
    task = TaskSpec.model_validate(content)
    data = read_mapped(task, {"train": (train,), "test": (test,)}, rejects)
    assert list(data.splits) == ["train"]
    assert rejects.count == 0
    assert rejects.notes == ["the test split has no labels, so it is left out"]
    assert rejects.looked_at == 4


def _labelled(tmp_path: Path, labels: list[str]) -> Path:
    rows = [[f"text {i} of {i * 7}", labels[i % len(labels)]] for i in range(30)]
    return _csv(tmp_path / "x.csv", ["text", "label"], *rows)


@pytest.mark.parametrize("twin", ["late\u200b", "la\u00adte", "\ufefflate"])
def test_labels_that_look_the_same_are_refused(tmp_path: Path, twin: str) -> None:
    path = _labelled(tmp_path, ["late", "lost", twin])
    with pytest.raises(InputError, match=r"'late' \(10 rows\).* look the same"):
        _examples(kind="classification", source={"path": str(path)})


def test_labels_in_two_unicode_forms_are_refused(tmp_path: Path) -> None:
    path = _labelled(tmp_path, ["caf\u00e9", "cafe\u0301"])
    with pytest.raises(InputError, match="look the same"):
        _examples(kind="classification", source={"path": str(path)})


def test_labels_that_differ_in_case_are_a_warning(tmp_path: Path, write_spec: WriteSpec) -> None:
    _labelled(tmp_path, ["late", "Late", "lost"])
    task = {"name": "t", "kind": "classification", "source": {"path": "x.csv"}}
    run = prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")
    warning = "'Late' (10 rows) and 'late' (10 rows) differ in case or spaces alone"
    assert warning in run.plan.read_text()


def test_named_columns_are_read_though_another_form_fits(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "r", "q": "question", "a": "answer"}
    path = _jsonl(tmp_path / "x.jsonl", row)
    source = {"path": str(path)}
    columns = {"instruction": "q", "output": "a"}
    (example,) = _examples(kind="generation", source=source, columns=columns)
    assert (example.text, example.label) == ("question", "answer")
    with pytest.raises(InputError, match="output, prompt belong to no one form"):
        _examples(kind="generation", source=source, columns={"prompt": "q", "output": "a"})
    with pytest.raises(InputError, match="no column 'x' for the instruction"):
        _examples(kind="generation", source=source, columns={"instruction": "x"})


_QUESTION = {"question": "q?", "choices": ["x", "y"], "answer": "A"}


@pytest.mark.parametrize(
    ("kind", "template", "expected"),
    [
        ("multiple_choice", ("{{ question }} {{ choices }}", "B"), "give the same response 'B'"),
        ("multiple_choice", ("{{ question }}", "{{ answer }}"), "does not show the options"),
        (
            "multiple_choice",
            ("{{ question }} {{ choices }}", "{{ answer[:3] }}"),
            "the options 'one 0' and 'one 1' give the same response 'one', or",
        ),
        (
            "multiple_choice",
            ("{{ choices }} {% if answers == 'text' %}{{ oops }}{% endif %}", "{{ answer }}"),
            "'oops' is undefined",
        ),
        ("generation", ("{{ prompt }}", "yes"), "the response is the same for every row"),
        ("generation", ("Answer!", "{{ response }}"), "the prompt is the same for every row"),
    ],
)
def test_what_could_not_be_scored_is_refused_before_the_training(
    tmp_path: Path, write_spec: WriteSpec, kind: str, template: tuple[str, str], expected: str
) -> None:
    rows = [
        {
            "question": f"question {i}?",
            "choices": [f"one {i}", f"one {i + 1}"],
            "answer": "AB"[i % 2],
        }
        for i in range(30)
    ]
    if kind == "generation":
        rows = [{"prompt": f"say {i}", "response": f"said {i * 3}"} for i in range(30)]
    _jsonl(tmp_path / "x.jsonl", *rows)
    words = dict(zip(("prompt", "response"), template, strict=True))
    task = {"name": "t", "kind": kind, "source": {"path": "x.jsonl"}, "template": words}
    with pytest.raises(InputError) as error:
        prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")
    message = re.sub(r"'one \d+' and 'one \d+'", "'one 0' and 'one 1'", str(error.value))
    assert expected.removesuffix(", or") in message
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_leaves_out_the_input_is_a_warning(
    tmp_path: Path, write_spec: WriteSpec
) -> None:
    rows = [{"instruction": f"do {i % 9}", "input": f"in {i}", "output": f"{i}"} for i in range(30)]
    _jsonl(tmp_path / "x.jsonl", *rows)
    task = {"name": "t", "kind": "generation", "source": {"path": "x.jsonl"}}
    task |= {"template": {"prompt": "{{ instruction }}", "response": "{{ output }}"}}
    run = prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")
    assert (
        "rows that differ have the same prompt; does it leave out a part?" in run.plan.read_text()
    )


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    path = _csv(tmp_path / "x.csv", ["text", "label"], ["x", "a"], ["y", "a"])
    with pytest.raises(InputError, match="every row of task 't' has the label 'a'"):
        _examples(kind="classification", source={"path": str(path)})


def test_the_resolved_spec_keeps_own_tasks(tmp_path: Path, write_spec: WriteSpec) -> None:
    _csv(tmp_path / "x.csv", ["text", "label"], ["x", "a"])
    task = {"name": "t", "kind": "classification", "source": {"path": "x.csv"}}
    spec = load_spec(write_spec(tasks=["banking77", task], sample=None))
    source = yaml.safe_load(spec.to_yaml())["tasks"][1]["source"]
    assert source["path"] == str(tmp_path / "x.csv")
