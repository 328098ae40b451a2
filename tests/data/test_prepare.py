"""Prepared data: the contract's rows, the manifest, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask.data.define import define_task
from multitask.data.normal_form import normalised, without_punctuation
from multitask.data.render import gold
from multitask.data.write import prepare, read_rows
from multitask.errors import InputError
from multitask.spec import Spec, load_spec
from multitask.task_spec import TaskSpec, TemplatesSpec
from multitask.tasks import Kind, task_from_record, task_record


def test_rows_have_the_keys_of_the_contract(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    for split in ("train", "validation", "test"):
        rows = read_rows(run.split(split))
        assert rows
        for row in rows:
            assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
            assert {"task", "id", "template"} <= row.keys()
            assert ("label" in row) != ("answer" in row)
            assert gold(row) in row["messages"][1]["content"]


def test_the_prompt_holds_the_text_and_not_the_answer(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    for row in read_rows(run.split("train")):
        prompt = row["messages"][0]["content"]
        assert row["text"].strip() in prompt
        if row["task"] == "banking77":
            assert row["label"] not in prompt


def test_every_phrasing_is_used(sample_spec: Spec, tmp_path: Path) -> None:
    rows = read_rows(prepare(sample_spec, tmp_path / "run").split("train"))
    used = Counter((row["task"], row["template"]) for row in rows)
    assert len(used) == 12
    assert min(used.values()) >= 5


def test_no_row_is_in_two_splits(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    keys = [
        (row["task"], row["id"])
        for split in ("train", "validation", "test")
        for row in read_rows(run.split(split))
    ]
    assert len(set(keys)) == len(keys)


def test_the_manifest_counts_and_hashes_what_was_written(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    for split in ("train", "validation", "test"):
        record = manifest["files"][f"{split}.jsonl"]
        assert record["rows"] == len(read_rows(run.split(split)))
        assert record["sha256"] == hashlib.sha256(run.split(split).read_bytes()).hexdigest()
        counted = sum(t["counts"][split]["rows"] for t in manifest["tasks"].values())
        assert counted == record["rows"]
    source = manifest["tasks"]["banking77"]["source"]
    assert source["kind"] == "sample"
    assert set(source["files"]) == {"train", "test", "categories"}


def test_the_same_spec_gives_the_same_bytes(sample_spec: Spec, tmp_path: Path) -> None:
    one, two = prepare(sample_spec, tmp_path / "one"), prepare(sample_spec, tmp_path / "two")
    files = sorted(p.relative_to(one.root) for p in one.root.rglob("*") if p.is_file())
    assert len(files) == 6
    for name in files:
        assert (one.root / name).read_bytes() == (two.root / name).read_bytes(), name


def test_another_seed_gives_another_split(sample_spec: Spec, tmp_path: Path) -> None:
    one = prepare(sample_spec, tmp_path / "one")
    two = prepare(sample_spec.model_copy(update={"seed": 7}), tmp_path / "two")
    ids = [{row["id"] for row in read_rows(run.split("train"))} for run in (one, two)]
    assert ids[0] != ids[1]


def test_the_plan_shows_every_task(sample_spec: Spec, tmp_path: Path) -> None:
    plan = prepare(sample_spec, tmp_path / "run").plan.read_text()
    assert all(task in plan for task in sample_spec.task_names)
    assert "Tokens are not counted" in plan


def test_the_plan_counts_tokens_and_supervised_tokens(
    sample_spec: Spec, tmp_path: Path, toy: Path
) -> None:
    from transformers import AutoTokenizer

    spec = sample_spec.model_copy(update={"model": str(toy)})
    run = prepare(spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    tokenizer = AutoTokenizer.from_pretrained(toy)
    rows = [row for row in read_rows(run.split("train")) if row["task"] == "banking77"]
    whole = [tokenizer.apply_chat_template(r["messages"], tokenize=False) for r in rows]
    total = sum(len(ids) for ids in tokenizer(whole)["input_ids"])
    answers = sum(len(tokenizer(r["messages"][1]["content"])["input_ids"]) + 1 for r in rows)
    tokens = manifest["tasks"]["banking77"]["tokens"]
    assert (tokens["total"], tokens["supervised"]) == (total, answers)


def test_alpaca_rows_have_the_three_keys(sample_spec: Spec, tmp_path: Path) -> None:
    spec = sample_spec.model_copy(
        update={"templates": sample_spec.templates.model_copy(update={"format": "alpaca"})}
    )
    for row in read_rows(prepare(spec, tmp_path / "run").split("train")):
        assert row["instruction"] == row["messages"][0]["content"]
        assert row["output"] == row["messages"][1]["content"]
        assert row["input"] == ""


def test_options_answered_by_text(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = load_spec(write_spec(tasks=["commonsense_qa"], templates={"answers": "text"}))
    for row in read_rows(prepare(spec, tmp_path / "run").split("train")):
        assert row["messages"][1]["content"] == row["choices"][ord(row["answer"]) - ord("A")]
        assert not re.search("its letter|Which letter|letter only", row["messages"][0]["content"])


def test_shuffled_options_move_the_gold_evenly_and_keep_official_tests(
    write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    plain = load_spec(write_spec(tasks=["commonsense_qa"]))
    moved = load_spec(write_spec(tasks=["commonsense_qa"], templates={"shuffle_options": True}))
    runs = prepare(plain, tmp_path / "plain"), prepare(moved, tmp_path / "moved")
    before, after = ({row["id"]: row for row in read_rows(run.split("train"))} for run in runs)
    assert before.keys() == after.keys()
    for row_id, row in after.items():
        gold_text = row["choices"][ord(row["answer"]) - ord("A")]
        was = before[row_id]
        assert gold_text == was["choices"][ord(was["answer"]) - ord("A")]
        assert sorted(row["choices"]) == sorted(was["choices"])
    positions = Counter(row["answer"] for row in after.values())
    assert max(positions.values()) - min(positions.values()) <= 1
    assert runs[0].split("test").read_bytes() == runs[1].split("test").read_bytes()


def test_listed_labels_are_in_the_prompt(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = load_spec(write_spec(tasks=["banking77"], templates={"list_labels": True}))
    run = prepare(spec, tmp_path / "run")
    labels = json.loads(run.manifest.read_text())["tasks"]["banking77"]["labels"]
    for row in read_rows(run.split("train")):
        assert all(label in row["messages"][0]["content"] for label in labels)


def test_real_data_is_split_and_free_of_leaks(real_data: Path, tmp_path: Path) -> None:
    """7 normalised and 11 punctuation-free overlaps with the test rows leave the training."""
    spec = Spec(
        model="a/b", tasks=("banking77", "commonsense_qa"), data_dir=str(real_data), cluster="cpu"
    )
    run = prepare(spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    banking = manifest["tasks"]["banking77"]
    (train,) = banking["source"]["files"]["train"]
    assert train["sha256"].startswith("b06e26ac675513959a63135f11b94ea7")
    removed = manifest["leakage"]["removed"]["banking77/train"]
    assert removed["normalised"] == 7
    assert removed["normalised"] + removed["without punctuation"] == 11
    assert banking["counts"]["test"]["rows"] == 3080
    left = banking["counts"]["train"]["rows"] + banking["counts"]["validation"]["rows"]
    assert left == 10_003 - sum(removed.values())
    assert len(manifest["leakage"]["rows"]) == sum(removed.values())

    texts = {
        split: [r["text"] for r in read_rows(run.split(split)) if r["task"] == "banking77"]
        for split in ("train", "validation", "test")
    }
    for form in (str, normalised, without_punctuation):
        forms = {split: {form(text) for text in found} for split, found in texts.items()}
        assert forms["train"] & forms["test"] == set()
        assert forms["validation"] & forms["test"] == set()
        assert forms["train"] & forms["validation"] == set()


def test_a_leak_between_tasks_is_removed(tmp_path: Path, write_spec: Callable[..., Path]) -> None:
    """The same text is a training row of one task and a test row of another."""
    shared = "Where is the card that I ordered last week?"
    lines = [
        f"an ordinary sentence number {i} about topic {i * 7},{'ab'[i % 2]}" for i in range(40)
    ]
    for name, extra in (("one.csv", [f"{shared},a"]), ("two.csv", []), ("test.csv", [])):
        body = lines + extra if name == "one.csv" else [f"{name} {line}" for line in lines]
        (tmp_path / name).write_text("\n".join(["text,label", *body]) + "\n")
    (tmp_path / "test.csv").write_text(f"text,label\n{shared.upper()},b\n")
    tasks = [
        {"name": "one", "kind": "classification", "source": {"path": "one.csv"}},
        {"name": "two", "kind": "classification",
         "source": {"train": "two.csv", "test": "test.csv"}},
    ]  # fmt: skip
    spec = load_spec(write_spec(tasks=tasks, sample=None, leakage={"near_duplicates": False}))
    run = prepare(spec, tmp_path / "run")
    (leak,) = json.loads(run.manifest.read_text())["leakage"]["rows"]
    assert (leak["task"], leak["level"]) == ("one", "normalised")
    assert leak["same_as"] == "two/test/test-1"
    assert all(row["text"] != shared for row in read_rows(run.split("train")))


def test_a_test_file_that_is_the_training_file_is_refused(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    (tmp_path / "x.csv").write_text("text,label\none thing,a\nanother thing,b\n")
    task = {"name": "t", "kind": "classification", "source": {"train": "x.csv", "test": "x.csv"}}
    with pytest.raises(InputError, match="no training row is left"):
        prepare(load_spec(write_spec(tasks=[task], sample=None)), tmp_path / "run")


def test_a_skewed_mixture_is_loaded_by_datasets(
    tmp_path: Path, write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that first appears after 10 MB would end the loading; so it appears at once."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import load_dataset

    body = [f"{i} {'words ' * 60}{i},{'ab'[i % 2]}" for i in range(30_000)]
    (tmp_path / "big.csv").write_text("\n".join(["text,label", *body]) + "\n")
    small = {"question": "q", "choices": ["x", "y"], "answer": "A"}
    (tmp_path / "small.jsonl").write_text(
        "".join(json.dumps(small | {"question": f"question {i}?"}) + "\n" for i in range(10))
    )
    tasks = [
        {"name": "big", "kind": "classification", "source": {"path": "big.csv"}},
        {"name": "small", "kind": "multiple_choice", "source": {"path": "small.jsonl"}},
    ]
    spec = load_spec(write_spec(tasks=tasks, sample=None, leakage={"near_duplicates": False}))
    run = prepare(spec, tmp_path / "run")
    assert run.split("train").stat().st_size > 12_000_000
    loaded = load_dataset(
        "json", data_files=str(run.split("train")), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == json.loads(run.manifest.read_text())["files"]["train.jsonl"]["rows"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"positive_label": "spm"}, "did you mean 'spam'"),
        ({"positive_label": "spam", "labels": ["ham", "spam", "scam"]}, "this task has 3 labels"),
        ({"positive_label": "spam", "kind": "generation"}, "the kind generation"),
    ],
)
def test_a_positive_label_is_one_of_two(task: dict[str, object], words: str) -> None:
    entry = TaskSpec.model_validate(
        {"name": "mail", "kind": "classification", "source": {"path": "x.csv"}} | task
    )
    labels = () if entry.kind is Kind.GENERATION else tuple(entry.labels or ("ham", "spam"))
    with pytest.raises(InputError, match="key 'positive_label'") as error:
        define_task(entry, labels, TemplatesSpec())
    assert words in str(error.value)


def test_a_positive_label_comes_back_from_the_manifest() -> None:
    entry = TaskSpec.model_validate(
        {"name": "mail", "kind": "classification", "source": {"path": "x.csv"}}
        | {"positive_label": "ham"}
    )
    task = define_task(entry, ("ham", "spam"), TemplatesSpec())
    assert task_from_record("mail", task_record(task)) == task
