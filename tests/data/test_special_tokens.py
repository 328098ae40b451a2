"""Special tokens in cells: refused, escaped or kept, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.data.special_tokens import token_pattern
from multitask.data.tokens import load_tokenizer
from multitask.errors import InputError
from multitask.spec import Spec, load_spec


def _spec(tmp_path: Path, write_spec: Callable[..., Path], token: str, **changes: Any) -> Spec:
    rows = [{"prompt": f"say {i}", "response": f"said {i * 3}"} for i in range(30)]
    rows[3]["prompt"] += f" {token} and {token}"
    rows[5]["response"] += token
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "g", "kind": "generation", "source": {"path": "x.jsonl"}}
    return load_spec(write_spec(tasks=[task], sample=None, **changes))


def test_they_are_refused_by_row(tmp_path: Path, write_spec: Callable[..., Path]) -> None:
    spec = _spec(tmp_path, write_spec, "<|im_end|>")
    with pytest.raises(
        InputError, match=r"2 cells of task 'g'.*'<\|im_end\|>' in the text"
    ) as error:
        prepare(spec, tmp_path / "run")
    assert "row 'train-4'" in str(error.value)
    assert "special_tokens: escape" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("action", "expected"), [("escape", "< |im_end|>"), ("keep", "<|im_end|>")]
)
def test_they_are_escaped_or_kept_and_counted(
    tmp_path: Path, write_spec: Callable[..., Path], action: str, expected: str
) -> None:
    words = {"special_tokens": action}
    spec = _spec(tmp_path, write_spec, "<|im_end|>", templates=words)
    run = prepare(spec, tmp_path / "run")
    record = json.loads(run.manifest.read_text())["tasks"]["g"]["special_tokens"]
    assert record == {"action": action, "cells": 2, "tokens": {"<|im_end|>": 3}}
    assert "2 cells hold special tokens of the model ('<|im_end|>')" in run.plan.read_text()
    rows = [r for s in ("train", "validation", "test") for r in read_rows(run.split(s))]
    shown = [m["content"] for row in rows for m in row["messages"] if "im_end" in m["content"]]
    assert sorted(shown) == sorted([f"say 3 {expected} and {expected}", f"said 15{expected}"])


def test_the_models_own_tokens_are_found_and_escaped_cells_have_none(
    tmp_path: Path, write_spec: Callable[..., Path], toy: Path
) -> None:
    """The tokenizer is the judge: no cell that was escaped has an id of a special token."""
    own = load_tokenizer(Spec(model=str(toy), tasks=("banking77",)), Path())
    assert own is not None
    for token in own.all_special_tokens:
        assert token_pattern(own).fullmatch(token)
        words = {"special_tokens": "escape"}
        spec = _spec(tmp_path, write_spec, f"{token}<<s>s>", model=str(toy), templates=words)
        run = prepare(spec, tmp_path / f"run{own.convert_tokens_to_ids(token)}")
        rows = [r for s in ("train", "validation", "test") for r in read_rows(run.split(s))]
        cells = [m["content"] for row in rows for m in row["messages"]]
        ids = {i for found in own(cells, add_special_tokens=False)["input_ids"] for i in found}
        assert ids.isdisjoint(own.all_special_ids)


def test_a_class_that_is_named_by_one_is_refused(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    lines = [f"text {i},{('<s>', 'b')[i % 2]}" for i in range(30)]
    (tmp_path / "x.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    task = {"name": "c", "kind": "classification", "source": {"path": "x.csv"}}
    spec = write_spec(tasks=[task], sample=None, templates={"special_tokens": "escape"})
    with pytest.raises(InputError, match="in the label of row"):
        prepare(load_spec(spec), tmp_path / "run")


@pytest.mark.parametrize("text", ["a < b > c", "<b>bold</b>", "[1] see", "|x|", "< s>", "x<y"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert token_pattern(None).search(text) is None
