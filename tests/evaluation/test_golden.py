"""An evaluation with everything on gives the stored results.json and predictions.parquet.

The model's weights are stored, since a toy that is trained on the spot differs from machine to
machine. After a change that is meant to move figures: ``MULTITASK_WRITE_GOLDEN=1 pytest`` of this
file, and read the diff.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from multitask.data.general import read_entries
from multitask.data.prepare import prepare
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.run import Run
from multitask.spec import Spec

GOLDEN = Path(__file__).parent / "golden"
QUICK = Settings(baselines=False, generate=0, option_texts=False)
VARIANTS = {
    "contextual": replace(QUICK, calibration="contextual"),
    "best-label": replace(QUICK, distribution=False, calibration="none"),
}
EVALUATIONS = ("base", "trained", "base/general", "trained/general", *VARIANTS)

# Float32 sums differ between CPUs and numbers of threads from the sixth digit on.
TOLERANCE = 2e-5
FITTED = {"temperature": 1e-3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The sample through the stored model; its base has half the weights."""
    pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    tasks = ("text_claims", "banking77", "commonsense_qa")
    spec = Spec(model="base", tasks=tasks, cluster="cpu", method="full", sample=True)
    run = prepare(spec, tmp_path_factory.mktemp("golden") / "run")
    for folder in (run.model, run.root / "base"):
        shutil.copytree(GOLDEN / "model", folder)
    path = run.root / "base" / "model.safetensors"
    weights = {name: tensor / 2 for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    general = read_entries([str(GOLDEN / "echo.yaml")])
    everything = Settings(permutations=True, generate=10)
    evaluate(run, base=True, general=general, settings=everything)
    for name, settings in VARIANTS.items():
        evaluate(run, name=name, settings=settings)
    return run


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_gives_the_stored_figures(run: Run, name: str) -> None:
    found = _content(run.evaluations / name)
    path = GOLDEN / f"{name.replace('/', '-')}.json"
    if os.environ.get("MULTITASK_WRITE_GOLDEN"):
        path.write_text(_text(found))
    stored = dict(_leaves(json.loads(path.read_text())))
    leaves = dict(_leaves(found))
    assert leaves.keys() == stored.keys()
    for place, value in stored.items():
        tolerance = FITTED.get(place.split("/")[-1], TOLERANCE)
        if isinstance(value, float):
            assert leaves[place] == pytest.approx(value, rel=tolerance, abs=tolerance), place
        else:
            assert leaves[place] == value, place


def _content(directory: Path) -> dict[str, Any]:
    """What an evaluation wrote, but times, places and versions."""
    results = json.loads((directory / "results.json").read_text())
    for name in ("model", "environment", "key"):
        results.pop(name)
    for task in results["tasks"].values():
        task.pop("seconds")
        task["part_seconds"] = dict.fromkeys(task["part_seconds"], 0)
        task.get("generated", {}).pop("seconds", None)
    table = pq.read_table(directory / "predictions.parquet").to_pylist()
    for row in table:
        row["scores"] = {entry["label"]: entry["score"] for entry in row["scores"]}
    return {"results": results, "predictions": table}


def _text(content: dict[str, Any]) -> str:
    """JSON with seven digits, and a line a prediction, for a diff that can be read."""
    rows = ",\n".join(json.dumps(_short(row), ensure_ascii=False) for row in content["predictions"])
    results = json.dumps(_short(content["results"]), ensure_ascii=False, indent=1)
    return f'{{"results": {results},\n"predictions": [\n{rows}\n]}}\n'


def _short(content: Any) -> Any:
    if isinstance(content, float):
        return float(f"{content:.7g}")
    if isinstance(content, dict):
        return {key: _short(value) for key, value in content.items()}
    return [_short(value) for value in content] if isinstance(content, list) else content


def _leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, (dict, list)):
        yield place, content
        return
    yield place, len(content)
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from _leaves(value, f"{place}/{key}")
