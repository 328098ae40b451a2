"""A user's own task from its file to report, export and push, with a toy model."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from multitask import build_config
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.export import export_lm_eval
from multitask.evaluation.requests import Settings, read_inputs
from multitask.hub.push import PushSettings, push
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.scoring.model import load_model
from multitask.spec import load_spec
from tests.hub_upload_server import TOKEN, upload_hub
from tests.trained import trained_run


@dataclass(frozen=True)
class Whole:
    """What a task came to.

    Attributes:
        run: The run.
        task: Its entry in results.json.
        predictions: The rows of predictions.parquet, in the order of the split.
        report: The report in HTML.
        exported: The rows for lm-evaluation-harness.
        card: The model card.
    """

    run: Run
    task: dict[str, Any]
    predictions: list[dict[str, Any]]
    report: str
    exported: list[dict[str, Any]]
    card: str


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the keys of the first as columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def whole(folder: Path, task: Mapping[str, Any], patch: pytest.MonkeyPatch) -> Whole:
    """Prepare, train for a moment, build the configuration, evaluate, report, export, push."""
    content = {"model": "owner/model", "method": "full", "cluster": "cpu", "tasks": [dict(task)]}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(content))
    run = trained_run(load_spec(path), folder / "run", steps=60)
    path.write_text(yaml.safe_dump({**content, "model": str(run.root / "base")}))
    built = build_config(load_spec(path), folder / "built").run
    run.axolotl.write_bytes(built.axolotl.read_bytes())
    settings = Settings(generate=5)
    results = evaluate(run, settings=settings).results
    report, _ = write_report(run)
    inputs = read_inputs(run, "test", None, settings)
    loaded = load_model(str(run.model))
    export_lm_eval(run, folder / "export", loaded, inputs.tasks, inputs.rows)
    with upload_hub() as hub:
        from huggingface_hub import HfApi

        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", TOKEN)
        api = HfApi(endpoint=hub.url, token=TOKEN)
        push(run, "alice/toy", PushSettings(), api=api)
        card = hub.repos["alice/toy"].files["README.md"].decode()
    lines = (folder / "export" / task["name"] / "rows.jsonl").read_text().splitlines()
    table = pq.read_table(run.evaluations / "trained" / "predictions.parquet").to_pylist()
    return Whole(
        run,
        results["tasks"][task["name"]],
        table,
        report.read_text(),
        [json.loads(line) for line in lines],
        card,
    )
