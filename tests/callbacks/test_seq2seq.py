"""The callbacks know no engine: unchanged, they serve transformers' trainer of encoder-decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import (  # noqa: E402
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)

from multitask.callbacks.checkpoints import CheckpointCallback  # noqa: E402
from multitask.callbacks.evaluation import TaskEvaluator  # noqa: E402
from multitask.callbacks.progress import ProgressCallback, ResumeCallback  # noqa: E402
from multitask.callbacks.rows import EvaluationRow, EvaluationRows  # noqa: E402
from multitask.callbacks.trainer import TaskTrainer  # noqa: E402
from multitask.checkpoints import list_checkpoints, newest_complete  # noqa: E402
from multitask.run import Run  # noqa: E402
from multitask.training_spec import PluginSettings  # noqa: E402

_NAMES = ("long", "short")


class _Trainer(TaskTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """All that a second engine has to write."""


def _model(family: str) -> Any:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    if family == "t5":
        sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(vocab_size=60, **sizes, **special))
    config = BartConfig(
        vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        max_position_embeddings=64, bos_token_id=2, forced_eos_token_id=1, **special,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>")


def _rows(count: int = 24) -> EvaluationRows:
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> list[int]:
        return list(torch.randint(3, 60, (length,), generator=generator).tolist())

    rows = tuple(
        EvaluationRow(i % 2, str(i), draw(4 + i % 7), [*draw(1 + (i + 1) % 2 * 2), 1])
        for i in range(count)
    )
    return EvaluationRows(_NAMES, rows)


def _trainer(run: Run, steps: int = 6) -> Any:
    rows = [
        {"input_ids": r.input_ids, "labels": r.labels, "attention_mask": [1] * len(r.input_ids)}
        for r in _rows().rows
    ]
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(run.model), max_steps=steps, save_steps=2, save_total_limit=2, seed=3,
        per_device_train_batch_size=4, logging_steps=1, use_cpu=True, report_to=[],
        disable_tqdm=True, eval_on_start=True, eval_strategy="no", learning_rate=1e-2,
    )  # fmt: skip
    model, tokenizer = _model("t5"), _tokenizer()
    trainer = _Trainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        callbacks=[
            ProgressCallback(run.trainer_events),
            CheckpointCallback(run),
            ResumeCallback(run.evaluation_log),
        ],
    )
    trainer.evaluate_tasks(run, _rows(), PluginSettings(), tokens=64)
    return trainer


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.data.mkdir(parents=True)
    run.spec.write_text("model: x\n")
    run.axolotl.write_text("learning_rate: 0.01\n")
    run.manifest.write_text(json.dumps({"files": {"train.jsonl": {"sha256": "rows"}}}))
    return run


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_is_evaluated_as_its_own_loss_says(family: str) -> None:
    """Each row alone, labels put to the model by its own loss; and greedy decoding is exact."""
    from accelerate import Accelerator

    model, rows = _model(family).eval(), _rows()
    written = []
    for row in rows.rows:  # half of the answers are what the model writes itself
        prompt = torch.tensor([row.input_ids])
        if int(row.id) % 4 < 2:
            out = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=1,
                max_new_tokens=len(row.labels), min_new_tokens=len(row.labels),
            )[0].tolist()  # fmt: skip
            row = EvaluationRow(row.task, row.id, row.input_ids, out[1:])  # noqa: PLW2901
        written.append(row)
    rows = EvaluationRows(_NAMES, tuple(written))

    class Plain:
        accelerator = Accelerator(cpu=True)
        processing_class = _tokenizer()
        optimizer = None

    Plain.model = model  # type: ignore[attr-defined]
    found = TaskEvaluator(rows, PluginSettings(), tokens=40).evaluate(Plain, at_save=False)
    for task, name in enumerate(_NAMES):
        loss, right, count, exact = 0.0, 0, 0, []
        for row in (row for row in rows.rows if row.task == task):
            labels = torch.tensor([row.labels])
            with torch.no_grad():
                out = model(input_ids=torch.tensor([row.input_ids]), labels=labels)
            loss += float(out.loss) * len(row.labels)
            hits = (out.logits.argmax(-1) == labels).sum()
            right, count = right + int(hits), count + len(row.labels)
            exact.append(int(hits) == len(row.labels))
        assert found[f"eval_{name}/loss"] == pytest.approx(loss / count, rel=1e-5)
        assert found[f"eval_{name}/token_accuracy"] == pytest.approx(right / count)
        assert found[f"eval_{name}/exact_match"] == pytest.approx(sum(exact) / len(exact))


def test_its_training_is_evaluated_marked_and_resumed_to_the_bit(run: Run, tmp_path: Path) -> None:
    whole = _trainer(run)
    whole.train()
    steps = [c.step for c in list_checkpoints(run.model) if c.complete]
    best = json.loads((run.model / "best.json").read_text())
    # The newest two stay, and the best.
    assert steps == sorted({4, 6, best["step"]})
    found = _lines(run.evaluation_log)
    assert [line["step"] for line in found] == [0, 2, 4, 6]
    assert found[-1]["eval/macro/loss"] < found[0]["eval/macro/loss"]
    assert {"eval/long/exact_match", "eval/short/loss", "eval/score"} <= set(found[-1])
    told = [line["event"] for line in _lines(run.trainer_events)]
    assert (told[0], told[-1], told.count("checkpoint")) == ("start", "end", 3)
    assert json.loads(run.evaluation_rows.read_text())["long"] == [str(i) for i in range(0, 24, 2)]
    newest = newest_complete(run.model, contents=True)
    assert newest is not None
    weights = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    again = _trainer(run)
    again.train(resume_from_checkpoint=str(run.model / "checkpoint-4"))
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    assert [line["step"] for line in _lines(run.evaluation_log)] == [0, 2, 4, 6]
