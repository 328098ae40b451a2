"""Prepared data: the contract's rows, the manifest, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from multitask.data.mixture import gold, mix
from multitask.data.prepare import prepare, read_rows
from multitask.spec import Spec


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


def test_the_plan_shows_every_task(sample_spec: Spec, tmp_path: Path) -> None:
    plan = prepare(sample_spec, tmp_path / "run").plan.read_text()
    assert all(task in plan for task in sample_spec.tasks)


def test_real_data_end_to_end(real_data: Path, tmp_path: Path) -> None:
    spec = Spec(
        model="a/b", tasks=("banking77", "commonsense_qa"), data_dir=str(real_data), cluster="cpu"
    )
    run = prepare(spec, tmp_path / "run")
    manifest = json.loads(run.manifest.read_text())
    banking = manifest["tasks"]["banking77"]
    assert banking["source"]["files"]["train"]["sha256"].startswith(
        "b06e26ac675513959a63135f11b94ea7"
    )
    assert {s: c["rows"] for s, c in banking["counts"].items()} == {
        "train": 8002,
        "validation": 2001,
        "test": 3080,
    }


def test_the_first_rows_are_one_of_each_task() -> None:
    big = [{"task": "big", "id": str(i)} for i in range(1000)]
    small = [{"task": "small", "id": "0"}]
    mixed = mix([big, small], seed=0)
    assert {row["task"] for row in mixed[:2]} == {"big", "small"}
    assert len(mixed) == 1001


def test_a_skewed_mixture_is_loaded_by_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap that ``mix`` avoids: a column that first appears after 10 MB."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import load_dataset

    big = [{"task": "big", "label": "x", "text": "y" * 400} for _ in range(40_000)]
    small = [{"task": "small", "answer": "A", "text": "z", "choices": ["p", "q"]}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in mix([big, small], seed=0)))
    loaded = load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 40_001
