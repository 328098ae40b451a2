"""Token counts, with the model's own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multitask.data import tokens
from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.spec import Spec


def test_the_longest_row_is_found_wherever_it_stands(
    toy: Path, tmp_path: Path, sample_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beyond the rows that are counted: Axolotl drops what is longer than a sequence."""
    from transformers import AutoTokenizer

    monkeypatch.setattr(tokens, "_SAMPLE", 1)
    spec = sample_spec.model_copy(update={"model": str(toy)})
    run = prepare(spec, tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(toy)
    manifest = json.loads(run.manifest.read_text())
    for name, task in manifest["tasks"].items():
        rows = read_rows(run.split("train")) + read_rows(run.split("validation"))
        lengths = [
            len(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"])
            for row in rows
            if row["task"] == name
        ]
        assert task["tokens"]["longest"] == max(lengths)
        assert task["tokens"]["counted"] == 1
        assert task["tokens"]["too_long"] == 0
    assert tokens.workload_of(run).longest == max(
        task["tokens"]["longest"] for task in manifest["tasks"].values()
    )


def test_without_a_tokenizer_the_longest_row_is_guessed_from_all_rows(
    tmp_path: Path, sample_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_GUESSED_FROM", 1)
    run = prepare(sample_spec, tmp_path / "run")
    found = tokens.workload_of(run)
    characters = max(
        sum(len(message["content"]) for message in row["messages"])
        for row in read_rows(run.split("train"))
    )
    assert not found.counted
    assert characters / 3 < found.longest < characters / 3 + 30
