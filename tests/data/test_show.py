"""Examples as the model will see them."""

from __future__ import annotations

from pathlib import Path

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.data.tokens import CLOSE, OPEN, show_examples
from multitask.spec import Spec


def test_each_task_is_shown_with_its_answers_marked(sample_spec: Spec, tmp_path: Path) -> None:
    run = prepare(sample_spec, tmp_path / "run")
    text = show_examples(run, sample_spec, 2)
    for task in sample_spec.task_names:
        assert text.count(f"--- {task} / ") == 2
    row = next(r for r in read_rows(run.split("train")) if r["task"] == "banking77")
    assert f"{OPEN}{row['messages'][1]['content']}{CLOSE}" in text
    assert "chat template is not shown" in text


def test_with_the_tokenizer_the_chat_template_is_shown(
    sample_spec: Spec, tmp_path: Path, toy: Path
) -> None:
    spec = sample_spec.model_copy(update={"model": str(toy)})
    run = prepare(spec, tmp_path / "run")
    row = next(r for r in read_rows(run.split("train")) if r["task"] == "text_claims")
    prompt, answer = (message["content"] for message in row["messages"])
    expected = f"<|user|>{prompt}<|assistant|>{OPEN}{answer}<|end|>{CLOSE}"
    assert expected in show_examples(run, spec, 1)
