"""A run with a toy model that is trained for a moment, without Axolotl."""

from __future__ import annotations

from pathlib import Path

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.data.render import Row
from multitask.run import Run
from multitask.scoring.encode import Encoder
from multitask.scoring.model import load_model
from multitask.spec import Spec
from multitask.toy import ToySize, write_toy_model


def trained_run(spec: Spec, folder: Path, *, steps: int = 120) -> Run:
    """Prepare a run and train its model on the rows' answers; `base` is the model before."""
    import torch

    run = prepare(spec.model_copy(update={"model": "base"}), folder)
    rows = read_rows(run.split("train"))
    texts = [message["content"] for row in rows for message in row["messages"]]
    size = ToySize(hidden=48, layers=2, heads=4, vocabulary=600, context=192)
    write_toy_model(run.root / "base", texts, size=size)
    loaded = load_model(str(run.root / "base"))
    model, encoder = loaded.model.train(), Encoder(loaded.tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), 6e-3)
    for step in range(steps):
        batch = [rows[(step * 16 + i) % len(rows)] for i in range(16)]
        optimizer.zero_grad()
        model(**_tensors(encoder, batch)).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(run.model)
    loaded.tokenizer.save_pretrained(run.model)
    return run


def _tensors(encoder: Encoder, rows: list[Row]) -> dict[str, object]:
    import torch

    pairs = [tuple(m["content"] for m in row["messages"]) for row in rows]
    encoded = [encoder.encode(prompt, (answer,)) for prompt, answer in pairs]
    width = max(len(e.prompt) + len(e.answers[0]) for e in encoded)
    ids, labels = [], []
    for e in encoded:
        padding = width - len(e.prompt) - len(e.answers[0])
        ids.append([*e.prompt, *e.answers[0], *[0] * padding])
        labels.append([*[-100] * len(e.prompt), *e.answers[0], *[-100] * padding])
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor([[int(i != 0) for i in row] for row in ids]),
    }
